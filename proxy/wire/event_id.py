"""Event ids, `<epoch>-<seq>`, by which clients resume. They are written and read only here.

Each stream has its own epoch, so that a cursor of another stream is detected.
"""

import re
from typing import Final, NamedTuple

_PATTERN: Final = re.compile(r"([a-z2-7]{6})-([0-9]{1,18})")


class EventId(NamedTuple):
    """The number of an event in its stream, and the stream's epoch."""

    epoch: str
    seq: int

    def __bytes__(self) -> bytes:
        return prefix(self.epoch) + b"%d" % self.seq


def prefix(epoch: str) -> bytes:
    """Return what precedes the number in all event ids of an epoch: `prefix(epoch) + b"%d" % seq` is an event id.

    For modes, which write an id for each event: joining the two takes 0.09 us, 0.03 compiled; with a call for each id
    it would be 0.11.
    """
    return epoch.encode() + b"-"


def read_event_id(text: str) -> EventId | None:
    """Parse an event id; None if the text is not one of ours."""
    match = _PATTERN.fullmatch(text)
    return None if match is None else EventId(match[1], int(match[2]))
