"""What happens when the proxy itself fails: an unexpected exception is logged, and does not affect anybody else.

An exception in one turn of a loop in the background does not end the loop. Knows no clock: it is passed in.

The message of an exception may quote the data that caused it, and so a prompt or a key. Therefore only its type and the
place where it was raised are logged.
"""

import logging
import math
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Final, TypeVar

_Subject = TypeVar("_Subject")

_log = logging.getLogger("streamtee.faults")

OVERDUE_S: Final = 10.0  # for loops that have a turn every second, or more often
_FAILING_S: Final = (
    60.0  # for so long after an exception a loop counts as failing: longer than the time between two scrapes
)


class Faults:
    """The faults of one stream's followers: each kind is logged when it first occurs, and at the end with its count.

    So a mode that fails for thousands of followers does not fill the log.
    """

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def note(self, what: str, error: Exception) -> None:
        """Count a fault, and log it if it is the first of its kind."""
        fault = _description(what, error)
        if fault not in self._counts:
            _log.error("%s", fault)
        self._counts[fault] = self._counts.get(fault, 0) + 1

    def report(self) -> None:
        """Log how often each repeated fault occurred in all; called when nothing more can fail."""
        for fault, count in self._counts.items():
            if count > 1:
                _log.error("%s, %d times in all", fault, count)
        self._counts = {}


def log_fault(what: str, error: Exception) -> None:
    """Log what failed, with the type of the exception and the place where it was raised; not its message."""
    _log.error("%s", _description(what, error))


def _description(what: str, error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "an unknown place"
    if trace is not None:
        code = trace.tb_frame.f_code
        where = f"{code.co_filename}, line {trace.tb_lineno}, in {code.co_name}"
    return f"{what} failed: {type(error).__name__} in {where}"


def notify(observer: Callable[[_Subject], object], subject: _Subject) -> None:
    """Call an observer of a stream; an exception that it raises is logged, and has no other effect."""
    try:
        observer(subject)
    except Exception as error:
        log_fault("an observer of a stream", error)


def notify_all(observers: Iterable[Callable[[_Subject], object]], subject: _Subject) -> None:
    """Call several observers as `notify` does: in one call, which is faster than one for each."""
    for observer in observers:
        try:
            observer(subject)
        except Exception as error:
            log_fault("an observer of a stream", error)


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
