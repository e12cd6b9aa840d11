"""Which followers are advanced together, and when: at once with every read, or at a pace.

Knows what to advance, not how: a Member's `advance` does it. Keeps law 6 (independence): a sweep over many members
is cut into slices, so that other streams' turn comes between them.
"""

import heapq
from collections.abc import Callable
from itertools import count
from typing import Any, Protocol

from proxy.stream.background import BackgroundLoop
from proxy.stream.rank import Ranks

# Cursors advanced in one turn of the loop, and a rank more: at about 10 us a delivery, other streams wait 3 ms at most.
SLICE = 256


class Member(Protocol):
    """A cursor in a cohort: a subscription, or a rank of them."""

    parked: bool  # sweeps pass over it

    @property
    def size(self) -> int:
        """How many followers it advances."""

    def advance(self) -> None:
        """Go to the log's end, as far as the sink takes it."""

    def line_up(self, ranks: Ranks) -> "Member":
        """Return whom sweeps shall visit for it from now on: itself, or the rank that it has joined."""


class Cohort:
    """The followers of one stream that are advanced at the same moments: here, with every read."""

    __slots__ = ("_again", "_call_soon", "_last", "_sweep", "live", "ragged", "stale")

    def __init__(self, call_soon: Callable[..., Any]) -> None:
        self.live: list[Member] = []  # all but the parked; those parked since the last sweep may be in it
        self.stale = False  # some of the live ones are parked
        self.ragged = False  # some of the live ones may stand abreast, and are in no rank
        self._call_soon = call_soon
        self._sweep: list[Member] | None = None  # whom the one that is going on has yet to visit, the next one last
        self._again = False
        self._last = False

    def advance(self) -> None:
        """Advance every live member, in this turn of the loop, or in slices when they are many."""
        if self.stale:
            self.drop_parked()
        if self._sweep is not None:
            self._again = True
            return
        self._sweep = self.live[::-1]
        if self._last:
            self.live = []  # a kept stream does not hold the connections of those who followed it
        self._advance_slice()

    def conclude(self) -> None:
        """Advance for the last time: the log is sealed. Who is parked ends by its own advance."""
        self._last = True
        self.advance()

    def drop_parked(self) -> None:
        """Leave the parked out of the live ones."""
        self.live = [member for member in self.live if not member.parked]
        self.stale = False

    def _advance_slice(self) -> None:
        sweep, visited = self._sweep, 0
        assert sweep is not None
        try:
            while sweep and visited < SLICE:
                member = sweep.pop()
                if not member.parked:
                    visited += member.size
                    member.advance()
        except BaseException:
            self._sweep = None  # over: the next one visits all, and the last one ends them
            raise
        if sweep:
            self._call_soon(self._advance_slice)
            return
        self._sweep = None
        if self.ragged:
            self._line_up()
        if self._again:
            self._again = False
            self.advance()

    def _line_up(self) -> None:
        """Have those who stand abreast visited as one. After a sweep: then all do who could be written to."""
        ranks: Ranks = {}
        if len(self.live) > 1:
            self.live = list(dict.fromkeys([member.line_up(ranks) for member in self.live]))
        self.ragged = False


class Pacer:
    """The one timer of all paced cohorts: calls each when it is due."""

    __slots__ = ("_call_later", "_due", "_number", "background", "time")

    def __init__(self, call_later: Callable[..., Any], time: Callable[[], float]) -> None:
        """`time` is in seconds; `call_later` takes seconds and what to call."""
        self._call_later = call_later
        self.time = time
        self.background = BackgroundLoop("pace", time)
        self._due: list[tuple[float, int, PacedCohort]] = []  # a heap
        self._number = count()

    def wake(self, cohort: "PacedCohort", after_s: float) -> None:
        """Call the cohort's `due` once, after so many seconds."""
        at = self.time() + after_s
        first = not self._due or at < self._due[0][0]
        heapq.heappush(self._due, (at, next(self._number), cohort))
        if first:
            self._call_later(after_s, self._ring)

    def _ring(self) -> None:
        now = self.time()
        while self._due and self._due[0][0] <= now:
            cohort = heapq.heappop(self._due)[2]
            with self.background:  # else nobody would ring for the others, nor ever again
                cohort.due()
        if self._due:
            self._call_later(self._due[0][0] - now, self._ring)


class PacedCohort(Cohort):
    """A cohort that lets frames gather, for `flush_ms` or until `flush_bytes` of them, so that they can be joined."""

    __slots__ = ("_flush_bytes", "_flush_s", "_held_bytes", "_pacer", "_waiting")

    def __init__(self, call_soon: Callable[..., Any], pacer: Pacer, flush_ms: int, flush_bytes: int) -> None:
        super().__init__(call_soon)
        self._pacer = pacer
        self._flush_s = flush_ms / 1000
        self._flush_bytes = flush_bytes
        self._held_bytes = 0
        self._waiting = False

    def hold(self, size_bytes: int) -> None:
        """The log has grown by so many bytes: advance now or later."""
        self._held_bytes += size_bytes
        if self._held_bytes >= self._flush_bytes:
            self.flush()
        elif not self._waiting:
            self._waiting = True
            self._pacer.wake(self, self._flush_s)

    def due(self) -> None:
        """The time is up."""
        self._waiting = False
        if self._held_bytes:
            self.flush()

    def flush(self) -> None:
        """Advance now."""
        self._held_bytes = 0
        self.advance()
