"""What a client of an event stream has to remember to reconnect: the last event id, and how long to wait.

Source: WHATWG HTML, 9.2.6 "Interpreting an event stream" and 9.2.3 "Processing model". Pure; knows no clock.
"""

import re
from typing import Final

from proxy.wire.sse import fields

# A line that sets the id; one that contains NUL does not. Only blocks with such a line are parsed.
_ID: Final = re.compile(rb"(?:^|[\r\n])id(?::[^\r\n\0]*)?[\r\n]")
_RETRY: Final = re.compile(rb"(?:^|[\r\n])retry:[ ]?([0-9]{1,9})(?=[\r\n])")


def sets_id(frame: bytes) -> bool:
    """Return whether a complete frame sets the last event id."""
    return b"id" in frame and _ID.search(frame) is not None


class Reconnection:
    """The last event id and the reconnection time of one event stream, over all its connections.

    Here the proxy is the client: of the upstream of a shared route (upstream/broadcast.py). The ids by which the
    proxy's own clients resume are in wire/event_id.py.
    """

    __slots__ = ("_first_id", "_with_id", "retry_s")

    def __init__(self, retry_s: float, last_event_id: bytes = b"") -> None:
        """Both values hold until the upstream sends another."""
        self.retry_s = retry_s
        self._first_id = last_event_id
        self._with_id: bytes | None = None  # the last frame that sets the id, parsed only when the id is needed

    @property
    def last_event_id(self) -> bytes:
        """The value of Last-Event-ID; empty, so that none is sent, if no id was set or the last one was empty."""
        return self._first_id if self._with_id is None else fields(self._with_id).id or b""

    def note(self, frames: list[bytes]) -> None:
        """Read the id and retry fields of frames, in order. The frames must be complete: others set nothing."""
        for frame in frames:
            if sets_id(frame):
                self._with_id = frame
            if b"retry" in frame:
                for stated in _RETRY.findall(frame):
                    self.retry_s = int(stated) / 1000
