"""What happens when the proxy itself fails: an unexpected exception is logged, and does not affect anybody else.

The message of an exception may quote the data that caused it, and so a prompt or a key. Therefore only its type and the
place where it was raised are logged.
"""

import logging
from collections.abc import Callable, Iterable
from typing import TypeVar

_Subject = TypeVar("_Subject")

_log = logging.getLogger("streamtee.faults")


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
