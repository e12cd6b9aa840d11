"""What is measured of one stream: when its first byte, token and answer text came, and the gaps between tokens.

Pure: every time is handed in, in seconds of one monotonic clock. JSON is read until the first token and, while
the model thinks, until the first answer text; afterwards a frame costs two searches in its bytes.
"""

from bisect import bisect_left

from proxy.wire.dialect import Dialect, Summary, Text

GAP_BUCKETS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2,
    0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10, 30, 60,
)  # fmt: skip
_LAST_FRAMES = 4  # finish reason, usage and [DONE] are never further from the end


class Vitals:
    """Times and counts of one stream, from the arrival of its request on."""

    __slots__ = (
        "dialect",
        "first_byte_at",
        "first_content_at",
        "first_token_at",
        "frames",
        "gap_counts",
        "gaps_s",
        "last_token_at",
        "model",
        "started_at",
        "summary",
        "upstream_bytes",
    )

    def __init__(self, dialect: Dialect, started_at: float) -> None:
        self.dialect = dialect
        self.started_at = started_at
        self.first_byte_at = 0.0
        self.first_token_at = 0.0
        self.first_content_at = 0.0
        self.last_token_at = 0.0
        self.model: str | None = None
        self.frames = 0
        self.upstream_bytes = 0
        self.gap_counts: list[int] | None = None
        self.gaps_s = 0.0
        self.summary = Summary()

    def observe(self, frames: list[bytes], at: float) -> None:
        """Take note of the frames of one read."""
        self.frames += len(frames)
        if self.first_content_at:
            if not self.dialect.finishing(frames[-1]):
                self._gap(at, len(frames))
            return
        for frame in frames:
            self._early(frame, at)

    def conclude(self, frames: list[bytes]) -> None:
        """Read usage and finish reason from the stream's frames, once it has ended."""
        self.summary = self.dialect.summary(frames[-_LAST_FRAMES:])

    def _early(self, frame: bytes, at: float) -> None:
        """Look into a frame that may be the first with generated text, or with answer text."""
        dialect = self.dialect
        if self.first_token_at and dialect.thinking(frame):
            self._gap(at, 1)
            return
        if self.model is None:
            self.model = dialect.model(frame)
        kind = dialect.generated(frame)
        if kind is None:
            return
        if self.first_token_at:
            self._gap(at, 1)
        else:
            self.first_token_at = self.last_token_at = at
        if kind is not Text.REASONING:
            self.first_content_at = at

    def _gap(self, at: float, frames: int) -> None:
        counts = self.gap_counts
        if counts is None:
            counts = self.gap_counts = [0] * (len(GAP_BUCKETS_S) + 1)
        gap = at - self.last_token_at
        counts[bisect_left(GAP_BUCKETS_S, gap)] += 1
        counts[0] += frames - 1  # those that came in the same read
        self.gaps_s += gap
        self.last_token_at = at
