"""The modes: what a span of the log is in each, and what its ending looks like."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from proxy.dialects.chat import CHAT
from proxy.dialects.dashscope import DASHSCOPE
from proxy.dialects.dialect import Dialect
from proxy.dialects.plain import PLAIN
from proxy.dialects.responses import RESPONSES
from proxy.stream.endings import (
    CANCELLED,
    CAPABILITY_EXPIRED,
    CLIENT_GONE,
    COMPLETE,
    DRAINED,
    TOO_SLOW,
    UPSTREAM_ERROR,
    UPSTREAM_RESET,
    Ending,
)
from proxy.stream.info import StreamInfo
from proxy.stream.log import FrameLog
from proxy.stream.modes.projection import Projection, Span, View
from proxy.stream.modes.projections import MODES, Json, check_view
from proxy.stream.modes.transcript import Transcript
from proxy.wire.errors import BadRequest, OffsetBeyond, OffsetGone
from tests.cuts import messages
from tests.fakes import FakeSink
from tests.streams import IDENT, follow, new_stream

BROKE = UPSTREAM_RESET.saying("the upstream's response broke off")
REPORTED = UPSTREAM_ERROR.saying("the upstream reported an error")._replace(clean=True)
each_mode = pytest.mark.parametrize("mode", [mode for mode in MODES if mode not in ("text", "json")])
"""Those in which every frame is seen."""
each_event_mode = pytest.mark.parametrize("mode", ["events", "incremental", "coalesced", "cumulative", "chat"])
each_dialect = pytest.mark.parametrize("dialect", [CHAT, DASHSCOPE], ids=lambda dialect: dialect.name)


def log_of(*frames: bytes) -> FrameLog:
    log = FrameLog()
    log.extend(list(frames))
    return log


class Kept:
    """A source: a log, and the transcript of what it still holds when that is first asked for."""

    epoch = "gen234"
    info = StreamInfo(IDENT, "chat", b"someone", 0, 0.0, 1 << 30)

    def __init__(self, log: FrameLog, dialect: Dialect | None = None) -> None:
        self.log = log
        self.dialect = dialect or CHAT
        self.reader = self.dialect.frames.reader()
        self._transcript: Transcript | None = None

    def transcript(self, end: int) -> Transcript:
        if self._transcript is None:
            self._transcript = Transcript(self.dialect, self.log.start)
        self._transcript.feed(self.log.span(self._transcript.end, max(end, self._transcript.end)))
        return self._transcript


def projection(mode: str, log: FrameLog, dialect: Dialect | None = None) -> Projection:
    return MODES[mode](Kept(log, dialect))


def said(text: str, **choice: Any) -> bytes:
    """Return a frame of a compatible stream."""
    return f"data: {json.dumps({'choices': [{'index': 0, 'delta': {'content': text}} | choice]})}\n\n".encode()


def test_modes_are_a_table() -> None:
    """The client's words, what each is served as, and which of them beat and gather."""
    stream = b"text/event-stream;charset=UTF-8"
    assert {mode: (one.content_type, one.heartbeat, one.paced, one.in_bytes) for mode, one in MODES.items()} == {
        "raw": (stream, False, False, True),
        "events": (stream, True, False, False),
        "spaced": (stream, True, False, False),
        "coalesced": (stream, True, True, False),
        "incremental": (stream, True, False, False),
        "cumulative": (stream, True, True, False),
        "chat": (stream, True, False, False),
        "text": (b"text/plain;charset=UTF-8", False, False, True),
        "json": (b"application/json", False, False, False),
    }


def test_docs_have_a_row_for_every_mode() -> None:
    """In the table of modes; and for none that does not exist."""
    docs = (Path(__file__).parents[3] / "docs/http.md").read_text()
    table = docs.partition("| Mode |")[2].partition("\n\n")[0]
    listed = {mode for line in table.splitlines()[2:] for mode in re.findall(r"`(\w+)`", line.split("|")[1])}
    assert listed == set(MODES), f"docs/http.md lacks {set(MODES) - listed}, and has {listed - set(MODES)}"


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
    one = projection(mode, log)
    before = one.render(1, 3)
    log.trim(20, below=3)
    assert log.start == 1
    assert one.render(1, 3) == before


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
    allowed = MODES[mode].span_bytes
    count = allowed // 1000 * 3
    stream.extend([frame] * count)
    follow(stream, sink, mode)
    assert len(sink.writes) < 5
    assert max(map(len, sink.writes)) <= allowed * 1.05  # the ids go on top
    assert sink.received == stream.projection(View(mode)).render(0, count)


@each_mode
def test_frame_larger_than_a_span_is_a_write_of_its_own(mode: str) -> None:
    """It can't be cut; those beside it are not drawn in."""
    small, large = b"data: a\n\n", b"data: " + b"x" * (2 * MODES[mode].span_bytes) + b"\n\n"
    stream, sink = new_stream(), FakeSink()
    stream.extend([small, large, large, small])
    follow(stream, sink, mode)
    assert [len(write) > MODES[mode].span_bytes for write in sink.writes] == [False, True, True, False]


@pytest.mark.parametrize("ending", [COMPLETE, REPORTED])
@each_mode
def test_clean_ending_adds_nothing_and_closes(mode: str, ending: Ending) -> None:
    """The log's own last frames say all there is."""
    log = log_of(b"data: a\n\n")
    log.seal(ending)
    assert projection(mode, log).ending(ending, 1) == (b"", True)


@pytest.mark.parametrize("ending", [BROKE, DRAINED, CANCELLED, CLIENT_GONE])
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
    assert projection("raw", log).ending(TOO_SLOW, 1) == (b"", False)


def test_raw_clean_ending_sends_a_tail_too() -> None:
    """What stands behind [DONE] is part of the bytes."""
    log = log_of(b"data: [DONE]\n\n")
    log.seal(COMPLETE, b": bye")
    assert projection("raw", log).ending(COMPLETE, 1) == (b": bye", True)


@each_event_mode
@each_dialect
def test_events_failure_is_an_error_event_and_a_proper_close(dialect: Dialect, mode: str) -> None:
    """It tells reason and message, is numbered as one more event, and is no [DONE]."""
    log = log_of(b"data: a\n\n", b"data: b\n\n")
    log.seal(BROKE, b"data: hal")
    last, properly = projection(mode, log, dialect).ending(BROKE, 2)
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
    last, properly = projection("events", log).ending(CAPABILITY_EXPIRED.saying("m"), 1)
    assert properly
    assert messages(last)[0].id == b"gen234-1"


def test_events_drained_end_with_an_error() -> None:
    """Nobody else has the stream: a clean end would be taken for the whole answer."""
    log = log_of(b"data: a\n\n")
    log.seal(DRAINED)
    last, properly = projection("events", log).ending(DRAINED, 1)
    assert properly
    assert messages(last)[0].id == b"gen234-2"
    assert json.loads(messages(last)[0].data)["error"]["code"] == "drained"


@each_event_mode
def test_long_past_comes_whole(mode: str) -> None:
    """In spans, each ended by the id that resumes behind it; merged modes take longer ones."""
    stream, sink = new_stream(), FakeSink()
    stream.extend([said(f"word {place} ") for place in range(3000)])
    follow(stream, sink, mode)
    assert 1 <= len(sink.writes) <= (1 if mode in ("coalesced", "cumulative") else 5)
    assert messages(sink.received)[-1].id == b"gen234-3000"


def test_text_is_the_content_of_the_first_choice() -> None:
    """And nothing else of the stream."""
    log = log_of(b": ping\n\n", said("溪"), said("other", index=1), said("水"), b"data: [DONE]\n\n")
    text = projection("text", log)
    assert text.render(0, 5).decode() == "溪水"
    assert text.render(2, 5).decode() == "水"
    assert text.render(4, 5) == b""


def test_text_is_located_by_byte() -> None:
    """Also within a character; behind the last byte is the log's end."""
    text = projection("text", log_of(b": ping\n\n", said("溪"), said(""), said("水"), b"data: [DONE]\n\n"))
    assert [text.locate(at) for at in (0, 2, 3, 5, 6)] == [(1, 0), (1, 2), (3, 0), (3, 2), (5, 0)]
    with pytest.raises(OffsetBeyond, match="beyond the 6 bytes"):
        text.locate(7)
    assert projection("text", log_of()).locate(0) == (0, 0)


def test_raw_is_located_by_byte() -> None:
    """In frames and tail; what is gone is refused."""
    log = log_of(b"data: a\n\n", b"data: b\n\n")
    log.seal(COMPLETE, b": bye")
    raw = projection("raw", log)
    assert [raw.locate(at) for at in (0, 8, 9, 18, 20)] == [(0, 0), (0, 8), (1, 0), (2, 0), (2, 2)]
    with pytest.raises(OffsetBeyond):
        raw.locate(24)
    log.trim(9, below=2)
    with pytest.raises(OffsetGone) as gone:
        raw.locate(8)
    assert gone.value.earliest == 9


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode not in ("raw", "text")])
def test_mode_of_events_has_no_bytes_to_begin_at(mode: str) -> None:
    """Its cursor is an id."""
    with pytest.raises(BadRequest):
        projection(mode, log_of(said("a"))).locate(0)


@pytest.mark.parametrize(("dialect", "mode"), [(PLAIN, "text"), (RESPONSES, "cumulative")])
def test_mode_without_a_meaning_is_refused_with_those_that_have_one(dialect: Dialect, mode: str) -> None:
    """In the order of the table of modes."""
    with pytest.raises(BadRequest) as refused:
        check_view(View(mode), dialect)
    others = refused.value.message.partition("its streams have the modes ")[2].split(", ")
    for other in others:
        check_view(View(other), dialect)
    assert others[:3] == ["raw", "events", "spaced"]
    assert mode not in others


@pytest.mark.parametrize("ending", [BROKE, REPORTED, DRAINED, CANCELLED])
@pytest.mark.parametrize("mode", ["text", "json"])
def test_failure_in_a_mode_that_can_not_tell_of_it_breaks_the_response(mode: str, ending: Ending) -> None:
    """Law 7: also when the upstream itself reported it, since its error event is not seen here."""
    log = log_of(said("a"))
    log.seal(ending)
    assert projection(mode, log).ending(ending, 1) == (b"", False)


def test_json_is_the_document_when_it_is_complete() -> None:
    """Nothing before; what there is so far may be asked for."""
    log = log_of(said("a"), said("b", finish_reason="stop"), b"data: [DONE]\n\n")
    one = projection("json", log)
    assert isinstance(one, Json)
    assert one.render(0, 3) == b""
    assert json.loads(one.so_far())["choices"][0]["message"]["content"] == "ab"
    log.seal(COMPLETE)
    document, properly = one.ending(COMPLETE, 3)
    assert properly
    assert json.loads(document) == json.loads(one.so_far())
    assert projection("text", log).ending(COMPLETE, 3) == (b"", True)


@pytest.mark.parametrize("mode", ["cumulative", "json"])
def test_mode_that_tells_of_all_the_past_is_refused_when_that_is_gone(mode: str) -> None:
    """410; the others tell of what is held."""
    log = log_of(said("a"), said("b"), said("c"))
    log.trim(len(said("b")) + len(said("c")), below=3)
    with pytest.raises(OffsetGone) as gone:
        projection(mode, log)
    assert gone.value.earliest == 2
    assert projection("text", log).render(1, 3) == b"bc"
    with pytest.raises(OffsetGone):
        projection("text", log).locate(0)
    [merged] = messages(projection("coalesced", log).render(1, 3))
    assert json.loads(merged.data)["choices"][0]["delta"]["content"] == "bc"


def test_text_that_left_the_log_is_not_forgotten() -> None:
    """Once a mode needed it: cumulative goes on when the window has moved."""
    stream, sink = new_stream(max_log_bytes=500), FakeSink()
    follow(stream, sink, "cumulative")
    follow(stream, FakeSink(clogged=True), "json")
    for place in range(40):
        stream.extend([said(f"{place} ")])
    assert stream.log.start > 0
    last = json.loads(messages(sink.received)[-1].data)
    assert last["choices"][0]["delta"]["content"] == "".join(f"{place} " for place in range(40))


@each_event_mode
def test_span_of_a_window_is_what_it_was_of_the_whole_log(mode: str) -> None:
    """What is forgotten with the frames that went is not missed."""
    whole, window, sink = new_stream(), new_stream(max_log_bytes=1500), FakeSink()
    follow(window, sink, mode)
    frames = [frame for place in range(30) for frame in (said(f"{place} "), said(f"{place}. "), b"data: x\n\n")]
    for frame in frames:
        whole.extend([frame])
        window.extend([frame])
    start = window.log.start
    assert start > 0
    assert sink.received == b"".join(whole.projection(View(mode)).render(at, at + 1) for at in range(len(frames)))
    rest = [stream.projection(View(mode)).render(start, len(frames)) for stream in (whole, window)]
    assert rest[0] == rest[1]
