"""What events and requests pass, in Python."""

import contextlib
from collections.abc import Iterable
from time import monotonic
from typing import Final, Protocol

LONG_READ: Final = 1024  # bytes; after a longer read other work is small in comparison
MOST_FRAMES: Final = 256  # that a `Forward` keeps
MOST_BYTES: Final = 64 * 1024  # that these have at most
_SIZE_DIGITS: Final = 3  # of the chunks that `Forward` takes


CHUNKED: Final = -1  # in place of the length of a body that is chunked
ResponseHead = tuple[int, bytes, list[tuple[bytes, bytes]], int, int]
"""Status, reason and headers of a response; the length of its body, or CHUNKED; and where that begins."""


class Transport(Protocol):
    """What is written to: the methods of asyncio's WriteTransport that are needed here."""

    def abort(self) -> None:
        """Close the connection at once."""

    def get_write_buffer_size(self) -> int:
        """Return how many bytes are waiting in this process to be sent."""

    def write(self, data: bytes) -> None:
        """Send bytes, or let them wait. Raises: RuntimeError (uvloop's) when the connection was just lost."""


def head(start_line: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the bytes of a message's head, including the blank line (RFC 9112 section 2.1)."""
    return b"\r\n".join([start_line, *map(b": ".join, headers), b"\r\n"])


def response_head(data: bytes) -> ResponseHead | None:
    """Return the parts of a response's head with which a read begins, if it is as most are; None: HTTP's parser has to.

    So it has one Content-Length, or is chunked, in no other way; it has no other body, and leaves the connection open.
    In Python to find that out takes longer than the parser does, so it has to for all of them.
    """
    return None


def chunked_body(data: bytes, begin: int) -> tuple[bytes, bool] | None:
    """Return the body in complete chunks, which are all that a read has from `begin` on, and whether they end it.

    None, if there is anything else: a part of a chunk, or one that is not written as `http.chunk` writes it; and
    always in Python, as above.
    """
    return None


def lost(writer: Transport) -> None:
    """Note that the connection of a writer, which `direct` returned, is lost, or is written to by others from now on.

    To be called before `connection_lost` returns: then the descriptor is closed, and its number given to another
    connection. Here it does nothing, since transports know it themselves.
    """


def write_all(transports: Iterable[Transport], data: bytes) -> list[Transport]:
    """Write the same bytes to each transport in which nothing waits to be sent; return the others.

    One that raises is among those: uvloop's does when its connection was just lost.
    """
    unsure = []
    for transport in transports:
        try:
            if transport.get_write_buffer_size():
                unsure.append(transport)
            else:
                transport.write(data)
        except Exception:
            unsure.append(transport)
    return unsure


def _size_lines() -> list[bytes]:
    """Return the line with the size of a chunk, by the bytes of the chunk; too long a one where none has so many."""
    count = LONG_READ + 1
    lines = [bytes(count)] * count
    for size in range(1, count):
        line = b"%x\r\n" % size
        whole = len(line) + size + 2
        if whole < count:
            lines[whole] = line
    return lines


_SIZE_LINES: Final = _size_lines()


class Forward:
    """Sends the events of one upstream to its clients, as they came, in one call each and without parsing them.

    It keeps their frames, until they are drained into a log.
    """

    __slots__ = ("_bytes", "_head", "_others", "_size", "_sizes", "_tail", "_times", "_write", "at", "delay_s", "room")

    def __init__(self, transports: tuple[Transport, ...]) -> None:
        """`transports`: of all clients, at least one."""
        self._write = transports[0].write
        self._size = transports[0].get_write_buffer_size
        self._others = transports[1:]
        self._head = self._tail = b""
        self._bytes = bytearray()  # of the frames that wait
        self._sizes: list[int] = []  # of each of them
        self._times: list[float] = []  # when each came, in monotonic seconds
        self.at = 0.0  # when the last one came
        self.delay_s = 0.0  # from a read to the end of its write, of the first that waits; 0: not known
        self.room = 0  # how many more may be taken

    @property
    def waiting(self) -> int:
        """How many frames wait to be drained."""
        return len(self._sizes)

    def surround(self, head: bytes, tail: bytes) -> None:
        """Note what precedes the text of an ordinary frame in its chunk, and what follows it there."""
        self._head, self._tail = head, tail

    def take(self, data: bytes, at: float) -> bool:
        """Forward a read that is chunks with one ordinary frame each; it came `at`, in monotonic seconds.

        Most reads are: one chunk, or several where there is much to do. They must be as `http.chunk` writes them.
        Return False, having done nothing, for any other read, for one with a long chunk, if there is no room for all,
        and while earlier bytes wait to be sent.
        """
        frame = self._frame(data)
        frames = [frame] if frame else self._frames(data)
        if not 0 < len(frames) <= min(self.room, MOST_FRAMES - len(self._sizes)):
            return False
        if len(self._bytes) + len(data) > MOST_BYTES and len(self._bytes) + sum(map(len, frames)) > MOST_BYTES:
            return False
        if not self.send(data):
            return False
        if not self._sizes:
            self.delay_s = monotonic() - at
        for frame in frames:
            self._keep(frame, at)
        return True

    def send(self, data: bytes) -> bool:
        """Write to each transport, if nothing waits to be sent in any of them; return whether it did.

        Not if the first one raises: uvloop's RuntimeError, of a connection that was lost a moment ago. Another one that
        raises lacks what those before it were sent, so its connection is aborted.
        """
        try:
            if self._size():
                return False
            for other in self._others:
                if other.get_write_buffer_size():
                    return False
            self._write(data)
        except Exception:
            return False
        for other in self._others:
            try:
                other.write(data)
            except Exception:
                with contextlib.suppress(Exception):
                    other.abort()
        return True

    def add(self, frame: bytes, at: float) -> bool:
        """Keep an ordinary frame that was forwarded by somebody else; return False if there is no room for it."""
        if self.room <= 0 or len(self._sizes) >= MOST_FRAMES or len(frame) > LONG_READ:
            return False
        if len(self._bytes) + len(frame) > MOST_BYTES:
            return False
        self._keep(frame, at)
        return True

    def drain(self, frames: Iterable[bytes] = ()) -> tuple[bytes, list[int], list[float]]:
        """Return the bytes of the frames that wait, the size of each, and when it came. None of them waits any more.

        With other `frames`, bytes and sizes have those, too, after them.
        """
        for frame in frames:
            self._bytes += frame
            self._sizes.append(len(frame))
        drained = bytes(self._bytes), self._sizes, self._times
        self._bytes.clear()
        self._sizes, self._times = [], []
        return drained

    def frames(self, first: int) -> list[bytes]:
        """Return the frames that wait, without the `first` ones."""
        begin, frames = sum(self._sizes[:first]), []
        for size in self._sizes[first:]:
            frames.append(bytes(self._bytes[begin : begin + size]))
            begin += size
        return frames

    def _keep(self, frame: bytes, at: float) -> None:
        self._bytes += frame
        self._sizes.append(len(frame))
        self._times.append(at)
        self.at = at
        self.room -= 1

    def _frame(self, chunk: bytes) -> bytes:
        """Return the frame of a chunk, if it has one and that is ordinary; otherwise no bytes."""
        size_bytes = len(chunk)
        if size_bytes > LONG_READ:
            return b""
        size = _SIZE_LINES[size_bytes]
        start, end = len(size), size_bytes - len(self._tail)
        begin = start + len(self._head)
        if begin >= end or not (
            chunk.startswith(size) and chunk.startswith(self._head, start) and chunk.endswith(self._tail)
        ):
            return b""
        text = chunk[begin:end]
        if 34 in text or 10 in text or 13 in text:  # a quotation mark, which may end the text, LF or CR
            return b""
        return chunk[start:-2]

    def _frames(self, data: bytes) -> list[bytes]:
        """Return the frames of the chunks that a read consists of; none, if they have not one ordinary frame each."""
        frames, start = [], 0
        while start < len(data):
            line_end = data.find(b"\r\n", start, start + _SIZE_DIGITS + 2)
            try:
                end = line_end + int(data[start:line_end], 16) + 4
            except ValueError:
                return []
            frame = self._frame(data[start:end]) if line_end > start else b""
            if not frame:
                return []
            frames.append(frame)
            start = end
        return frames


def events(data: bytes) -> list[bytes]:
    """Return the frames in `data` if it consists of complete chunks of one frame each, otherwise [].

    `data` must begin at a chunk boundary (RFC 9112 section 7.1). Only chunks that are written as `http.chunk` writes
    them are accepted, so they may be forwarded unchanged. Lines must end with LF, no frame may begin with a comment,
    and the first frame must be shorter than 4 KiB. Any other read is left to the full parsers, of HTTP and of SSE.
    """
    if 13 not in data[1:4]:  # a size of four digits, 4 KiB or more: searching for four bytes costs 2.5 ns a byte
        return []
    size, _, rest = data.partition(b"\r\n")
    frame = rest[:-2]
    one = size == b"%x" % len(frame) and rest.endswith(b"\n\n\r\n")  # the usual case, in half the time of the loop
    if one and frame.find(b"\n\n") == len(frame) - 2 and 13 not in frame and frame[0] not in b":\n":
        return [frame]
    *chunks, rest = data.split(b"\n\n\r\n")
    if rest:
        return []
    frames = []
    for chunk in chunks:
        size, line_end, text = chunk.partition(b"\r\n")
        if not line_end or size != b"%x" % (len(text) + 2) or 13 in text or text[:1] == b":":
            return []
        if 10 in text and b"" in text.split(b"\n"):  # a blank line
            return []
        frames.append(text + b"\n\n")
    return frames


def data_frames(data: bytes) -> list[bytes]:
    """Return the frames in `data` if each is one line, which begins with `data: `, and a blank one; otherwise [].

    It is the usual case: 0.2 us a frame, where cutting them one by one takes 0.7 and a regular expression 2
    (tests/bench/micro.py). Lines must end with LF. A text between frames is found faster than a line end.
    """
    if not (data.startswith(b"data: ") and data.endswith(b"\n\n")) or 13 in data:
        return []
    if data.find(b"\n") == len(data) - 2:
        return [data]
    lines = data[6:-2].split(b"\n\ndata: ")
    if 10 in b"".join(lines):  # some have other fields, or more lines
        return []
    return [b"data: %b\n\n" % line for line in lines]
