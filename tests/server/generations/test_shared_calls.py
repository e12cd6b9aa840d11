"""What makes requests one, and where their call is found."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects.table import routes
from proxy.server.generations.shared_calls import Call, Calls, Identity, by_body, by_key, by_url
from proxy.stream.endings import CLIENT_GONE, ENDINGS
from proxy.upstream.pump import OnDisconnect, Pump
from proxy.wire.errors import KeyReused
from proxy.wire.http import Head
from tests.streams import new_hub, new_stream

ME = b"me"
HEADERS = [(b"Host", b"x"), (b"Accept", b"*/*"), (b"X-DashScope-Mode", b"1")]
CHAT, NATIVE = (next(route for route, _ in routes() if route.name == name) for name in ("chat", "dashscope"))
STEERING = CHAT.steered_by(HEADERS)
FAILED = sorted(set(ENDINGS) - {"complete", "cancelled"})


def new_call(identity: Identity | None, ident: str = "st_one") -> Call:
    pump = Pump(new_stream(ident=ident), OnDisconnect(0), max_frame_bytes=1, overhead=lambda s: None)
    return Call(new_hub(), pump, identity)


def keyed(body: bytes = b"{}", key: str = "k", **more: bytes) -> Identity:
    return by_key(ME, "chat", key, more.get("target", b"/v1"), body)


# What makes requests one.


@given(st.permutations(HEADERS), st.lists(st.tuples(st.sampled_from([b"X-Other", b"User-Agent"]), st.binary())))
def test_headers_that_do_not_steer_make_no_difference(
    headers: list[tuple[bytes, bytes]], more: list[tuple[bytes, bytes]]
) -> None:
    """Nor does their order, nor how their names are spelt."""
    spelt = [(name.upper(), value) for name, value in headers + more]
    assert CHAT.steered_by(spelt) == CHAT.steered_by(HEADERS)


@pytest.mark.parametrize(
    "other",
    [
        (b"other", "chat", b"/v1", b"{}", HEADERS),
        (ME, "dashscope", b"/v1", b"{}", HEADERS),
        (ME, "chat", b"/v1?", b"{}", HEADERS),
        (ME, "chat", b"/v1", b"{ }", HEADERS),
        (ME, "chat", b"/v1{", b"}", HEADERS),
        (ME, "chat", b"/v1", b"{}", HEADERS[:2]),
        (ME, "chat", b"/v1", b"{}", [*HEADERS, HEADERS[2]]),
        (ME, "chat", b"/v1", b"{}", [(b"Accept", b"text/event-stream"), HEADERS[2]]),
    ],
)
def test_whatever_steers_makes_another_request(
    other: tuple[bytes, str, bytes, bytes, list[tuple[bytes, bytes]]],
) -> None:
    """Caller, route, target, body, Accept and the X-DashScope headers; what moved between two of them too."""
    *others, headers = other
    assert by_body(*others, CHAT.steered_by(headers)).name != by_body(ME, "chat", b"/v1", b"{}", STEERING).name


def test_key_names_a_request_and_the_rest_must_agree() -> None:
    """Caller, route and key find the call; target and body say whether it is the same request."""
    one = keyed()
    assert one == keyed()
    for other in (keyed(b"{ }"), keyed(target=b"/v2")):
        assert (one.name == other.name, one.asked == other.asked) == (True, False)
    assert keyed(key="other").name != one.name


def test_key_stands_for_a_stream_or_for_one_answer() -> None:
    """Where headers choose between the two."""
    plain, other = (by_key(ME, "r", "k", b"/", b"{}", streamed=streamed) for streamed in (False, True))
    assert plain.name == other.name
    assert plain.asked != other.asked


def test_url_makes_requests_one_whoever_asks() -> None:
    """Route, method, target, body and its type."""
    asked = ("/events", "GET", b"/events", b"", "")
    others = [
        ("/other", "GET", b"/events", b"", ""),
        ("/events", "POST", b"/events", b"", ""),
        ("/events", "GET", b"/events?a", b"", ""),
        ("/events", "GET", b"/events", b"x", ""),
        ("/events", "GET", b"/events", b"", "text/plain"),
    ]
    assert by_url(*asked) == by_url(*asked)
    assert len({by_url(*one).name for one in (asked, *others)}) == 1 + len(others)


# Where it is found.


def test_call_is_found_by_what_it_was_asked_for() -> None:
    """And a name that stands for something else is refused, without a word of what it stands for."""
    calls, call = Calls(), new_call(keyed(b"a secret prompt"))
    assert calls.find(keyed(b"a secret prompt")) is None
    calls.add(call)
    assert calls.find(keyed(b"a secret prompt")) is call
    assert calls.find(keyed(key="other")) is None
    with pytest.raises(KeyReused) as caught:
        calls.find(keyed(b"another"))
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("reason", ENDINGS)
@pytest.mark.parametrize("lasting", [True, False])
def test_call_is_found_after_its_end_if_a_retry_is_to_get_it(reason: str, lasting: bool) -> None:
    """By key, if it is complete or was cancelled on request; by body never."""
    identity = keyed() if lasting else by_body(ME, "chat", b"/v1", b"{}", STEERING)
    calls, call = Calls(), new_call(identity)
    calls.add(call)
    call.stream.seal(ENDINGS[reason])
    calls.ended(call.stream)
    assert (calls.find(identity) is call) == (lasting and reason not in FAILED)


def test_forgotten_call_does_not_take_its_follower_along() -> None:
    """The name may stand for another one by then; a stream without a call is no harm."""
    calls, older, newer = Calls(), new_call(keyed(), "st_older"), new_call(keyed(), "st_newer")
    calls.add(older)
    calls.forget(older.stream)
    calls.add(newer)
    calls.forget(older.stream)
    calls.ended(older.stream)
    assert calls.find(keyed()) is newer
    calls.add(new_call(None, "st_none"))
    assert calls.find(keyed()) is newer


@pytest.mark.parametrize(("status", "found"), [(200, True), (201, True), (301, False), (429, False), (500, False)])
def test_refused_call_is_found_by_no_request_that_comes_later(status: int, found: bool) -> None:
    """Not even while its body comes; a success is."""
    calls, call = Calls(), new_call(keyed())
    calls.add(call)
    call.stream.answered("default", None, Head(status, b"", []))
    calls.answered(call.stream)
    assert (calls.find(keyed()) is call) == found


def test_event_source_that_has_ended_is_found_to_resume_after_until_it_is_forgotten() -> None:
    """Not joined; and one that never said anything does not take its place."""
    identity = by_url("/events", "GET", b"/events", b"", "")
    calls, spoke, silent = Calls(), new_call(identity, "st_spoke"), new_call(identity, "st_silent")
    calls.add(spoke)
    spoke.stream.extend([b"data: a\n\n"])
    for call in (spoke, silent):
        call.stream.seal(CLIENT_GONE)
        calls.ended(call.stream)
        assert calls.find(identity) is None
        assert calls.before(identity) is spoke.stream
        calls.add(silent)
    calls.forget(silent.stream)
    assert calls.before(identity) is spoke.stream
    calls.forget(spoke.stream)
    assert calls.before(identity) is None
