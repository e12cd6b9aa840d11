"""What happens when the proxy itself fails: an exception where none should be is logged, and hurts nobody else.

An exception's message may quote what it was about, and so a prompt or a key: the log has its type and place alone.
"""

import logging
from collections.abc import Callable, Iterable
from typing import TypeVar

_Told = TypeVar("_Told")

_log = logging.getLogger("streamtee.faults")


class Faults:
    """What failed of one stream: each kind of fault is logged once, and at the end how often there were others.

    So a mode that fails for thousands of followers does not fill the log.
    """

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def note(self, what: str, error: Exception) -> None:
        """Note that something failed, and log it if it is the first time."""
        fault = _told(what, error)
        if fault not in self._counts:
            _log.error("%s", fault)
        self._counts[fault] = self._counts.get(fault, 0) + 1

    def report(self) -> None:
        """Log how often what was logged before happened in all; called when nothing more can fail."""
        for fault, count in self._counts.items():
            if count > 1:
                _log.error("%s, %d times in all", fault, count)
        self._counts = {}


def log_fault(what: str, error: Exception) -> None:
    """Log that something failed which should not, where, and by which type of exception; not its message."""
    _log.error("%s", _told(what, error))


def _told(what: str, error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "an unknown place"
    if trace is not None:
        code = trace.tb_frame.f_code
        where = f"{code.co_filename}, line {trace.tb_lineno}, in {code.co_name}"
    return f"{what} failed: {type(error).__name__} in {where}"


def tell(listener: Callable[[_Told], object], told: _Told) -> None:
    """Call one who is told of something; what it raises is logged, since it has no say in what goes on."""
    try:
        listener(told)
    except Exception as error:
        log_fault("one who is told of a stream", error)


def tell_all(listeners: Iterable[Callable[[_Told], object]], told: _Told) -> None:
    """Do the same with each of several: a call for all of them instead of one for each."""
    for listener in listeners:
        try:
            listener(told)
        except Exception as error:
            log_fault("one who is told of a stream", error)
