"""The log: one upstream response as append-only frames, and the one way it ended.

Keeps law 3 (frame n never changes, seqs are dense from 1) and law 4 (nothing after the seal).
The bytes of all frames are in few pieces, with a number for each frame that says where it ends: objects of their own
would take 48 bytes more for each. A piece that comes with many frames is kept as it is, since copying it when no cache
holds it takes as long as the rest of appending it; single frames are put into one piece that grows.
"""

from array import array
from bisect import bisect_left, bisect_right
from typing import Final

from proxy.stream.endings import Ending

FRAME_BYTES: Final = 8  # of memory that a frame takes beside its own bytes
_PIECE_BYTES: Final = 4096  # a piece is kept as it is from this size on
_BESIDE_PIECE_BYTES: Final = 33 + 16  # what bytes take beside what they hold, and their places in two lists
NO_FRAME: Final = 2**53 - 1
"""A number that no frame has, and that JavaScript has exactly."""

_NO_NUMBERS: Final[list[int]] = []


class FrameLog:
    """Append-only frames `start..end`, open, then sealed once with an Ending.

    `start` and `end` are offsets: frame number `seq` is at offset `seq - 1`. When a log grows beyond its limit, its
    oldest frames are dropped: `start` moves, and the frames keep their numbers. `tail` is the incomplete frame at the
    end; while the log is open, only those lines of it that followers in mode raw have been sent.
    An answer that is not an event stream is kept here, too: then each frame has the bytes of one read.
    """

    __slots__ = (
        "_begins", "_ends", "_growing", "_pieces", "_spare_bytes", "end", "ending", "outcome", "size_bytes", "start",
        "tail", "trimmed_bytes",
    )  # fmt: skip

    def __init__(self) -> None:
        self._pieces: list[bytes | bytearray] | None = None  # none of which grows any more; None: most logs have none
        self._begins: list[int] = _NO_NUMBERS  # how many bytes there were up to the beginning of each of them
        self._spare_bytes = 0  # that they take beside those of frames
        self._growing = bytearray()  # the last piece
        self._ends = array("Q")  # how many bytes there were up to the end of each of them, dropped frames included
        self.start = 0
        self.end = 0
        self.size_bytes = 0  # of the frames held
        self.trimmed_bytes = 0  # of the frames below start
        self.tail = b""
        self.ending: Ending | None = None
        self.outcome: Ending | None = None  # how the answer ended, if the frames show it before the response ends

    def extend(self, frames: list[bytes]) -> int:
        """Append frames; return their size in bytes. Raises: RuntimeError, when sealed."""
        if self.ending is not None:
            raise RuntimeError("the log is sealed")
        if len(frames) == 1:
            frame = frames[0]
            size = len(frame)
            self._growing += frame
            self._ends.append(self.trimmed_bytes + self.size_bytes + size)
            self.end += 1
            self.size_bytes += size
            return size
        return self.append(b"".join(frames), [len(frame) for frame in frames])

    def append(self, piece: bytes, sizes: list[int]) -> int:
        """Append frames in one piece; return their size in bytes. Raises: RuntimeError, when sealed."""
        if self.ending is not None:
            raise RuntimeError("the log is sealed")
        begin = end = self.trimmed_bytes + self.size_bytes
        if len(piece) < _PIECE_BYTES:
            self._growing += piece
        else:
            self._keep(piece, begin)
        ends: list[int] = []
        for size in sizes:
            end += size
            ends.append(end)
        self._ends.fromlist(ends)
        self.end += len(sizes)
        self.size_bytes += end - begin
        return end - begin

    def _keep(self, piece: bytes, begin: int) -> None:
        """Keep a piece as it is; before it there were `begin` bytes."""
        if self._pieces is None:
            self._pieces, self._begins = [], []
        growing = self._growing
        if growing:
            self._pieces.append(growing)
            self._begins.append(begin - len(growing))
            self._spare_bytes += _spare_bytes(growing)
            self._growing = bytearray()
        self._pieces.append(piece)
        self._begins.append(begin)
        self._spare_bytes += _BESIDE_PIECE_BYTES

    def seal(self, ending: Ending, tail: bytes = b"") -> None:
        """End the log. Raises: RuntimeError, when sealed."""
        if self.ending is not None:
            raise RuntimeError("the log is sealed")
        self.tail = tail
        self.ending = ending

    @property
    def is_cut_short(self) -> bool:
        """Return whether there may have been more frames than are here, of which some may have been sent to clients."""
        return self.ending is not None and self.ending.imposed

    @property
    def ending_seq(self) -> int:
        """Return the number of the event that tells of the log's ending, once it is sealed.

        One after the last frame's: a client that resumes after the last frame is sent the ending, and one that resumes
        after the ending is sent nothing. If there may have been more frames, one of them may have had that number, so
        the ending has a number that no frame has.
        """
        return NO_FRAME if self.is_cut_short else self.end + 1

    def seq_of(self, ending: Ending, offset: int) -> int:
        """Return the number of the event that tells a follower at `offset` how it ends.

        The cursor is repeated if the follower alone is ended: then it may go on there.
        """
        return self.ending_seq if ending is self.ending and offset == self.end else offset

    @property
    def frames(self) -> list[bytes]:
        """Return the frames held, from number `start` + 1 on."""
        return self.span(self.start, self.end)

    def overhead_bytes(self) -> int:
        """Return how much memory the frames take beside their own bytes."""
        growing = self._growing
        return len(self._ends) * FRAME_BYTES + self._spare_bytes + growing.__alloc__() - len(growing)

    def frame(self, offset: int) -> bytes:
        """Return the frame at an offset, `self.start <= offset < self.end`."""
        return self.content(offset, offset + 1)

    def span(self, start: int, end: int) -> list[bytes]:
        """Return the frames between two offsets, `self.start <= start <= end <= self.end`."""
        content, first = self.content(start, end), self.position(start)
        begin, frames = 0, []
        for ends_at in self._ends[start - self.start : end - self.start]:
            frames.append(content[begin : ends_at - first])
            begin = ends_at - first
        return frames

    def content(self, start: int, end: int) -> bytes:
        """Return the bytes of all frames between two offsets, as in `span`."""
        begin, stop = self.position(start), self.position(end)
        at = self.end_bytes - len(self._growing)
        if begin >= at:
            return bytes(self._growing[begin - at : stop - at])
        return self._gathered(begin, stop, at)

    def _gathered(self, begin: int, stop: int, growing_at: int) -> bytes:
        """Return the bytes from one position to another, of several pieces; the one that grows is at `growing_at`."""
        assert self._pieces is not None
        parts: list[bytes | bytearray] = []
        number = bisect_right(self._begins, begin) - 1
        while number < len(self._pieces) and self._begins[number] < stop:
            at = self._begins[number]
            parts.append(self._pieces[number][max(0, begin - at) : stop - at])
            number += 1
        if stop > growing_at:
            parts.append(self._growing[: stop - growing_at])
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)

    def reach(self, start: int, end: int, room_bytes: int) -> int:
        """Return how far a span may reach from `start` towards `end`: one frame at least, else `room_bytes`."""
        reached = self.start + bisect_right(self._ends, self.position(start) + room_bytes)
        return min(end, max(start + 1, reached))

    def trim(self, to_bytes: int, below: int) -> int:
        """Drop frames from the start, none at or above offset `below`, until at most `to_bytes` are left.

        Return the bytes dropped.
        """
        if self.size_bytes <= to_bytes:
            return 0
        count = min(bisect_left(self._ends, self.end_bytes - to_bytes) + 1, max(0, below - self.start))
        dropped = self.position(self.start + count) - self.trimmed_bytes
        self._drop(self.trimmed_bytes + dropped)
        del self._ends[:count]
        self.start += count
        self.size_bytes -= dropped
        self.trimmed_bytes += dropped
        return dropped

    def _drop(self, below: int) -> None:
        """Drop the bytes below a position."""
        at = self.end_bytes - len(self._growing)
        if below > at:
            del self._growing[: below - at]
        if self._pieces is None:
            return
        gone = bisect_right([*self._begins[1:], at], below)  # pieces of which nothing is left
        del self._pieces[:gone], self._begins[:gone]
        cut = below - self._begins[0] if self._pieces else 0
        if cut > 0:
            first = self._pieces[0]
            if isinstance(first, bytearray):
                del first[:cut]
            else:
                self._pieces[0] = first[cut:]  # copied, so that the rest is free memory
            self._begins[0] = below
        self._spare_bytes = sum([_spare_bytes(piece) for piece in self._pieces])

    @property
    def end_bytes(self) -> int:
        """Return how many bytes all frames have had so far, dropped ones included."""
        return self.trimmed_bytes + self.size_bytes

    def position(self, offset: int) -> int:
        """Return how many bytes come before the frame at an offset, `self.start <= offset <= self.end`.

        Bytes of dropped frames count, too.
        """
        return self._ends[offset - self.start - 1] if offset > self.start else self.trimmed_bytes

    def locate(self, offset_bytes: int) -> tuple[int, int]:
        """Return the offset of the frame that holds a byte, and the byte's place in it.

        The byte must be held: `trimmed_bytes <= offset_bytes <= end_bytes`.
        """
        offset = self.start + bisect_right(self._ends, offset_bytes)
        return offset, offset_bytes - self.position(offset)


def _spare_bytes(piece: bytes | bytearray) -> int:
    """Return how many bytes a piece takes beside those of frames."""
    return _BESIDE_PIECE_BYTES + (piece.__alloc__() - len(piece) if isinstance(piece, bytearray) else 0)
