"""One cursor: what it is sent, when it waits, and what it counts."""

import pytest

from proxy.stream.endings import COMPLETE, UPSTREAM_RESET
from tests.cuts import messages
from tests.dialects.made_up import MADE_UP
from tests.fakes import FakeSink
from tests.streams import follow, new_stream

A, B, C, D = (b"data: %c\n\n" % letter for letter in b"abcd")
BROKE = UPSTREAM_RESET.saying("the upstream's response broke off")


def frame(size_bytes: int) -> bytes:
    """Return a frame of so many bytes."""
    return b"data: " + b"x" * (size_bytes - 8) + b"\n\n"


@pytest.mark.parametrize("offset", [0, 1, 2, 3])
@pytest.mark.parametrize("sealed", [False, True])
def test_late_follower_gets_what_it_lacks_at_once(offset: int, sealed: bool) -> None:
    """Everything after its offset, and with a sealed stream its end (law 8)."""
    stream, sink = new_stream(), FakeSink()
    stream.extend([A, B])
    stream.extend([C])
    if sealed:
        stream.seal(COMPLETE)
    follow(stream, sink, offset=offset)
    assert sink.received == b"".join([A, B, C][offset:])
    assert sink.ended == ("closed" if sealed else None)


def test_past_of_many_reads_comes_as_one_write() -> None:
    """Replay and live are one loop: a span has as many frames as are due."""
    stream, sink = new_stream(), FakeSink()
    for one in (A, B, C):
        stream.extend([one])
    follow(stream, sink)
    stream.extend([D])
    assert sink.writes == [A + B + C, D]


def test_clogged_follower_is_passed_over_until_it_drains() -> None:
    """Then it gets one longer span, and goes on as before."""
    stream, sink = new_stream(), FakeSink()
    subscription = follow(stream, sink)
    stream.extend([A])
    sink.clogged = True
    for one in (B, C):
        stream.extend([one])
    assert (sink.writes, subscription.offset, subscription.lag_bytes) == ([A], 1, len(B + C))
    sink.drain()
    stream.extend([D])
    assert sink.writes == [A, B + C, D]
    assert (subscription.offset, subscription.lag_bytes) == (4, 0)


def test_follower_that_clogs_while_it_catches_up_goes_on_where_it_stopped() -> None:
    """A long past is several spans, and the sink may take only some of them at a time."""
    stream, sink = new_stream(), FakeSink(room=2)
    frames = [frame(1000) for _ in range(500)]
    stream.extend(frames)
    follow(stream, sink)
    assert len(sink.writes) == 2
    while sink.clogged:
        sink.drain()
        sink.room = 1
        stream.extend([A])
        frames.append(A)
    sink.drain()
    assert sink.received == b"".join(frames)


def test_spurious_drain_does_no_harm() -> None:
    """A follower that waited for nothing, or has ended, is sent nothing twice."""
    stream, sink = new_stream(), FakeSink()
    subscription = follow(stream, sink)
    stream.extend([A])
    subscription.resume()
    stream.extend([B])
    stream.seal(COMPLETE)
    subscription.resume()
    assert (sink.writes, sink.ended) == ([A, B], "closed")


def test_sent_bytes_count_what_left() -> None:
    """Spans, and the words of the ending; nothing of what a sink did not take."""
    stream, raw, events, clogged = new_stream(), FakeSink(), FakeSink(), FakeSink(clogged=True)
    subscriptions = [follow(stream, raw), follow(stream, events, "events"), follow(stream, clogged)]
    stream.extend([A, B])
    stream.seal(BROKE, [C], tail=b"data: hal")
    assert [one.sent_bytes for one in subscriptions] == [len(raw.received), len(events.received), 0]
    assert raw.received == A + B + C + b"data: hal"


def test_heartbeat_is_one_comment_line_for_those_who_are_caught_up() -> None:
    """With a single newline, between two frames; whoever lags has bytes on the way."""
    stream, idle, lagging = new_stream(), FakeSink(), FakeSink(clogged=True)
    follow_idle, follow_lagging = follow(stream, idle, "events"), follow(stream, lagging, "events")
    stream.extend([A])
    follow_idle.beat()
    lagging.clogged = False
    follow_lagging.beat()
    assert idle.writes[-1] == b":\n"
    assert lagging.writes == []
    stream.extend([B])
    assert [said.data for said in messages(idle.received)] == [b"a", b"b"]


def test_heartbeat_has_the_form_of_the_dialect() -> None:
    """And of where its stream is: here a comment before the first event, an event after it."""
    stream, sink = new_stream(MADE_UP), FakeSink()
    follower = follow(stream, sink, "events")
    follower.beat()
    frame = b'data: {"type":"item.begun","item":0,"kind":"text"}\n\n'
    stream.vitals.note([frame], 1.0, [])
    stream.extend([frame])
    follower.beat()
    assert sink.writes[0] == b":\n"
    assert messages(sink.writes[-1])[0].type == b"still.here"
