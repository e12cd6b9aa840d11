"""The registry of streams: begins them, finds them by id and by key while they run or are kept, and forgets them.

Must not know: sockets, clocks (the time is passed in). Nothing here awaits, so none of it needs a lock.
"""

import heapq
import math
import os
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Protocol

from proxy.stream.cohort import Pacer
from proxy.stream.endings import CAPABILITY_EXPIRED, TOO_SLOW
from proxy.stream.faults import OVERDUE_S, BackgroundLoop, notify
from proxy.stream.info import StreamInfo
from proxy.stream.interfaces import Sink
from proxy.stream.ledger import Holder, Ledger, Relief
from proxy.stream.modes.projection import Heartbeat
from proxy.stream.observer import Observers
from proxy.stream.stream import Stream
from proxy.stream.subscription import Subscription
from proxy.stream.turns import Turns
from proxy.stream.vitals import Vitals
from proxy.wire.errors import Drained, Overloaded, UnknownStream
from proxy.wire.http import Head
from proxy.wire.sse import COMMENT

_BASE32 = b"abcdefghijklmnopqrstuvwxyz234567" * 8  # maps each byte to one of 32 letters: five random bits

ANYONE = b""  # the `caller` of a stream that everybody may follow
SURVEYED_A_TICK = 2000  # streams and followers: 3 ms, if none of them is in the CPU's caches
SURVEY_S = 1.0  # from one survey to the next, at least: a survey at every tick took 1.5 us an event of 500 streams
STREAM_BYTES = 3000  # memory that a stream takes besides its frames, which matters if there are many short streams


def _idents(ending: str) -> Iterator[str]:
    """Yield new stream ids, with the same `ending`. Random bytes are drawn for 64 at a time: 0.2 us an id, not 1.5."""
    size = 26 - len(ending)
    while True:
        letters = os.urandom(26 * 64).translate(_BASE32).decode()
        for start in range(0, len(letters), 26):
            yield "st_" + letters[start : start + size] + ending


def _ignore(value: object) -> None:
    """Do nothing: the default callback."""


class Promise(Protocol):
    """What receives a waiter's stream: an asyncio.Future, for example."""

    def done(self) -> bool:
        """Return whether it has a result, or was cancelled."""

    def set_result(self, result: Stream | None, /) -> None:
        """Set the result: the stream, or None."""


class Waiter:
    """A follower that waits for the next stream under a key, and is sent heartbeats meanwhile.

    `now` is in monotonic seconds; a `heartbeat_s` of 0 means none.
    """

    __slots__ = ("_beaten_at", "_begun", "_heartbeat_s", "_sink", "_until", "caller", "key")

    def __init__(
        self, caller: bytes, key: str, begun: Promise, sink: Sink, *, now: float, wait_s: float, heartbeat_s: float
    ) -> None:
        self.caller = caller
        self.key = key
        self._begun = begun
        self._sink = sink
        self._until = now + wait_s
        self._heartbeat_s = heartbeat_s
        self._beaten_at = now

    def notify(self, stream: Stream | None) -> None:
        """Hand over the stream that has begun, or None if none did in time."""
        if not self._begun.done():
            self._begun.set_result(stream)

    def tick(self, now: float) -> None:
        """Give up if the time is over, else send a heartbeat if one is due."""
        if now >= self._until:
            self.notify(None)
        elif self._heartbeat_s and now - self._beaten_at >= self._heartbeat_s:
            self._sink.write(Heartbeat(COMMENT))
            self._beaten_at = now


class Places:
    """A reservation of places among the running streams and the followers, for some that are about to begin."""

    __slots__ = ("_followers", "_hub", "_streams")

    def __init__(self, hub: "Hub", streams: int, followers: int) -> None:
        self._hub = hub
        self._streams = streams
        self._followers = followers
        hub.promised_streams += streams
        hub.promised_followers += followers

    def give_back(self) -> None:
        """End the reservation; whoever uses it does so in the same turn. Only the first call counts."""
        self._hub.promised_streams -= self._streams
        self._hub.promised_followers -= self._followers
        self._streams = self._followers = 0


class Hub:
    """The registry of streams: begins, finds, keeps (after their end) and forgets them, and notifies the observers."""

    def __init__(
        self,
        *,
        max_streams: int,
        max_followers: int,
        max_followers_per_stream: int,
        max_total_log_bytes: int,
        max_pending_bytes: int = sys.maxsize,
        call_soon: Callable[..., Any],
        pacer: Pacer,
        observers: Observers | None = None,
        on_forgotten: Callable[[Stream], object] = _ignore,
        on_subscription_ended: Callable[[Subscription], object] = _ignore,
        on_attached: Callable[[Subscription], object] | None = None,
        id_ending: str = "",
    ) -> None:
        """`id_ending`: the last characters of the ids of all streams, which say in which process they are."""
        self.max_streams = max_streams
        self.max_followers = max_followers
        self.max_followers_per_stream = max_followers_per_stream
        self.followers = 0  # that are connected
        self.promised_followers = 0  # places that are reserved for followers
        self.promised_streams = 0  # places that are reserved for streams
        self.ledger = Ledger(max_total_log_bytes)
        self.ledger.on_over_limit = self._plan_relief
        self.heartbeats: dict[Subscription, float] = {}  # followers with a heartbeat, and the time of the last one
        self.expiring: dict[Subscription, float] = {}  # followers whose access expires, and when
        self.draining = False
        self.blocked: str | None = None  # why new streams are refused for now
        self.replicas: dict[
            str, Stream
        ] = {}  # of other processes, which own them; they are found, but not running here
        self._call_soon = call_soon
        self._pacer = pacer
        self.turns = Turns(call_soon, pacer.time)  # for followers, and for other work that clients ask for
        self.background = BackgroundLoop("streams", pacer.time, OVERDUE_S)
        self._relief = Relief(self.ledger)
        self._relief_planned = False
        self._relief_from_bytes = 0.0  # with less memory held than this, relief waits for the next tick
        self._surveyed: Iterator[Stream] = iter(())  # the streams that the current survey has yet to count
        self._survey_at = 0.0  # when the next survey may begin, in monotonic seconds
        self._followed: dict[Stream, None] = {}  # ended streams that are kept and have followers
        self._observers = observers or Observers()
        self._on_forgotten = on_forgotten
        self._on_subscription_ended = on_subscription_ended
        self._on_attached = on_attached
        # Made once: of a compiled class, each bound method is another object, which a kept stream would hold.
        self._callbacks = self._subscription_ended, self._retire
        self._idents = _idents(id_ending)
        self._running: dict[str, Stream] = {}
        self._ended: OrderedDict[str, Stream] = OrderedDict()  # oldest ending first
        self._outlived: dict[str, Stream] = {}  # forgotten streams that still run or have followers
        self.max_pending_bytes = max_pending_bytes
        self._retire_at: list[tuple[float, str]] = []  # a heap
        self._keys: dict[tuple[bytes, str], Stream] = {}
        self._waiters: dict[tuple[bytes, str], dict[Waiter, None]] = {}

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def kept(self) -> int:
        """Return how many streams are kept after their end."""
        return len(self._ended)

    @property
    def pending_bytes(self) -> int:
        """Return how much is in the logs of forgotten streams that only their last followers still need."""
        return sum([stream.log.size_bytes for stream in self._outlived.values() if stream.sealed])

    def __iter__(self) -> Iterator[Stream]:
        yield from self._running.values()
        yield from self._ended.values()

    def found(self) -> Iterator[Stream]:
        """Yield all streams that are found here, replicas included."""
        yield from self
        yield from self.replicas.values()

    def some(self, count: int) -> list[Stream]:
        """Return `count` of the running streams, those that began first and last, and as many that ended last."""
        running, ended = self._running, self._ended.values()
        if len(running) <= count:
            shown = list(running.values())
        else:
            newest = list(islice(reversed(running.values()), count - count // 2))
            shown = [*islice(running.values(), count // 2), *reversed(newest)]
        return [*shown, *islice(reversed(ended), count)]

    def new_id(self) -> str:
        """Return a new id for a stream: 130 random bits, or 5 less for each character of the ending of all ids."""
        return next(self._idents)

    def begin(self, info: StreamInfo, vitals: Vitals, places: Places | None = None) -> Stream:
        """Make a stream; notify the observers, and the followers that wait for its key.

        `places` is its reservation, if it has one, which ends here: such a stream is never refused, since the request
        has been sent upstream already. Raises: Overloaded, when too many streams run, they hold too much memory, or the
        process is shutting down.
        """
        if places is None:
            self.check_room()
        else:
            places.give_back()
        stream = Stream(info, vitals, self.ledger, self._call_soon, self._pacer, self.turns, *self._callbacks)
        self._running[info.id] = stream
        self.ledger.bytes += STREAM_BYTES
        self._observers.begun(stream)
        for key in info.keys:
            self._register(key, stream)
        return stream

    def answered(
        self, stream: Stream, upstream: str, request_id: bytes | None = None, kept_head: Head | None = None
    ) -> None:
        """Note which upstream responded, and its request id; `kept_head`: the head, if it is not of an event stream."""
        stream.answered(upstream, request_id, kept_head)
        self._observers.answered(stream)

    def add_key(self, stream: Stream, key: str) -> None:
        """Make a stream its caller's newest under a key. Does nothing if it has, or once had, the key."""
        if key not in stream.info.keys:
            stream.info.keys = (*stream.info.keys, key)
            self._register(key, stream)

    def remove_keys(self, stream: Stream) -> None:
        """Remove a stream's keys; it is still found by its id."""
        caller = stream.info.caller
        for key in stream.info.keys:
            if self._keys.get((caller, key)) is stream:
                del self._keys[caller, key]

    def retain(self, stream: Stream, retain_s: float) -> None:
        """Keep a stream at least for so long after its end."""
        stream.info.retain_s = max(stream.info.retain_s, retain_s)

    def discard(self, stream: Stream) -> None:
        """Remove a stream's keys and don't keep it after its end: it serves only the clients attached to it."""
        stream.info.retain_s = 0.0
        self.remove_keys(stream)

    def find(self, ident: str, caller: bytes | None) -> Stream:
        """Return a stream of a caller; of any caller if `caller` is None, for access that was granted by a token.

        Raises: UnknownStream, also when the stream has expired or is another caller's.
        """
        stream = self.replicas.get(ident) or self._running.get(ident) or self._ended.get(ident)
        if stream is None or caller not in (None, stream.info.caller):
            raise UnknownStream(f"no stream {ident!r} of yours is running or kept")
        return stream

    def has(self, ident: str) -> bool:
        """Return whether a stream is found here."""
        return ident in self._running or ident in self._ended or ident in self.replicas

    def adopt(self, info: StreamInfo, vitals: Vitals) -> Stream:
        """Make the stream of a replica, which is found as others are, but does not count as running, and is not kept.

        Raises: Overloaded, when the streams hold too much memory.
        """
        self.check_memory()
        stream = Stream(
            info, vitals, self.ledger, self._call_soon, self._pacer, self.turns, self._subscription_ended, _ignore
        )
        self.replicas[info.id] = stream
        self.ledger.bytes += STREAM_BYTES
        return stream

    def drop(self, stream: Stream) -> None:
        """Remove a replica. Its followers, if there are any, are still sent what is here of it."""
        if self.replicas.pop(stream.id, None) is not None:
            self.remove_keys(stream)
            self._outlived[stream.id] = stream
            self._drop_if_unused(stream)

    def point(self, key: str, stream: Stream) -> None:
        """Make a stream its caller's newest under a key, whichever was until now."""
        if key not in stream.info.keys:
            stream.info.keys = (*stream.info.keys, key)
        if self.find_key(key, stream.info.caller) is not stream:
            self._register(key, stream)

    def keeps(self, stream: Stream) -> bool:
        """Return whether a stream can be found: it runs, or is kept after its end."""
        return self.has(stream.id)

    def find_readable(self, ident: str, caller: bytes) -> Stream:
        """Return a stream that a caller may follow: one of its own, or one open to everybody. Raises: UnknownStream."""
        try:
            return self.find(ident, ANYONE)
        except UnknownStream:
            return self.find(ident, caller)

    def find_key(self, key: str, caller: bytes) -> Stream | None:
        """Return a caller's newest stream under a key, if there is one."""
        return self._keys.get((caller, key))

    def named(self) -> Iterator[tuple[bytes, str]]:
        """Yield the callers and keys under which streams are found."""
        yield from self._keys

    def wait(self, waiter: "Waiter") -> None:
        """Notify a waiter of the next stream under its key, or with None when its time is over."""
        self._waiters.setdefault((waiter.caller, waiter.key), {})[waiter] = None
        self.followers += 1

    def waiting(self, caller: bytes) -> int:
        """Return how many followers of a caller wait for streams under its keys."""
        return sum(len(waiters) for (owner, _), waiters in self._waiters.items() if owner == caller)

    def give_up(self, waiter: "Waiter") -> None:
        """Remove a waiter."""
        self.followers -= 1
        waiters = self._waiters.get((waiter.caller, waiter.key))
        if waiters is not None:
            waiters.pop(waiter, None)
            if not waiters:
                del self._waiters[waiter.caller, waiter.key]

    def reserve(self, *, streams: int = 0, followers: int = 0) -> Places:
        """Reserve places before a request is sent upstream, so that it is not paid for in vain. Raises: Overloaded."""
        # Compared here, too, since there is room as a rule: that saves the calls.
        if streams and (
            self.draining
            or self.blocked is not None
            or len(self._running) + self.promised_streams >= self.max_streams
            or self.ledger.bytes > self.ledger.room_bytes
        ):
            self.check_room()
        if followers and self.followers + self.promised_followers >= self.max_followers:
            self.check_room_to_follow()
        return Places(self, streams, followers)

    def check_room_to_follow(self, stream: Stream | None = None, more: int = 1) -> None:
        """Raises: Overloaded, if `more` followers would exceed the limit of all streams, or one that of this stream."""
        followers = self.followers + self.promised_followers
        if followers + more > self.max_followers:
            raise Overloaded(f"{followers} followers are connected, {self.max_followers} are allowed")
        if stream is not None:
            # A place is kept for the client that began the stream: those that waited for the key attach before it.
            kept = bool(stream.info.keys) and stream.originator is None and not stream.log.end
            allowed = self.max_followers_per_stream
            if len(stream.subscriptions) >= allowed - kept:
                raise Overloaded(f"{len(stream.subscriptions)} followers have this stream, {allowed} are allowed")

    def attach(self, subscription: Subscription, now: float, until: float = math.inf) -> None:
        """Attach a subscription to its stream, at most until a time in monotonic seconds."""
        self.followers += 1
        if until < math.inf:
            self.expiring[subscription] = until
        if subscription.heartbeat_s:
            self.heartbeats[subscription] = now
        if subscription.stream.sealed:
            self._followed[subscription.stream] = None
        if self._on_attached is not None:
            self._on_attached(subscription)
        subscription.stream.attach(subscription)

    def forget(self, stream: Stream) -> None:
        """Remove a stream, so that it is no longer found. Its followers are still sent all of it."""
        held = self._running.pop(stream.id, None) or self._ended.pop(stream.id, None)
        if held is None:
            return
        self.remove_keys(stream)
        notify(self._on_forgotten, stream)
        self._followed.pop(stream, None)
        self._outlived[stream.id] = stream
        self._drop_if_unused(stream)

    def tick(self, now: float) -> None:
        """Forget streams, send heartbeats and end followers whose time has come. Call it once a second.

        This way there is one timer for all streams and followers, not one for each.
        An exception that one of them raises does not affect the others.
        """
        while self._retire_at and self._retire_at[0][0] <= now:
            stream = self._ended.get(heapq.heappop(self._retire_at)[1])
            if stream is not None:
                with self.background:
                    self.forget(stream)
        for subscription, last in list(self.heartbeats.items()):
            if now - max(last, subscription.stream.heard_at) >= subscription.heartbeat_s:
                self.heartbeats[subscription] = now
                with self.background:
                    subscription.beat()
        for subscription in [subscription for subscription, until in self.expiring.items() if until <= now]:
            with self.background:
                subscription.fail(CAPABILITY_EXPIRED)
        for waiter in [waiter for waiters in self._waiters.values() for waiter in waiters]:
            with self.background:
                waiter.tick(now)
        self.ledger.divide(len(self._running))
        with self.background:
            self._cut_pending()
        self._survey(now)
        with self.background:
            if self.ledger.over:
                self._relieve()
            else:
                self._relief.resume()

    def drain(self) -> None:
        """Refuse new streams, and notify waiters that none will come."""
        self.draining = True
        self.dismiss_waiters()

    def dismiss_waiters(self) -> None:
        """Notify all who wait for a stream that none will come: they may ask again."""
        for waiter in [waiter for waiters in self._waiters.values() for waiter in waiters]:
            waiter.notify(None)

    def check_draining(self) -> None:
        """Raises: Drained, while the process is shutting down."""
        if self.draining:
            raise Drained("this server is shutting down")

    def check_room(self) -> None:
        """Raises: Overloaded, if a new stream would be refused."""
        self.check_draining()
        if self.blocked is not None:
            raise Overloaded(self.blocked)
        running = len(self._running) + self.promised_streams
        if running >= self.max_streams:
            raise Overloaded(f"{running} streams are running, {self.max_streams} are allowed")
        self.check_memory()

    def check_memory(self) -> None:
        """Raises: Overloaded, if the streams hold too much memory."""
        ledger = self.ledger
        if ledger.bytes > ledger.room_bytes:  # `over`, without the call
            self._drop_kept()
            if ledger.over:
                held, allowed = ledger.total_bytes, ledger.max_bytes
                raise Overloaded(f"the streams hold {held} bytes of memory, {allowed} are allowed")

    def _plan_relief(self, holder: Holder | None) -> None:
        """Have `_relieve` called in a later turn: the caller may be settling a bypass or iterating over streams."""
        if holder is not None:
            self._relief.hold(holder)
        if not self._relief_planned and self.ledger.total_bytes >= self._relief_from_bytes:
            self._relief_planned = True
            self._call_soon(self._relieve)

    def _relieve(self) -> None:
        """Bring what is held within its limit: forget kept streams, then see `Relief`."""
        self._relief_planned = False
        self._drop_kept()
        followed = [stream for stream in self._ended.values() if stream.wanted]
        self._relief.relieve(list(self._running.values()), [*followed, *self._outlived.values()])
        self._relief_from_bytes = self.ledger.total_bytes + self.ledger.max_bytes / 64 if self.ledger.over else 0.0

    def _drop_kept(self) -> None:
        """Forget kept streams that nobody follows, oldest ending first, until what is held is within its limit."""
        for stream in list(self._ended.values()):
            if not self.ledger.tight:
                return
            if not stream.wanted:
                self.forget(stream)

    def _survey(self, now: float) -> None:
        """Count the memory of some more streams, so that all are counted within seconds and no turn takes long."""
        left = SURVEYED_A_TICK
        for stream in self._surveyed:
            try:
                left -= 1 + stream.survey()
            except Exception as error:
                self.background.fail(error)
            if left <= 0:
                return
        if now >= self._survey_at:
            self._survey_at = now + SURVEY_S
            self._surveyed = iter([*self._running.values(), *self._followed, *self._outlived.values()])

    def _register(self, key: str, stream: Stream) -> None:
        """Register a stream under a key, and notify the followers that wait for the key."""
        name = stream.info.caller, key
        self._keys[name] = stream
        for waiter in self._waiters.pop(name, ()):
            waiter.notify(stream)

    def _retire(self, stream: Stream) -> None:
        """Notify the observers that a stream was sealed, and keep it for its `retain_s`."""
        stream.ended_at = self._pacer.time()
        self._observers.ended(stream)
        if self._running.pop(stream.id, None) is None:
            self._drop_if_unused(stream)
            return
        self._ended[stream.id] = stream
        if stream.subscriptions:
            self._followed[stream] = None
        heapq.heappush(self._retire_at, (stream.ended_at + stream.info.retain_s, stream.id))
        if stream.info.retain_s <= 0:
            self.forget(stream)
        elif not stream.subscriptions:
            stream.pack()

    def _cut_pending(self) -> None:
        """End the last followers of forgotten streams, oldest first, until the limit of pending bytes is kept."""
        allowed = self.max_pending_bytes
        for stream in list(self._outlived.values()):
            held = self.pending_bytes
            if held <= allowed:
                return
            for subscription in list(stream.subscriptions) if stream.sealed else ():
                subscription.fail(
                    TOO_SLOW.saying(
                        f"clients have yet to be sent {held} bytes of forgotten streams, {allowed} are allowed"
                    )
                )

    def _subscription_ended(self, subscription: Subscription) -> None:
        self.followers -= 1
        self.heartbeats.pop(subscription, None)
        self.expiring.pop(subscription, None)
        self._on_subscription_ended(subscription)
        if self._followed and not subscription.stream.subscriptions:
            self._followed.pop(subscription.stream, None)
            subscription.stream.pack()
        if self._outlived:
            self._drop_if_unused(subscription.stream)

    def _drop_if_unused(self, stream: Stream) -> None:
        """Drop a forgotten stream, and stop counting its memory, if it has ended and nobody follows it."""
        if stream.id in self._outlived and not stream.subscriptions and stream.sealed:
            del self._outlived[stream.id]
            self.ledger.bytes -= STREAM_BYTES
            stream.uncount()
