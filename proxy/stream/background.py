"""Background loops: work that goes on beside requests, and that an exception in one turn of it must not end.

Knows no clock: it is handed in.
"""

import math
from collections.abc import Callable
from types import TracebackType

from proxy.stream.faults import log_fault

OVERDUE_S = 10.0  # for loops that have a turn every second, or more often
_FAILING_S = 60.0  # so long after an exception a loop counts as failing: longer than between two scrapes


class BackgroundLoop:
    """What each turn of a background loop, or each part of one, runs in: exceptions are logged, counted and dropped."""

    __slots__ = ("_clock", "_failed_at", "_overdue_s", "_turned_at", "failures", "name")

    def __init__(self, name: str, clock: Callable[[], float], overdue_s: float = math.inf) -> None:
        """`clock` is in seconds; a loop without a turn for `overdue_s` is not alive."""
        self.name = name  # the label in metrics
        self.failures = 0
        self._clock = clock
        self._overdue_s = overdue_s
        self._failed_at = -math.inf
        self._turned_at = clock()

    @property
    def alive(self) -> bool:
        """True while its turns come, and none has failed of late."""
        now = self._clock()
        return now - self._turned_at < self._overdue_s and now - self._failed_at >= _FAILING_S

    def __enter__(self) -> None:
        self._turned_at = self._clock()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> bool:
        if not isinstance(error, Exception):  # none, or one that ends a task or the process
            return False
        now = self._clock()
        if now - self._failed_at >= _FAILING_S:  # else the log would have it with every turn
            log_fault(f"a turn of the background loop {self.name}, which goes on,", error)
        self._failed_at = now
        self.failures += 1
        return True
