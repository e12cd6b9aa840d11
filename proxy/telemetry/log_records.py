"""Records of the log that are made of names, numbers and ids: as `key=value` in a line, or as members of JSON."""

import json
import logging
from typing import Any, Final

log = logging.getLogger("streamtee")

_LONGEST: Final = 100
_RECORD: Final = vars(logging.LogRecord(log.name, logging.INFO, "", 0, "", (), None))
THOUSANDTHS: Final = [f"{number:03d}" for number in range(1000)]
FIELDS: Final = "fields"
"""The attribute of a record that holds its fields, for a log of JSON."""


def record(message: str, unix_s: float, fields: dict[str, Any] | None = None) -> logging.LogRecord:
    """Make a log record by copying a prepared one and setting its message, its time, and its fields if there are any.

    Not log.info, which inspects the call stack, nor LogRecord(), which looks up process and thread: these take 10 of
    the 19 us of a line.
    """
    made = object.__new__(logging.LogRecord)
    made.__dict__.update(_RECORD, msg=message, created=unix_s, msecs=unix_s % 1 * 1000 // 1)
    if fields is not None:
        made.__dict__[FIELDS] = fields
    return made


def seconds(number: float) -> str:
    """Return a number of seconds, 0 or more, with three decimals: a third of what a format takes compiled modules."""
    thousandths = int(number * 1000 + 0.5)
    return f"{thousandths // 1000}.{THOUSANDTHS[thousandths % 1000]}"


def spell(name: str | None) -> str:
    """Return a name as one word: quoted as JSON if it holds anything else, since clients choose some of these names.

    Bare is visible ASCII without quotes and equals signs. No regular expression and no cache: most ids come once.
    """
    if not name:
        return "-"
    if len(name) > _LONGEST:
        name = name[:_LONGEST]
    is_word = name.isascii() and name.isprintable() and not (" " in name or '"' in name or "=" in name)
    return name if is_word else json.dumps(name)
