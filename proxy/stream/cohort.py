"""Which followers are advanced together, and when: at once with every read, or at a pace.

Knows what to advance, not how: a Member's `advance` does it. Keeps law 6 (independence): a sweep over many members
is cut into slices, so that other streams' turn comes between them.
"""

import heapq
from collections.abc import Callable, Iterator
from itertools import count, islice
from typing import Any, Protocol

# Cursors advanced in one turn of the loop: at about 10 us a delivery, other streams wait 2.5 ms at most.
SLICE = 256


class Member(Protocol):
    """A cursor in a cohort."""

    parked: bool  # sweeps pass over it

    def advance(self) -> None:
        """Go to the log's end, as far as the sink takes it."""


class Cohort:
    """The followers of one stream that are advanced at the same moments: here, with every read."""

    __slots__ = ("_again", "_call_soon", "_last", "_sweep", "live", "stale")

    def __init__(self, call_soon: Callable[..., Any]) -> None:
        self.live: list[Member] = []  # all but the parked; those parked since the last sweep may be in it
        self.stale = False  # some of the live ones are parked
        self._call_soon = call_soon
        self._sweep: Iterator[Member] | None = None
        self._again = False
        self._last = False

    def advance(self) -> None:
        """Advance every live member, in this turn of the loop, or in slices when they are many."""
        if self.stale:
            self.drop_parked()
        if self._sweep is not None:
            self._again = True
            return
        live = self.live
        if self._last:
            self.live = []  # a kept stream does not hold the connections of those who followed it
        if len(live) <= SLICE:
            for member in live:
                member.advance()
        else:
            self._sweep = iter(live.copy())
            self._advance_slice()

    def conclude(self) -> None:
        """Advance for the last time: the log is sealed. Who is parked ends by its own advance."""
        self._last = True
        self.advance()

    def drop_parked(self) -> None:
        """Leave the parked out of the live ones. The list is new: a sweep may be running over the old one."""
        self.live = [member for member in self.live if not member.parked]
        self.stale = False

    def _advance_slice(self) -> None:
        assert self._sweep is not None
        visited = 0
        for member in islice(self._sweep, SLICE):
            visited += 1
            if not member.parked:
                member.advance()
        if visited == SLICE:
            self._call_soon(self._advance_slice)
            return
        self._sweep = None
        if self._again:
            self._again = False
            self.advance()


class Pacer:
    """The one timer of all paced cohorts: calls each when it is due."""

    __slots__ = ("_call_later", "_due", "_number", "_time")

    def __init__(self, call_later: Callable[..., Any], time: Callable[[], float]) -> None:
        """`time` is in seconds; `call_later` takes seconds and what to call."""
        self._call_later = call_later
        self._time = time
        self._due: list[tuple[float, int, PacedCohort]] = []  # a heap
        self._number = count()

    def wake(self, cohort: "PacedCohort", after_s: float) -> None:
        """Call the cohort's `due` once, after so many seconds."""
        at = self._time() + after_s
        first = not self._due or at < self._due[0][0]
        heapq.heappush(self._due, (at, next(self._number), cohort))
        if first:
            self._call_later(after_s, self._ring)

    def _ring(self) -> None:
        now = self._time()
        while self._due and self._due[0][0] <= now:
            heapq.heappop(self._due)[2].due()
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
