"""Streams by their callers' keys, and the followers that wait for the next stream under a key."""

from collections.abc import Iterator
from typing import Protocol

from proxy.stream.faults import BackgroundLoop
from proxy.stream.interfaces import Sink
from proxy.stream.modes.projection import Heartbeat
from proxy.stream.stream import Stream
from proxy.wire.sse import COMMENT


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


class Keys:
    """The newest stream under each key of a caller, and the followers that wait for the next one."""

    def __init__(self) -> None:
        self._streams: dict[tuple[bytes, str], Stream] = {}
        self._waiters: dict[tuple[bytes, str], dict[Waiter, None]] = {}

    def __iter__(self) -> Iterator[tuple[bytes, str]]:
        """Yield the callers and keys under which streams are found."""
        yield from self._streams

    def find(self, key: str, caller: bytes) -> Stream | None:
        """Return a caller's newest stream under a key, if there is one."""
        return self._streams.get((caller, key))

    def register(self, key: str, stream: Stream) -> None:
        """Register a stream under a key, and notify the followers that wait for the key."""
        name = stream.info.caller, key
        self._streams[name] = stream
        for waiter in self._waiters.pop(name, ()):
            waiter.notify(stream)

    def add(self, key: str, stream: Stream) -> None:
        """Make a stream its caller's newest under a key. Does nothing if it has, or once had, the key."""
        if key not in stream.info.keys:
            stream.info.keys = (*stream.info.keys, key)
            self.register(key, stream)

    def point(self, key: str, stream: Stream) -> None:
        """Make a stream its caller's newest under a key, whichever was until now."""
        if key not in stream.info.keys:
            stream.info.keys = (*stream.info.keys, key)
        if self.find(key, stream.info.caller) is not stream:
            self.register(key, stream)

    def remove(self, stream: Stream) -> None:
        """Remove a stream's keys; it is still found by its id."""
        caller = stream.info.caller
        for key in stream.info.keys:
            if self._streams.get((caller, key)) is stream:
                del self._streams[caller, key]

    def wait(self, waiter: Waiter) -> None:
        """Notify a waiter of the next stream under its key, or with None when its time is over."""
        self._waiters.setdefault((waiter.caller, waiter.key), {})[waiter] = None

    def waiting(self, caller: bytes) -> int:
        """Return how many followers of a caller wait for streams under its keys."""
        return sum(len(waiters) for (owner, _), waiters in self._waiters.items() if owner == caller)

    def give_up(self, waiter: Waiter) -> None:
        """Remove a waiter."""
        waiters = self._waiters.get((waiter.caller, waiter.key))
        if waiters is not None:
            waiters.pop(waiter, None)
            if not waiters:
                del self._waiters[waiter.caller, waiter.key]

    def tick(self, now: float, background: BackgroundLoop) -> None:
        """Send heartbeats to waiters, and notify those whose time is over; `background` takes what they raise."""
        for waiter in self._all_waiters():
            with background:
                waiter.tick(now)

    def dismiss_waiters(self) -> None:
        """Notify all who wait for a stream that none will come: they may ask again."""
        for waiter in self._all_waiters():
            waiter.notify(None)

    def _all_waiters(self) -> list[Waiter]:
        return [waiter for waiters in self._waiters.values() for waiter in waiters]
