"""Warnings in the log and exceptions that reach the event loop, which no test may leave behind."""

import asyncio
import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp.http_exceptions import HttpProcessingError


class _Complaints(logging.Handler):
    """Collects what was logged as a warning or worse."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and isinstance(record.exc_info[1], HttpProcessingError):
            return  # a request that is not HTTP is its client's fault, not ours
        self.lines.append(f"{record.name}: {record.getMessage()} {record.exc_info or ''}")


@contextmanager
def no_complaints() -> Iterator[list[str]]:
    """Fail when anything was logged as a warning or worse, or reached the event loop unhandled."""
    gc.collect()
    gc.freeze()  # so that the collection below looks at what this test leaves, not at the session: 1 ms, not 80
    complaints = _Complaints()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.lines.append(f"event loop: {context}"))
    logging.getLogger().addHandler(complaints)
    try:
        yield complaints.lines
    finally:
        logging.getLogger().removeHandler(complaints)
        gc.collect()  # exceptions that nobody retrieved are told when their task is collected
        loop.set_exception_handler(None)
    assert complaints.lines == []
