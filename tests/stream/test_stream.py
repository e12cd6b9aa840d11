"""One stream and its followers, step by step: who is sent what, when, and how each ends."""

import gc
import json
import weakref
from typing import Any

import pytest

from proxy.dialects.dashscope import DASHSCOPE
from proxy.stream.endings import CAPABILITY_EXPIRED, COMPLETE, LOG_LIMIT, UPSTREAM_ERROR, UPSTREAM_RESET
from proxy.stream.ledger import Ledger
from proxy.stream.modes.projection import View
from proxy.stream.stream import Stream
from proxy.stream.turns import TURN_S
from tests.cuts import messages
from tests.fakes import FakeLoop, FakeSink, FakeWriter
from tests.streams import EPOCH, IDENT, follow, new_stream

A, B, C, D = (b"data: %c\n\n" % letter for letter in b"abcd")
BROKE = UPSTREAM_RESET.saying("the upstream's response broke off")
MANY = 1000  # followers: more than are advanced in one turn of the loop


class Hurried(FakeLoop):
    """A loop in which every piece of work takes all the time there is in a turn."""

    def time(self) -> float:
        self.now += TURN_S
        return self.now


def frame(size_bytes: int) -> bytes:
    """Return a frame of so many bytes."""
    return b"data: " + b"x" * (size_bytes - 8) + b"\n\n"


def error_in(last: bytes) -> dict[str, Any]:
    """Return the error event that a follower in mode events was ended with."""
    [said] = messages(last)
    error: dict[str, Any] = json.loads(said.data)["error"]
    return error


# Delivery


def test_read_is_one_write_per_follower_in_the_same_turn() -> None:
    """Nobody waits for a task, a queue or another follower."""
    loop = FakeLoop()
    stream, raw, events = new_stream(loop=loop), FakeSink(), FakeSink()
    follow(stream, raw)
    follow(stream, events, "events")
    stream.extend([A, B])
    stream.extend([C])
    assert raw.writes == [A + B, C]
    assert events.received == b"".join(b"data: %c\nid: gen234-%d\n\n" % (97 + n, n + 1) for n in range(3))
    assert len(events.writes) == 2
    assert not loop.turn()


def test_generation_is_the_first_six_characters_of_the_id() -> None:
    """After `st_`."""
    assert IDENT.startswith("st_" + EPOCH.decode())
    assert new_stream().epoch.encode() == EPOCH


# Ends


def test_last_frames_and_the_close_are_one_write() -> None:
    """What the sink is closed with holds the last span."""
    stream, sink = new_stream(), FakeSink()
    follow(stream, sink)
    stream.extend([A])
    stream.seal(COMPLETE, [B, C])
    assert (sink.writes, sink.last, sink.ended) == ([A], B + C, "closed")


def test_failed_stream_never_looks_complete() -> None:
    """Raw is aborted after the tail, events end with an error event that is no [DONE] (law 7)."""
    stream, raw, events = new_stream(), FakeSink(), FakeSink()
    follow(stream, raw)
    follow(stream, events, "events")
    stream.extend([A])
    stream.seal(BROKE, [B], tail=b"data: hal")
    assert (raw.received, raw.ended) == (A + B + b"data: hal", "aborted")
    before, error = events.received[:44], events.received[44:]
    assert before == b"data: a\nid: gen234-1\n\ndata: b\nid: gen234-2\n\n"
    assert error_in(error) == {"message": BROKE.message, "type": "stream_error", "code": "upstream_reset"}
    assert events.ended == "closed"


def test_error_reported_by_the_upstream_is_passed_on_and_closed_properly() -> None:
    """Its own error event says all there is; a second one would be ours."""
    reported = b'data: {"error":{"message":"m"}}\n\n'
    stream, raw, events = new_stream(), FakeSink(), FakeSink()
    follow(stream, raw)
    follow(stream, events, "events")
    stream.seal(UPSTREAM_ERROR.saying("m")._replace(clean=True), [reported])
    assert (raw.received, raw.ended) == (reported, "closed")
    assert (len(messages(events.received)), events.ended) == (1, "closed")


def test_native_follower_is_told_in_its_own_dialect() -> None:
    """DashScope's error event, with its type and no [DONE]."""
    stream, sink = new_stream(DASHSCOPE), FakeSink()
    follow(stream, sink, "events")
    stream.seal(BROKE)
    [said] = messages(sink.received)
    assert (said.type, json.loads(said.data)["code"]) == (b"error", "upstream_reset")


def test_clogged_follower_ends_after_it_had_the_rest() -> None:
    """The seal does not cut it short; it is due every frame, then the ending."""
    stream, raw, events = new_stream(), FakeSink(clogged=True), FakeSink(clogged=True)
    follow(stream, raw)
    follow(stream, events, "events")
    stream.extend([A])
    stream.seal(BROKE, [B], tail=b"data: hal")
    assert (raw.received, events.received) == (b"", b"")
    raw.drain()
    events.drain()
    assert (raw.received, raw.ended) == (A + B + b"data: hal", "aborted")
    assert [said.data for said in messages(events.received)][:2] == [b"a", b"b"]
    assert (len(messages(events.received)), events.ended) == (3, "closed")


def test_only_the_first_seal_counts() -> None:
    """A log has exactly one ending, and nothing after it (law 4)."""
    stream, sink = new_stream(), FakeSink()
    follow(stream, sink)
    stream.seal(COMPLETE, [A])
    stream.seal(BROKE, [B], tail=b"rest")
    with pytest.raises(RuntimeError):
        stream.extend([C])
    late = FakeSink()
    follow(stream, late)
    assert (sink.received, sink.ended) == (late.received, late.ended) == (A, "closed")
    assert (stream.log.ending, stream.log.tail) == (COMPLETE, b"")


def test_stream_without_a_frame_still_ends() -> None:
    """Failed before the first frame, or complete and empty."""
    failed, empty = new_stream(), new_stream()
    sinks = [FakeSink() for _ in range(4)]
    for stream, first, second in ((failed, *sinks[:2]), (empty, *sinks[2:])):
        follow(stream, first)
        follow(stream, second, "events")
    failed.seal(BROKE)
    empty.seal(COMPLETE)
    assert [sink.ended for sink in sinks] == ["aborted", "closed", "closed", "closed"]
    assert [bool(sink.received) for sink in sinks] == [False, True, False, False]


def test_each_follower_is_reported_ended_once_with_the_reason() -> None:
    """The word of the metric: complete, failed, left, or what it was ended with in mid-stream."""
    reasons: list[str | None] = []
    stream = new_stream(on_subscription_ended=lambda subscription: reasons.append(subscription.ended))
    first, second, third = (follow(stream, FakeSink()) for _ in range(3))
    first.leave("left")
    first.leave("left")
    first.fail(BROKE)
    second.fail(CAPABILITY_EXPIRED.saying("m"))
    second.leave("left")
    assert reasons == ["left", "capability_expired"]
    stream.seal(BROKE)
    third.leave("left")
    assert reasons == ["left", "capability_expired", "failed"]
    reasons_complete: list[str | None] = []
    stream = new_stream(on_subscription_ended=lambda subscription: reasons_complete.append(subscription.ended))
    follow(stream, FakeSink())
    stream.seal(COMPLETE)
    assert reasons_complete == ["complete"]


def test_follower_that_left_is_sent_nothing_more() -> None:
    """Not even its end: the client has gone."""
    stream, sink, clogged = new_stream(), FakeSink(), FakeSink(clogged=True)
    subscription, waiting = follow(stream, sink), follow(stream, clogged)
    stream.extend([A])
    subscription.leave("left")
    waiting.leave("left")
    stream.extend([B])
    waiting.resume()
    stream.seal(COMPLETE)
    assert (sink.received, sink.ended) == (A, None)
    assert (clogged.received, clogged.ended) == (b"", None)
    assert not stream.subscriptions


def test_follower_failed_in_mid_stream_is_told_what_its_mode_says() -> None:
    """Raw breaks off, events get an error with the id of the last frame they had; the others go on."""
    stream, raw, events, other = new_stream(), FakeSink(), FakeSink(), FakeSink()
    follow_raw, follow_events = follow(stream, raw), follow(stream, events, "events")
    follow(stream, other)
    stream.extend([A])
    for subscription in (follow_raw, follow_events):
        subscription.fail(CAPABILITY_EXPIRED.saying("the capability has expired"))
    stream.extend([B])
    stream.seal(COMPLETE)
    assert (raw.received, raw.ended) == (A, "aborted")
    assert messages(events.received)[-1].id == b"gen234-1"
    assert error_in(events.last)["code"] == "capability_expired"
    assert (other.received, other.ended) == (A + B, "closed")


def test_ended_followers_are_let_go_of() -> None:
    """A kept stream must not hold the connections of those who followed it."""
    stream = new_stream()
    early, late = FakeSink(), FakeSink()
    follow(stream, early)
    stream.extend([A])
    stream.seal(COMPLETE)
    follow(stream, late)
    assert early.ended == late.ended == "closed"
    held = [weakref.ref(early), weakref.ref(late)]
    del early, late
    gc.collect()
    assert [ref() for ref in held] == [None, None]


@pytest.mark.parametrize("sealed_first", [False, True])
def test_ended_stream_keeps_none_of_what_was_made_for_followers(sealed_first: bool) -> None:
    """A mode remembers its last span, twice: of a short answer that is all of it, as long as the stream is kept."""
    stream, sink = new_stream(), FakeSink()
    stream.extend([A])
    if sealed_first:
        stream.seal(COMPLETE)
    follow(stream, sink)
    stream.seal(COMPLETE)
    assert sink.received == A
    assert stream.projection(View("raw")).plain == b""


# The writer


def test_writer_is_told_when_the_last_follower_has_left() -> None:
    """Not for one of several, and not once the stream is sealed."""
    stream = new_stream()
    writer = FakeWriter(stream)
    first, second = follow(stream, FakeSink()), follow(stream, FakeSink(clogged=True))
    first.leave("left")
    assert writer.asked == []
    second.leave("left")
    assert writer.asked == ["last_left"]
    stream.extend([A])
    follow(stream, FakeSink()).fail(BROKE)
    assert writer.asked == ["last_left", "last_left"]
    follow(stream, FakeSink())
    stream.seal(COMPLETE)
    assert writer.asked == ["last_left", "last_left"]


def test_sealed_stream_has_no_writer() -> None:
    """Nobody asks it for anything afterwards."""
    stream = new_stream()
    writer = FakeWriter(stream)
    sink = FakeSink(clogged=True)
    follow(stream, sink)
    stream.extend([A])
    stream.seal(COMPLETE)
    sink.drain()
    assert stream.writer is None
    assert writer.asked == []


def test_hold_keeps_the_writer_as_a_follower_does() -> None:
    """Each under its name, however many; the writer is told when the last hold and the last follower have gone."""
    stream = new_stream()
    writer = FakeWriter(stream)
    for name in ("asking", "asking", "replica"):
        stream.hold(name)
    assert stream.holds == {"asking": 2, "replica": 1}
    follow(stream, FakeSink()).leave("left")
    for name in ("asking", "replica"):
        stream.release(name)
    assert (writer.asked, stream.wanted) == ([], True)
    follower = follow(stream, FakeSink())
    stream.release("asking")
    assert writer.asked == []
    follower.leave("left")
    assert (writer.asked, stream.wanted) == (["last_left"], False)


def test_release_after_the_end_tells_nobody() -> None:
    """There is no writer any more."""
    stream = new_stream()
    writer = FakeWriter(stream)
    stream.hold("asking")
    stream.seal(COMPLETE)
    stream.release("asking")
    assert writer.asked == []


def test_followers_are_dismissed_without_the_writer_being_told() -> None:
    """They end as they are told; the stream goes on for those who come."""
    stream, sink = new_stream(), FakeSink()
    writer = FakeWriter(stream)
    follow(stream, sink, "events")
    stream.dismiss(BROKE)
    assert (bool(sink.ended), len(stream.subscriptions), writer.asked, stream.holds) == (True, 0, [], {})
    late = FakeSink()
    follow(stream, late)
    stream.extend([A])
    assert late.received == A


@pytest.mark.parametrize(
    ("of_header", "of_frames", "expected"),
    [(b"q-1", "f-1", "q-1"), (None, "f-1", "f-1"), (None, None, None), (b"two words", None, None), (b"", "f", "f")],
)
def test_upstreams_request_id_is_a_word(of_header: bytes | None, of_frames: str | None, expected: str | None) -> None:
    """That of the header, else that of the last frames; it goes into log lines."""
    stream = new_stream()
    stream.answered("default", of_header, None)
    stream.vitals.reader.request_id = of_frames
    assert (stream.upstream, stream.upstream_request_id) == ("default", expected)


# Bounds


def test_nothing_is_dropped_while_the_stream_is_held() -> None:
    """A client that asked is yet to read it: the writer waits for it, as for one that reads slowly."""
    stream = new_stream(max_log_bytes=100)
    writer = FakeWriter(stream)
    stream.hold("asking")
    frames = [b"data: %b\n\n" % (b"x" * 40)] * 4
    for frame in frames:
        stream.extend([frame])
    assert (stream.log.start, writer.paused) == (0, True)
    stream.originator = follow(stream, sink := FakeSink())
    stream.release("asking")
    assert (sink.received, writer.paused) == (b"".join(frames), False)
    assert stream.log.size_bytes <= 100


def test_log_over_its_limit_drops_its_oldest_frames() -> None:
    """A quarter at a time, not one each time; those who are caught up notice nothing."""
    stream, sink = new_stream(max_log_bytes=1000), FakeSink()
    log = stream.log
    follow(stream, sink)
    for _ in range(50):
        start = log.start
        stream.extend([frame(100)])
        assert log.size_bytes <= (1000 if log.start == start else 750)
        assert log.size_bytes >= min(100 * log.end, 650)
    assert log.end == 50
    assert sink.received == frame(100) * 50


@pytest.mark.parametrize("mode", ["raw", "events"])
def test_follower_out_of_the_window_is_ended_with_an_error_not_skipped(mode: str) -> None:
    """When it drains it learns which frame is gone and which is the earliest; it gets no frame of later."""
    stream, slow, fast = new_stream(max_log_bytes=1000), FakeSink(), FakeSink()
    follow(stream, slow, mode)
    follow(stream, fast, mode)
    stream.extend([A])
    had = slow.received
    slow.clogged = True
    for _ in range(30):
        stream.extend([frame(100)])
    assert (slow.received, slow.ended) == (had, None)
    slow.drain()
    assert slow.received.startswith(had)
    if mode == "raw":
        assert (slow.last, slow.ended) == (b"", "aborted")
    else:
        error = error_in(slow.last)
        assert (error["code"], slow.ended) == ("too_slow", "closed")
        assert "frame 2 " in error["message"]
        assert error["message"].endswith(f" {stream.log.start + 1}")
        assert messages(slow.last)[0].id == b"gen234-1"
    assert fast.ended is None
    assert len(messages(fast.received)) == 31


@pytest.mark.parametrize("mode", ["raw", "events"])
@pytest.mark.parametrize("sealed", [False, True])
def test_follower_from_below_the_window_is_refused(mode: str, sealed: bool) -> None:
    """It is never silently given less (law 8)."""
    stream, sink = new_stream(max_log_bytes=1000), FakeSink()
    stream.extend([frame(100)] * 30)
    assert 1 < stream.log.start < stream.log.end
    if sealed:
        stream.seal(COMPLETE)
    subscription = follow(stream, sink, mode, stream.log.start - 1)
    assert subscription.ended == "too_slow"
    assert sink.writes == []
    assert sink.ended == ("aborted" if mode == "raw" else "closed")
    assert follow(stream, FakeSink(), mode, stream.log.start).ended == ("complete" if sealed else None)


def test_slow_originator_pauses_the_writer_and_loses_nothing() -> None:
    """The log keeps what the originator has yet to read; reading upstream waits for it (flow control)."""
    stream, sink = new_stream(max_log_bytes=1000), FakeSink()
    writer = FakeWriter(stream)
    stream.originator = follow(stream, sink)
    stream.extend([frame(100)])
    sink.clogged = True
    sent = 1
    while not writer.paused:
        stream.extend([frame(100)])
        sent += 1
        assert sent < 50
    assert 10 <= sent <= 12
    assert stream.log.start <= 1
    sink.drain()
    assert writer.asked == ["pause", "resume"]
    assert sink.received == frame(100) * sent
    stream.extend([A])
    assert sink.writes[-1] == A
    assert stream.log.size_bytes <= 1000


def test_writer_goes_on_when_the_slow_originator_leaves() -> None:
    """The followers that remain never slow anyone."""
    stream, originator, other = new_stream(max_log_bytes=1000), FakeSink(clogged=True), FakeSink(clogged=True)
    writer = FakeWriter(stream)
    stream.originator = follow(stream, originator)
    follow(stream, other)
    stream.extend([frame(100)] * 20)
    assert writer.asked == ["pause"]
    stream.originator.leave("left")
    assert writer.asked == ["pause", "resume"]
    assert stream.log.size_bytes <= 1000
    stream.extend([frame(100)] * 20)
    assert writer.asked == ["pause", "resume"]


def test_mere_follower_never_pauses_the_writer() -> None:
    """However far behind it is."""
    stream, slow, originator = new_stream(max_log_bytes=1000), FakeSink(clogged=True), FakeSink()
    writer = FakeWriter(stream)
    follow(stream, slow)
    stream.originator = follow(stream, originator)
    for _ in range(100):
        stream.extend([frame(100)])
    assert writer.asked == []
    assert originator.received == frame(100) * 100


def test_ledger_counts_what_the_logs_hold() -> None:
    """Of all streams that share it, through appends, drops and seals."""
    ledger = Ledger(1 << 20)
    first, second = new_stream(ledger=ledger, max_log_bytes=1000), new_stream(ledger=ledger)
    for _ in range(30):
        first.extend([frame(100)])
        second.extend([A, B])
        assert ledger.bytes == first.log.size_bytes + second.log.size_bytes
    first.seal(COMPLETE, [C, D])
    assert ledger.bytes == first.log.size_bytes + second.log.size_bytes


def test_ledger_over_its_limit_calls_back() -> None:
    """Each time an append leaves it over; not at the limit."""
    ledger, asked = Ledger(300), []
    ledger.on_over_limit = lambda _: asked.append(ledger.bytes)
    stream = new_stream(ledger=ledger)
    for _ in range(4):
        stream.extend([frame(100)])
    assert asked == [400]


def test_stream_stopped_because_the_logs_are_full_ends_its_followers_once() -> None:
    """That may seal the very stream that is being extended; what it had is still delivered."""
    ledger = Ledger(250)
    stream, raw, events = new_stream(ledger=ledger), FakeSink(), FakeSink()
    writer = FakeWriter(stream)
    follow(stream, raw)
    follow(stream, events, "events")
    ledger.on_over_limit = lambda _: writer.stop(LOG_LIMIT.saying("too much"))
    for _ in range(2):
        stream.extend([frame(100)])
    stream.extend([frame(100)])
    assert (raw.received, raw.ended) == (frame(100) * 3, "aborted")
    assert error_in(events.last.split(b"\n\n", 1)[1])["code"] == "log_limit"


# Many followers


def many(stream: Stream, count: int = MANY) -> list[FakeSink]:
    sinks = [FakeSink() for _ in range(count)]
    for number, sink in enumerate(sinks):
        follow(stream, sink, "events" if number % 2 else "raw")
    return sinks


def test_many_followers_are_advanced_in_several_turns() -> None:
    """So that other streams need not wait; in the end each has had everything once, in order."""
    loop = FakeLoop()
    stream = new_stream(loop=loop)
    sinks = many(stream)
    stream.extend([A])
    had = [len(sink.writes) for sink in sinks]
    assert 0 < sum(had) < MANY
    stream.extend([B])
    loop.turn()
    stream.extend([C])
    loop.settle()
    assert {sink.received for sink in sinks[::2]} == {A + B + C}
    assert len({sink.received for sink in sinks[1::2]}) == 1
    assert [said.data for said in messages(sinks[1].received)] == [b"a", b"b", b"c"]


@pytest.mark.parametrize("count", [255, 256, 257, 511, 512, 513, 1024])
def test_no_follower_is_forgotten_at_the_edge_of_a_slice(count: int) -> None:
    """Whatever their number, and the stream is free for the next sweep."""
    loop = FakeLoop()
    stream = new_stream(loop=loop)
    sinks = many(stream, count)
    for one in (A, B):
        stream.extend([one])
        loop.settle()
    assert {sink.received for sink in sinks[::2]} == {A + B}
    stream.seal(COMPLETE)
    loop.settle()
    assert {sink.ended for sink in sinks} == {"closed"}


def test_followers_that_come_and_go_during_a_sweep() -> None:
    """Who leaves is sent nothing more, who comes gets all, who clogs goes on when it drains."""
    loop = FakeLoop()
    stream = new_stream(loop=loop)
    sinks = many(stream)
    subscriptions = list(stream.subscriptions)
    stream.extend([A])
    assert sinks[-1].writes == []
    subscriptions[-1].leave("left")
    subscriptions[0].leave("left")
    sinks[-2].clogged = True
    late = FakeSink()
    follow(stream, late)
    loop.turn()
    stream.extend([B])
    loop.settle()
    sinks[-2].drain()
    stream.seal(COMPLETE, [C])
    loop.settle()
    assert (sinks[-1].received, sinks[-1].ended) == (b"", None)
    assert (sinks[0].received, sinks[0].ended) == (A, None)
    assert (late.received, late.ended) == (A + B + C, "closed")
    assert sinks[-2].received == sinks[2].received == A + B + C
    assert {sink.ended for sink in sinks[1:-1]} == {"closed"}


def test_seal_during_a_sweep_ends_every_follower_once() -> None:
    """After the last frame, and nobody is left over."""
    loop = FakeLoop()
    stream = new_stream(loop=loop)
    sinks = many(stream)
    stream.extend([A])
    loop.turn()
    stream.seal(BROKE, [B])
    loop.settle()
    assert {(sink.received, sink.ended) for sink in sinks[::2]} == {(A + B, "aborted")}
    assert {sink.ended for sink in sinks[1::2]} == {"closed"}
    assert not stream.subscriptions


def test_last_of_many_leaving_during_a_sweep_tells_the_writer_once() -> None:
    """The sweep goes on over nobody."""
    loop = FakeLoop()
    stream = new_stream(loop=loop)
    writer = FakeWriter(stream)
    many(stream)
    stream.extend([A])
    for subscription in list(stream.subscriptions):
        subscription.leave("left")
    loop.settle()
    assert writer.asked == ["last_left"]
    sink = FakeSink()
    follow(stream, sink)
    stream.extend([B])
    assert sink.received == A + B


def test_follower_that_is_far_behind_goes_on_in_later_turns() -> None:
    """Its past may be long, and others have their turn in between; it gets all of it, and the end."""
    loop, late, live = Hurried(), FakeSink(), FakeSink()
    stream = new_stream(loop=loop)
    past = [frame(1000) for _ in range(1000)]
    stream.extend(past)
    follow(stream, late, "events")
    assert len(late.writes) == 1
    follow(stream, live, offset=1000)
    stream.extend([A])
    assert (live.writes, len(late.writes)) == ([A], 1)
    for turns in range(2, 5):
        loop.turn()
        assert len(late.writes) == turns
    stream.seal(COMPLETE, [B])
    assert (live.received, live.ended, late.ended) == (A + B, "closed", None)
    loop.settle()
    assert (len(messages(late.received)), late.ended) == (1002, "closed")


def test_followers_that_are_far_behind_are_sent_one_rendering_in_turns() -> None:
    """Each span is rendered once for all who wait: they have their turns one after the other, and none has two."""
    loop, sinks = Hurried(), [FakeSink() for _ in range(5)]
    stream = new_stream(loop=loop)
    stream.extend([frame(1000)] * 300)
    for sink in sinks:
        follow(stream, sink, "events")
    loop.settle()
    for first, *others in zip(*[sink.writes for sink in sinks[1:]], strict=True):
        assert all(other is first for other in others)
    assert len(messages(sinks[0].received)) == 300


def test_follower_that_was_far_behind_is_live_again() -> None:
    """In the sweeps, once, though it was clogged and had turns of its own in between."""
    loop, sink = Hurried(), FakeSink(room=2)
    stream = new_stream(loop=loop)
    stream.extend([frame(1000)] * 300)
    subscription = follow(stream, sink)
    loop.settle()
    assert (len(sink.writes), subscription.parked) == (2, True)
    stream.extend([frame(1000)] * 300)
    sink.drain()
    loop.settle()
    stream.extend([A])
    assert sink.received == frame(1000) * 600 + A
    assert subscription.cohort.live == [subscription]


def test_follower_that_leaves_between_two_turns_is_sent_nothing_more() -> None:
    """Its turn comes, and passes."""
    loop, sink = Hurried(), FakeSink()
    stream = new_stream(loop=loop)
    stream.extend([frame(1000)] * 1000)
    subscription = follow(stream, sink, "events")
    loop.turn()
    subscription.leave("left")
    loop.settle()
    assert len(sink.writes) == 2


def test_late_follower_in_mode_raw_is_sent_the_lines_that_came_before_it() -> None:
    """Those of a frame that has not ended, which came with the response's head; and the rest when it has."""
    stream, raw, events = new_stream(), FakeSink(), FakeSink()
    stream.extend([A])
    stream.send_ahead(B[:-1])
    follow(stream, raw)
    follow(stream, events, "events")
    assert raw.received == A + B[:-1]
    assert b"data: b" not in events.received
    stream.extend([B])
    stream.end_ahead()
    assert raw.received == A + B
