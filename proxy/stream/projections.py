"""The modes: each a pure projection of a span of the log to bytes, plus what an Ending looks like in it.

A new mode is one class here and one row in MODES. A projection is pure in (log, start, end); it remembers the
span it rendered last, since all followers that are caught up ask for the same one: bytes are made once per mode.
"""

from abc import ABC, abstractmethod

from proxy.stream.log import Ending, FrameLog
from proxy.wire.dialect import Dialect
from proxy.wire.sse import stamp

SPAN_BYTES = 64 * 1024  # a follower that is behind gets no more than this, or one frame, in a write


class Span:
    """The bytes of the frames between two offsets in one mode, plain and framed as a chunk of HTTP/1.1."""

    __slots__ = ("chunked", "end", "plain", "size", "start")

    def __init__(self, start: int, end: int, plain: bytes) -> None:
        self.put(start, end, plain)

    def put(self, start: int, end: int, plain: bytes) -> None:
        """Be another span."""
        self.start = start
        self.end = end
        self.plain = plain
        self.size = size = len(plain)
        self.chunked = b"%x\r\n%b\r\n" % (size, plain) if plain else b""  # wire.http.chunk, a call less


class Projection(Span, ABC):
    """A pure function of (log, start, end) to bytes, and what an Ending looks like.

    It is itself the span that it rendered last: `reach` makes it the one that begins at an offset.
    """

    __slots__ = ("_dialect", "_generation", "_log")

    content_type = b"text/event-stream;charset=UTF-8"  # as Qwen writes it
    heartbeat = True  # a comment may be sent between two frames
    paced = False  # flush_ms and flush_bytes mean something

    def __init__(self, log: FrameLog, generation: str, dialect: Dialect) -> None:
        super().__init__(-1, -1, b"")
        self._log = log
        self._generation = generation
        self._dialect = dialect

    def reach(self, start: int) -> None:
        """Be the span from `start` on, to the log's end or as many frames as SPAN_BYTES hold.

        `start` is not below the log's start, and below its end.
        """
        end = self._log.end
        if self.start == start and self.end == end:
            return
        if end - start > 1:
            end = self._limit(start, end)
        if self.start != start or self.end != end:
            self.put(start, end, self.render(start, end))

    @abstractmethod
    def render(self, start: int, end: int) -> bytes:
        """Return the bytes of the frames between two offsets, start < end."""

    @abstractmethod
    def ending(self, ending: Ending, offset: int) -> tuple[bytes, bool]:
        """Return the last bytes for a follower at `offset`, and whether the response ends properly."""

    def _limit(self, start: int, end: int) -> int:
        log, room = self._log, SPAN_BYTES
        frames = log.frames
        for index in range(start - log.start, end - log.start):
            room -= len(frames[index])
            if room < 0:
                return max(start + 1, log.start + index)
        return end


class Raw(Projection):
    """The exact bytes. A failure is an aborted connection; the tail goes first, as it came."""

    __slots__ = ()

    heartbeat = False

    def render(self, start: int, end: int) -> bytes:
        log = self._log
        if end - start == 1:
            return log.frames[start - log.start]
        return b"".join(log.span(start, end))

    def ending(self, ending: Ending, offset: int) -> tuple[bytes, bool]:
        tail = self._log.tail if offset == self._log.end else b""
        return tail, ending.clean


class Events(Projection):
    """Each frame unchanged but for one line `id: <generation>-<seq>`. A failure is an error event."""

    __slots__ = ()

    def render(self, start: int, end: int) -> bytes:
        generation = self._generation
        frames = self._log.span(start, end)
        return b"".join(
            [stamp(frame, b"%b-%d" % (generation.encode(), seq)) for seq, frame in enumerate(frames, start + 1)]
        )

    def ending(self, ending: Ending, offset: int) -> tuple[bytes, bool]:
        if ending.clean or ending.reason == "drained":
            return b"", True  # drained: closed between two events, so that the client resumes elsewhere
        # The log's ending is numbered as one more event, so that a client that had all frames but not this one is
        # told when it resumes, and only then finds nothing more (204). Any other ending repeats the cursor.
        log = self._log
        seq = offset + (ending is log.ending and offset == log.end)
        ident = f"{self._generation}-{seq}".encode()
        return self._dialect.error_frame(ending.message, ending.reason, ident), True


MODES: dict[str, type[Projection]] = {
    "raw": Raw,
    "events": Events,
}
