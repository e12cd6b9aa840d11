"""What happens when the proxy itself fails: an exception where none should be is logged, and hurts nobody else.

An exception's message may quote what it was about, and so a prompt or a key: the log has its type and place alone.
"""

import logging
import traceback
from collections.abc import Callable, Iterable
from typing import TypeVar

_Told = TypeVar("_Told")

_log = logging.getLogger("streamtee.faults")


def log_fault(what: str, error: Exception) -> None:
    """Log that something failed which should not, where, and by which type of exception; not its message."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename}, line {frames[-1].lineno}, in {frames[-1].name}" if frames else "an unknown place"
    _log.error("%s failed: %s in %s", what, type(error).__name__, where)


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
