"""The log: one upstream answer as append-only frames, and the one way it ended.

Keeps law 3 (frame n never changes, seqs are dense from 1) and law 4 (nothing after the seal).
"""

from typing import NamedTuple


class Ending(NamedTuple):
    """How a log ended: complete, failed or cancelled; exactly one per log.

    `reason` is the word of the metric's label, `message` what a follower is told. `clean`: the log's own last
    frames say all there is (its end, or an error event of the upstream's), so followers get a proper close.
    """

    reason: str
    message: str = ""
    clean: bool = False


COMPLETE = Ending("complete", clean=True)


class FrameLog:
    """Append-only frames `start..end`, open, then sealed once with an Ending.

    `start` and `end` are offsets: frame number `seq` stands at offset `seq - 1`. When a log is longer than it
    may be it keeps a window: `start` moves, seq never does. `tail` is what came after the last whole frame.
    """

    __slots__ = ("end", "ending", "frames", "size_bytes", "start", "tail", "trimmed_bytes")

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.start = 0
        self.end = 0
        self.size_bytes = 0  # of the frames held
        self.trimmed_bytes = 0  # of the frames below start
        self.tail = b""
        self.ending: Ending | None = None

    def extend(self, frames: list[bytes]) -> int:
        """Append frames; return their size in bytes. Raises: RuntimeError, when sealed."""
        if self.ending is not None:
            raise RuntimeError("the log is sealed")
        self.frames += frames
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

    def span(self, start: int, end: int) -> list[bytes]:
        """Return the frames between two offsets, `self.start <= start <= end <= self.end`."""
        return self.frames[start - self.start : end - self.start]

    def trim(self, to_bytes: int, below: int) -> int:
        """Drop frames from the start, none at or above offset `below`, until at most `to_bytes` are left.

        Return the bytes dropped.
        """
        count, dropped = 0, 0
        for frame in self.frames[: max(0, below - self.start)]:
            if self.size_bytes - dropped <= to_bytes:
                break
            dropped += len(frame)
            count += 1
        del self.frames[:count]
        self.start += count
        self.size_bytes -= dropped
        self.trimmed_bytes += dropped
        return dropped

    @property
    def end_bytes(self) -> int:
        """The offset in bytes behind the last whole frame."""
        return self.trimmed_bytes + self.size_bytes

    def locate(self, offset_bytes: int) -> tuple[int, int]:
        """Return the offset of the frame that holds a byte, and the byte's place in it.

        The byte must be held: `trimmed_bytes <= offset_bytes <= end_bytes`.
        """
        place = self.trimmed_bytes
        for index, frame in enumerate(self.frames):
            if offset_bytes < place + len(frame):
                return self.start + index, offset_bytes - place
            place += len(frame)
        return self.end, 0
