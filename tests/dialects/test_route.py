"""A path prefix and what it stands for upstream; and the headers, in which keys come and go."""

import pytest

from proxy.dialects.plain import PLAIN
from proxy.dialects.route import Route, key_header, offered, protocol_keys, shown_key, without_keys
from proxy.wire.errors import BadRequest

ROUTE = Route("chat", "/v1/", "/compatible-mode/v1/", PLAIN, steering="x-.*-search")
LONG = "x" * 2000


@pytest.mark.parametrize(
    ("target", "upstream"),
    [
        ("/v1/models", b"/compatible-mode/v1/models"),
        ("/v1/", b"/compatible-mode/v1/"),
        ("/v1/a?b=/v1/c", b"/compatible-mode/v1/a?b=/v1/c"),
        ("/v1/a%2fb?%2e%2e", b"/compatible-mode/v1/a%2fb?%2e%2e"),
        ("/v1/a?x=/../y", b"/compatible-mode/v1/a?x=/../y"),
        ("/v1/a..b/...", b"/compatible-mode/v1/a..b/..."),
        ("http://host.test/v1/models?a", b"/compatible-mode/v1/models?a"),
        ("/v1/\udcfc", b"/compatible-mode/v1/\xfc"),
        (f"/v1/{LONG}", b"/compatible-mode/v1/" + LONG.encode()),
    ],
)
def test_target_is_the_same_below_the_prefix_of_the_upstream(target: str, upstream: bytes) -> None:
    """Its query and escapes unchanged, its host dropped; asked again, it is the same."""
    assert ROUTE.target(target) == ROUTE.target(target) == upstream


@pytest.mark.parametrize("dots", [".", "..", "%2e", "%2E%2e", ".%2e"])
@pytest.mark.parametrize(
    "place", ["/v1/{}", "/v1/{}/a", "/v1/a/{}/b", "/v1/a%2f{}", "/v1/a\\{}", "/v1/a%5C{};x", "/{}%00"]
)
def test_dot_segments_are_refused_however_they_are_written(dots: str, place: str) -> None:
    """Behind what only some servers take for the end of a segment, too: no path above the prefix is reached."""
    with pytest.raises(BadRequest, match="dot segments"):
        ROUTE.target(place.format(dots))
    with pytest.raises(BadRequest, match="dot segments"):
        ROUTE.target(place.format(dots) + "/" + LONG)


@pytest.mark.parametrize("target", ["/v2/models", "/v1", "/", "/V1/models", "*"])
def test_target_elsewhere_is_refused(target: str) -> None:
    """What stands in place of its prefix would be cut off unseen."""
    with pytest.raises(BadRequest):
        ROUTE.target(target)


def test_long_targets_are_not_remembered() -> None:
    """A client that makes them up takes no memory by it."""
    route = Route("chat", "/v1/", "/v1/", PLAIN)
    Route._remembered.cache_clear()
    route.target("/v1/" + "y" * 5000)
    assert Route._remembered.cache_info().currsize == 0
    route.target("/v1/models")
    assert Route._remembered.cache_info().currsize == 1


def test_headers_that_steer_are_the_same_in_any_order_and_case() -> None:
    """Those of other names have no influence, nor has one whose name only begins so."""
    steering = [(b"X-B-Search", b"2"), (b"x-a-search", b"1")]
    assert ROUTE.steered_by([*steering, (b"Accept", b"*/*"), (b"X-A-Search-Too", b"3")]) == [
        b"x-a-search: 1",
        b"x-b-search: 2",
    ]
    assert ROUTE.steered_by(steering[::-1]) == ROUTE.steered_by(steering)
    assert ROUTE.steered_by([(b"X-A-Search", b"2")]) != ROUTE.steered_by([(b"X-A-Search", b"1")])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Authorization", (b"Authorization", b"Bearer sk-a")),
        ("authorization", (b"authorization", b"Bearer sk-a")),
        ("x-api-key", (b"x-api-key", b"sk-a")),
    ],
)
def test_key_is_sent_with_its_scheme_in_authorization_alone(name: str, expected: tuple[bytes, bytes]) -> None:
    """RFC 6750; other headers have the bare key."""
    assert key_header(name, "sk-a") == expected


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("Bearer sk-a", "sk-a"),
        ("bearer   sk-a ", "sk-a"),
        ("BEARER\tsk-a", "sk-a"),
        (" sk-a ", "sk-a"),
        ("Basic sk-a", "Basic sk-a"),
        ("Bearersk-a", "Bearersk-a"),
        ("Bearer", ""),
        ("", ""),
    ],
)
def test_key_is_found_in_the_value_of_its_header(value: str, key: str) -> None:
    """A scheme other than Bearer is a part of it, so that no two callers look alike."""
    assert shown_key(value) == key


def test_keys_among_the_protocols_of_a_websocket_are_told_from_the_others() -> None:
    """The others keep their order, as the server chooses the first that it knows (RFC 6455 section 4.2.2)."""
    header = " realtime ,openai-insecure-api-key.sk-a,, b,openai-insecure-api-key.sk-b"
    assert protocol_keys(header) == ["sk-a", "sk-b"]
    assert without_keys(header) == ["realtime", "b"]
    assert len(offered(header)) == 4
    assert protocol_keys("") == without_keys(" , ") == []
