"""What is measured of one stream: when its first byte, token and answer text came, and the gaps between tokens.

Pure: every time is handed in, in seconds of one monotonic clock. JSON is read until the first token and, while
the model thinks, until the first answer text. Afterwards a frame leaves just its time behind; gaps are made of
the times now and then, when the caches are warm for it.
"""

import operator
from bisect import bisect_left
from collections.abc import Sequence

from proxy.dialects.dialect import Dialect, Summary, TextKind
from proxy.wire.sse import payload

GAP_BUCKETS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2,
    0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10, 30, 60,
)  # fmt: skip
_COLON = 58  # begins a comment
_FIRST = operator.itemgetter(0)  # of a frame: its first byte
_NOTHING = Summary()
_LAST_FRAMES = 6  # finish reason, usage and [DONE], comments between them, are not further from the end


class Vitals:
    """Times and counts of one stream, from the arrival of its request on."""

    __slots__ = (
        "dialect",
        "first_byte_at",
        "first_content_at",
        "first_token_at",
        "gap_counts",
        "gaps_s",
        "last_token_at",
        "model",
        "started_at",
        "summary",
        "times",
    )

    def __init__(self, dialect: Dialect, started_at: float, model: str | None = None) -> None:
        self.dialect = dialect
        self.started_at = started_at
        self.first_byte_at = 0.0
        self.first_token_at = 0.0
        self.first_content_at = 0.0
        self.last_token_at = 0.0
        self.model = model  # that was asked for, until a frame names one
        self.times: list[float] = []  # of the frames with generated text since the last fold, one each
        self.gap_counts: list[int] | None = None
        self.gaps_s = 0.0
        self.summary = _NOTHING

    def early(self, frames: list[bytes], at: float) -> bool:
        """Look into the frames of a read while the first answer text has not come; return what `note` does."""
        for looked, frame in enumerate(frames):
            if self.first_content_at:
                return self.note(frames[looked:], at) or looked > 0
            if not self.first_token_at or not self.dialect.frames.thinking(frame):
                self._look(frame, at)
            elif _is_told(frame):
                self.times.append(at)
        return _told(frames) > 0

    def note(self, frames: list[bytes], at: float) -> bool:
        """Take note of the frames of a read after the first answer text; return whether any is more than a comment."""
        told = _told(frames)
        self.times += [at] * told
        return told > 0

    def fold(self, but: int = _LAST_FRAMES) -> None:
        """Count the gaps between the times so far, but for the last few: they may turn out to carry no token."""
        times = self.times[:-but] if but else self.times
        if not times:
            return
        counts = self.gap_counts
        if counts is None:
            counts = self.gap_counts = [0] * (len(GAP_BUCKETS_S) + 1)
        last, apart = self.last_token_at, times
        if times[0] == times[-1]:  # of one read: no gaps but the first
            counts[0] += len(times) - 1
            apart = times[:1]
        for at in apart:
            counts[bisect_left(GAP_BUCKETS_S, at - last) if at > last else 0] += 1  # 0 between frames of one read
            last = at
        self.gaps_s += last - self.last_token_at
        self.last_token_at = last
        del self.times[: len(times)]

    def conclude(self, frames: list[bytes], hidden: Sequence[bytes] = ()) -> None:
        """Read usage and finish reason from a log's last frames, and count the gaps that are left."""
        last, times = frames[-_LAST_FRAMES:], self.times
        self.summary = self.dialect.frames.summary([*last, *hidden] if hidden else last)
        # The last frames bring the finish, usage, [DONE]: no token, though they were taken for one, comments aside.
        textless = last[self.summary.last_text + 1 :]
        if not self.first_content_at:
            textless = list(filter(self.dialect.frames.thinking, textless))
        del times[max(0, len(times) - _told(textless)) :]
        self.fold(but=0)

    def _look(self, frame: bytes, at: float) -> None:
        """Look into a frame that may be the first with generated text, or with answer text."""
        self.model, kind = self.dialect.frames.generated(frame, self.model)
        if kind is None:
            return
        if self.first_token_at:
            self.times.append(at)
        else:
            self.first_token_at = self.last_token_at = at
        if kind is not TextKind.REASONING:
            self.first_content_at = at


def _told(frames: list[bytes]) -> int:
    """Count the frames that are more than a comment."""
    if _COLON not in map(_FIRST, frames):
        return len(frames)
    return sum(map(_is_told, frames))


def _is_told(frame: bytes) -> bool:
    return frame[0] != _COLON or payload(frame) is not None
