"""How `streamtee tail` prints what it receives: events, as their text or unchanged, or bytes.

Everything is printed once. An event is printed when it is complete and has an id, since the next connection resumes
after that id. In modes without ids, bytes are counted. Knows no connection.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import orjson

from proxy.dialects import table
from proxy.dialects.documents.delta import record, records
from proxy.wire.sse import Event, Splitter, fields

COMPLETE, FAILED, USAGE, LOST, INTERRUPTED, UNREAD = 0, 1, 2, 3, 130, 141
_PING = "ping"  # says nothing, in any API
_MAX_FRAME_BYTES = 64 * 1024 * 1024

Print = Callable[[bytes], None]


class TailError(Exception):
    """Why following has ended, and the exit status for it."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


class Reader(Protocol):
    """Prints the bodies of responses, and knows where the next response is to begin."""

    finished: bool  # the events have shown that the stream is complete

    def place(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return the query and headers of a request that resumes here."""

    def begin(self, headers: Mapping[str, str]) -> None:
        """Begin to read another response. Raises: TailError, if it is of another stream."""

    def feed(self, data: bytes) -> None:
        """Print the events that these bytes complete. Raises: TailError, if an event says that the stream failed."""

    def has_all(self, state: str, *, properly: bool, heard: bool) -> bool:
        """Return whether a stream in this state, whose response has ended (properly or not), is received completely.

        `heard`: that response had a body.
        """


class Events:
    """Reads events, and prints what `rendered` makes of each."""

    def __init__(self, write: Print, rendered: Callable[[bytes, Event], bytes]) -> None:
        self._write = write
        self._rendered = rendered
        self._splitter = Splitter(_MAX_FRAME_BYTES)
        self._unnumbered = b""  # what the next id is for, too
        self._last = ""
        self.finished = False

    def place(self) -> tuple[dict[str, str], dict[str, str]]:
        return {}, {"Last-Event-ID": self._last} if self._last else {}

    def begin(self, headers: Mapping[str, str]) -> None:
        self._splitter = Splitter(_MAX_FRAME_BYTES)
        self._unnumbered = b""
        if ident := headers.get("Stream-Id"):
            self._check(ident[3:9])
        self._last = self._last or headers.get("Stream-Resumed-From", "")

    def feed(self, data: bytes) -> None:
        for frame in self._splitter.feed(data):
            event = fields(frame)
            if event.id:
                ident = event.id.decode(errors="replace")
                self._check(ident.partition("-")[0])
                self._last = ident
            error = _error(event)
            self.finished = self.finished or event.data == b"[DONE]"
            self._unnumbered += self._rendered(frame, event)
            if event.id or error or self.finished:
                self._flush()
            if error:
                raise TailError(error, FAILED)

    def _check(self, epoch: str) -> None:
        """Raises: TailError, when another stream than before is being followed."""
        if self._last and epoch != self._last.partition("-")[0]:
            raise TailError("another stream has taken this one's place before its end was known", LOST)

    def has_all(self, state: str, *, properly: bool, heard: bool) -> bool:
        if properly:
            self._flush()
        return properly

    def _flush(self) -> None:
        self._write(self._unnumbered)
        self._unnumbered = b""


class Bytes:
    """Reads bytes, and counts them."""

    def __init__(self, write: Print) -> None:
        self._write = write
        self._offset: int | None = None
        self.finished = False

    def place(self) -> tuple[dict[str, str], dict[str, str]]:
        return {} if self._offset is None else {"offset": str(self._offset)}, {}

    def begin(self, headers: Mapping[str, str]) -> None:
        if self._offset is None:
            self._offset = int(headers.get("Stream-Offset", 0))

    def feed(self, data: bytes) -> None:
        self._write(data)
        self._offset = (self._offset or 0) + len(data)

    def has_all(self, state: str, *, properly: bool, heard: bool) -> bool:
        """A failed stream always breaks off: when it does so at once, all of it was here before."""
        return properly or (state != "complete" and not heard)


def text_of(event: Event) -> bytes:
    """Return the text of the first choice that an event adds; the whole data, as a line, of one of no known API."""
    if event.data is None or event.data == b"[DONE]":
        return b""
    result = record(parsed(event.data))
    output = record(result.get("output"))
    if not output and "choices" not in result:
        text = _typed_text(str(result.get("type")), event.data)
        return text.encode(errors="replace") if text is not None else b"" if _error(event) else event.data + b"\n"
    text = output.get("text")
    for choice in records(output.get("choices") or result.get("choices")):
        if not choice.get("index"):
            text = record(choice.get("delta") or choice.get("message")).get("content")
    if isinstance(text, list):  # natively, of a multimodal model
        text = "".join(str(part.get("text") or "") for part in records(text))
    return text.encode(errors="replace") if isinstance(text, str) else b""


def _typed_text(kind: str, data: bytes) -> str | None:
    """Return the text that an event of a type, with this data, adds to an answer; None, if no API has such events."""
    if kind == _PING:
        return ""
    for documents in (row.dialect.documents for row in table.ROWS if kind.startswith(row.dialect.events)):
        increment = documents.assembler().read(b"data: %b\n\n" % data, 0)
        texts = [] if increment is None else increment.texts
        return "".join(text for channel, text in texts if documents.answers(channel))
    return None


def _error(event: Event) -> str:
    """Return what an error event says; "" of any other."""
    result = record(parsed(event.data or b""))
    error = record(result.get("error")) or (result if event.type == b"error" else {})
    return f"{error.get('code')}: {error.get('message')}" if error else ""


def parsed(data: bytes) -> Any:
    """Return what JSON says; None if it is none."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
