"""Counts how much memory streams hold, by kind, and frees memory when that is more than allowed.

Frames are counted one by one as they come, since that is one addition. Everything else is counted in bulk: when it is
created or dropped, after every 64 frames, or by the hub's survey. When the sum exceeds the limit, `on_over_limit` is
called. It must not free memory at once, but in a later turn of the event loop: its caller may be in the middle of
appending to a log or of walking over all streams.

Memory is freed in this order, and no further than necessary:

1. The hub forgets kept streams that nobody follows.
2. Frames that all followers have been sent are dropped, from the streams that hold most.
3. Frames that only followers with clogged sinks have yet to be sent are dropped, too, as when a single log is full.
4. The streams that hold most are paused: their upstreams are not read. Streams that hold little are read on, so that
   a few clients that don't read delay only their own streams.

No running stream is ended.
Must not know: time, sockets, keys of streams.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

LOGS: Final = "logs"
"""Frames in logs, and the fixed memory of each stream."""
UNFINISHED: Final = "unfinished_frames"
"""Frames that are not complete yet."""
TRANSCRIPTS: Final = "transcripts"
"""Texts of streams that are kept for rewriting modes."""
SPANS: Final = "rendered_spans"
"""The bytes that each view rendered last."""
UNSENT: Final = "unsent"
"""Bytes that were written to clients, and wait in this process because the clients do not read them."""
NAMES: Final = "shared_routes"
"""The targets and bodies of shared routes: they identify a stream, and are sent again when it is reopened."""
BODIES: Final = "request_bodies"
"""Bodies of calls that outlive their clients; those of others are counted by their clients' connections."""
KINDS: Final = (LOGS, UNFINISHED, TRANSCRIPTS, SPANS, UNSENT, NAMES, BODIES)

# Of the limit: memory is freed down to this, so that the next event does not exceed the limit again.
_LOW: Final = 15 / 16
_GROWTH: Final = 8  # streams that are not paused may together exceed the limit by an eighth of it
_LEAST_BYTES: Final = 4096  # a stream that holds no more than this is never paused
_READ_BYTES: Final = 256 * 1024  # how much one turn of reading may add to a stream
_AT_ONCE_BYTES: Final = 64 * 1024  # a stream that holds more than this is paused at once when it exceeds the limit


class Holder(Protocol):
    """A Stream, as the ledger uses it."""

    @property
    def waits_for_client(self) -> bool:
        """Return whether the client that the stream was begun for is slower than its upstream."""

    throttled: bool  # its upstream is not read, to save memory
    sealed: bool  # it has ended

    @property
    def held_bytes(self) -> int:
        """Return how many bytes of memory it holds, of those that are counted."""

    def drop_past(self, *, spare_slow: bool) -> None:
        """Drop frames that all followers have been sent; without `spare_slow`, clogged followers don't count."""

    def throttle(self, throttled: bool) -> None:
        """Stop reading its upstream, or continue."""


class Ledger:
    """Counts the bytes that are held, and calls `on_over_limit` when they exceed `max_bytes`."""

    __slots__ = ("_max_bytes", "_others", "ahead_bytes", "bytes", "on_over_limit", "room_bytes")

    def __init__(self, max_bytes: int) -> None:
        self.bytes = 0  # of frames and streams; streams add to it directly, and compare it with `room_bytes`
        self.room_bytes = max_bytes  # the limit without what all other kinds hold
        self.ahead_bytes = max_bytes // _GROWTH  # how much each stream may hold uncounted
        self.on_over_limit: Callable[[Holder | None], None] = lambda holder: None  # called with the stream that grew
        self._max_bytes = max_bytes
        self._others = dict.fromkeys(KINDS, 0)

    @property
    def max_bytes(self) -> int:
        """How many bytes may be held in all."""
        return self._max_bytes

    @max_bytes.setter
    def max_bytes(self, max_bytes: int) -> None:
        self.room_bytes += max_bytes - self._max_bytes
        self._max_bytes = max_bytes

    @property
    def total_bytes(self) -> int:
        """How many bytes are held in all."""
        return self._max_bytes - self.room_bytes + self.bytes

    @property
    def over(self) -> bool:
        """Whether more is held than is allowed."""
        return self.bytes > self.room_bytes

    @property
    def tight(self) -> bool:
        """Whether so much is held that the next events may exceed the limit."""
        return self.total_bytes > self._max_bytes * _LOW

    def count(self, kind: str, size_bytes: int, holder: Holder | None = None) -> None:
        """Add bytes of a kind, held by `holder`; a negative number removes them."""
        self._others[kind] += size_bytes
        self.room_bytes -= size_bytes
        if size_bytes > 0 and self.bytes > self.room_bytes:
            self.on_over_limit(holder)

    def divide(self, streams: int) -> None:
        """Set `ahead_bytes` for so many streams, so that all of it together is an eighth of the limit."""
        self.ahead_bytes = self._max_bytes // (_GROWTH * max(1, streams))

    def by_kind(self) -> Mapping[str, int]:
        """Return what is held of each kind."""
        return self._others | {LOGS: self._others[LOGS] + self.bytes}


class Relief:
    """Drops old frames of streams, and pauses streams, while more memory is held than allowed."""

    __slots__ = ("_favoured", "_ledger", "_paused")

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._paused: dict[Holder, None] = {}
        self._favoured: Holder | None = None  # the one large stream that is not paused, so it ends and frees its memory

    def hold(self, holder: Holder) -> None:
        """Pause the stream that has just exceeded the limit, if it is large: libuv reads up to 32 times in a turn."""
        if holder is not self._favoured and holder.held_bytes > _AT_ONCE_BYTES:
            holder.throttle(True)
            if holder.throttled:
                self._paused[holder] = None

    def relieve(self, running: Sequence[Holder], ended: Sequence[Holder]) -> None:
        """Free memory until the limit is kept, or pause what makes it grow; `ended` streams are still followed."""
        ledger = self._ledger
        largest = sorted([*running, *ended], key=lambda stream: -stream.held_bytes)
        for spare_slow in (True, False):
            for stream in largest:
                if not ledger.tight:
                    self.resume()
                    return
                stream.drop_past(spare_slow=spare_slow)
        if ledger.over:
            self._pause(running)
        else:
            self.resume()

    def resume(self) -> None:
        """Resume as many paused streams as there is room for, but at least one."""
        self._paused = {stream: None for stream in self._paused if not stream.sealed}
        room = self._ledger.max_bytes - self._ledger.total_bytes
        for stream in list(self._paused)[: max(1, room // _READ_BYTES)]:
            del self._paused[stream]
            stream.throttle(False)
        if not self._paused:
            self._favoured = None

    def _pause(self, running: Sequence[Holder]) -> None:
        """Pause the streams that hold more than their share, except for one whose client is quick enough."""
        share = max(_LEAST_BYTES, self._ledger.max_bytes // (_GROWTH * max(1, len(running))))
        large = [stream for stream in running if stream.held_bytes > share]
        if self._favoured is None or self._favoured.sealed or self._favoured.waits_for_client:
            self._favoured = next((stream for stream in large if not stream.waits_for_client), None)
        paused = {stream: None for stream in large if stream is not self._favoured}
        for stream in self._paused:
            if stream not in paused:
                stream.throttle(False)
        for stream in paused:
            stream.throttle(True)
        self._paused = paused
