"""The modes: what a span of the log is in each, and what its ending looks like."""

import json

import pytest

from proxy.stream.log import COMPLETE, Ending, FrameLog
from proxy.stream.projections import MODES, SPAN_BYTES, Projection, Span
from proxy.stream.stream import View
from proxy.wire.chat import ChatCompletions
from proxy.wire.dashscope import DashScope
from proxy.wire.dialect import Dialect
from tests.conftest import FakeSink, follow, new_stream
from tests.cuts import messages

BROKE = Ending("upstream_reset", "the upstream's response broke off")
REPORTED = Ending("upstream_error", "the upstream reported an error", clean=True)
DRAINED = Ending("drained", "this server is shutting down")
each_mode = pytest.mark.parametrize("mode", MODES)
each_dialect = pytest.mark.parametrize("dialect", [ChatCompletions(), DashScope()], ids=lambda dialect: dialect.name)


def log_of(*frames: bytes) -> FrameLog:
    log = FrameLog()
    log.extend(list(frames))
    return log


def projection(mode: str, log: FrameLog, dialect: Dialect | None = None) -> Projection:
    return MODES[mode](log, "gen234", dialect or ChatCompletions())


def test_modes_are_a_table() -> None:
    """The client's words."""
    assert set(MODES) == {"raw", "events"}


@pytest.mark.parametrize(("plain", "chunked"), [(b"x", b"1\r\nx\r\n"), (b"y" * 300, b"12c\r\n" + b"y" * 300 + b"\r\n")])
def test_span_is_framed_once_as_a_chunk(plain: bytes, chunked: bytes) -> None:
    """RFC 9112 7.1; every follower of HTTP/1.1 is written the same bytes."""
    span = Span(3, 4, plain)
    assert (span.start, span.end, span.plain, span.size, span.chunked) == (3, 4, plain, len(plain), chunked)


def test_raw_is_the_bytes_as_they_came() -> None:
    """Whatever they are."""
    raw = projection("raw", log_of(b"data: a\r\n\r\n", b": ping\n\n", b"\xff\n\n"))
    assert raw.render(0, 3) == b"data: a\r\n\r\n: ping\n\n\xff\n\n"
    assert raw.render(1, 2) == b": ping\n\n"
    assert raw.render(2, 3) == b"\xff\n\n"


def test_raw_frame_of_a_read_is_not_copied() -> None:
    """The bytes of the log are the bytes that are sent."""
    frame = b"data: a\n\n"
    assert projection("raw", log_of(b": x\n\n", frame)).render(1, 2) is frame


def test_events_are_numbered_from_the_start_of_the_log() -> None:
    """The id is that of the frame, wherever the span begins; blocks without data have none but are counted."""
    events = projection("events", log_of(b"data: a\n\n", b": ping\n\n", b"data: b\r\n\r\n"))
    first, second, third = b"data: a\nid: gen234-1\n\n", b": ping\n", b"data: b\r\nid: gen234-3\r\n\r\n"
    assert events.render(0, 3) == first + second + third
    assert events.render(0, 1) == first
    assert events.render(1, 3) == second + third


@each_mode
def test_log_that_keeps_a_window_renders_the_same(mode: str) -> None:
    """Dropping old frames changes neither the bytes nor the numbers of the others."""
    log = log_of(b"data: a\n\n", b"data: bb\n\n", b"data: c\n\n")
    before = projection(mode, log).render(1, 3)
    log.trim(20, below=3)
    assert log.start == 1
    assert projection(mode, log).render(1, 3) == before


@each_mode
def test_all_who_are_caught_up_are_sent_the_same_object(mode: str) -> None:
    """Bytes are made once a mode, also when a follower that is behind asks for another span in between."""
    stream = new_stream()
    early, late = FakeSink(), FakeSink()
    follow(stream, early, mode)
    follow(stream, late, mode)
    stream.extend([b"data: a\n\n", b"data: b\n\n"])
    assert early.writes[0] is late.writes[0]
    follow(stream, FakeSink(), mode, 1)
    stream.extend([b"data: c\n\n"])
    assert early.writes[1] is late.writes[1]
    assert early.received == stream.projection(View(mode)).render(0, 3)


@each_mode
def test_long_past_comes_in_spans_of_bounded_size(mode: str) -> None:
    """A follower that is far behind costs one span at a time, and gets every frame once."""
    frame = b"data: " + b"x" * 1000 + b"\n\n"
    stream, sink = new_stream(), FakeSink()
    stream.extend([frame] * 1000)
    follow(stream, sink, mode)
    assert len(sink.writes) < 20
    assert max(map(len, sink.writes)) <= SPAN_BYTES * 1.05  # the ids go on top
    assert sink.received == stream.projection(View(mode)).render(0, 1000)


@each_mode
def test_frame_larger_than_a_span_is_a_write_of_its_own(mode: str) -> None:
    """It can't be cut; those beside it are not drawn in."""
    small, large = b"data: a\n\n", b"data: " + b"x" * (2 * SPAN_BYTES) + b"\n\n"
    stream, sink = new_stream(), FakeSink()
    stream.extend([small, large, large, small])
    follow(stream, sink, mode)
    assert [len(write) > SPAN_BYTES for write in sink.writes] == [False, True, True, False]


@pytest.mark.parametrize("ending", [COMPLETE, REPORTED])
@each_mode
def test_clean_ending_adds_nothing_and_closes(mode: str, ending: Ending) -> None:
    """The log's own last frames say all there is."""
    log = log_of(b"data: a\n\n")
    log.seal(ending)
    assert projection(mode, log).ending(ending, 1) == (b"", True)


@pytest.mark.parametrize("ending", [BROKE, DRAINED, Ending("cancelled"), Ending("client_gone")])
def test_raw_failure_breaks_the_response_after_the_tail(ending: Ending) -> None:
    """Without a terminating chunk; what came of the last frame has gone out as it came."""
    log = log_of(b"data: a\n\n")
    log.seal(ending, b"data: hal")
    raw = projection("raw", log)
    assert raw.ending(ending, 1) == (b"data: hal", False)


def test_raw_tail_is_for_those_who_had_all_frames() -> None:
    """To a follower that ends earlier it would be a gap."""
    log = log_of(b"data: a\n\n", b"data: b\n\n")
    log.seal(BROKE, b"data: hal")
    assert projection("raw", log).ending(Ending("too_slow"), 1) == (b"", False)


def test_raw_clean_ending_sends_a_tail_too() -> None:
    """What stands behind [DONE] is part of the bytes."""
    log = log_of(b"data: [DONE]\n\n")
    log.seal(COMPLETE, b": bye")
    assert projection("raw", log).ending(COMPLETE, 1) == (b": bye", True)


@each_dialect
def test_events_failure_is_an_error_event_and_a_proper_close(dialect: Dialect) -> None:
    """It tells reason and message, is numbered as one more event, and is no [DONE]."""
    log = log_of(b"data: a\n\n", b"data: b\n\n")
    log.seal(BROKE, b"data: hal")
    last, properly = projection("events", log, dialect).ending(BROKE, 2)
    assert properly
    [said] = messages(last)
    assert said.id == b"gen234-3"
    error = json.loads(said.data)
    error = error.get("error", error)
    assert (error["code"], error["message"]) == ("upstream_reset", BROKE.message)
    assert b"hal" not in last


def test_events_of_a_follower_ended_in_mid_stream_are_numbered_by_what_it_had() -> None:
    """So that it resumes with the next frame, and misses none."""
    log = log_of(b"data: a\n\n", b"data: b\n\n", b"data: c\n\n")
    last, properly = projection("events", log).ending(Ending("expired", "m"), 1)
    assert properly
    assert messages(last)[0].id == b"gen234-1"


def test_events_drained_close_between_two_events() -> None:
    """No error: the client resumes elsewhere."""
    log = log_of(b"data: a\n\n")
    log.seal(DRAINED)
    assert projection("events", log).ending(DRAINED, 1) == (b"", True)
