"""What is measured of one stream: when its first byte, token and answer text came, and the gaps between tokens.

Pure: every time is handed in, in seconds of one monotonic clock. JSON is read until the first token and, while
the model thinks, until the first answer text. Afterwards a read leaves just its time and the log's end behind;
gaps are made of them now and then, when the caches are warm for it.
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
        "_counted",
        "dialect",
        "first_byte_at",
        "first_content_at",
        "first_token_at",
        "gap_counts",
        "gaps_s",
        "last_token_at",
        "model",
        "reads",
        "started_at",
        "summary",
    )

    def __init__(self, dialect: Dialect, started_at: float) -> None:
        self.dialect = dialect
        self.started_at = started_at
        self.first_byte_at = 0.0
        self.first_token_at = 0.0
        self.first_content_at = 0.0
        self.last_token_at = 0.0
        self.model: str | None = None
        self.reads: list[tuple[float, int]] = []  # since the last fold: the time, and the log's end after it
        self.gap_counts: list[int] | None = None
        self.gaps_s = 0.0
        self.summary = Summary()
        self._counted = 0  # the log's end at the last token counted

    def early(self, frames: list[bytes], at: float, end: int) -> None:
        """Look into the frames of a read while the first answer text has not come; `end` is the log's after them."""
        for seq, frame in enumerate(frames, end - len(frames) + 1):
            self._look(frame, at, seq)

    def fold(self) -> None:
        """Count the gaps of the reads so far. Those within a read are 0."""
        counts = self.gap_counts
        if counts is None:
            counts = self.gap_counts = [0] * (len(GAP_BUCKETS_S) + 1)
        for at, end in self.reads:
            gap = at - self.last_token_at
            counts[bisect_left(GAP_BUCKETS_S, gap)] += 1
            counts[0] += end - self._counted - 1
            self.gaps_s += gap
            self.last_token_at = at
            self._counted = end
        self.reads.clear()

    def conclude(self, frames: list[bytes], end: int) -> None:
        """Read usage and finish reason from the last frames of a log that ends at `end`; count what is left."""
        last = frames[-_LAST_FRAMES:]
        self.summary = self.dialect.summary(last)
        while last and self.dialect.finishing(last[-1]):
            last.pop()
            end -= 1
        # Reads that brought only the finish carry no token.
        reads = [(at, min(until, end)) for at, until in self.reads]
        self.reads = [r for before, r in zip([(0.0, self._counted), *reads], reads, strict=False) if r[1] > before[1]]
        self.fold()

    def _look(self, frame: bytes, at: float, seq: int) -> None:
        """Look into a frame that may be the first with generated text, or with answer text."""
        dialect = self.dialect
        if self.first_content_at or (self.first_token_at and dialect.thinking(frame)):
            self.reads.append((at, seq))
            return
        if self.model is None:
            self.model = dialect.model(frame)
        kind = dialect.generated(frame)
        if kind is None:
            return
        if self.first_token_at:
            self.reads.append((at, seq))
        else:
            self.first_token_at = self.last_token_at = at
            self._counted = seq
        if kind is not Text.REASONING:
            self.first_content_at = at
