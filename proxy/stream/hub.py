"""The registry of streams: begins them, finds them by id and by key while they run or are kept, and forgets them.

Must not know: sockets, clocks (the time is passed in). Nothing here awaits, so none of it needs a lock.
"""

import math
import os
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final

from proxy.stream.cohort import Pacer
from proxy.stream.ended import STREAM_BYTES, EndedStreams
from proxy.stream.endings import CAPABILITY_EXPIRED
from proxy.stream.faults import OVERDUE_S, BackgroundLoop, notify
from proxy.stream.info import StreamInfo
from proxy.stream.keys import Keys, Waiter
from proxy.stream.ledger import Holder, Ledger, Relief
from proxy.stream.observer import Observers
from proxy.stream.stream import Stream
from proxy.stream.subscription import Subscription
from proxy.stream.turns import Turns
from proxy.stream.vitals import Vitals
from proxy.wire.errors import Drained, Overloaded, UnknownStream
from proxy.wire.http import Head

_BASE32: Final = b"abcdefghijklmnopqrstuvwxyz234567" * 8  # maps each byte to one of 32 letters: five random bits

ANYONE: Final = b""  # the `caller` of a stream that everybody may follow
SURVEYED_A_TICK: Final = 2000  # streams and followers: 3 ms, if none of them is in the CPU's caches
SURVEY_S: Final = 1.0  # from one survey to the next, at least: at every tick it took 1.5 us an event of 500 streams


def _idents(ending: str) -> Iterator[str]:
    """Yield new stream ids, with the same `ending`. Random bytes are drawn for 64 at a time: 0.2 us an id, not 1.5."""
    size = 26 - len(ending)
    while True:
        letters = os.urandom(26 * 64).translate(_BASE32).decode()
        for start in range(0, len(letters), 26):
            yield "st_" + letters[start : start + size] + ending


def _ignore(value: object) -> None:
    """Do nothing: the default callback."""


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
        self.keys = Keys()
        self.ended = EndedStreams(self.ledger)
        self.draining = False
        self.blocked: str | None = None  # why new streams are refused for now
        self.replicas: dict[str, Stream] = {}  # other processes own them: they are found, but not running here
        self._call_soon = call_soon
        self._pacer = pacer
        self.turns = Turns(call_soon, pacer.time)  # for followers, and for other work that clients ask for
        self.background = BackgroundLoop("streams", pacer.time, OVERDUE_S)
        self._relief = Relief(self.ledger)
        self._relief_planned = False
        self._relief_from_bytes = 0.0  # with less memory held than this, relief waits for the next tick
        self._surveyed: Iterator[Stream] = iter(())  # the streams that the current survey has yet to count
        self._survey_at = 0.0  # when the next survey may begin, in monotonic seconds
        self._observers = observers or Observers()
        self._on_forgotten = on_forgotten
        self._on_subscription_ended = on_subscription_ended
        self._on_attached = on_attached
        # Made once: of a compiled class, each bound method is another object, which a kept stream would hold.
        self._when_subscription_ended = self._subscription_ended
        self._when_sealed = self._retire
        self._idents = _idents(id_ending)
        self._running: dict[str, Stream] = {}
        self.max_pending_bytes = max_pending_bytes

    @property
    def running(self) -> int:
        return len(self._running)

    def __iter__(self) -> Iterator[Stream]:
        yield from self._running.values()
        yield from self.ended

    def found(self) -> Iterator[Stream]:
        """Yield all streams that are found here, replicas included."""
        yield from self
        yield from self.replicas.values()

    def some(self, count: int) -> list[Stream]:
        """Return `count` of the running streams, those that began first and last, and as many that ended last."""
        running = self._running
        if len(running) <= count:
            shown = list(running.values())
        else:
            newest = list(islice(reversed(running.values()), count - count // 2))
            shown = [*islice(running.values(), count // 2), *reversed(newest)]
        return [*shown, *self.ended.newest(count)]

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
        stream = Stream(
            info,
            vitals,
            self.ledger,
            self._call_soon,
            self._pacer,
            self.turns,
            self._when_subscription_ended,
            self._when_sealed,
        )
        self._running[info.id] = stream
        self.ledger.bytes += STREAM_BYTES
        self._observers.begun(stream)
        for key in info.keys:
            self.keys.register(key, stream)
        return stream

    def answered(
        self, stream: Stream, upstream: str, request_id: bytes | None = None, kept_head: Head | None = None
    ) -> None:
        """Note which upstream responded, and its request id; `kept_head`: the head, if it is not of an event stream."""
        stream.answered(upstream, request_id, kept_head)
        self._observers.answered(stream)

    def retain(self, stream: Stream, retain_s: float) -> None:
        """Keep a stream at least for so long after its end."""
        stream.info.retain_s = max(stream.info.retain_s, retain_s)

    def discard(self, stream: Stream) -> None:
        """Remove a stream's keys and don't keep it after its end: it serves only the clients attached to it."""
        stream.info.retain_s = 0.0
        self.keys.remove(stream)

    def find(self, ident: str, caller: bytes | None) -> Stream:
        """Return a stream of a caller; of any caller if `caller` is None, for access that was granted by a token.

        Raises: UnknownStream, also when the stream has expired or is another caller's.
        """
        stream = self.replicas.get(ident) or self._running.get(ident) or self.ended.get(ident)
        if stream is None or caller not in (None, stream.info.caller):
            raise UnknownStream(f"no stream {ident!r} of yours is running or kept")
        return stream

    def has(self, ident: str) -> bool:
        """Return whether a stream is found here."""
        return ident in self._running or ident in self.replicas or self.ended.get(ident) is not None

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
            self.keys.remove(stream)
            self.ended.outlive(stream)

    def keeps(self, stream: Stream) -> bool:
        """Return whether a stream can be found: it runs, or is kept after its end."""
        return self.has(stream.id)

    def find_readable(self, ident: str, caller: bytes) -> Stream:
        """Return a stream that a caller may follow: one of its own, or one open to everybody. Raises: UnknownStream."""
        try:
            return self.find(ident, ANYONE)
        except UnknownStream:
            return self.find(ident, caller)

    def wait(self, waiter: Waiter) -> None:
        """Notify a waiter of the next stream under its key, or with None when its time is over: it is a follower."""
        self.keys.wait(waiter)
        self.followers += 1

    def give_up(self, waiter: Waiter) -> None:
        """Remove a waiter."""
        self.keys.give_up(waiter)
        self.followers -= 1

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
                raise Overloaded(f"{len(stream.subscriptions)} followers follow this stream, {allowed} are allowed")

    def attach(self, subscription: Subscription, now: float, until: float = math.inf) -> None:
        """Attach a subscription to its stream, at most until a time in monotonic seconds."""
        self.followers += 1
        if until < math.inf:
            self.expiring[subscription] = until
        if subscription.heartbeat_s:
            self.heartbeats[subscription] = now
        if subscription.stream.sealed:
            self.ended.attached(subscription.stream)
        if self._on_attached is not None:
            self._on_attached(subscription)
        subscription.stream.attach(subscription)

    def forget(self, stream: Stream) -> None:
        """Remove a stream, so that it is no longer found. Its followers are still sent all of it."""
        if self._running.pop(stream.id, None) is None and not self.ended.remove(stream):
            return
        self.keys.remove(stream)
        notify(self._on_forgotten, stream)
        self.ended.outlive(stream)

    def tick(self, now: float) -> None:
        """Forget streams, send heartbeats and end followers whose time has come. Call it once a second.

        This way there is one timer for all streams and followers, not one for each.
        An exception that one of them raises does not affect the others.
        """
        for stream in self.ended.due(now):
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
        self.keys.tick(now, self.background)
        self.ledger.divide(len(self._running))
        with self.background:
            self.ended.cut_pending(self.max_pending_bytes)
        self._survey(now)
        with self.background:
            if self.ledger.over:
                self._relieve()
            else:
                self._relief.resume()

    def drain(self) -> None:
        """Refuse new streams, and notify waiters that none will come."""
        self.draining = True
        self.keys.dismiss_waiters()

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
        self._relief.relieve(list(self._running.values()), self.ended.followed())
        self._relief_from_bytes = self.ledger.total_bytes + self.ledger.max_bytes / 64 if self.ledger.over else 0.0

    def _drop_kept(self) -> None:
        """Forget kept streams that nobody follows, oldest ending first, until what is held is within its limit."""
        for stream in self.ended.unwanted() if self.ledger.tight else ():
            self.forget(stream)
            if not self.ledger.tight:
                return

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
            self._surveyed = iter([*self._running.values(), *self.ended.surveyed()])

    def _retire(self, stream: Stream) -> None:
        """Notify the observers that a stream was sealed, and keep it for its `retain_s`."""
        stream.ended_at = self._pacer.time()
        self._observers.ended(stream)
        if self._running.pop(stream.id, None) is None:
            self.ended.drop_if_unused(stream)
            return
        self.ended.keep(stream)
        if stream.info.retain_s <= 0:
            self.forget(stream)
        elif not stream.subscriptions:
            stream.pack()

    def _subscription_ended(self, subscription: Subscription) -> None:
        self.followers -= 1
        if subscription.heartbeat_s:
            self.heartbeats.pop(subscription, None)
        if self.expiring:
            self.expiring.pop(subscription, None)
        self._on_subscription_ended(subscription)
        self.ended.left(subscription)
