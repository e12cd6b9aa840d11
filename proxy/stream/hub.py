"""Where streams are found: by id and by key, while they run and for as long as they are kept.

Knows no sockets; the time is handed in. Mutations never wait, so none of this needs a lock.
"""

import heapq
import math
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from proxy.stream.background import OVERDUE_S, BackgroundLoop
from proxy.stream.cohort import Pacer
from proxy.stream.ends import Sink
from proxy.stream.log import Ending, Ledger
from proxy.stream.stream import Stream
from proxy.stream.subscription import HEARTBEAT, Subscription
from proxy.stream.vitals import Vitals
from proxy.wire.errors import Overloaded, UnknownStream

_BASE32 = b"abcdefghijklmnopqrstuvwxyz234567" * 8  # each byte to one of 32: five random bits

ANYONE = b""  # the caller of a stream that everybody may follow
EXPIRED = Ending("capability_expired", "the token that this follower came with has expired; the stream may go on")
STREAM_BYTES = 3000  # what a stream costs beside its log's frames, so that many short ones are counted too


def _idents() -> Iterator[str]:
    """Make up ids of streams. Random bytes for many at once: 0.2 us an id, where the system takes 1.5."""
    while True:
        letters = os.urandom(26 * 64).translate(_BASE32).decode()
        for start in range(0, len(letters), 26):
            yield "st_" + letters[start : start + 26]


class Promise(Protocol):
    """What a waiter is told through: an asyncio.Future, for one."""

    def done(self) -> bool:
        """Tell whether it has a result, or was cancelled."""

    def set_result(self, result: Stream | None, /) -> None:
        """Give it its result."""


class Waiter:
    """A follower that came before its stream. It has a heartbeat, and waits until a time in monotonic seconds."""

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

    def tell(self, stream: Stream | None) -> None:
        """Say that the stream has begun, or that none did in time."""
        if not self._begun.done():
            self._begun.set_result(stream)

    def tick(self, now: float) -> None:
        """Do what is due."""
        if now >= self._until:
            self.tell(None)
        elif self._heartbeat_s and now - self._beaten_at >= self._heartbeat_s:
            self._sink.write(HEARTBEAT)
            self._beaten_at = now


class Hub:
    """Stream id to Stream: create, find, linger, retire, drain."""

    def __init__(
        self,
        *,
        max_streams: int,
        max_followers: int,
        max_followers_per_stream: int,
        max_log_bytes: int,
        max_total_log_bytes: int,
        call_soon: Callable[..., Any],
        pacer: Pacer,
    ) -> None:
        self.max_streams = max_streams
        self.max_followers = max_followers
        self.max_followers_per_stream = max_followers_per_stream
        self.followers = 0
        self.max_log_bytes = max_log_bytes
        self.ledger = Ledger(max_total_log_bytes)
        self.ledger.relieve = self._plan_relief
        self.on_forgotten: Callable[[Stream], None] = lambda stream: None
        self.on_subscription_ended: Callable[[Subscription], None] = lambda subscription: None
        self.beating: dict[Subscription, float] = {}  # followers with a heartbeat, and when they had the last
        self.leaving: dict[Subscription, float] = {}  # followers whose time is limited, and when it is over
        self.draining = False
        self._call_soon = call_soon
        self._pacer = pacer
        self.background = BackgroundLoop("streams", pacer.time, OVERDUE_S)
        self._relief_planned = False
        self._idents = _idents()
        self._running: dict[str, Stream] = {}
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

    def create(self, vitals: Vitals, *, route: str, caller: bytes, key: str | None, retain_s: float) -> Stream:
        """Make a stream with an id of its own. Under a key, followers who wait for it are told at once.

        Raises: Overloaded, when too many run, the logs are full, or the process drains.
        """
        self.check_room()
        ident = next(self._idents)
        stream = Stream(ident, vitals, route, caller, self.ledger, self.max_log_bytes, self._call_soon, self._pacer)
        stream.retain_s = retain_s
        stream.on_ended = self._subscription_ended
        self._running[ident] = stream
        self.ledger.bytes += STREAM_BYTES
        if key is not None:
            self.name(stream, key)
        return stream

    def name(self, stream: Stream, key: str) -> None:
        """Make a stream its caller's newest under a key. A key it has, or had, is not given to it again."""
        if key in stream.keys:
            return
        stream.keys = (*stream.keys, key)
        self._keys[stream.caller, key] = stream
        for waiter in self._waiters.pop((stream.caller, key), ()):
            waiter.tell(stream)

    def unname(self, stream: Stream) -> None:
        """Take its keys from a stream; it is still found by its id."""
        for key in stream.keys:
            if self._keys.get((stream.caller, key)) is stream:
                del self._keys[stream.caller, key]

    def find(self, ident: str, caller: bytes | None) -> Stream:
        """Return a caller's stream, or, if None, anybody's: something else than being its caller gives access to it.

        Raises: UnknownStream, also when it expired or is another caller's.
        """
        stream = self._running.get(ident) or self._ended.get(ident)
        if stream is None or caller not in (None, stream.caller):
            raise UnknownStream(f"no stream {ident!r} of yours is running or kept")
        return stream

    def find_readable(self, ident: str, caller: bytes) -> Stream:
        """Return a stream that a caller may follow: its own, or everybody's. Raises: UnknownStream."""
        try:
            return self.find(ident, ANYONE)
        except UnknownStream:
            return self.find(ident, caller)

    def find_key(self, key: str, caller: bytes) -> Stream | None:
        """Return a caller's newest stream under a key, if there is one."""
        return self._keys.get((caller, key))

    def wait(self, waiter: "Waiter") -> None:
        """Tell a waiter of the next stream under its key, or of None when its time is up."""
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
        """Raises: Overloaded, when too many follow, in all or this stream."""
        if self.followers >= self.max_followers:
            raise Overloaded(f"{self.followers} followers are connected, {self.max_followers} are allowed")
        if stream is not None:
            # The client that asked has its place, also while those who came first are already there.
            asker = stream.key is not None and stream.originator is None and not stream.log.end
            allowed = self.max_followers_per_stream
            if len(stream.subscriptions) >= allowed - asker:
                raise Overloaded(f"{len(stream.subscriptions)} followers have this stream, {allowed} are allowed")

    def attach(self, subscription: Subscription, now: float, until: float = math.inf) -> None:
        """Let a subscription follow its stream, at most until a time in monotonic seconds."""
        self.followers += 1
        if until < math.inf:
            self.leaving[subscription] = until
        if subscription.heartbeat_s:
            self.beating[subscription] = now
        subscription.stream.attach(subscription)

    def retire(self, stream: Stream, now: float) -> None:
        """Keep a stream that was just sealed for as long as it is to be retained."""
        if self._running.pop(stream.id, None) is None:
            return
        self._ended[stream.id] = stream
        heapq.heappush(self._retire_at, (now + stream.retain_s, stream.id))
        if stream.retain_s <= 0:
            self.forget(stream)

    def forget(self, stream: Stream) -> None:
        """Let go of a stream. Who follows it still goes on to its end."""
        held = self._running.pop(stream.id, None) or self._ended.pop(stream.id, None)
        if held is None:
            return
        self.ledger.bytes -= STREAM_BYTES + stream.log.size_bytes
        self.unname(stream)
        self.on_forgotten(stream)

    def tick(self, now: float) -> None:
        """Do what is due: once a second is enough. One timer for all streams, not one each.

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
                subscription.fail(EXPIRED)
        for waiter in [waiter for waiters in self._waiters.values() for waiter in waiters]:
            with self.background:
                waiter.tick(now)

    def drain(self) -> None:
        """Take no new streams; let go of those who wait for one."""
        self.draining = True
        for waiter in [waiter for waiters in self._waiters.values() for waiter in waiters]:
            waiter.tell(None)

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
        """Let go of kept streams, the one that ended first, first, until the logs are within their limit."""
        while self.ledger.bytes > self.ledger.max_bytes and self._ended:
            self.forget(next(iter(self._ended.values())))

    def _plan_relief(self) -> None:
        """Make room in a turn of its own: whoever adds to a log may be amid a settlement or an iteration of streams."""
        if not self._relief_planned:
            self._relief_planned = True
            self._call_soon(self._relieve)

    def _relieve(self) -> None:
        """Make room; when nothing kept is left to drop, the largest stream that runs is ended."""
        self._relief_planned = False
        self._evict()
        if self.ledger.bytes > self.ledger.max_bytes and self._running:
            largest = max(self._running.values(), key=lambda stream: stream.log.size_bytes)
            writer = largest.writer
            if writer is not None:
                held, allowed = self.ledger.bytes, self.ledger.max_bytes
                message = f"all logs together hold {held} bytes, {allowed} are allowed, and this is the largest"
                writer.stop(Ending("log_limit", message))
                if largest.id not in self._running:  # it is kept now: it can be dropped, and the next one be ended
                    self._plan_relief()

    def _subscription_ended(self, subscription: Subscription) -> None:
        self.followers -= 1
        self.beating.pop(subscription, None)
        self.leaving.pop(subscription, None)
        self.on_subscription_ended(subscription)
