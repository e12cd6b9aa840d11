"""Followers in a rank are written to as one, and each is served as if it were alone."""

import gc
import weakref

import pytest

from proxy.machine import Transport
from proxy.stream.cohort import SLICE
from proxy.stream.endings import COMPLETE
from proxy.stream.modes.projection import Span
from proxy.stream.rank import SIZE
from proxy.stream.stream import Stream
from tests.fakes import FakeLoop, FakeSink, FakeTransport
from tests.streams import follow, new_stream

A, B, C, D = (b"data: %c\n\n" % letter for letter in b"abcd")


class Asked(FakeSink):
    """A sink that counts how often it is asked to write itself."""

    def __init__(self, *, open: bool = True, chunked: bool = False) -> None:
        super().__init__(open=open)
        self.asked = 0
        self.chunked = chunked

    def write(self, span: Span) -> bool:
        self.asked += 1
        return super().write(span)

    def transport(self) -> tuple[Transport, bool] | None:
        return (FakeTransport(self), self.chunked) if self.open else None


def in_ranks(stream: Stream, count: int = 3) -> list[Asked]:
    """Return the sinks of followers that have had A and stand in ranks."""
    sinks = [Asked() for _ in range(count)]
    for sink in sinks:
        follow(stream, sink)
    stream.extend([A])
    for sink in sinks:
        assert sink.asked == 1
        sink.asked = 0
    return sinks


def test_members_of_a_rank_are_written_to_without_their_sinks() -> None:
    """And know how far they are."""
    stream = new_stream()
    sinks = in_ranks(stream)
    stream.extend([B, C])
    stream.extend([D])
    assert [sink.writes for sink in sinks] == [[A, B + C, D]] * 3
    assert [sink.asked for sink in sinks] == [0] * 3
    assert {(one.offset, one.lag_bytes, one.sent_bytes) for one in stream.subscriptions} == {(4, 0, len(A + B + C + D))}


def test_lone_follower_is_in_no_rank() -> None:
    """There is nothing to be saved."""
    stream, sink = new_stream(), Asked()
    follow(stream, sink)
    follow(stream, FakeSink()).leave("left")
    for one in (A, B, C):
        stream.extend([one])
    assert (sink.writes, sink.asked) == ([A, B, C], 3)


def test_only_a_view_and_a_framing_make_a_rank() -> None:
    """Everyone is sent its own bytes."""
    stream = new_stream()
    sinks = [Asked(), Asked(), Asked(chunked=True), Asked(chunked=True)]
    events = [Asked(), Asked()]
    for sink in sinks:
        follow(stream, sink)
    for sink in events:
        follow(stream, sink, "events")
    stream.extend([A])
    stream.extend([B])
    assert [sink.writes for sink in sinks] == [[A, B]] * 2 + [[A, b"9\r\n" + B + b"\r\n"]] * 2
    assert [sink.writes[1] for sink in events] == [b"data: b\nid: gen234-2\n\n"] * 2
    assert [sink.asked for sink in sinks + events] == [1] * 6


def test_sink_that_must_be_asked_is_asked() -> None:
    """Beside those whose transports are written to."""
    stream, closed = new_stream(), Asked(open=False)
    follow(stream, closed)
    sinks = in_ranks(stream)
    stream.extend([B])
    assert [sink.received for sink in (closed, *sinks)] == [A + B] * 4
    assert [sink.asked for sink in (closed, *sinks)] == [2, 0, 0, 0]


def test_follower_that_clogs_steps_out_and_comes_back() -> None:
    """What it lacks comes in one span; then it is in a rank again."""
    stream = new_stream()
    sinks = in_ranks(stream)
    slow = list(stream.subscriptions)[1]
    sinks[1].clogged = True
    stream.extend([B])
    stream.extend([C])
    assert (slow.offset, slow.lag_bytes, slow.sent_bytes) == (1, len(B + C), len(A))
    assert [sink.received for sink in sinks] == [A + B + C, A, A + B + C]
    sinks[1].drain()
    assert (sinks[1].writes, slow.offset, slow.sent_bytes) == ([A, B + C], 3, len(A + B + C))
    stream.extend([D])
    sinks[1].asked = 0
    stream.extend([A])
    assert [sink.received for sink in sinks] == [A + B + C + D + A] * 3
    assert (sinks[1].asked, slow.offset, slow.sent_bytes) == (0, 5, len(A + B + C + D + A))


def test_spurious_drain_does_no_harm() -> None:
    """A follower in a rank waits for nothing."""
    stream = new_stream()
    sinks = in_ranks(stream)
    stream.extend([B])
    next(iter(stream.subscriptions)).resume()
    stream.extend([C])
    assert [sink.writes for sink in sinks] == [[A, B, C]] * 3


def test_follower_with_bytes_waiting_stays_if_its_sink_takes_more() -> None:
    """As it does up to the high-water mark of its transport."""
    stream = new_stream()
    sinks = in_ranks(stream)

    class Waiting(FakeTransport):
        def get_write_buffer_size(self) -> int:
            return 1

    sinks.append(Asked())
    sinks[3].transport = lambda: (Waiting(sinks[3]), False)  # type: ignore[method-assign]
    follow(stream, sinks[3])
    for one in (B, C, D):
        stream.extend([one])
    assert [sink.writes for sink in sinks] == [[A, B, C, D]] * 4
    assert sinks[3].asked == 4


def test_lost_connection_does_not_break_the_sweep() -> None:
    """Its follower waits for its handler to hear of it; the others have theirs."""
    stream = new_stream()
    sinks = in_ranks(stream)
    sinks[0].lost = True
    lost = next(iter(stream.subscriptions))
    stream.extend([B])
    stream.extend([C])
    assert [sink.received for sink in sinks] == [A, A + B + C, A + B + C]
    assert (lost.offset, lost.parked, lost.ended) == (1, True, None)
    lost.leave("left")
    stream.seal(COMPLETE, [D])
    assert [sink.ended for sink in sinks] == [None, "closed", "closed"]


def test_follower_that_leaves_is_sent_nothing_more() -> None:
    """What it was sent stays known; whoever is left goes on, and the last one."""
    told: list[tuple[int, int]] = []
    stream = new_stream(on_subscription_ended=lambda one: told.append((one.offset, one.sent_bytes)))
    sinks = in_ranks(stream)
    subscriptions = list(stream.subscriptions)
    stream.extend([B])
    subscriptions[0].leave("left")
    stream.extend([C])
    subscriptions[2].leave("left")
    stream.extend([D])
    assert [sink.received for sink in sinks] == [A + B, A + B + C + D, A + B + C]
    assert [(one.offset, one.sent_bytes) for one in subscriptions] == [(2, 18), (4, 36), (3, 27)]
    assert told == [(2, 18), (3, 27)]
    subscriptions[1].leave("left")
    stream.extend([A])
    assert sinks[1].received == A + B + C + D


def test_end_comes_to_each_with_the_last_frames() -> None:
    """In one write with the close, by its sink."""
    stream = new_stream()
    sinks = in_ranks(stream)
    subscriptions = list(stream.subscriptions)
    stream.extend([B])
    stream.seal(COMPLETE, [C, D])
    assert [(sink.writes, sink.last, sink.ended) for sink in sinks] == [([A, B], C + D, "closed")] * 3
    assert {(one.ended, one.offset, one.sent_bytes) for one in subscriptions} == {("complete", 4, len(A + B + C + D))}


def test_who_is_ended_in_mid_stream_ends_where_it_is() -> None:
    """The others go on."""
    stream = new_stream()
    sinks = in_ranks(stream)
    stream.extend([B])
    next(iter(stream.subscriptions)).fail(COMPLETE)
    stream.extend([C])
    assert [sink.received for sink in sinks] == [A + B, A + B + C, A + B + C]
    assert [sink.ended for sink in sinks] == ["closed", None, None]


def test_more_than_a_span_goes_to_each_alone() -> None:
    """They are in a rank again afterwards."""
    stream = new_stream()
    sinks = in_ranks(stream)
    frames = [b"data: %b\n\n" % (b"x" * 40_000) for _ in range(4)]
    stream.extend(frames)
    assert [sink.received for sink in sinks] == [A + b"".join(frames)] * 3
    assert [len(sink.writes) for sink in sinks] == [5] * 3
    stream.extend([A])
    for sink in sinks:
        sink.asked = 0
    stream.extend([B])
    assert [(sink.writes[-1], sink.asked) for sink in sinks] == [(B, 0)] * 3
    assert len(next(iter(stream.subscriptions)).cohort.live) == 1


@pytest.mark.parametrize("count", [SIZE - 1, SIZE, SIZE + 1, SLICE + 1, 3 * SLICE + SIZE + 1])
def test_no_turn_writes_to_many_more_than_a_slice(count: int) -> None:
    """However many are in ranks; nobody is forgotten, and nobody has anything twice."""
    loop = FakeLoop()
    stream = new_stream(loop=loop)
    sinks = [Asked() for _ in range(count)]
    for sink in sinks:
        follow(stream, sink)
    for done, one in enumerate((A, B, C), 1):
        had = (done - 1) * count
        stream.extend([one])
        turns = 1
        while True:
            before, had = had, sum(len(sink.writes) for sink in sinks)
            assert had - before < SLICE + SIZE
            if had == done * count:
                break
            assert loop.turn()
            turns += 1
        assert turns <= -(-count // SLICE)
        loop.settle()
    assert {(sink.received, sink.asked) for sink in sinks} == {(A + B + C, 1)}


def test_those_who_come_later_fill_the_ranks() -> None:
    """A rank that some have left is not kept beside a new one."""
    stream = new_stream()
    in_ranks(stream, SIZE)
    for subscription in list(stream.subscriptions)[: SIZE // 2]:
        subscription.leave("left")
    for _ in range(SIZE // 2):
        follow(stream, Asked(), offset=1)
    stream.extend([B])
    cohort = next(iter(stream.subscriptions)).cohort
    assert [member.size for member in cohort.live] == [SIZE]


def test_rank_out_of_the_window_is_ended_with_an_error() -> None:
    """As each of its members would be, had its turn come as late."""
    loop = FakeLoop()
    stream = new_stream(loop=loop, max_log_bytes=100)
    sinks = [Asked() for _ in range(SLICE + SIZE + 1)]
    for sink in sinks:
        follow(stream, sink)
    stream.extend([A])
    loop.settle()
    stream.extend([B] * 30)
    loop.settle()
    assert [sink.ended for sink in sinks] == [None] * SLICE + ["aborted"] * (SIZE + 1)
    assert {sink.received for sink in sinks} == {A + B * 30, A}
    assert {one.ended for one in stream.subscriptions} == {None}


def test_ended_stream_holds_none_of_those_in_a_rank() -> None:
    """Nor one that goes on without them."""
    stream = new_stream()
    held = [weakref.ref(sink) for sink in in_ranks(stream)]
    next(iter(stream.subscriptions)).leave("left")
    gc.collect()
    assert [ref() is None for ref in held] == [True, False, False]
    stream.seal(COMPLETE)
    gc.collect()
    assert [ref() for ref in held] == [None] * 3
