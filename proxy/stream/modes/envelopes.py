"""A mode's events in other envelopes: as messages of a WebSocket, or labelled with the stream that they are of.

Both are made of what the mode's projection renders, once for all followers of the mode, and each has its own endings.
A server's WebSocket frames are not masked, so all followers are sent the same bytes; each event is a text message of
its own (see wire/websocket.py), and in a mode that is text, each span is one, as it is. Labelled events are for
connections that several streams share: `downstream/shared_connection.py` adds the id that has the cursors of all.
Knows nothing of sockets. Keeps laws 5 (prefix), 7 (one ending: only a complete stream closes with 1000, or ends with
`complete`) and 8 (resume) as the mode does.
"""

from typing import Final, NamedTuple

import orjson

from proxy.stream.endings import COMPLETE, GARBLED, Ending
from proxy.stream.log import FrameLog
from proxy.stream.modes.projection import Projection, Span
from proxy.wire.event_id import prefix
from proxy.wire.sse import dispatched
from proxy.wire.websocket import TEXT, close_frame, frame, messages

NOT_IN_EVENTS: Final[tuple[str, ...]] = ("raw", "json")  # modes without events, which would be messages
END: Final = "end"  # the `event` of the last labelled event of a stream


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

    def sign_of_life(self) -> bytes:
        return self._mode.sign_of_life()

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


class Labelled(Messages):
    """A Projection of a mode of events to lines: a seq, a space, and the event with its stream's id as a JSON object.

    The seq is missing where a client could not resume after the event. Each ending is an event, too: the last one of
    its stream, and the only one with an `ending`.
    """

    __slots__ = ("_ident", "_prefix")

    def __init__(self, ident: str, epoch: str, log: FrameLog, mode: Projection) -> None:
        super().__init__(log, mode)
        self._ident = ident
        self._prefix = prefix(epoch)

    def ending(self, ending: Ending, offset: int) -> tuple[bytes, bool]:
        last, seq = b"", self._log.seq_of(ending, offset)
        if ending.reason == COMPLETE.reason:  # what a mode says of a complete stream only; a failure is told once, here
            words, properly = self._mode.ending(ending, offset)
            last, ending = (self._lines(words, numbered=False), ending) if properly else (b"", GARBLED)
        ident = (self._prefix + b"%d" % seq).decode()
        end = {"stream": self._ident, "id": ident, "event": END, "data": ending.message, "ending": ending.reason}
        return last + b"%d %b\n" % (seq, orjson.dumps(end)), True

    def _framed(self, rendered: bytes) -> bytes:
        return self._lines(rendered)

    def _lines(self, rendered: bytes, *, numbered: bool = True) -> bytes:
        lines = []
        for event in dispatched(rendered):
            ident = (event.id or b"") if numbered else b""
            ours = ident.startswith(self._prefix)
            texts = {
                "stream": self._ident,
                "id": ident.decode() if ours else "",
                "event": (event.type or b"message").decode(errors="replace"),
                "data": (event.data or b"").decode(errors="replace"),
            }
            lines.append(b"%b %b\n" % (ident[len(self._prefix) :] if ours else b"", orjson.dumps(texts)))
        return b"".join(lines)


class LabelledEvent(NamedTuple):
    """An event of one of several streams: its seq, None where it has none, and its JSON object."""

    seq: int | None
    json: bytes


def labelled_events(lines: bytes) -> list[LabelledEvent]:
    """Read what a Labelled projection has rendered."""
    found = []
    for line in lines.splitlines():
        seq, _, json = line.partition(b" ")
        found.append(LabelledEvent(int(seq) if seq else None, json))
    return found


def closing(ending: Ending) -> bytes:
    """Return the close frame of an ending, with its close code and its word as the reason."""
    return close_frame(ending.close_code, ending.reason)
