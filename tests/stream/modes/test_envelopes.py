"""A mode as WebSocket messages: the mode's events, its endings as close codes, made once for all followers."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.stream.endings import COMPLETE, DRAINED, UPSTREAM_ERROR, UPSTREAM_RESET
from proxy.stream.modes.projection import View
from proxy.stream.stream import Stream
from proxy.stream.subscription import Subscription
from proxy.wire.websocket import CLOSE, TEXT
from tests.fakes import FakeSink
from tests.frames import heard
from tests.streams import new_stream

BROKE = UPSTREAM_RESET.saying("the upstream's response broke off")
REPORTED = UPSTREAM_ERROR.saying("the upstream reported an error")._replace(clean=True)
FRAMES = [b"data: a\n\n", b": c\n\n", b"data: b\r\n\r\n", b"event:result\rdata: c\r\r", b"data: [DONE]\n\n"]
EVENTS = View("events")
MESSAGES = View("events", websocket=True)


def attached(stream: Stream, view: View = MESSAGES, offset: int = 0) -> FakeSink:
    """Return the sink of a follower."""
    sink = FakeSink()
    stream.attach(Subscription(stream, view, sink, offset))
    return sink


def said(frames: bytes) -> list[Any]:
    """Return what frames say: each message's data, and a close's code and reason."""
    return [json.loads(data)["data"] if kind == TEXT else data for kind, data in heard(frames)]


def test_messages_are_the_mode_s_events() -> None:
    """Numbered by their frames; comments are none."""
    stream = new_stream()
    stream.extend(FRAMES)
    assert [json.loads(text) for _, text in heard(stream.projection(MESSAGES).render(0, 5))] == [
        {"id": "gen234-1", "event": "message", "data": "a"},
        {"id": "gen234-3", "event": "message", "data": "b"},
        {"id": "gen234-4", "event": "result", "data": "c"},
        {"id": "gen234-5", "event": "message", "data": "[DONE]"},
    ]


@given(st.lists(st.integers(1, 5), max_size=6))
def test_messages_do_not_depend_on_the_spans_they_came_in(ends: list[int]) -> None:
    """Any spans, also those other followers of the mode asked for in between: no gap, no repeat."""
    stream = new_stream()
    stream.extend(FRAMES)
    whole = stream.projection(MESSAGES).render(0, 5)
    start, sent = 0, b""
    for end in [*sorted({*ends}), 5]:
        if start < end:
            sent += stream.projection(MESSAGES).render(start, end)
        start = end
    assert sent == whole


def test_all_who_are_caught_up_are_sent_the_same_object() -> None:
    """Framed once, also beside followers of the mode as SSE, who are sent their bytes."""
    stream = new_stream()
    early, other, late = attached(stream), attached(stream, EVENTS), attached(stream)
    stream.extend([b"data: a\n\n", b"data: b\n\n"])
    assert early.writes[0] is late.writes[0]
    attached(stream, EVENTS, 1)
    attached(stream, MESSAGES, 1)
    stream.extend([b"data: c\n\n"])
    assert early.writes[1] is late.writes[1]
    assert said(early.received) == ["a", "b", "c"]
    assert other.received == b"data: a\nid: gen234-1\n\ndata: b\nid: gen234-2\n\ndata: c\nid: gen234-3\n\n"


def chunk(text: str) -> bytes:
    return b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % text.encode()


def test_span_of_a_text_mode_is_one_message_as_it_is() -> None:
    """No JSON around it, and none of no text; that it failed is told by the code alone."""
    stream = new_stream()
    stream.extend([chunk("a"), chunk("茶")])
    sink = attached(stream, View("text", websocket=True))
    stream.seal(BROKE, [b": nothing\n\n"])
    assert heard(sink.received) == [(TEXT, "a茶".encode()), (CLOSE, (4502, "upstream_reset"))]


def test_complete_stream_closes_with_1000_behind_its_last_message() -> None:
    """In one write."""
    stream = new_stream()
    sink = attached(stream)
    stream.seal(COMPLETE, [b"data: [DONE]\n\n"])
    assert sink.ended == "closed"
    assert said(sink.last) == ["[DONE]", (1000, "complete")]


def test_failed_stream_says_its_error_before_it_closes() -> None:
    """The error is the mode's own error event, numbered as one more event."""
    stream = new_stream()
    sink = attached(stream)
    stream.extend([b"data: a\n\n"])
    stream.seal(BROKE, tail=b"data: hal")
    (_, text), close = heard(sink.last)
    message = json.loads(text)
    assert message["id"] == "gen234-2"
    assert json.loads(message["data"])["error"]["code"] == "upstream_reset"
    assert close == (CLOSE, (4502, "upstream_reset"))
    assert b"hal" not in sink.last


def test_follower_that_has_had_the_error_is_only_closed() -> None:
    """Resumed behind it, it is told again how the stream ended, but no message twice."""
    stream = new_stream()
    stream.seal(BROKE, [b"data: a\n\n"])
    assert said(attached(stream, offset=2).received) == [(4502, "upstream_reset")]


def test_error_that_the_upstream_reported_does_not_look_complete() -> None:
    """Its message came; the code says so, too."""
    stream = new_stream()
    sink = attached(stream)
    stream.seal(REPORTED, [b'data: {"error":{}}\n\n'])
    assert said(sink.received) == ['{"error":{}}', (4502, "upstream_error")]


def test_drained_follower_is_told_and_closed_as_going_away() -> None:
    """Nobody else has its stream, so an error tells that it is not whole."""
    stream = new_stream()
    sink = attached(stream)
    stream.seal(DRAINED, [b"data: a\n\n"])
    first, error, close = said(sink.received)
    assert (first, close) == ("a", (1001, "drained"))
    assert '"code":"drained"' in str(error)


def test_follower_that_fell_behind_is_told_and_closed() -> None:
    """Its messages are gone, as 410 would say."""
    stream = new_stream(max_log_bytes=40)
    slow = FakeSink(clogged=True)
    stream.attach(Subscription(stream, MESSAGES, slow, 0))
    for _ in range(8):
        stream.extend([b"data: abcdef\n\n"])
    slow.drain()
    *_, (kind, close) = heard(slow.received)
    assert (kind, close) == (CLOSE, (4410, "too_slow"))
