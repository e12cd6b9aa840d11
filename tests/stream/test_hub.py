"""Where streams are found, for how long they are kept, and what is refused. The clock is a number handed in."""

import gc
import logging
import re
from typing import Any

import pytest

from proxy.dialects.chat import CHAT
from proxy.stream.ended import STREAM_BYTES
from proxy.stream.endings import CAPABILITY_EXPIRED, COMPLETE
from proxy.stream.hub import ANYONE, Hub, Places
from proxy.stream.info import StreamInfo
from proxy.stream.ledger import UNFINISHED
from proxy.stream.log import FRAME_BYTES
from proxy.stream.modes.projection import Projection, View
from proxy.stream.observer import Observers
from proxy.stream.stream import Stream
from proxy.stream.subscription import Subscription
from proxy.stream.vitals import Vitals
from proxy.wire.errors import Overloaded, UnknownStream
from tests.fakes import FakeLoop, FakeSink, FakeWriter
from tests.streams import hub_stream as new_stream
from tests.streams import new_hub

ME, OTHER = b"me", b"other"
A = b"data: a\n\n"
LARGE = b"data: " + b"x" * 9992 + b"\n\n"


def follow(
    hub: Hub, stream: Stream, sink: FakeSink | None = None, *, mode: str = "events", **more: Any
) -> Subscription:
    subscription = Subscription(stream, View(mode), sink or FakeSink(), 0, **more)
    hub.attach(subscription, 0.0)
    return subscription


# Observers


def test_observers_are_told_of_each_step_of_a_life() -> None:
    """Once of each; the end comes with its time, when followers have theirs and the stream is still found."""
    told: list[tuple[str, ...]] = []
    loop = FakeLoop()

    def ended(stream: Stream) -> None:
        assert hub.find(stream.id, ME) is stream
        assert not stream.subscriptions
        told.append(("ended", stream.id, f"{stream.ended_at:g}"))

    observers = Observers(
        begun=[lambda stream: told.append(("begun", stream.id))],
        answered=[lambda stream: told.append(("answered", stream.upstream))],
        ended=[ended],
    )
    hub = new_hub(loop, observers=observers)
    stream = new_stream(hub, retain_s=0)
    follow(hub, stream)
    hub.answered(stream, "default", b"q-1")
    loop.now = 7.5
    stream.seal(COMPLETE)
    stream.seal(COMPLETE)
    assert told == [("begun", stream.id), ("answered", "default"), ("ended", stream.id, "7.5")]
    assert stream.upstream_request_id == "q-1"


def test_stream_is_kept_longer_or_not_at_all() -> None:
    """A client that was promised it, or nobody who comes later."""
    loop = FakeLoop()
    hub = new_hub(loop)
    kept, discarded = new_stream(hub, key="kept", retain_s=5), new_stream(hub, key="discarded")
    hub.retain(kept, 60)
    hub.retain(kept, 1)
    hub.discard(discarded)
    assert hub.keys.find("discarded", ME) is None
    for stream in (kept, discarded):
        stream.seal(COMPLETE)
    assert list(hub) == [kept]
    hub.tick(59)
    assert hub.keys.find("kept", ME) is kept


def new_stream_beside(hub: Hub) -> tuple[Stream, FakeWriter]:
    """Make a stream, which has a writer, though there may be no room: a place was taken for it."""
    info = StreamInfo(hub.new_id(), "chat", ME, 0, 60, 1 << 20)
    stream = hub.begin(info, Vitals(CHAT, 0.0), Places(hub, 1, 0))
    return stream, FakeWriter(stream)


def _raise(*_: Any) -> Any:
    raise ZeroDivisionError


# Finding


def test_stream_is_found_by_its_id_by_its_caller_only() -> None:
    """Not yours, expired and never was are one answer."""
    hub = new_hub()
    stream = new_stream(hub)
    assert hub.find(stream.id, ME) is stream
    messages = set()
    for ident, caller in ((stream.id, OTHER), ("st_none", ME)):
        with pytest.raises(UnknownStream) as caught:
            hub.find(ident, caller)
        messages.add(caught.value.message.replace(ident, ""))
    assert len(messages) == 1
    assert hub.find(stream.id, None) is stream
    with pytest.raises(UnknownStream):
        hub.find("st_none", None)


def test_everybodys_stream_is_found_to_be_read_by_anyone() -> None:
    """To end it, it is nobody's; a caller's own is still that caller's alone."""
    hub = new_hub()
    shared, mine = new_stream(hub, caller=ANYONE), new_stream(hub)
    assert hub.find_readable(shared.id, ME) is hub.find_readable(shared.id, OTHER) is shared
    assert hub.find_readable(mine.id, ME) is mine
    for find, stream, caller in ((hub.find, shared, ME), (hub.find_readable, mine, OTHER)):
        with pytest.raises(UnknownStream):
            find(stream.id, caller)


def test_some_streams_are_the_first_the_last_and_those_that_ended_last() -> None:
    """Each once, those that run in the order they began, however many there are."""
    hub = new_hub()
    streams = [new_stream(hub) for _ in range(9)]
    for stream in streams[:4]:
        stream.seal(COMPLETE)
    ended, running = streams[:4], streams[4:]
    assert len(hub.ended) == 4
    assert hub.some(9) == [*running, *reversed(ended)]
    assert hub.some(5) == [*running, *reversed(ended)]
    assert hub.some(3) == [running[0], running[3], running[4], ended[3], ended[2], ended[1]]
    assert hub.some(1) == [running[4], ended[3]]


def test_ids_are_130_random_bits() -> None:
    """`st_` and 26 characters of base32, all of them used, none twice."""
    hub = new_hub(max_streams=1000)
    idents = [new_stream(hub).id for _ in range(1000)]
    assert all(re.fullmatch(r"st_[a-z2-7]{26}", ident) for ident in idents)
    assert len(set(idents)) == 1000
    for place in range(3, 29):
        assert len({ident[place] for ident in idents}) == 32


def test_kept_stream_is_found_until_its_time_is_over() -> None:
    """Counted from its end."""
    loop = FakeLoop()
    hub = new_hub(loop)
    stream = new_stream(hub, retain_s=60)
    loop.now = 1000
    hub.tick(1000)
    stream.seal(COMPLETE)
    hub.tick(1059.9)
    assert hub.find(stream.id, ME) is stream
    hub.tick(1060)
    with pytest.raises(UnknownStream):
        hub.find(stream.id, ME)


def test_each_stream_is_kept_for_its_own_time() -> None:
    """Whatever the order in which they end."""
    loop = FakeLoop()
    hub = new_hub(loop)
    streams = [new_stream(hub, retain_s=retain_s) for retain_s in (30, 10, 20)]
    for now, stream in enumerate(streams):
        loop.now = now
        stream.seal(COMPLETE)
    kept = []
    for now in (10.5, 11.5, 22.5, 30.5):
        hub.tick(now)
        kept.append([streams.index(stream) for stream in hub])
    assert kept == [[0, 1, 2], [0, 2], [0], []]


def test_stream_that_is_not_to_be_kept_is_gone_with_its_end() -> None:
    """Retained for 0 seconds."""
    hub = new_hub()
    stream = new_stream(hub, key="k", retain_s=0)
    stream.seal(COMPLETE)
    assert list(hub) == []
    assert hub.keys.find("k", ME) is None
    assert hub.ledger.bytes == 0


def test_running_counts_those_that_have_not_ended() -> None:
    """Iterating gives them all, those that run first."""
    hub = new_hub()
    first, second = new_stream(hub), new_stream(hub)
    first.seal(COMPLETE)
    assert hub.running == 1
    assert list(hub) == [second, first]


def test_forgotten_stream_goes_on_for_those_who_follow() -> None:
    """It is only found no more."""
    hub, sink = new_hub(), FakeSink(clogged=True)
    stream = new_stream(hub, key="k")
    follow(hub, stream, sink, mode="raw")
    stream.extend([A])
    stream.seal(COMPLETE)
    hub.forget(stream)
    hub.forget(stream)
    with pytest.raises(UnknownStream):
        hub.find(stream.id, ME)
    assert hub.keys.find("k", ME) is None
    sink.drain()
    assert (sink.received, sink.ended, hub.followers) == (A, "closed", 0)
    hub.tick(1e9)
    assert hub.ledger.bytes == 0


def test_stream_retired_after_it_was_forgotten_stays_forgotten() -> None:
    """A stream deleted while it ran is not brought back by its end."""
    hub = new_hub()
    stream = new_stream(hub)
    hub.forget(stream)
    stream.seal(COMPLETE)
    assert list(hub) == []
    assert hub.ledger.bytes == 0


def test_who_cares_is_told_once_of_a_stream_that_is_forgotten() -> None:
    """Whatever made it so: a request, or its time; and not while it is kept."""
    forgotten: list[Stream] = []
    hub = new_hub(on_forgotten=forgotten.append)
    kept, gone = new_stream(hub, retain_s=60), new_stream(hub)
    kept.seal(COMPLETE)
    assert forgotten == []
    hub.forget(gone)
    hub.forget(gone)
    assert forgotten == [gone]
    hub.tick(61.0)
    assert forgotten == [gone, kept]


# Limits


def test_too_many_running_streams_are_refused() -> None:
    """With the numbers; those that have ended don't count."""
    hub = new_hub(max_streams=2)
    first = new_stream(hub)
    new_stream(hub)
    with pytest.raises(Overloaded, match="2 streams are running, 2 are allowed"):
        new_stream(hub)
    first.seal(COMPLETE)
    new_stream(hub)


def test_draining_hub_takes_no_new_stream() -> None:
    """Those that run go on, and may be followed."""
    hub = new_hub()
    stream = new_stream(hub)
    hub.drain()
    assert hub.draining
    with pytest.raises(Overloaded):
        new_stream(hub)
    hub.check_room_to_follow(stream)
    assert hub.find(stream.id, ME) is stream


def test_too_many_followers_are_refused() -> None:
    """Of one stream, and in all; room is there again when one has ended."""
    hub = new_hub(max_followers=3, max_followers_per_stream=2)
    first, second = new_stream(hub), new_stream(hub)
    subscriptions = [follow(hub, first), follow(hub, first)]
    with pytest.raises(Overloaded, match="2 followers follow this stream, 2 are allowed"):
        hub.check_room_to_follow(first)
    hub.check_room_to_follow(second)
    hub.check_room_to_follow()
    subscriptions.append(follow(hub, second))
    for stream in (second, None):
        with pytest.raises(Overloaded, match="3 followers are connected, 3 are allowed"):
            hub.check_room_to_follow(stream)
    subscriptions[0].leave("left")
    hub.check_room_to_follow(first)
    assert hub.followers == 2


def test_ended_followers_are_counted_out_and_reported_once() -> None:
    """However they end: left, with the stream, or at once, when the stream has ended before."""
    reported: list[Subscription] = []
    hub = new_hub(on_subscription_ended=reported.append)
    stream = new_stream(hub)
    left, stays = follow(hub, stream), follow(hub, stream)
    left.leave("left")
    left.leave("left")
    assert hub.followers == 1
    stream.seal(COMPLETE)
    late = follow(hub, stream)
    assert reported == [left, stays, late]
    assert hub.followers == 0


def test_ledger_counts_logs_and_streams() -> None:
    """From creation until the stream is let go of, so that many short streams count too."""
    hub = new_hub()
    stream, other = new_stream(hub), new_stream(hub)
    stream.extend([A])
    other.extend([LARGE])
    assert hub.ledger.bytes == 2 * STREAM_BYTES + len(A + LARGE)
    stream.seal(COMPLETE)
    assert hub.ledger.bytes == 2 * STREAM_BYTES + len(A + LARGE)
    assert hub.ledger.by_kind()["logs"] == hub.ledger.bytes + stream.log.overhead_bytes()
    assert stream.log.overhead_bytes() >= FRAME_BYTES
    hub.tick(60)
    assert hub.ledger.bytes == STREAM_BYTES + len(LARGE)
    hub.forget(other)
    hub.forget(other)
    assert hub.ledger.bytes == STREAM_BYTES + len(LARGE)
    other.seal(COMPLETE)
    assert hub.ledger.bytes == hub.ledger.total_bytes == 0


def test_kept_stream_takes_less_memory_while_nobody_follows_it() -> None:
    """No projection is held, which has all of a short answer once more, as it was sent; the next follower makes one."""
    hub, slow = new_hub(), FakeSink(clogged=True)
    stream = new_stream(hub)
    frames = [b"data: %d\n\n" % number for number in range(100)]
    stream.extend(frames)
    clogged = follow(hub, stream, slow)
    stream.seal(COMPLETE)
    clogged.leave("left")
    late = FakeSink()
    follow(hub, stream, late, mode="raw")
    assert late.received == b"".join(frames)
    assert not [held for held in gc.get_referents(stream) if isinstance(held, Projection)]
    assert hub.ledger.by_kind().get("spans", 0) == 0
    hub.forget(stream)
    assert hub.ledger.total_bytes == 0


def test_forgotten_stream_is_counted_until_nobody_reads_it() -> None:
    """A reader that stalls holds it: how long it was to be kept has nothing to do with that."""
    hub, sink = new_hub(), FakeSink(clogged=True)
    stream = new_stream(hub, retain_s=0)
    reader = follow(hub, stream, sink)
    stream.extend([LARGE])
    stream.seal(COMPLETE)
    assert list(hub) == []
    assert hub.ledger.bytes == STREAM_BYTES + len(LARGE)
    reader.leave("left")
    assert hub.ledger.total_bytes == 0


def test_ledger_is_even_after_a_stream_that_outlived_its_keeping() -> None:
    """Frames that are dropped after their stream was let go of are not counted out twice."""
    hub, sink = new_hub(), FakeSink(clogged=True)
    stream = new_stream(hub, retain_s=0, max_log_bytes=1000)
    FakeWriter(stream)
    stream.originator = follow(hub, stream, sink, mode="raw")
    stream.extend([LARGE, LARGE])
    stream.seal(COMPLETE)
    sink.drain()
    assert (sink.received, sink.ended) == (LARGE * 2, "closed")
    assert hub.ledger.bytes == 0


def test_kept_streams_make_room_oldest_first() -> None:
    """When the logs are over their limit, those that ended go, and no more of them than need be."""
    loop = FakeLoop()
    hub = new_hub(loop, max_total_log_bytes=4 * (STREAM_BYTES + len(LARGE)))
    kept = [new_stream(hub) for _ in range(3)]
    for stream in kept:
        stream.extend([LARGE])
        stream.seal(COMPLETE)
    running = new_stream(hub)
    running.extend([LARGE])
    assert list(hub) == [running, *kept]
    running.extend([A])
    loop.settle()
    assert list(hub) == [running, *kept[1:]]
    assert running.log.ending is None


def test_past_of_the_largest_running_stream_goes_when_nothing_kept_is_left() -> None:
    """It goes on, and so does who has had that; a late joiner is told that it is gone."""
    loop = FakeLoop()
    hub = new_hub(loop, max_total_log_bytes=3 * STREAM_BYTES + 4 * len(LARGE) + 500)
    (small, _), (large, writer), (other, _) = (new_stream_beside(hub) for _ in range(3))
    sink = FakeSink()
    follow(hub, large, sink, mode="raw")
    small.extend([LARGE])
    large.extend([LARGE, LARGE])
    other.extend([LARGE])
    loop.settle()
    assert large.log.start == 0
    small.extend([LARGE[:1200]])
    loop.settle()
    assert (large.log.start, small.log.start, other.log.start) == (2, 0, 0)
    large.extend([A])
    assert sink.received == LARGE * 2 + A
    assert [stream.log.ending for stream in (small, large, other)] == [None] * 3
    assert not writer.paused
    assert not hub.ledger.over


def test_what_a_slow_follower_lacks_goes_after_the_past_of_all() -> None:
    """It is ended, and told; the client that a stream was begun for never is: then its upstream waits."""
    loop = FakeLoop()
    hub = new_hub(loop, max_total_log_bytes=2 * STREAM_BYTES + 4 * len(LARGE) - 1)
    (stream, writer), (asked, asked_writer) = new_stream_beside(hub), new_stream_beside(hub)
    slow, slow_asker = FakeSink(clogged=True), FakeSink(clogged=True)
    follow(hub, stream, slow)
    asked.originator = follow(hub, asked, slow_asker)
    stream.extend([LARGE, LARGE])
    asked.extend([LARGE, LARGE])
    loop.settle()
    assert (stream.log.start, asked.log.start) == (2, 0)
    slow.drain()
    loop.settle()
    assert b'"too_slow"' in slow.last
    asked.extend([LARGE, LARGE])
    loop.settle()
    assert (asked_writer.paused, writer.paused) == (True, False)
    slow_asker.drain()
    loop.settle()
    hub.tick(1)
    assert not asked_writer.paused
    assert slow_asker.received.count(LARGE[:-2]) == 4


def test_follower_that_waits_for_its_turn_is_not_taken_for_slow() -> None:
    """What it has yet to be sent is kept, however much is held: others were before it."""
    loop = FakeLoop()
    hub = new_hub(loop)
    stream, _ = new_stream_beside(hub)
    stream.extend([LARGE] * 14)
    hub.turns.wait(lambda: None)
    sink = FakeSink()
    follow(hub, stream, sink)
    stream.drop_past(spare_slow=False)
    assert stream.log.start == 0
    loop.settle()
    assert sink.received.count(LARGE[:-2]) == 14
    stream.drop_past(spare_slow=False)
    assert stream.log.start == 14


def test_streams_that_hold_little_are_read_while_the_large_wait() -> None:
    """And one of the large, so that memory gets free; as it ends, the next."""
    loop = FakeLoop()
    hub = new_hub(loop, max_total_log_bytes=1 << 20)
    large = [new_stream_beside(hub) for _ in range(3)]
    _, small_writer = new_stream_beside(hub)
    for stream, _ in large:
        stream.count(UNFINISHED, 1 << 19)
    loop.settle()
    assert [writer.paused for _, writer in large] == [False, True, True]
    assert not small_writer.paused
    with pytest.raises(Overloaded):
        new_stream(hub)
    assert all(not stream.sealed for stream, _ in large)
    large[0][0].count(UNFINISHED, 0)
    large[0][0].seal(COMPLETE)
    hub.tick(1)
    assert [writer.paused for _, writer in large[1:]] == [False, True]
    large[1][0].count(UNFINISHED, 0)
    large[1][0].seal(COMPLETE)
    hub.tick(2)
    assert not large[2][1].paused


def test_relief_comes_in_a_turn_of_its_own() -> None:
    """Whoever adds to a log may be amid all streams: none loses anything before it has finished."""
    loop = FakeLoop()
    hub = new_hub(loop, max_total_log_bytes=1)
    streams = [new_stream_beside(hub)[0] for _ in range(3)]
    for stream in hub:
        stream.extend([LARGE])
    assert [stream.log.start for stream in streams] == [0] * 3
    loop.settle()
    assert [stream.log.start for stream in streams] == [1] * 3
    assert [stream.log.ending for stream in streams] == [None] * 3


def test_place_counts_until_it_is_given_back() -> None:
    """One of a stream and of a follower: who comes meanwhile is refused, and the one it is for is not."""
    hub = new_hub(max_streams=1, max_followers=1)
    places = hub.reserve(streams=1, followers=1)
    for refused in ({"streams": 1}, {"followers": 1}):
        with pytest.raises(Overloaded):
            hub.reserve(**refused)
    stream = hub.begin(StreamInfo(hub.new_id(), "chat", ME, 0, 60, 1 << 20), Vitals(CHAT, 0.0), places)
    places.give_back()
    follow(hub, stream)
    assert (hub.running, hub.promised_streams, hub.followers, hub.promised_followers) == (1, 0, 1, 0)


def test_survey_counts_spans_and_what_clients_have_not_taken() -> None:
    """What several clients were sent alike is there once; when they leave it is not there any more."""
    hub, sinks = new_hub(), [FakeSink() for _ in range(3)]
    stream = new_stream(hub)
    followers = [follow(hub, stream, sink) for sink in sinks]
    stream.extend([A])
    for sink in sinks:
        sink.unsent_bytes = 1000
    hub.tick(1)
    hub.tick(2)
    held = hub.ledger.by_kind()
    assert held["unsent"] == 1000
    assert held["rendered_spans"] > 2 * len(A)
    for follower in followers:
        follower.leave("left")
    stream.seal(COMPLETE)
    assert hub.ledger.by_kind()["unsent"] == hub.ledger.by_kind()["rendered_spans"] == 0


def test_what_one_follower_raises_keeps_no_other_from_its_heartbeat(background_log: list[logging.LogRecord]) -> None:
    """Nor from its end, nor a kept stream from its; the loop itself hears of nothing."""
    hub, sinks = new_hub(), [FakeSink() for _ in range(3)]
    broken = FakeSink()
    broken.write = broken.close = _raise  # type: ignore[method-assign,assignment]
    stream, kept = new_stream(hub), new_stream(hub, retain_s=5)
    kept.seal(COMPLETE)
    for sink in (sinks[0], broken, sinks[1]):
        follow(hub, stream, sink, heartbeat_s=5)
    for sink in (broken, sinks[2]):
        hub.attach(Subscription(stream, View("events"), sink, 0), 0.0, 5.0)
    hub.tick(5)
    assert [sink.writes for sink in sinks[:2]] == [[b":\n"], [b":\n"]]
    assert sinks[2].ended == "closed"
    assert list(hub) == [stream]
    assert (hub.background.failures, hub.background.alive) == (0, True)


def test_new_stream_is_refused_while_the_logs_are_full() -> None:
    """With the numbers; and taken again when there is room."""
    hub = new_hub(max_total_log_bytes=STREAM_BYTES + len(LARGE) - 1)
    stream = new_stream(hub)
    stream.extend([LARGE])  # it has no writer that could be stopped
    with pytest.raises(
        Overloaded, match=f"hold {STREAM_BYTES + len(LARGE)} bytes of memory, {STREAM_BYTES + len(LARGE) - 1} "
    ):
        new_stream(hub)
    stream.seal(COMPLETE)
    new_stream(hub)
    assert stream not in list(hub)


# Heartbeats


def test_heartbeat_comes_after_so_much_silence() -> None:
    """Counted from the attach, the last heartbeat, or the last read of the stream."""
    hub, sink = new_hub(), FakeSink()
    stream = new_stream(hub)
    follow(hub, stream, sink, heartbeat_s=15)
    beats = []
    for now in (5, 14.9, 15, 20, 29.9, 30):
        hub.tick(now)
        beats.append(len(sink.writes))
    assert beats == [0, 0, 1, 1, 1, 2]
    stream.fed_at = 40.0
    stream.extend([A])
    for now in (45, 54.9, 55, 69.9, 70):
        hub.tick(now)
        beats.append(sink.writes.count(b":\n"))
    assert beats[6:] == [2, 2, 3, 3, 4]


def test_no_heartbeat_for_raw_or_for_who_wants_none() -> None:
    """Raw is the exact bytes."""
    hub, raw, without = new_hub(), FakeSink(), FakeSink()
    stream = new_stream(hub)
    follow(hub, stream, raw, mode="raw", heartbeat_s=1)
    follow(hub, stream, without, heartbeat_s=0)
    hub.tick(100)
    assert (raw.writes, without.writes) == ([], [])


def test_no_heartbeat_after_the_end() -> None:
    """Whether the follower left, its stream ended, or had ended before it came."""
    hub, sinks = new_hub(), [FakeSink() for _ in range(3)]
    stream = new_stream(hub)
    follow(hub, stream, sinks[0], heartbeat_s=1).leave("left")
    follow(hub, stream, sinks[1], heartbeat_s=1)
    stream.seal(COMPLETE)
    follow(hub, stream, sinks[2], heartbeat_s=1)
    hub.tick(10)
    assert [sink.writes for sink in sinks] == [[], [], []]


# Time that is limited


@pytest.mark.parametrize(
    ("mode", "how", "last"), [("events", "closed", CAPABILITY_EXPIRED.reason.encode()), ("raw", "aborted", b"")]
)
def test_follower_whose_time_is_over_is_ended(mode: str, how: str, last: bytes) -> None:
    """Not before, and nobody else; its stream goes on."""
    hub = new_hub()
    stream = new_stream(hub)
    sink, other = FakeSink(), FakeSink()
    subscription = Subscription(stream, View(mode), sink, 0)
    hub.attach(subscription, 0.0, 10.0)
    follow(hub, stream, other)
    stream.extend([A])
    hub.tick(9.9)
    assert sink.ended is None
    hub.tick(10.0)
    assert (sink.ended, subscription.ended) == (how, CAPABILITY_EXPIRED.reason)
    assert last in sink.last
    stream.extend([A])
    hub.tick(11.0)
    assert other.ended is None
    assert hub.followers == 1
    assert not hub.expiring


def test_follower_that_leaves_in_time_is_not_remembered() -> None:
    """Nor one whose stream ends, before it came or while it is there: a token may last for a day."""
    hub = new_hub()
    stream = new_stream(hub)
    leaving, staying = (Subscription(stream, View("raw"), FakeSink(), 0) for _ in range(2))
    hub.attach(leaving, 0.0, 10.0)
    hub.attach(staying, 0.0, 10.0)
    leaving.leave("left")
    assert list(hub.expiring) == [staying]
    stream.seal(COMPLETE)
    assert not hub.expiring
    hub.attach(Subscription(stream, View("raw"), FakeSink(), 0), 2.0, 10.0)
    assert not hub.expiring
