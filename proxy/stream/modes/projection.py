"""What a mode is: a pure projection of a span of the log to bytes, plus what an Ending looks like in it.

A projection is pure in (log, start, end). It remembers the span it rendered last, since all followers that are caught
up ask for the same one: bytes are made once per mode. `projections` has the modes.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, Final, NamedTuple

from proxy.stream.endings import Ending
from proxy.stream.modes.rewriting import Source
from proxy.wire.errors import BadRequest
from proxy.wire.event_id import prefix

SPAN_BYTES: Final = 64 * 1024  # of frames: a follower that is behind gets no more than this, or one frame, in a write
EVENT_STREAM: Final = b"text/event-stream;charset=UTF-8"  # as Qwen writes it


class View(NamedTuple):
    """How a follower receives a stream: in a mode, and at a pace (0 ms: at once).

    All followers of a stream with the same view share a projection.
    """

    mode: str
    flush_ms: int = 0
    flush_bytes: int = 0
    websocket: bool = False  # as its messages
    labelled: bool = False  # each event with its stream's id: for a connection that several streams share


class Span:
    """The bytes of the frames between two offsets in one mode, plain and framed as chunks of HTTP/1.1."""

    __slots__ = ("chunked", "end", "plain", "size", "start")

    def __init__(self, start: int, end: int, plain: bytes) -> None:
        self.put(start, end, plain)

    def put(self, start: int, end: int, plain: bytes) -> None:
        """Replace this span's contents."""
        self.start = start
        self.end = end
        self.plain = plain
        self.size = size = len(plain)
        self.chunked = b"%x\r\n%b\r\n" % (size, plain) if plain else b""  # wire.http.chunk, a call less


class Heartbeat(Span):
    """Bytes that are no part of the stream: they show that a connection is alive. A WebSocket sends a ping instead."""

    __slots__ = ()

    def __init__(self, plain: bytes) -> None:
        super().__init__(0, 0, plain)


class Projection(Span, ABC):
    """A pure function of (log, start, end) to bytes, and what an Ending looks like.

    It is itself the span that it rendered last: `reach` makes it the one that begins at an offset.
    """

    __slots__ = ("_id_prefix", "_log", "_source")

    content_type: ClassVar[bytes] = EVENT_STREAM
    heartbeat: ClassVar[bool] = True
    """Whether a comment may be sent between its frames."""
    paced: ClassVar[bool] = False
    """Whether it may be sent at a pace (flush_ms, flush_bytes): it merges what has gathered."""
    ends_with_answer: ClassVar[bool] = False
    """Whether it sends only the answer, so that its followers need not wait for the end of the response."""
    is_document: ClassVar[bool] = False
    """Whether it sends the finished document, and nothing before."""
    in_bytes: ClassVar[bool] = False
    """Whether a follower may begin at an offset in bytes."""
    restates: ClassVar[bool] = False
    """Whether it turns cumulative events into increments or the other way round: only for APIs that have both."""
    rewrites: ClassVar[bool] = False
    """Whether it takes texts from the stream's transcript."""
    tells_all: ClassVar[bool] = False
    """Whether it tells of all that was said, from the start."""
    span_bytes: ClassVar[int] = SPAN_BYTES
    spans_a_turn: ClassVar[int] = 1
    """How many spans a follower that is behind is sent before others have their turn.

    Each takes 0.5 ms to render, once for all followers at the same offset that take turns.
    """

    def __init__(self, source: Source) -> None:
        """Raises: OffsetGone, if the mode needs frames that the log no longer holds."""
        self.start = self.end = -1  # not super().__init__: two calls a stream less
        self.plain = self.chunked = b""
        self.size = 0
        self._source = source
        self._log = source.log
        self._id_prefix = prefix(source.epoch)

    def reach(self, start: int) -> None:
        """Render the span that begins at `start` and ends at the log's end, or after as many frames as a span may hold.

        Does nothing if that is the span already. `log.start <= start < log.end`.
        """
        end = self._log.end
        if self.start == start and self.end == end:
            return
        if self._log.size_bytes > self.span_bytes and end - start > 1:
            end = self._log.reach(start, end, self.span_bytes)
        if self.start != start or self.end != end:
            self.put(start, end, self.render(start, end))

    def sign_of_life(self) -> bytes:
        """Return what a follower may be sent between two frames now, if the mode has heartbeats."""
        reader = self._source.reader
        return reader.empty_event if self._source.info.empty_events else reader.heartbeat

    @abstractmethod
    def render(self, start: int, end: int) -> bytes:
        """Return the bytes of the frames between two offsets, start < end."""

    @abstractmethod
    def ending(self, ending: Ending, offset: int) -> tuple[bytes, bool]:
        """Return the last bytes for a follower at `offset`, and whether the response ends properly."""

    def locate(self, offset_bytes: int) -> tuple[int, int]:
        """Return the offset of the frame that holds a byte of this mode's output, and the byte's place in it.

        Raises: OffsetGone, OffsetBeyond; BadRequest in a mode that is not `in_bytes`.
        """
        raise BadRequest("offset counts bytes, and this mode counts events")
