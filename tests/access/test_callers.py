"""Who the caller is: by its keys, whatever header shows them."""

import tracemalloc
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from multidict import CIMultiDict

from proxy.access.callers import Callers
from proxy.access.pages import Hosts
from proxy.dialects import table
from proxy.dialects.route import Route
from proxy.server.callers.identification import access_of
from proxy.server.config import Config
from proxy.wire.errors import MissingRight, Unauthorised
from tests.access.keys import BASIC, OURS, SECRET, THEIRS, UPSTREAMS, digest, in_mode_keys, token
from tests.proxy_under_test import configured


def config(**tables: Any) -> Config:
    return configured("http://127.0.0.1:1", **tables)


def callers(**tables: Any) -> Callers:
    return access_of(config(**tables))[0]


def showing(*shown: tuple[str, str]) -> CIMultiDict[str]:
    return CIMultiDict(shown)


def bearer(key: str) -> CIMultiDict[str]:
    return showing(("Authorization", f"Bearer {key}"))


def test_callers_are_told_apart_by_their_keys() -> None:
    """In mode pass: the same header is the same caller, another one another; none is one, too, where it is shared."""
    one = callers()
    texts = ["Bearer a", "Bearer b", BASIC, "", "Bearer caf\udce9"]
    found = [one.caller(showing(("Authorization", text))) for text in texts]
    assert len({caller.digest for caller in found}) == len(texts)
    assert [one.caller(showing(("Authorization", text))) for text in texts] == found
    assert [caller.shows_key for caller in found] == [True, True, True, False, True]


NAMES = st.sampled_from(["Authorization", "x-api-key", "api-key", "X-API-Key", "API-KEY"])
KEYS = st.sampled_from(["", "a", "b", "Basic a"])


@hypothesis.given(st.lists(st.tuples(NAMES, KEYS, st.booleans()), max_size=4, unique_by=lambda one: one[0].lower()))
def test_caller_is_the_set_of_the_keys_that_it_shows(shown: list[tuple[str, str, bool]]) -> None:
    """In whatever headers, in whatever order, as a Bearer or as it is; and nobody else is the same."""
    one = ALL_CALLERS
    headers = showing(*((name, f"Bearer {key}" if scheme else key) for name, key, scheme in shown))
    keys = sorted({key for _, key, _ in shown if key})
    expected = zip(("Authorization", "x-api-key", "api-key"), keys, strict=False)
    caller = one.caller(headers)
    assert caller == one.caller(showing(*expected))
    for others in (
        [],
        ["a"],
        ["b"],
        ["Basic a"],
        ["a", "b"],
        ["Basic a", "a"],
        ["Basic a", "b"],
        ["Basic a", "a", "b"],
    ):
        other = one.caller(showing(*zip(("api-key", "x-api-key", "Authorization"), others, strict=False)))
        assert (caller.digest == other.digest) == (keys == others)


ALL_CALLERS = callers()


def test_header_that_a_route_names_holds_a_key() -> None:
    """Beside the others, and on every route."""
    one = callers(routes=[{"path": "/other/", "key_header": "X-Goog-Api-Key"}])
    assert one.caller(showing(("x-goog-api-key", "a"))) == one.caller(bearer("a"))
    assert callers().caller(showing(("x-goog-api-key", "a"))).shows_key is False


def test_repeated_header_has_one_value() -> None:
    """RFC 9110 section 5.3: so nobody is somebody else by a second one."""
    one = callers()
    twice = one.caller(showing(("Authorization", "Bearer a"), ("Authorization", "Bearer b")))
    assert twice not in (one.caller(bearer("a")), one.caller(bearer("b")))


@pytest.mark.parametrize(
    ("tables", "shared"),
    [
        ({}, True),
        ({"admin": ""}, True),
        ({"listen": "[::1]:0", "admin": "localhost:0"}, True),
        ({"listen": "0.0.0.0:0"}, False),
        ({"admin": "10.0.0.1:9090"}, False),
        ({"listen": "proxy.internal:8080"}, False),
        ({"listen": "0.0.0.0:0", "auth": {"anonymous": "shared"}}, True),
        ({"auth": {"anonymous": "none"}}, False),
    ],
)
def test_callers_without_a_key_are_one_on_loopback_only(tables: dict[str, Any], shared: bool) -> None:
    """Unless the configuration says so; what they are told says how."""
    caller = callers(**tables).caller(showing())
    assert (caller.may_send, caller.owns_streams) == (True, shared)
    if not shared:
        with pytest.raises(Unauthorised, match=r"Authorization, x-api-key or api-key.*auth\.anonymous"):
            caller.check_owns_streams()


def test_digest_tells_nothing_of_the_key() -> None:
    """It is another one in each process, and holds neither the key nor its plain digest."""
    caller = callers().caller(bearer(OURS)).digest
    assert caller != callers().caller(bearer(OURS)).digest
    assert OURS.encode() not in caller
    assert caller not in bytes.fromhex(digest(OURS) + digest(f"Bearer {OURS}"))


@pytest.mark.parametrize("spelled", ["Bearer {}", "bearer {}", "BEARER {}", "Bearer  {}", "Bearer {} ", "Bearer\t{}"])
def test_key_is_known_however_the_scheme_is_spelled(spelled: str) -> None:
    """RFC 9110 section 11.1: the scheme is case-insensitive; and whoever holds the key is one caller."""
    one = callers(**in_mode_keys(OURS, THEIRS))
    caller = one.caller(showing(("authorization", spelled.format(OURS))))
    assert caller == one.caller(bearer(OURS))
    assert caller != one.caller(bearer(THEIRS))


def test_key_of_ours_counts_beside_what_is_none() -> None:
    """In mode keys a caller is not another one by what goes nowhere; two keys of ours are a caller of their own."""
    one = callers(**in_mode_keys(OURS, THEIRS))
    beside = one.caller(showing(("Authorization", "Bearer unused"), ("x-api-key", OURS)))
    assert beside == one.caller(bearer(OURS))
    both = one.caller(showing(("api-key", THEIRS), ("x-api-key", OURS)))
    assert both.may_send
    assert both.digest not in (one.caller(bearer(OURS)).digest, one.caller(bearer(THEIRS)).digest)


@pytest.mark.parametrize("name", ["Authorization", "x-api-key", "api-key"])
@pytest.mark.parametrize(
    "key",
    [
        "",
        "Bearer",
        "Bearer ",
        f"Basic {OURS}",
        f"Bearer {OURS}x",
        f"Bearer {OURS[:-1]}",
        f"Bearer {digest(OURS)}",
        f"Bearer {UPSTREAMS}",
        f"Bearer {OURS},{OURS}",
        "Bearer caf\udce9",
        BASIC,
    ],
)
def test_key_that_is_not_listed_is_refused(name: str, key: str) -> None:
    """Its digest as a key, and the upstream's own key, are none either; the message tells nothing of what was given."""
    caller = callers(**in_mode_keys(OURS)).caller(showing((name, key)))
    with pytest.raises(Unauthorised) as raised:
        caller.check_may_send()
    for word in (OURS, UPSTREAMS, "caf"):
        assert word not in raised.value.message


@pytest.mark.parametrize("name", ["Authorization", "x-api-key", "api-key"])
def test_capability_is_no_key(name: str) -> None:
    """It is for one stream: in either mode it makes nobody a caller, expired or not, whatever comes beside it."""
    for tables in ({}, in_mode_keys(OURS)):
        one = callers(capabilities={"secrets": [SECRET]}, **tables)
        for expires_at in (1, 10**11):
            headers = showing((name, token("st_x", expires_at=expires_at)), ("openai-key", OURS))
            with pytest.raises(MissingRight):
                one.caller(headers).check_may_send()
            other = "api-key" if name != "api-key" else "x-api-key"
            with pytest.raises(MissingRight):
                one.caller(showing(*headers.items(), (other, OURS))).check_may_send()
    assert callers().caller(bearer(token("st_x"))).may_send


def test_what_clients_invent_is_not_remembered_at_length() -> None:
    """Keys, hosts and targets as long as a header may be, thousands of them, each another: they leave no trace."""
    one, hosts = callers(), Hosts("127.0.0.1", ())
    route = Route("chat", "/v1/", "/v1/", table.OWN)
    tracemalloc.start()
    for number in range(300):
        long = f"{number:06}" * 10_000
        one.caller(CIMultiDict({"Authorization": f"Bearer {long}", "x-api-key": long}))
        assert hosts.error(long) is None
        assert route.target(f"/v1/models/{long}").endswith(long.encode())
    held_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held_bytes < 1_000_000


A = "openai-insecure-api-key.a"


@pytest.mark.parametrize(
    ("shown", "keys"),
    [
        ([("Authorization", "bearer a")], "a"),
        ([("Authorization", "BEARER   a ")], "a"),
        ([("x-api-key", " a ")], "a"),
        ([("api-key", "Bearer a")], "a"),
        ([("Authorization", "Bearer a"), ("x-api-key", "a"), ("api-key", "a")], "a"),
        ([("Sec-WebSocket-Protocol", f"realtime, {A}, openai-beta.realtime-v1")], "a"),
        ([("Sec-WebSocket-Protocol", "realtime"), ("Sec-WebSocket-Protocol", A)], "a"),
        ([("Sec-WebSocket-Protocol", f" {A} ,realtime"), ("Authorization", "Bearer a")], "a"),
        ([("Authorization", "Bearer a"), ("x-api-key", "")], "a"),
        ([("Authorization", "Bearer a"), ("Sec-WebSocket-Protocol", "realtime")], "a"),
        ([("Sec-WebSocket-Protocol", A), ("x-api-key", "b")], "ab"),
        ([("Authorization", "Bearer b"), ("api-key", "a")], "ab"),
        ([("Authorization", "Bearer"), ("api-key", "")], ""),
        ([("Sec-WebSocket-Protocol", "openai-insecure-api-key.")], ""),
        ([("Sec-WebSocket-Protocol", "realtime")], ""),
    ],
)
def test_key_is_the_same_wherever_it_is_shown(shown: list[tuple[str, str]], keys: str) -> None:
    """As a protocol of a WebSocket, too, and in any spelling; one key beside it makes another caller."""
    one = callers()
    expected = one.caller(showing(*zip(("Authorization", "x-api-key"), keys, strict=False)))
    found = one.caller(showing(*shown))
    assert (found.digest, found.shows_key) == (expected.digest, bool(keys))
    assert one.keys(showing(*shown)) == list(keys)
