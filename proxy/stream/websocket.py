"""A mode as WebSocket messages: what the mode's projection renders, as frames, and its endings as close codes.

A server's frames are not masked, so all followers of a mode are sent the same bytes: encoded once. Each event is a
text message of its own (see wire/websocket.py); in a mode that is text, each span is one, as it is. Knows nothing of
sockets. Keeps laws 5 (prefix), 7 (one ending: only a complete stream closes with 1000) and 8 (resume) as the mode does.
"""

from proxy.stream.endings import COMPLETE, GARBLED, Ending
from proxy.stream.log import FrameLog
from proxy.stream.projections import Projection, Span
from proxy.wire.websocket import TEXT, close_frame, frame, messages

NOT_IN_EVENTS = ("raw", "json")  # modes without events, which would be messages


class Messages(Projection):
    """A Projection of a mode to WebSocket frames: the frames of the log that the mode's own projection spans."""

    __slots__ = ("_mode",)

    def __init__(self, log: FrameLog, mode: Projection) -> None:
        Span.__init__(self, -1, -1, b"")
        self._log = log
        self._mode = mode

    def reach(self, start: int) -> None:
        mode = self._mode
        mode.reach(start)
        if self.start != mode.start or self.end != mode.end:
            self.put(mode.start, mode.end, self._framed(mode.plain))

    def render(self, start: int, end: int) -> bytes:
        return self._framed(self._mode.render(start, end))

    def ending(self, ending: Ending, offset: int) -> tuple[bytes, bool]:
        words, properly = self._mode.ending(ending, offset)
        if not properly and ending.reason == COMPLETE.reason:
            ending = GARBLED  # a part of the stream can't be rendered in this mode
        return self._framed(b"" if offset > self._log.end else words) + closing(ending), True

    def _framed(self, rendered: bytes) -> bytes:
        if self._mode.content_type.startswith(b"text/event-stream"):
            return messages(rendered)
        return frame(TEXT, rendered) if rendered else b""


def closing(ending: Ending) -> bytes:
    """Return the close frame of an ending, with its close code and its word as the reason."""
    return close_frame(ending.close_code, ending.reason)
