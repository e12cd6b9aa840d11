"""The laws of the house, each a numbered property; and recorded streams held to them.

Bodies, their cuts into reads, and what followers do to one stream are made up; what must come out is computed here
a second time, in the plainest way: whole lists of frames, no offsets, no memo. Law 9 (a follower's log is a prefix
of its owner's) waits for a second machine.
"""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, example, given
from hypothesis import strategies as st

from proxy.dialects.chat import CHAT
from proxy.dialects.dashscope import DASHSCOPE
from proxy.dialects.dialect import Dialect
from proxy.dialects.messages import MESSAGES
from proxy.dialects.responses import RESPONSES
from proxy.stream.endings import (
    CANCELLED,
    CAPABILITY_EXPIRED,
    COMPLETE,
    DRAINED,
    TIMEOUT_IDLE,
    UPSTREAM_ERROR,
    UPSTREAM_RESET,
    Ending,
)
from proxy.stream.modes.projection import View
from proxy.stream.subscription import Subscription
from proxy.upstream.on_disconnect import OnDisconnect
from proxy.upstream.pump import Pump
from proxy.wire.errors import Garbled, IdleTimeout, TooLarge, Truncated, UpstreamError
from proxy.wire.sse import Splitter
from tests.cuts import NOT_RECORDED, Message, cuts, messages, recorded
from tests.fakes import FakeSink, FakeWriter
from tests.streams import EPOCH, follow, new_stream

DIALECTS: list[Dialect] = [CHAT, DASHSCOPE, RESPONSES, MESSAGES]
MODES = ["raw", "events"]
LIMIT = 1 << 20
DONE = b"data: [DONE]\n\n"

# Bodies

BOM = b"\xef\xbb\xbf"
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), max_size=8).map(str.encode)
lines = st.one_of(
    texts.map(b"data: ".__add__),
    texts.map(b"data:".__add__),
    texts.map(b": ".__add__),
    st.sampled_from([b"data", b":", b"event: result", b"event:error", b"id: 7", b"id", b"retry: 5", b"data: [DONE]"]),
    st.binary(min_size=1, max_size=6).filter(lambda line: not set(line) & {10, 13} and not line.startswith(BOM)),
)


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """Draw one block in one line ending."""
    end = draw(st.sampled_from([b"\n", b"\n", b"\r\n", b"\r"]))
    return end.join(draw(st.lists(lines, min_size=1, max_size=4))) + end + end


tails = st.one_of(st.just(b""), lines, lines.map(lambda line: line + b"\n"))
soups = st.lists(st.sampled_from([b"\n", b"\r", b"\r\n", b"data: x", b": c", "你".encode(), b"\xff"]), max_size=20)
bodies = st.one_of(
    st.builds(
        lambda bom, blocks, tail: bom + b"".join(blocks) + tail,
        st.sampled_from([b"", b"", b"", BOM, b"\n"]), st.lists(frames(), max_size=6), tails,
    ),
    soups.map(b"".join),
)  # fmt: skip


@st.composite
def reads_of(draw: st.DrawFn, drawn: st.SearchStrategy[bytes] = bodies) -> list[bytes]:
    """Draw a body, cut anywhere."""
    body = draw(drawn)
    places = draw(st.lists(st.integers(0, len(body)), max_size=6) | st.just(list(range(len(body)))))
    return [body[a:b] for a, b in pairwise([0, *sorted(places), len(body)]) if a < b]


def split(reads: list[bytes]) -> tuple[list[bytes], bytes]:
    splitter = Splitter(LIMIT)
    return [frame for read in reads for frame in splitter.feed(read)], splitter.tail


def pumped(
    reads: list[bytes],
    dialect: Dialect = DIALECTS[0],
    error: UpstreamError | None = None,
    *,
    last: bytes = b"",
    limit: int = LIMIT,
) -> tuple[FakeSink, FakeSink]:
    """Return what a follower in raw and one in events had of a response that came in these reads, and so ended."""
    stream, raw, events = new_stream(dialect), FakeSink(), FakeSink()
    pump = Pump(stream, OnDisconnect(None), max_frame_bytes=limit, overhead=lambda seconds: None)
    follow(stream, raw, "raw")
    follow(stream, events, "events")
    for at, read in enumerate(reads, 1):
        if raw.ended is None:
            pump.received(read, float(at))
    if raw.ended is None:
        pump.ended(last, float(len(reads) + 1), error)
    return raw, events


# What a mode makes of frames, said a second time


def rendered(mode: str, ever: list[bytes], start: int, end: int) -> bytes:
    """Return the frames numbered from `start + 1` to `end` as the mode has them."""
    if mode == "raw":
        return b"".join(ever[start:end])
    return b"".join(numbered(ever[seq - 1], seq) for seq in range(start + 1, end + 1))


def numbered(frame: bytes, seq: int) -> bytes:
    """Return a frame of one line ending with its id as the last line, if it has data.

    One without is without its blank line, too: what it has leads the next frame, an event's name and an id as comments.
    """
    end = b"\r\n" if frame.endswith(b"\r\n") else frame[-1:]
    *told, _, _ = frame.split(end)
    while told and not told[0]:
        del told[0]
    if any(line == b"data" or line.startswith(b"data:") for line in told):
        return end.join([*told, b"id: " + EPOCH + b"-" + str(seq).encode()]) + end + end
    named = (b"event", b"id")
    return b"".join((b":" if line.partition(b":")[0] in named else b"") + line + end for line in told)


def assert_is_error(words: bytes, dialect: Dialect, code: str, seq: int) -> None:
    """Assert that these are the last words of a failed stream in a mode that can say so, and nothing else."""
    [said] = messages(words)
    assert words.endswith(b"\n\n")
    assert dialect is not DASHSCOPE or words.startswith(b"event:error\n")
    assert_says_error(said, dialect, code)
    assert said.id == EPOCH + b"-%d" % seq


def assert_says_error(said: Message, dialect: Dialect, code: str) -> None:
    told = json.loads(said.data)
    if dialect is RESPONSES:
        assert said.type == b"response.failed"
        told = told["response"]["error"]
        code = "invalid_prompt" if code == "cancelled" else code
    elif dialect is CHAT:
        told = told["error"]
        assert told["type"] == "stream_error"
    else:
        assert said.type == b"error"
        told = told["error"] if dialect is MESSAGES else told
    assert told["code"] == code
    assert isinstance(told["message"], str)


def assert_ended(follower: "Follower", ever: list[bytes], ending: Ending, tail: bytes, dialect: Dialect) -> None:
    """Assert that a follower had all it was due and then the ending, as its mode tells it."""
    had = rendered(follower.mode, ever, follower.joined, len(ever))
    sink = follower.sink
    if follower.mode == "raw":
        assert sink.received == had + tail
        assert sink.ended == ("closed" if ending.clean else "aborted")
    elif ending.clean:
        assert (sink.received, sink.ended) == (had, "closed")
    else:
        assert sink.received.startswith(had)
        assert sink.ended == "closed"
        assert_is_error(sink.received[len(had) :], dialect, ending.reason, len(ever) + 1)


# What followers do to one stream

ENDINGS = [
    COMPLETE,
    UPSTREAM_ERROR.saying("the upstream reported an error")._replace(clean=True),
    UPSTREAM_RESET.saying("the response broke off"),
    TIMEOUT_IDLE.saying("nothing came for 5 s"),
    CANCELLED.saying('cancelled "on request"\n\n'),
    DRAINED.saying("this server is shutting down"),
]
which = st.integers(0, 7)
joins = st.tuples(st.just("join"), st.sampled_from(MODES), st.floats(0, 1), st.booleans())
steps = st.one_of(
    st.tuples(st.just("extend"), st.lists(frames(), min_size=1, max_size=3)),
    joins,
    st.tuples(st.sampled_from(["clog", "drain", "drain", "leave", "expire", "beat"]), which),
)
seals = st.tuples(st.just("seal"), st.sampled_from(ENDINGS), st.lists(frames(), max_size=2), tails)
Step = tuple[Any, ...]


@st.composite
def scripts(draw: st.DrawFn) -> list[Step]:
    """Draw what happens to a stream: first somebody joins, at some time it is sealed, and life goes on."""
    first, before, seal, after = draw(joins), draw(st.lists(steps, max_size=14)), draw(seals), draw(st.lists(steps))
    return [first, *before, seal, *after[:6]]


class Follower:
    """What one follower must have had so far."""

    def __init__(self, mode: str, joined: int, sink: FakeSink) -> None:
        self.mode = mode
        self.joined = joined
        self.had = joined
        self.beats = 0
        self.sink = sink
        self.subscription: Subscription
        self.over = False
        """Its end has been checked, or it left: nothing more may come."""
        self.final = b""


class Play:
    """One stream, those who follow it, and all frames there ever were. Each step is checked."""

    def __init__(self, dialect: Dialect, *, max_log_bytes: int = 1 << 30, with_originator: bool = False) -> None:
        self.dialect = dialect
        self.stream = new_stream(dialect, max_log_bytes=max_log_bytes)
        self.writer = FakeWriter(self.stream)
        self.with_originator = with_originator
        self.ever: list[bytes] = []
        self.followers: list[Follower] = []
        self.ending: Ending | None = None
        self.tail = b""

    def run(self, script: list[Step]) -> None:
        for step in script:
            self.take(step)
        for follower in self.followers:
            self.drain_one(follower)
        self.check()
        assert all(follower.over for follower in self.followers), "somebody never ended"
        assert not self.stream.subscriptions

    def take(self, step: Step) -> None:
        name, *args = step
        if name in ("extend", "join", "seal"):
            getattr(self, name)(*args)
        elif self.followers:
            getattr(self, f"{name}_one")(self.followers[args[0] % len(self.followers)])
        self.check()

    def extend(self, new: list[bytes]) -> None:
        if self.ending is not None:
            with pytest.raises(RuntimeError):
                self.stream.extend(new)
        elif not self.writer.paused:
            self.stream.extend(new)
            self.ever += new

    def seal(self, ending: Ending, new: list[bytes], tail: bytes) -> None:
        self.stream.seal(ending, new, tail)
        if self.ending is None:
            self.ending, self.tail = ending, tail
            self.ever += new

    def join(self, mode: str, where: float, clogged: bool) -> Follower:
        log = self.stream.log
        offset = log.start + round(where * (log.end - log.start))
        follower = Follower(mode, offset, FakeSink(clogged=clogged))
        if self.with_originator and not self.followers:
            event("with an originator")
            follower.subscription = Subscription(self.stream, View(mode), follower.sink, offset)
            self.stream.originator = follower.subscription
            self.stream.attach(follower.subscription)
        else:
            follower.subscription = follow(self.stream, follower.sink, mode, offset)
        self.followers.append(follower)
        return follower

    def clog_one(self, follower: Follower) -> None:
        follower.sink.clogged = True

    def drain_one(self, follower: Follower) -> None:
        gone = follower.had < self.stream.log.start
        follower.sink.drain()
        if gone and not follower.over:
            event("fell out of the window")
            assert follower is not self.followers[0] or not self.with_originator, "the originator lost frames"
            self.check_cut_short(follower, "too_slow")

    def leave_one(self, follower: Follower) -> None:
        follower.subscription.leave("left")
        self.finish(follower)

    def expire_one(self, follower: Follower) -> None:
        follower.subscription.fail(CAPABILITY_EXPIRED.saying("the capability has expired"))
        if not follower.over:
            self.check_cut_short(follower, CAPABILITY_EXPIRED.reason)

    def beat_one(self, follower: Follower) -> None:
        """As the hub does it: never in raw, and not after the end."""
        if follower.mode == "events" and not follower.over:
            before = len(follower.sink.received)
            follower.subscription.beat()
            assert follower.sink.received[before:] in (b"", b":\n")
            if follower.sink.received[before:]:
                assert follower.had == len(self.ever), "a heartbeat to one who is due frames"
                follower.joined, follower.sink.received = follower.had, b""

    def check(self) -> None:
        """Hold the log and every follower to what they must be by now."""
        log = self.stream.log
        assert log.end == len(self.ever)
        assert log.span(log.start, log.end) == self.ever[log.start :]
        if self.stream.originator is None and self.ending is None:
            assert log.size_bytes <= self.stream.max_log_bytes
        for follower in self.followers:
            self.check_one(follower)

    def check_one(self, follower: Follower) -> None:
        sink = follower.sink
        if follower.over:
            assert sink.received == follower.final, "something came after the end"
        elif sink.ended is not None:
            assert self.ending is not None, "ended before the stream"
            assert_ended(follower, self.ever, self.ending, self.tail, self.dialect)
            self.finish(follower)
        else:
            assert self.ending is None or sink.clogged, "not ended, though its sink takes writes"
            if not sink.clogged:
                follower.had = len(self.ever)
            assert sink.received == rendered(follower.mode, self.ever, follower.joined, follower.had)

    def check_cut_short(self, follower: Follower, code: str) -> None:
        """Hold a follower that was ended in mid-stream to what it had, and to an ending that does not look complete."""
        sink, had = follower.sink, rendered(follower.mode, self.ever, follower.joined, follower.had)
        if follower.mode == "raw":
            assert (sink.received, sink.ended) == (had, "aborted")
        else:
            assert sink.received.startswith(had)
            assert sink.ended == "closed"
            assert_is_error(sink.received[len(had) :], self.dialect, code, follower.had)
        self.finish(follower)

    def finish(self, follower: Follower) -> None:
        follower.over = True
        follower.final = follower.sink.received


# The laws


@given(reads_of())
def test_law_1_fidelity(reads: list[bytes]) -> None:
    """After every read, frames joined plus the unterminated tail equal the bytes received."""
    splitter, joined, received = Splitter(LIMIT), b"", b""
    for read in reads:
        joined += b"".join(splitter.feed(read))
        received += read
        assert joined + splitter.tail == received


@given(reads_of(), st.sampled_from(DIALECTS), st.sampled_from([None, Truncated("m"), Garbled("m")]), st.booleans())
def test_law_1_fidelity_to_a_follower(
    reads: list[bytes], dialect: Dialect, error: UpstreamError | None, ends_with_data: bool
) -> None:
    """A follower in raw has exactly the bytes of the response, however that ended."""
    last = reads.pop() if reads and ends_with_data else b""
    raw, _ = pumped(reads, dialect, error, last=last)
    assert raw.received == b"".join(reads) + last


@given(reads_of())
def test_law_1_fidelity_up_to_a_frame_over_the_limit(reads: list[bytes]) -> None:
    """What a follower in raw has before it is cut off is a prefix without a gap; so are frames and tail."""
    splitter, joined, received = Splitter(12), b"", b""
    for read in reads:
        received += read
        try:
            joined += b"".join(splitter.feed(read))
        except TooLarge:
            event("too large")
            break
    assert joined + splitter.tail == received
    raw, _ = pumped(reads, limit=12)
    assert b"".join(reads).startswith(raw.received)
    assert raw.ended == "aborted" or raw.received == b"".join(reads)


@given(reads_of(), st.data())
def test_law_2_cut_independence(reads: list[bytes], data: st.DataObject) -> None:
    """Frames and tail don't depend on how the bytes were cut into reads."""
    body = b"".join(reads)
    places = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=9), "other places"))
    once_more = [body[a:b] for a, b in pairwise([0, *places, len(body)])]
    assert split(reads) == split([body]) == split(once_more)


@given(st.lists(frames(), max_size=3).map(b"".join))
def test_law_2_cut_independence_at_every_place(body: bytes) -> None:
    """Within a CRLF and within a character too, and with the next frame behind."""
    whole, tail = split([body])
    for reads, trailer in cuts(body):
        assert split(reads) == (whole, tail + trailer)


@given(reads_of(), st.sampled_from(DIALECTS))
def test_law_2_cut_independence_for_followers(reads: list[bytes], dialect: Dialect) -> None:
    """Nor does anything that a follower has, in any mode, its ending included."""
    body = b"".join(reads)
    for sink, other in zip(pumped(reads, dialect), pumped([body] if body else [], dialect), strict=True):
        assert (sink.received, sink.ended) == (other.received, other.ended)


@given(st.lists(st.lists(frames(), min_size=1, max_size=4), max_size=12), st.integers(20, 300))
def test_law_3_append_only(reads: list[list[bytes]], max_log_bytes: int) -> None:
    """Frame n never changes and seqs are dense from 1, also when old frames are dropped."""
    stream, ever, starts = new_stream(max_log_bytes=max_log_bytes), [], [0]
    log = stream.log
    for read in reads:
        stream.extend(read)
        ever += read
        starts.append(log.start)
        assert log.end == len(ever)
        for seq in range(log.start + 1, log.end + 1):
            assert log.span(seq - 1, seq) == [ever[seq - 1]]
    assert starts == sorted(starts)


@given(st.lists(frames(), max_size=3), seals, seals, st.lists(frames(), max_size=2), st.sampled_from(MODES))
def test_law_4_nothing_after_the_seal(
    before: list[bytes], seal: Step, again: Step, after: list[bytes], mode: str
) -> None:
    """No frame and no second ending, neither for those who followed nor for those who come."""
    stream, early, late = new_stream(), FakeSink(), FakeSink()
    FakeWriter(stream)
    follow(stream, early, mode)
    stream.extend(before)
    stream.seal(*seal[1:])
    had, log = (early.received, early.ended), stream.log
    held = (log.end, log.ending, log.tail)
    with pytest.raises(RuntimeError):
        stream.extend(after)
    stream.seal(*again[1:])
    assert (early.received, early.ended) == had
    assert (log.end, log.ending, log.tail) == held
    assert stream.writer is None
    follow(stream, late, mode)
    assert (late.received, late.ended) == had


@given(scripts(), st.sampled_from(DIALECTS))
def test_law_5_prefix(script: list[Step], dialect: Dialect) -> None:
    """What a follower was sent is its mode's rendering of consecutive frames: no gap, no repeat, no reordering."""
    Play(dialect).run(script)


@given(scripts(), st.sampled_from(DIALECTS), st.integers(30, 200), st.booleans())
def test_law_5_prefix_within_a_window(
    script: list[Step], dialect: Dialect, max_log_bytes: int, with_originator: bool
) -> None:
    """The same while the log drops old frames: who falls out of it is told, and the originator never does."""
    Play(dialect, max_log_bytes=max_log_bytes, with_originator=with_originator).run(script)


@given(
    scripts(),
    st.lists(
        st.tuples(st.integers(0, 20), st.sampled_from(MODES), st.sampled_from(["never", "once", "leaves", "fails"]))
    ),
    st.sampled_from([120, 1 << 30]),
    st.booleans(),
)
def test_law_6_independence(
    script: list[Step], stuck: list[tuple[int, str, str]], max_log_bytes: int, with_originator: bool
) -> None:
    """Followers whose sinks take nothing, or a little, or that end, change nothing for the others and the writer."""
    alone, disturbed = (
        Play(DIALECTS[0], max_log_bytes=max_log_bytes, with_originator=with_originator) for _ in range(2)
    )
    disturbing: list[tuple[str, Subscription]] = []
    for now, step in enumerate(script):
        for kind, subscription in disturbing:
            if kind == "leaves":
                subscription.leave("left")
            elif kind == "fails":
                subscription.fail(CAPABILITY_EXPIRED.saying("m"))
        for at, mode, kind in stuck:
            if at == now:
                sink = FakeSink(clogged=kind == "never", room=1 if kind == "once" else None)
                disturbing.append((kind, follow(disturbed.stream, sink, mode, disturbed.stream.log.start)))
        alone.take(step)
        disturbed.take(step)
        for one, other in zip(alone.followers, disturbed.followers, strict=True):
            assert one.sink.writes == other.sink.writes
            assert (one.sink.received, one.sink.ended) == (other.sink.received, other.sink.ended)
        assert alone.stream.log.start == disturbed.stream.log.start
        asked = [[word for word in play.writer.asked if word != "last_left"] for play in (alone, disturbed)]
        assert asked[0] == asked[1]


@given(
    reads_of(),
    st.sampled_from(DIALECTS),
    st.sampled_from([None, Truncated("m"), Garbled("m"), IdleTimeout("m")]),
)
@example([b"event:error"], DASHSCOPE, None)
def test_law_7_one_ending(reads: list[bytes], dialect: Dialect, error: UpstreamError | None) -> None:
    """A response that broke off never looks complete, in no mode; `[DONE]` is there only if upstream said it."""
    raw, events = pumped(reads, dialect, error)
    body = b"".join(reads)
    said = messages(body + b"\n\n")  # its last frame may lack the blank line
    seen = messages(events.received)
    done = any((message.data or b"").startswith(b"[DONE]") for message in said)
    last_line = body.replace(b"\r", b"\n").rpartition(b"\n")[2]
    within_a_line = bool(last_line.strip()) and not last_line.endswith(b"[DONE]")
    assert events.ended == "closed"
    reported = bool(seen) and b"upstream_error" in seen[-1].data  # in a form that no client knows, or before a break
    whole = error is None and reported  # also text in place of events: the upstream's error, and all of it
    over = (
        done if dialect.name == "openai" else dialect.name == "anthropic" and any(one.type == b"error" for one in said)
    )
    if (error is not None or within_a_line) and not whole and not over:
        event("broke off")
        assert raw.ended == "aborted"
    if reported:
        event("told by us of an error of the upstream's")
        assert_says_error(seen.pop(), dialect, "upstream_error")
    elif raw.ended == "aborted":
        assert_says_error(seen.pop(), dialect, "upstream_reset" if error is None else error.ending)
    elif seen and b"upstream_reset" in seen[-1].data:
        event("a proper end of what has not finished")
        assert_says_error(seen.pop(), dialect, "upstream_reset")
    assert [message.data for message in seen] == [message.data for message in said][: len(seen)]


@given(seals, st.sampled_from(DIALECTS), st.lists(frames(), max_size=4), st.lists(st.booleans(), max_size=4))
def test_law_7_one_ending_for_every_follower(
    seal: Step, dialect: Dialect, before: list[bytes], clogged: list[bool]
) -> None:
    """Each follower ends once, and as its mode tells this ending: early or late, fast or slow."""
    play = Play(dialect)
    script: list[Step] = [("join", mode, 0.0, slow) for mode in MODES for slow in (False, *clogged)]
    script += [("extend", before)] if before else []
    script += [seal, seal]
    script += [("join", mode, where, False) for mode in MODES for where in (0.0, 0.5, 1.0)]
    play.run(script)


@given(
    st.lists(st.lists(frames(), min_size=1, max_size=3), max_size=6),
    st.lists(frames(), max_size=2),
    st.sampled_from(ENDINGS),
    st.sampled_from(DIALECTS),
)
def test_law_8_resume(reads: list[list[bytes]], rest: list[bytes], ending: Ending, dialect: Dialect) -> None:
    """Attaching at k gives exactly the suffix after k: at once, then live, then the end; also when all is over."""
    ever = [frame for read in reads for frame in read]
    stream, followers = new_stream(dialect), []
    for read in reads:
        stream.extend(read)

    def attach(mode: str, offset: int) -> None:
        follower = Follower(mode, offset, FakeSink())
        follow(stream, follower.sink, mode, offset)
        followers.append(follower)

    for mode in MODES:
        for offset in range(len(ever) + 1):
            attach(mode, offset)
            assert followers[-1].sink.received == rendered(mode, ever, offset, len(ever))
    if rest:
        stream.extend(rest)
    stream.seal(ending, [DONE], b"tail")
    ever += [*rest, DONE]
    for mode in MODES:
        for offset in range(len(ever) + 1):
            attach(mode, offset)
    for follower in followers:
        assert_ended(follower, ever, ending, b"tail", dialect)


@given(st.lists(frames(), min_size=4, max_size=30), st.sampled_from(DIALECTS), st.booleans())
def test_law_8_resume_below_the_window(ever: list[bytes], dialect: Dialect, sealed: bool) -> None:
    """Who asks for frames that are gone gets an error and no frame: an answer is never silently shortened."""
    stream = new_stream(dialect, max_log_bytes=60)
    for frame in ever:
        stream.extend([frame])
    if sealed:
        stream.seal(COMPLETE)
    start = stream.log.start
    for mode in MODES:
        for offset in range(len(ever)):
            sink = FakeSink()
            follow(stream, sink, mode, offset)
            if offset >= start:
                assert sink.received == rendered(mode, ever, offset, len(ever))
            elif mode == "raw":
                assert (sink.received, sink.ended) == (b"", "aborted")
            else:
                assert sink.ended == "closed"
                assert_is_error(sink.received, dialect, "too_slow", offset)


# Recorded streams


def dialect_of(path: Path) -> Dialect:
    return DIALECTS[path.name.startswith("native")]


needs_recordings = pytest.mark.skipif(not recorded(), reason=NOT_RECORDED)
each_recording = pytest.mark.parametrize("path", recorded(), ids=lambda path: path.stem)


@needs_recordings
@each_recording
def test_recorded_stream_is_the_same_however_cut(path: Path) -> None:
    """Laws 1 and 2: whole, byte by byte, in two at many places, and with more behind."""
    body = path.read_bytes()
    whole, tail = split([body])
    assert b"".join(whole) + tail == body
    assert [message for frame in whole for message in messages(frame)] == messages(body)
    for reads, trailer in cuts(body):
        assert split(reads) == (whole, tail + trailer)


@needs_recordings
@each_recording
def test_recorded_stream_reaches_every_follower(path: Path) -> None:
    """Laws 5 and 8: raw is the bytes, events the same messages with our ids, from any offset."""
    body = path.read_bytes()
    whole, tail = split([body])
    stream = new_stream(dialect_of(path))
    live = {mode: FakeSink() for mode in MODES}
    for mode, sink in live.items():
        follow(stream, sink, mode)
    for frame in whole:
        stream.extend([frame])
    stream.seal(COMPLETE, tail=tail)
    assert live["raw"].received == body
    whole = [frame + b"\n" for frame in whole]  # some lack their blank line
    numbers = [EPOCH + b"-%d" % seq for seq, frame in enumerate(whole, 1) if messages(frame)]
    said = messages(b"".join(whole))
    assert messages(live["events"].received) == [m._replace(id=n) for m, n in zip(said, numbers, strict=True)]
    for mode, sink in live.items():
        for offset in {0, min(1, len(whole)), len(whole) // 2, len(whole)}:
            late = FakeSink()
            follow(stream, late, mode, offset)
            assert sink.received.endswith(late.received)
            assert late.received == stream.projection(View(mode)).render(offset, len(whole)) + (
                tail if mode == "raw" else b""
            )


@needs_recordings
@each_recording
def test_recorded_stream_that_breaks_off_never_looks_complete(path: Path) -> None:
    """Law 7: cut off at any of many places, before its own last word."""
    body, dialect = path.read_bytes(), dialect_of(path)
    end = body.find(b"data: [DONE]") if dialect.name == "openai" else len(body)
    for reads, trailer in cuts(body[: end if end > 0 else len(body)], b""):
        assert not trailer
        raw, events = pumped(reads[:1], dialect, Truncated("broke off"))
        assert (raw.received, raw.ended) == (reads[0], "aborted")
        assert b"upstream_reset" in events.received or b"upstream_error" in events.received
        assert b"[DONE]" not in events.received
