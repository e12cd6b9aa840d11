"""Where streams begin, are found by id and by key, while they run and as long as they are kept, and end.

Must not know: sockets, clocks (the time is handed in). Nothing here awaits, so none of it needs a lock.
"""

import heapq
import math
import os
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from proxy.stream.background import OVERDUE_S, BackgroundLoop
from proxy.stream.cohort import Pacer
from proxy.stream.endings import CAPABILITY_EXPIRED, LOG_LIMIT, TOO_SLOW
from proxy.stream.info import StreamInfo
from proxy.stream.interfaces import Sink
from proxy.stream.log import Ledger
from proxy.stream.observer import Observers
from proxy.stream.stream import Stream
from proxy.stream.subscription import HEARTBEAT, Subscription
from proxy.stream.turns import Turns
from proxy.stream.vitals import Vitals
from proxy.wire.errors import Overloaded, UnknownStream
from proxy.wire.http import Head

_BASE32 = b"abcdefghijklmnopqrstuvwxyz234567" * 8  # maps each byte to one of 32 letters: five random bits

ANYONE = b""  # the `caller` of a stream that everybody may follow
STREAM_BYTES = 3000  # memory that a stream takes beside its frames: many short streams count, too


def _idents() -> Iterator[str]:
    """Yield new stream ids. Random bytes are drawn for 64 at a time: 0.2 us an id instead of 1.5."""
    while True:
        letters = os.urandom(26 * 64).translate(_BASE32).decode()
        for start in range(0, len(letters), 26):
            yield "st_" + letters[start : start + 26]


def _unheard(told: object) -> None:
    """Nobody is told."""


class Promise(Protocol):
    """What a waiter's stream is handed over with: an asyncio.Future, for example."""

    def done(self) -> bool:
        """Return whether it has a result, or was cancelled."""

    def set_result(self, result: Stream | None, /) -> None:
        """Set the result: the stream, or None."""


class Waiter:
    """A follower that came before its stream: it waits for one under its key, and is sent heartbeats meanwhile.

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
            self._sink.write(HEARTBEAT)
            self._beaten_at = now


class Hub:
    """Stream id to Stream: begin, find, keep after the end (retire), forget, drain; it tells the observers of it."""

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
        on_forgotten: Callable[[Stream], object] = _unheard,
        on_subscription_ended: Callable[[Subscription], object] = _unheard,
    ) -> None:
        self.max_streams = max_streams
        self.max_followers = max_followers
        self.max_followers_per_stream = max_followers_per_stream
        self.followers = 0
        self.ledger = Ledger(max_total_log_bytes)
        self.ledger.on_over_limit = self._plan_room
        self.beating: dict[Subscription, float] = {}  # followers with a heartbeat, and the time of the last one
        self.leaving: dict[Subscription, float] = {}  # followers whose time is limited, and when it ends
        self.draining = False
        self._call_soon = call_soon
        self._pacer = pacer
        self.turns = Turns(call_soon, pacer.time)  # of followers, and of what else clients ask for
        self.background = BackgroundLoop("streams", pacer.time, OVERDUE_S)
        self._room_planned = False
        self._observers = observers or Observers()
        self._on_forgotten = on_forgotten
        self._on_subscription_ended = on_subscription_ended
        self._idents = _idents()
        self._running: dict[str, Stream] = {}
        self._outlived: dict[Stream, int] = {}  # forgotten streams that are still read, and the bytes of their logs
        self.max_pending_bytes = max_pending_bytes
        self.pending_bytes = 0  # of these logs
        self._ended: OrderedDict[str, Stream] = OrderedDict()  # oldest ending first
        self._retire_at: list[tuple[float, str]] = []  # a heap
        self._keys: dict[tuple[bytes, str], Stream] = {}
        self._waiters: dict[tuple[bytes, str], dict[Waiter, None]] = {}

    @property
    def running(self) -> int:
        return len(self._running)

    def __iter__(self) -> Iterator[Stream]:
        yield from self._running.values()
        yield from self._ended.values()

    def new_id(self) -> str:
        """Make up the id of a stream: 130 random bits."""
        return next(self._idents)

    def begin(self, info: StreamInfo, vitals: Vitals) -> Stream:
        """Make a stream; its observers are told, and those who wait for it under its key.

        Raises: Overloaded, when too many streams run, the logs are full, or the process drains.
        """
        self.check_room()
        stream = Stream(
            info, vitals, self.ledger, self._call_soon, self._pacer, self.turns, self._subscription_ended, self._retire
        )
        self._running[info.id] = stream
        self.ledger.bytes += STREAM_BYTES
        self._observers.begun(stream)
        for key in info.keys:
            self._find_by(key, stream)
        return stream

    def answered(
        self, stream: Stream, upstream: str, request_id: bytes | None = None, kept_head: Head | None = None
    ) -> None:
        """Note who answered a stream's request, and as which request; `kept_head` if the answer is no event stream."""
        stream.answered(upstream, request_id, kept_head)
        self._observers.answered(stream)

    def name(self, stream: Stream, key: str) -> None:
        """Make a stream its caller's newest under a key. Does nothing if it has, or once had, the key."""
        if key not in stream.info.keys:
            stream.info.keys = (*stream.info.keys, key)
            self._find_by(key, stream)

    def unname(self, stream: Stream) -> None:
        """Have a stream no longer found by its keys; it is still found by its id."""
        caller = stream.info.caller
        for key in stream.info.keys:
            if self._keys.get((caller, key)) is stream:
                del self._keys[caller, key]

    def retain(self, stream: Stream, retain_s: float) -> None:
        """Keep a stream at least for so long after its end."""
        stream.info.retain_s = max(stream.info.retain_s, retain_s)

    def discard(self, stream: Stream) -> None:
        """Let a stream be found no more by its keys, nor kept after its end: it is for those who have it already."""
        stream.info.retain_s = 0.0
        self.unname(stream)

    def find(self, ident: str, caller: bytes | None) -> Stream:
        """Return a stream of a caller; or of anybody, if `caller` is None, because access was granted in another way.

        Raises: UnknownStream, also when the stream has expired or is another caller's.
        """
        stream = self._running.get(ident) or self._ended.get(ident)
        if stream is None or caller not in (None, stream.info.caller):
            raise UnknownStream(f"no stream {ident!r} of yours is running or kept")
        return stream

    def find_readable(self, ident: str, caller: bytes) -> Stream:
        """Return a stream that a caller may follow: one of its own, or one open to everybody. Raises: UnknownStream."""
        try:
            return self.find(ident, ANYONE)
        except UnknownStream:
            return self.find(ident, caller)

    def find_key(self, key: str, caller: bytes) -> Stream | None:
        """Return a caller's newest stream under a key, if there is one."""
        return self._keys.get((caller, key))

    def wait(self, waiter: "Waiter") -> None:
        """Notify a waiter of the next stream under its key, or with None when its time is over."""
        self._waiters.setdefault((waiter.caller, waiter.key), {})[waiter] = None
        self.followers += 1

    def give_up(self, waiter: "Waiter") -> None:
        """Tell a waiter nothing any more."""
        self.followers -= 1
        waiters = self._waiters.get((waiter.caller, waiter.key))
        if waiters is not None:
            waiters.pop(waiter, None)
            if not waiters:
                del self._waiters[waiter.caller, waiter.key]

    def check_room_to_follow(self, stream: Stream | None = None) -> None:
        """Raises: Overloaded, when there are too many followers, of all streams or of this one."""
        if self.followers >= self.max_followers:
            raise Overloaded(f"{self.followers} followers are connected, {self.max_followers} are allowed")
        if stream is not None:
            # A place is kept for the client that asked: followers that waited for the key attach before it.
            asker = bool(stream.info.keys) and stream.originator is None and not stream.log.end
            allowed = self.max_followers_per_stream
            if len(stream.subscriptions) >= allowed - asker:
                raise Overloaded(f"{len(stream.subscriptions)} followers have this stream, {allowed} are allowed")

    def attach(self, subscription: Subscription, now: float, until: float = math.inf) -> None:
        """Attach a subscription to its stream, at most until a time in monotonic seconds."""
        self.followers += 1
        if until < math.inf:
            self.leaving[subscription] = until
        if subscription.heartbeat_s:
            self.beating[subscription] = now
        subscription.stream.attach(subscription)

    def forget(self, stream: Stream) -> None:
        """Have a stream no longer found. Its followers still get all of it."""
        held = self._running.pop(stream.id, None) or self._ended.pop(stream.id, None)
        if held is None:
            return
        size_bytes = stream.log.size_bytes
        self.ledger.bytes -= STREAM_BYTES + size_bytes
        if stream.subscriptions:
            self._outlived[stream] = size_bytes
            self.pending_bytes += size_bytes
            if self.pending_bytes > self.max_pending_bytes:
                self._call_soon(self._cut_pending)  # it may be amid its last sweep
        self.unname(stream)
        self._on_forgotten(stream)

    def tick(self, now: float) -> None:
        """Do what is due: forget, send heartbeats, end followers whose time is over. Call it once a second.

        So there is one timer for all streams and followers, not one for each.
        What one of them raises keeps no other from its turn.
        """
        while self._retire_at and self._retire_at[0][0] <= now:
            stream = self._ended.get(heapq.heappop(self._retire_at)[1])
            if stream is not None:
                with self.background:
                    self.forget(stream)
        for subscription, last in list(self.beating.items()):
            if now - max(last, subscription.stream.fed_at) >= subscription.heartbeat_s:
                self.beating[subscription] = now
                with self.background:
                    subscription.beat()
        for subscription in [subscription for subscription, until in self.leaving.items() if until <= now]:
            with self.background:
                subscription.fail(CAPABILITY_EXPIRED)
        for waiter in [waiter for waiters in self._waiters.values() for waiter in waiters]:
            with self.background:
                waiter.tick(now)

    def drain(self) -> None:
        """Refuse new streams; tell those who wait for one that none will come."""
        self.draining = True
        for waiter in [waiter for waiters in self._waiters.values() for waiter in waiters]:
            waiter.notify(None)

    def check_room(self) -> None:
        """Raises: Overloaded, when a new stream would be refused."""
        if self.draining:
            raise Overloaded("this server is shutting down")
        if len(self._running) >= self.max_streams:
            raise Overloaded(f"{len(self._running)} streams are running, {self.max_streams} are allowed")
        if self.ledger.bytes > self.ledger.max_bytes:
            self._evict()
        if self.ledger.bytes > self.ledger.max_bytes:
            raise Overloaded(f"the logs hold {self.ledger.bytes} bytes, {self.ledger.max_bytes} are allowed")

    def _evict(self) -> None:
        """Forget kept streams, oldest ending first, until the logs are within their limit."""
        while self.ledger.bytes > self.ledger.max_bytes and self._ended:
            self.forget(next(iter(self._ended.values())))

    def _plan_room(self) -> None:
        """Make room in a turn of its own: whoever adds to a log may be amid a settlement or an iteration of streams."""
        if not self._room_planned:
            self._room_planned = True
            self._call_soon(self._make_room)

    def _make_room(self) -> None:
        """Bring the logs within their limit: forget kept streams; if need be, end the largest running one."""
        self._room_planned = False
        self._evict()
        if self.ledger.bytes > self.ledger.max_bytes and self._running:
            largest = max(self._running.values(), key=lambda stream: stream.log.size_bytes)
            writer = largest.writer
            if writer is not None:
                held, allowed = self.ledger.bytes, self.ledger.max_bytes
                message = f"all logs together hold {held} bytes, {allowed} are allowed, and this is the largest"
                writer.stop(LOG_LIMIT.saying(message))
                if largest.id not in self._running:  # it is kept now: it can be dropped, and the next one be ended
                    self._plan_room()

    def _find_by(self, key: str, stream: Stream) -> None:
        """Have a stream found by a key, and tell those who wait for it."""
        name = stream.info.caller, key
        self._keys[name] = stream
        for waiter in self._waiters.pop(name, ()):
            waiter.notify(stream)

    def _retire(self, stream: Stream) -> None:
        """Tell the observers that a stream was sealed, and keep it for as long as it is to be retained."""
        stream.ended_at = self._pacer.time()
        self._observers.ended(stream)
        if self._running.pop(stream.id, None) is None:
            return
        self._ended[stream.id] = stream
        heapq.heappush(self._retire_at, (stream.ended_at + stream.info.retain_s, stream.id))
        if stream.info.retain_s <= 0:
            self.forget(stream)

    def _cut_pending(self) -> None:
        """End the last readers of streams that were forgotten, the first of them first, until the rest is no more."""
        for stream in list(self._outlived):
            if self.pending_bytes <= self.max_pending_bytes:
                return
            held, allowed = self.pending_bytes, self.max_pending_bytes
            late = TOO_SLOW.saying(
                f"clients have yet to take {held} bytes of streams that are over, {allowed} are kept"
            )
            for subscription in list(stream.subscriptions):
                subscription.fail(late)

    def _subscription_ended(self, subscription: Subscription) -> None:
        stream = subscription.stream
        if not stream.subscriptions:
            self.pending_bytes -= self._outlived.pop(stream, 0)
        self.followers -= 1
        self.beating.pop(subscription, None)
        self.leaving.pop(subscription, None)
        self._on_subscription_ended(subscription)
