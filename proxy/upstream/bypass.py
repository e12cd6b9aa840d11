"""The fast path of an event: forwarded to the client at once, and appended to the log later, together with others.

If a stream has a single follower, which has been sent everything so far, the log is needed only when somebody reads
it. So events go from connection to connection in one call. The log, the offset and the vitals are updated for up to 64
events at once, here called settling: this saves 4 us of 30 for each event. Reading `Stream.log` settles first, so
nobody sees a log that lacks events which were sent.
"""

from collections.abc import Callable
from time import monotonic
from typing import Final, Protocol

from proxy.stream.interfaces import Transport
from proxy.stream.stream import Stream
from proxy.upstream.exchange import Exchange

# With these limits at most 64 KiB of a stream are sent before they are in the log and counted in the ledger; less if
# that much of every stream would be a large part of the ledger's limit (`Stream.frames_ahead`).
_FRAMES: Final = 64
_LONG_READ: Final = 1024  # bytes; after a longer read settling costs little in comparison, so it is done at once
_SIZE_DIGITS: Final = 3  # of the chunks that `forward` takes


def _size_lines() -> list[bytes]:
    """Return the line with the size of a chunk, by the bytes of the chunk; too long a one where none has so many."""
    count = 16**_SIZE_DIGITS + _SIZE_DIGITS + 4
    lines = [bytes(count)] * count
    for size in range(1, 16**_SIZE_DIGITS):
        line = b"%x\r\n" % size
        lines[len(line) + size + 2] = line
    return lines


_SIZE_LINES: Final = _size_lines()
_CHUNKS: Final = len(_SIZE_LINES)  # the bytes of all chunks that `forward` takes are fewer


class Pump(Protocol):
    """The writer of the stream, as far as a Bypass uses it."""

    stream: Stream
    overhead: Callable[[float], object]
    is_ordinary: Callable[[bytes], bool]

    @property
    def surroundings(self) -> tuple[bytes, bytes] | None:
        """What precedes and follows the text of ordinary frames that differ in nothing else; None if not known."""

    def bypassed(self, frames: list[bytes], times: list[float], at: float) -> None:
        """Append frames that were forwarded; the last one came `at`, those with text at `times`."""

    def note(self, frames: list[bytes], at: float, times: list[float]) -> None:
        """Read frames that are not ordinary; append `at` to `times` for each with text."""

    def take_events(self, frames: list[bytes], chunks: bytes, at: float) -> bool:
        """Append a read that consists of complete events to the log."""

    def reader_failed(self, fault: Exception) -> bool:
        """Stop reading frames, because the reader has raised; return False."""

    def failed(self, fault: Exception) -> None:
        """End the stream, because forwarded events could not be appended to the log."""


class Bypass:
    """Forwards events to the one follower of a stream, from its creation until `end`."""

    __slots__ = (
        "_at",
        "_exchange",
        "_frames",
        "_head",
        "_is_ordinary",
        "_most",
        "_pump",
        "_reads",
        "_tail",
        "_times",
        "_unsent_bytes",
        "_write",
    )

    def __init__(self, pump: Pump, exchange: Exchange, transport: Transport) -> None:
        self._pump = pump
        self._is_ordinary = pump.is_ordinary
        self._exchange = exchange
        self._write = transport.write
        self._unsent_bytes = transport.get_write_buffer_size
        self._frames: list[bytes] = []  # forwarded, and not in the log yet
        self._reads: list[
            bytes
        ] = []  # the same, after `_frames`: the chunks of one frame each, from which it is cut later
        self._times: list[float] = []  # when each of them with text came
        self._at = 0.0  # when the last one came
        self._head = self._tail = b""  # what precedes the text of an ordinary frame, and what follows it in its chunk
        self._most = min(_FRAMES, pump.stream.frames_ahead)  # the most frames that may be forwarded before settling
        self._redirect()

    @property
    def fed_at(self) -> float:
        """When the last event came, in monotonic seconds."""
        return self._at if self._frames or self._reads else self._pump.stream.fed_at

    @property
    def unsettled(self) -> list[bytes]:
        """The frames that were forwarded and are not in the log yet."""
        if self._reads:
            self._cut()
        return self._frames

    def forward(self, data: bytes, at: float) -> bool:
        """Forward a read that is one chunk with one ordinary frame, as most are: in this one call, without parsing.

        The chunk must be as `http.chunk` writes it. Return False, having done nothing, for any other read, and while
        earlier bytes wait to be sent.
        """
        size_bytes = len(data)
        if size_bytes >= _CHUNKS:
            return False
        size = _SIZE_LINES[size_bytes]
        start = len(size)
        begin = start + len(self._head)
        end = size_bytes - len(self._tail)
        if begin >= end or not (data.startswith(size) and data.endswith(self._tail)) or data[start:begin] != self._head:
            return False
        text = data[begin:end]
        if 34 in text or 10 in text or 13 in text:  # a quotation mark, which may end the text, LF or CR
            return False
        try:
            if self._unsent_bytes():
                return False
            self._write(data)
        except Exception:  # as in take_events
            return False
        self._reads.append(data)
        self._times.append(at)
        self._at = at
        if size_bytes > _LONG_READ or len(self._reads) + len(self._frames) >= self._most:
            self._pump.overhead(monotonic() - at)
            self.settle()
        return True

    def take_events(self, frames: list[bytes], chunks: bytes, at: float) -> bool:
        """Forward a read that consists of complete events.

        It goes through the log instead while earlier bytes wait to be sent, because the log enforces the limits.
        """
        try:
            if self._unsent_bytes():
                return self._log(frames, chunks, at)
            self._write(chunks)
        except Exception:  # uvloop's RuntimeError, of a connection that was lost a moment ago; the sink deals with any
            return self._log(frames, chunks, at)
        if self._reads:
            self._cut()
        self._frames += frames
        self._at = at
        try:
            ordinary = len(frames) == 1 and self._is_ordinary(frames[0])
        except Exception as fault:
            ordinary = self._pump.reader_failed(fault)
            self._is_ordinary = self._pump.is_ordinary
        if ordinary:
            self._times.append(at)
        else:
            self._pump.note(frames, at, self._times)
            if self._pump.stream.bypass is self:
                self._redirect()  # frames may have other surroundings now
        if len(self._frames) >= self._most or len(chunks) > _LONG_READ:
            self._pump.overhead(monotonic() - at)
            self.settle()
        return True

    def settle(self) -> None:
        """Append the forwarded events to the log."""
        if self._reads:
            self._cut()
        frames, times = self._frames, self._times
        if frames:
            self._frames, self._times = [], []
            try:
                self._pump.bypassed(frames, times, self._at)
            except Exception as fault:
                self._pump.failed(fault)
            self._most = min(_FRAMES, self._pump.stream.frames_ahead)

    def end(self) -> None:
        """Settle, and stop forwarding."""
        self.settle()
        self._pump.stream.bypass = None
        self._exchange.redirect(self._pump.take_events)

    def _redirect(self) -> None:
        """Have reads come here: to `forward` first, if it is known what surrounds the text of ordinary frames."""
        surroundings = self._pump.surroundings
        if surroundings is None or surroundings[0].startswith(b":"):  # a comment is left to the full parsers
            self._exchange.redirect(self.take_events)
            return
        self._head, self._tail = surroundings[0], surroundings[1] + b"\r\n"
        self._exchange.redirect(self.take_events, self.forward)

    def _cut(self) -> None:
        """Cut the frames out of the reads that `forward` has taken."""
        self._frames += [read[read.find(b"\n") + 1 : -2] for read in self._reads]
        self._reads.clear()

    def _log(self, frames: list[bytes], chunks: bytes, at: float) -> bool:
        self.settle()
        return self._pump.take_events(frames, chunks, at)
