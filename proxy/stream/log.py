"""The log: one upstream response as append-only frames, and the one way it ended.

Keeps law 3 (frame n never changes, seqs are dense from 1) and law 4 (nothing after the seal).
"""

from array import array
from bisect import bisect_left, bisect_right
from itertools import accumulate

from proxy.stream.endings import Ending

FRAME_BYTES = 48  # of memory that a frame takes beside its own bytes: a header of 33, a pointer of 8, rounding
_PACKED_FRAME_BYTES = 4  # the same in a log that is packed
_WORTH_PACKING = 32  # frames
NO_FRAME = 2**53 - 1
"""A number that no frame has, and that JavaScript has exactly."""
_STRIDE = 1024  # frames between two marks: finding a byte looks at no more frames than this


class FrameLog:
    """Append-only frames `start..end`, open, then sealed once with an Ending.

    `start` and `end` are offsets: frame number `seq` is at offset `seq - 1`. When a log grows beyond its limit, its
    oldest frames are dropped: `start` moves, and the frames keep their numbers. `tail` is the incomplete frame at the
    end; while the log is open, only those lines of it that followers in mode raw have been sent.
    An answer that is not an event stream is kept here, too: then each frame has the bytes of one read.
    """

    __slots__ = (
        "_ends", "_frames", "_marks", "_packed", "_places", "end", "ending", "outcome", "size_bytes", "start", "tail",
        "trimmed_bytes",
    )  # fmt: skip

    def __init__(self) -> None:
        self._frames: list[bytes] = []  # empty while they are packed
        self._packed = b""  # all frames, of a log that nobody reads
        self._ends: array[int] | None = None  # of each of them
        self.start = 0
        self.end = 0
        self.size_bytes = 0  # of the frames held
        self.trimmed_bytes = 0  # of the frames below start
        self.tail = b""
        self.ending: Ending | None = None
        self.outcome: Ending | None = None  # how the answer ended, if the frames show it before the response ends
        # Offsets, at most _STRIDE frames apart, and how many bytes come before each, dropped ones included. None for
        # each while there are none, as in most logs: what is kept by the thousand has no lists that it does not need.
        self._marks: list[int] | None = None
        self._places: list[int] | None = None

    def extend(self, frames: list[bytes]) -> int:
        """Append frames; return their size in bytes. Raises: RuntimeError, when sealed."""
        if self.ending is not None:
            raise RuntimeError("the log is sealed")
        self._frames += frames
        self.end += len(frames)
        size = len(frames[0]) if len(frames) == 1 else sum(map(len, frames))
        self.size_bytes += size
        return size

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
        if self._ends is not None:
            self.unpack()
        return self._frames

    @property
    def is_packed(self) -> bool:
        """Return whether the frames are kept in one piece."""
        return self._ends is not None

    @property
    def overhead_bytes(self) -> int:
        """Return how much memory the frames take beside their own bytes."""
        return len(self._frames) * FRAME_BYTES if self._ends is None else len(self._ends) * _PACKED_FRAME_BYTES

    def pack(self) -> None:
        """Keep the frames in one piece until they are read, which takes less memory; only if the log is sealed."""
        frames = self._frames
        if self.ending is None or len(frames) < _WORTH_PACKING or self.size_bytes >= 1 << 32:
            return
        self._ends = array("I", accumulate(map(len, frames)))
        self._packed = b"".join(frames)
        self._frames = []

    def unpack(self) -> None:
        """Keep the frames one by one again."""
        packed, ends = self._packed, self._ends
        if ends is not None:
            starts = [0, *ends]
            self._frames = [packed[starts[place] : end] for place, end in enumerate(ends)]
            self._packed, self._ends = b"", None

    def span(self, start: int, end: int) -> list[bytes]:
        """Return the frames between two offsets, `self.start <= start <= end <= self.end`."""
        if self._ends is not None:
            return self._packed_span(self._ends, start - self.start, end - self.start)
        return self._frames[start - self.start : end - self.start]

    def _packed_span(self, ends: "array[int]", first: int, after: int) -> list[bytes]:
        """Return frames of a packed log, which stays packed."""
        starts = [ends[first - 1] if first else 0, *ends[first:after]]
        return [self._packed[starts[place] : end] for place, end in enumerate(ends[first:after])]

    def reach(self, start: int, end: int, room_bytes: int) -> int:
        """Return how far a span may reach from `start` towards `end`: one frame at least, else `room_bytes`."""
        frames = self.frames
        for index in range(start - self.start, end - self.start):
            room_bytes -= len(frames[index])
            if room_bytes < 0:
                return max(start + 1, self.start + index)
        return end

    def trim(self, to_bytes: int, below: int) -> int:
        """Drop frames from the start, none at or above offset `below`, until at most `to_bytes` are left.

        Return the bytes dropped.
        """
        count, dropped = 0, 0
        frames = self.frames
        for frame in frames[: max(0, below - self.start)]:
            if self.size_bytes - dropped <= to_bytes:
                break
            dropped += len(frame)
            count += 1
        del frames[:count]
        self.start += count
        self.size_bytes -= dropped
        self.trimmed_bytes += dropped
        if self._marks is not None and self._places is not None:
            gone = bisect_left(self._marks, self.start)
            del self._marks[:gone], self._places[:gone]
        return dropped

    @property
    def end_bytes(self) -> int:
        """Return how many bytes all frames have had so far, dropped ones included."""
        return self.trimmed_bytes + self.size_bytes

    def position(self, offset: int) -> int:
        """Return how many bytes come before the frame at an offset, `self.start <= offset <= self.end`.

        Bytes of dropped frames count, too.
        """
        self.mark()
        at, place = self._marked(0 if self._marks is None else bisect_right(self._marks, offset))
        return place + sum(map(len, self.span(at, offset)))

    def locate(self, offset_bytes: int) -> tuple[int, int]:
        """Return the offset of the frame that holds a byte, and the byte's place in it.

        The byte must be held: `trimmed_bytes <= offset_bytes <= end_bytes`.
        """
        self.mark()
        at, place = self._marked(0 if self._places is None else bisect_right(self._places, offset_bytes))
        for index, frame in enumerate(self.span(at, at + _STRIDE), at):
            if offset_bytes < place + len(frame):
                return index, offset_bytes - place
            place += len(frame)
        return self.end, 0

    def mark(self) -> None:
        """Add marks for the frames since the last mark. Fast if it is called regularly."""
        marks, places = self._marks, self._places
        if marks is None or places is None:
            if self.end - self.start <= _STRIDE:
                return
            marks, places = self._marks, self._places = [], []
        at, place = self._marked(len(marks))
        while self.end - at > _STRIDE:
            place += sum(map(len, self.span(at, at + _STRIDE)))
            at += _STRIDE
            marks.append(at)
            places.append(place)

    def _marked(self, count: int) -> tuple[int, int]:
        """Return mark number `count`, or the log's start if `count` is 0: its offset, and the bytes before it."""
        marks, places = self._marks, self._places
        if not count or marks is None or places is None:
            return self.start, self.trimmed_bytes
        return marks[count - 1], places[count - 1]
