"""The log of a serving process: a line a record on stderr, those of a tenth of a second in one write.

A line is text, or an object of JSON. A write and its flush take 5 us, the formatter of `logging` as much; a busy proxy
ends thousands of streams a second.
Lines keep their order and their times, and what warns is there at once.
"""

import asyncio
import contextlib
import logging
import time
from datetime import UTC, datetime
from math import floor
from typing import Any, TextIO

import orjson

from proxy.telemetry.log_records import FIELDS, THOUSANDTHS, log, record

_GATHER_S = 0.1


def log_line(message: str) -> None:
    """Log a line at level INFO, for which our log is enabled.

    As a record, for whoever wants to see it. Without one, if it would pass through no filter and come to one handler,
    that writes text: then it takes a third of the time.
    """
    unix_s = time.time()
    root = log.root
    if len(root.handlers) == 1 and log.propagate and not (log.handlers or log.filters):
        lines = root.handlers[0]
        if type(lines) is LogLines and lines.level <= logging.INFO and not (lines.filters or lines.as_json):
            lines.put(message, unix_s)
            return
    log.handle(record(message, unix_s))


class LogLines(logging.StreamHandler[TextIO]):
    """Writes log lines, within a running loop several together; the interpreter's end flushes the last."""

    def __init__(self, stream: TextIO | None = None, *, as_json: bool = False) -> None:
        super().__init__(stream)
        self.as_json = as_json
        self._lines: list[str] = []
        self._second = 0  # the one that is written out
        self._written = ""
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.append(self.format(record) + self.terminator)
        except Exception:
            self.handleError(record)
        if record.levelno >= logging.WARNING:
            self.flush()
        elif len(self._lines) == 1:
            self._flush_soon()

    def put(self, message: str, unix_s: float) -> None:
        """Write a line as `handle` would that of a record of our log at level INFO; not for a log of JSON.

        Without the lock of `handle`, which takes 0.5 us: `append` needs none, and nobody replaces the list.
        """
        lines, second = self._lines, self._begin_second(unix_s)
        milliseconds = THOUSANDTHS[floor((unix_s - self._second) * 1000)]
        lines.append(f"{second},{milliseconds} INFO {log.name}: {message}{self.terminator}")
        if len(lines) == 1:
            self._flush_soon()

    def _flush_soon(self) -> None:
        try:
            asyncio.get_running_loop().call_later(_GATHER_S, self.flush)
        except RuntimeError:  # there is none: before it runs, after it, and in other threads
            self.flush()

    def format(self, record: logging.LogRecord) -> str:
        """Return what the formatter does, without it where there is no traceback: 1 us instead of 5."""
        if self.as_json:
            return self._json(record)
        if record.exc_info or record.exc_text or record.stack_info:
            return super().format(record)
        at = f"{self._begin_second(record.created)},{int(record.msecs):03d}"
        return f"{at} {record.levelname} {record.name}: {record.getMessage()}"

    def _begin_second(self, unix_s: float) -> str:
        """Return a time as `logging` writes it, without its milliseconds."""
        if not 0 <= unix_s - self._second < 1:
            self._second = floor(unix_s)
            self._written = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self._second))
        return self._written

    def _json(self, record: logging.LogRecord) -> str:
        """Return a record as an object of JSON: when, how bad, whose, and what; and its fields, if it has any."""
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info and self.formatter is not None:
            told["exception"] = self.formatter.formatException(record.exc_info)
        return orjson.dumps(told, default=str).decode()

    def flush(self) -> None:
        """Write what was gathered. A log that nobody reads any more, or that is closed, stops nothing."""
        lines = self._lines
        with self.lock or contextlib.nullcontext(), contextlib.suppress(OSError, ValueError):
            while lines:  # once more, if another thread has put a line meanwhile
                count = len(lines)
                text = "".join(lines[:count])
                del lines[:count]
                self.stream.write(text)
            self.stream.flush()
