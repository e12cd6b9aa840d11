"""The ledger: how much memory is held for streams, by kind, beside the limit on the sum of all; and relief from it.

Frames are counted as they come, by an addition; everything else in bulk: when it is made and dropped, with every 64
frames, or by the hub's survey. Whoever makes it too much calls `on_over_limit`, which must act in a turn of its own.

What is done about too much, once no kept stream is left that could be forgotten, in this order: what all followers of
a stream have been sent is dropped, of the largest first; then also what only followers with clogged sinks have yet to
be sent, as when a single log reaches its limit; then the largest are paused, that is, their upstreams are not read. No
running stream is ended. Those that hold little are read on, so that a few clients that don't read hold up none but
their own streams.
Must not know: time, sockets, who is found by which key.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

LOGS = "logs"
"""Frames in logs, and what each stream is by itself."""
UNFINISHED = "unfinished_frames"
"""Frames that have begun and not ended."""
TRANSCRIPTS = "transcripts"
"""What streams have said, as modes that rewrite need it."""
SPANS = "rendered_spans"
"""What was rendered last in each view."""
UNSENT = "unsent"
"""What was written to clients and waits in this process for them to take it."""
NAMES = "shared_routes"
"""Targets and bodies by which shared routes tell their streams apart, and ask again."""
BODIES = "request_bodies"
"""Bodies of calls that outlive their clients; those of others are counted by their clients' connections."""
KINDS = (LOGS, UNFINISHED, TRANSCRIPTS, SPANS, UNSENT, NAMES, BODIES)

FRAME_BYTES = 48  # of memory that a frame takes beside its own bytes: a header of 33, a pointer of 8, rounding
_LOW = 15 / 16  # of the limit: who makes room makes so much that the next event does not exceed it again
_GROWTH = 8  # a part of the limit that all which are read on may add to it: an eighth
_LEAST_BYTES = 4096  # what each may hold in any case
_READ_BYTES = 256 * 1024  # what a read may add
_AT_ONCE_BYTES = 64 * 1024


class Holder(Protocol):
    """What holds memory: a Stream."""

    @property
    def waits_for_client(self) -> bool:
        """Return whether reading on would only have more wait for the client that it was begun for."""

    throttled: bool  # its upstream is not read, for the sake of memory

    @property
    def held_bytes(self) -> int:
        """Return how much memory it holds, as far as that is counted."""

    @property
    def sealed(self) -> bool:
        """Return whether it has ended."""

    def drop_past(self, *, spare_slow: bool) -> None:
        """Drop what all followers have been sent; without `spare_slow`, all but those with clogged sinks."""

    def throttle(self, throttled: bool) -> None:
        """Have its upstream not be read, or read on."""


class Ledger:
    """Counts the bytes held; whoever makes them more than `max_bytes` calls `on_over_limit`."""

    __slots__ = ("_max_bytes", "_others", "ahead_bytes", "bytes", "on_over_limit", "room_bytes")

    def __init__(self, max_bytes: int) -> None:
        self.bytes = 0  # of frames and streams; who appends to a log adds to it, and compares it with `room_bytes`
        self.room_bytes = max_bytes  # what everything else leaves for them
        self.ahead_bytes = max_bytes // _GROWTH  # of each stream that may be held before they are counted
        self.on_over_limit: Callable[[Holder | None], None] = lambda holder: None  # told who made it too much
        self._max_bytes = max_bytes
        self._others = dict.fromkeys(KINDS, 0)

    @property
    def max_bytes(self) -> int:
        """Return how much may be held in all."""
        return self._max_bytes

    @max_bytes.setter
    def max_bytes(self, max_bytes: int) -> None:
        self.room_bytes += max_bytes - self._max_bytes
        self._max_bytes = max_bytes

    @property
    def total_bytes(self) -> int:
        """Return how much is held in all."""
        return self._max_bytes - self.room_bytes + self.bytes

    @property
    def over(self) -> bool:
        """Return whether more is held than may be."""
        return self.bytes > self.room_bytes

    @property
    def tight(self) -> bool:
        """Return whether so much is held that the next event might be too much."""
        return self.total_bytes > self._max_bytes * _LOW

    def count(self, kind: str, size_bytes: int, holder: Holder | None = None) -> None:
        """Add to what is held of a kind, by a holder; less than nothing to take away."""
        self._others[kind] += size_bytes
        self.room_bytes -= size_bytes
        if size_bytes > 0 and self.bytes > self.room_bytes:
            self.on_over_limit(holder)

    def divide(self, streams: int) -> None:
        """Let what so many streams hold before it is counted be no more than a part of the limit."""
        self.ahead_bytes = self._max_bytes // (_GROWTH * max(1, streams))

    def by_kind(self) -> Mapping[str, int]:
        """Return what is held of each kind."""
        return self._others | {LOGS: self._others[LOGS] + self.bytes}


class Relief:
    """Drops the past of streams and pauses them while too much memory is held."""

    __slots__ = ("_ledger", "_let_on", "_paused")

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._paused: dict[Holder, None] = {}
        self._let_on: Holder | None = None  # the one of the large that is read on, so that memory gets free in the end

    def hold(self, holder: Holder) -> None:
        """Pause one that has just made it too much, at once if it is large: libuv reads up to 32 times in a turn."""
        if holder is not self._let_on and holder.held_bytes > _AT_ONCE_BYTES:
            holder.throttle(True)
            if holder.throttled:
                self._paused[holder] = None

    def relieve(self, running: Sequence[Holder], ended: Sequence[Holder]) -> None:
        """Bring what is held within its limit, or have it grow by no more than a part; `ended` are still followed."""
        ledger = self._ledger
        largest = sorted([*running, *ended], key=lambda stream: -stream.held_bytes)
        for spare_slow in (True, False):
            for stream in largest:
                if not ledger.tight:
                    self.let_on()
                    return
                stream.drop_past(spare_slow=spare_slow)
        if ledger.over:
            self._pause(running)
        else:
            self.let_on()

    def let_on(self) -> None:
        """Have paused streams read on, as many as there is room for, and one at least."""
        self._paused = {stream: None for stream in self._paused if not stream.sealed}
        room = self._ledger.max_bytes - self._ledger.total_bytes
        for stream in list(self._paused)[: max(1, room // _READ_BYTES)]:
            del self._paused[stream]
            stream.throttle(False)
        if not self._paused:
            self._let_on = None

    def _pause(self, running: Sequence[Holder]) -> None:
        """Pause those that hold more than their share, but one that is not held up by its own client."""
        share = max(_LEAST_BYTES, self._ledger.max_bytes // (_GROWTH * max(1, len(running))))
        large = [stream for stream in running if stream.held_bytes > share]
        if self._let_on is None or self._let_on.sealed or self._let_on.waits_for_client:
            self._let_on = next((stream for stream in large if not stream.waits_for_client), None)
        paused = {stream: None for stream in large if stream is not self._let_on}
        for stream in self._paused:
            if stream not in paused:
                stream.throttle(False)
        for stream in paused:
            stream.throttle(True)
        self._paused = paused
