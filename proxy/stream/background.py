"""Background loops: periodic work beside requests. An exception in one turn must not end the loop.

Knows no clock: it is passed in.
"""

import math
from collections.abc import Callable
from types import TracebackType

from proxy.stream.faults import log_fault

OVERDUE_S = 10.0  # for loops that have a turn every second, or more often
_FAILING_S = 60.0  # for so long after an exception a loop counts as failing: longer than the time between two scrapes


class BackgroundLoop:
    """A context manager around each turn of a background loop: exceptions are logged, counted and dropped."""

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
        """Whether its turns come in time, and none has failed recently."""
        now = self._clock()
        return now - self._turned_at < self._overdue_s and now - self._failed_at >= _FAILING_S

    def __enter__(self) -> None:
        self._turned_at = self._clock()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> bool:
        if not isinstance(error, Exception):  # none, or one that ends a task or the process
            return False
        self.fail(error)
        return True

    def fail(self, error: Exception) -> None:
        """Log, count and drop an exception: for loops over many, in which `with` takes 0.4 us for each."""
        now = self._clock()
        if now - self._failed_at >= _FAILING_S:  # so that a loop which fails in every turn does not fill the log
            log_fault(f"a turn of the background loop {self.name}, which goes on,", error)
        self._failed_at = now
        self.failures += 1
