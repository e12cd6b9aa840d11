"""Streams after their end: how long they are kept, and what they take meanwhile. The clock is a number handed in."""

import gc

from proxy.stream.endings import COMPLETE, TOO_SLOW
from proxy.stream.hub import Hub
from proxy.stream.modes.projection import Projection, View
from proxy.stream.stream import Stream
from proxy.stream.subscription import Subscription
from tests.fakes import FakeSink
from tests.streams import hub_stream as new_stream
from tests.streams import new_hub

FRAME = b"data: a\n\n"


def follow(hub: Hub, stream: Stream, sink: FakeSink | None = None) -> Subscription:
    """Attach a follower; one without room in its sink is sent nothing."""
    subscription = Subscription(stream, View("raw"), sink or FakeSink(), 0)
    hub.attach(subscription, 0.0)
    return subscription


def kept_and_followed(hub: Hub) -> tuple[Stream, Subscription]:
    """Return a stream that is kept after its end, and its follower, which can't be sent all of it."""
    stream = new_stream(hub, retain_s=60)
    follower = follow(hub, stream, FakeSink(clogged=True))
    stream.extend([FRAME] * 100)
    stream.seal(COMPLETE)
    assert not follower.ended
    return stream, follower


def holds_projection(stream: Stream) -> bool:
    """Return whether a stream refers to a projection."""
    return any(isinstance(held, Projection) for held in gc.get_referents(stream))


def test_kept_stream_is_packed_when_its_last_follower_leaves() -> None:
    """Not before: it is read until then."""
    hub = new_hub()
    stream, follower = kept_and_followed(hub)
    assert holds_projection(stream)
    stream.detach(follower)
    assert not holds_projection(stream)


def test_running_stream_that_its_follower_leaves_counts_gaps_on() -> None:
    """Only what has ended is packed, whether other streams are kept and followed or not."""
    hub = new_hub()
    kept_and_followed(hub)
    running = new_stream(hub)
    vitals = running.vitals
    vitals.last_token_at = 1.0
    vitals.times.extend([1.5, 2.0])
    vitals.fold()
    running.detach(follow(hub, running))
    vitals.times.append(2.5)
    vitals.fold()
    assert sum(vitals.gap_counts or ()) == 3


def test_streams_are_due_in_the_order_of_their_times() -> None:
    """Whichever ended first; each is due once, and none that was forgotten before."""
    hub = new_hub()
    late, soon, gone = (new_stream(hub, retain_s=after_s) for after_s in (20, 10, 5))
    for stream in (late, soon, gone):
        stream.seal(COMPLETE)
    hub.forget(gone)
    assert list(hub.ended.due(9.9)) == []
    assert list(hub.ended.due(30)) == [soon, late]
    assert list(hub.ended.due(30)) == []


def test_newest_are_those_that_ended_last() -> None:
    """Not those that began last."""
    hub = new_hub()
    streams = [new_stream(hub, retain_s=60) for _ in range(3)]
    for stream in reversed(streams):
        stream.seal(COMPLETE)
    assert list(hub.ended) == streams[::-1]
    assert hub.ended.newest(2) == streams[:2]
    assert len(hub.ended) == 3


def test_forgotten_stream_is_pending_until_its_follower_has_left() -> None:
    """Then nothing of it is counted any more."""
    hub = new_hub()
    stream, follower = kept_and_followed(hub)
    hub.forget(stream)
    assert hub.ended.pending_bytes == 100 * len(FRAME)
    assert hub.ended.get(stream.id) is None
    stream.detach(follower)
    assert (hub.ended.pending_bytes, hub.ledger.total_bytes) == (0, 0)


def test_followers_of_what_is_pending_are_ended_oldest_first() -> None:
    """Until no more is pending than is allowed; each is told why."""
    hub = new_hub()
    pairs = [kept_and_followed(hub) for _ in range(3)]
    for stream, _ in pairs:
        hub.forget(stream)
    hub.ended.cut_pending(100 * len(FRAME))
    assert [follower.ended for _, follower in pairs] == [TOO_SLOW.reason, TOO_SLOW.reason, None]
