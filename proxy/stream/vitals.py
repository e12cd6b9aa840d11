"""Measurements of one stream: when its first byte, token and answer text came, and the gaps between tokens.

Pure: every time is passed in, in seconds of one monotonic clock. Frames are parsed by the dialect's Reader; of a frame
that it calls ordinary only the time is noted. Gaps are computed from the times for many frames at once, which is faster
than for each.
"""

from array import array
from bisect import bisect_left, bisect_right
from typing import Final

from proxy.dialects.dialect import Dialect, TextKind
from proxy.wire.sse import payload

GAP_BUCKETS_S: Final[tuple[float, ...]] = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2,
    0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10, 30, 60,
)  # fmt: skip
_LONG_S: Final = 1.0  # gaps that are longer are remembered one by one
_REMEMBERED: Final = 20  # of them, the longest


class Vitals:
    """Times and counts of one stream, from the arrival of its request on."""

    __slots__ = (
        "_gap_counts",
        "_packed_counts",
        "dialect",
        "first_byte_at",
        "first_content_at",
        "first_token_at",
        "gaps_s",
        "last_token_at",
        "long_gaps",
        "model",
        "reader",
        "started_at",
        "times",
    )

    def __init__(self, dialect: Dialect, started_at: float, model: str | None = None) -> None:
        self.dialect = dialect
        self.reader = dialect.frames.reader()
        self.started_at = started_at
        self.first_byte_at = 0.0
        self.first_token_at = 0.0
        self.first_content_at = 0.0
        self.last_token_at = 0.0
        self.model = model  # the requested one, until a frame names one
        self.times: list[float] = []  # of frames with generated text since the last fold, but the first
        self._gap_counts: list[int] | None = None
        self._packed_counts: array[int] | None = None  # the same, once nothing is counted any more
        self.gaps_s = 0.0
        self.long_gaps: list[tuple[float, float]] | None = None  # from when to when: the longest over a second

    def note(self, frames: list[bytes], at: float, times: list[float]) -> bool:
        """Note the frames of a read; return whether any has data.

        For each frame with generated text, except the stream's first, `at` is appended to `times`.
        """
        self.first_byte_at = self.first_byte_at or at
        reader, has_data = self.reader, False
        ordinary, note = reader.ordinary, reader.note
        follows_text = self.first_token_at > 0  # as a rule, only a frame that follows a text is ordinary
        for frame in frames:
            if follows_text and ordinary(frame):
                times.append(at)
                has_data = True
                continue
            kind = note(frame)
            follows_text = kind is not None
            if kind is not None:
                self._count(kind, at, times)
                has_data = True
            elif not has_data:
                has_data = frame.startswith(b"data:") or payload(frame) is not None
        if self.model is None:
            self.model = reader.model
        return has_data

    def _count(self, kind: TextKind, at: float, times: list[float]) -> None:
        if self.first_token_at:
            times.append(at)
        else:
            self.first_token_at = self.last_token_at = at
        if kind is TextKind.CONTENT and not self.first_content_at:
            self.first_content_at = at

    @property
    def gap_counts(self) -> list[int] | None:
        """How many gaps are in each bucket; None if there were none."""
        return self._gap_counts if self._packed_counts is None else list(self._packed_counts)

    def pack(self) -> None:
        """Take less memory, since the stream has ended."""
        if self._gap_counts is not None:
            self._packed_counts, self._gap_counts = array("I", self._gap_counts), None

    def fold(self) -> None:
        """Count the gaps between the times so far."""
        times = self.times
        if not times:
            return
        counts = self._gap_counts
        if counts is None:
            counts = self._gap_counts = [0] * (len(GAP_BUCKETS_S) + 1)
        last, apart = self.last_token_at, times
        if times[0] == times[-1]:  # of one read: no gaps but the first
            counts[0] += len(times) - 1
            apart = times[:1]
        gaps = []
        for at in apart:
            gaps.append(at - last)
            last = at
        self.gaps_s += last - self.last_token_at
        _count_gaps(gaps, counts)
        if gaps[-1] > _LONG_S:
            self._remember(apart)
        self.last_token_at = last
        times.clear()

    def _remember(self, times: list[float]) -> None:
        """Remember the long gaps before each of these times; `last_token_at` is the time before the first."""
        gaps, last = self.long_gaps or [], self.last_token_at
        for at in times:
            if at - last > _LONG_S:
                gaps.append((last, at))
            last = at
        gaps.sort(key=lambda gap: gap[0] - gap[1])
        self.long_gaps = gaps[:_REMEMBERED]


def _count_gaps(gaps: list[float], counts: list[int]) -> None:
    """Sort gaps, and add to `counts` how many are in each bucket.

    A search for each bucket takes less than one for each gap, as nearly all gaps of a stream are in few buckets.
    """
    gaps.sort()
    bucket, counted = bisect_left(GAP_BUCKETS_S, gaps[0]), 0
    while bucket < len(GAP_BUCKETS_S) and counted < len(gaps):
        up_to = bisect_right(gaps, GAP_BUCKETS_S[bucket])
        counts[bucket] += up_to - counted
        counted = up_to
        bucket += 1
    counts[bucket] += len(gaps) - counted  # longer than all buckets, if any is left
