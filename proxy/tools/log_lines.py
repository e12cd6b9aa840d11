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
from typing import Any, TextIO

import orjson

from proxy.telemetry.log_records import FIELDS

_GATHER_S = 0.1


class LogLines(logging.StreamHandler[TextIO]):
    """Writes log lines, within a running loop several together; the interpreter's end flushes the last."""

    def __init__(self, stream: TextIO | None = None, *, as_json: bool = False) -> None:
        super().__init__(stream)
        self._as_json = as_json
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
            try:
                asyncio.get_running_loop().call_later(_GATHER_S, self.flush)
            except RuntimeError:  # there is none: before it runs, after it, and in other threads
                self.flush()

    def format(self, record: logging.LogRecord) -> str:
        """Return what the formatter does, without it where there is no traceback: 1 us instead of 5."""
        if self._as_json:
            return self._json(record)
        if record.exc_info or record.exc_text or record.stack_info:
            return super().format(record)
        second = int(record.created)
        if second != self._second:
            self._second = second
            self._written = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
        return f"{self._written},{record.msecs:03.0f} {record.levelname} {record.name}: {record.getMessage()}"

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
        with self.lock or contextlib.nullcontext(), contextlib.suppress(OSError, ValueError):
            lines, self._lines = self._lines, []
            self.stream.write("".join(lines))
            self.stream.flush()
