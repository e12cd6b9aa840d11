"""The dialect of any other event stream: nothing is known of its requests or its data, and it has no generated text."""

from typing import Any, Final

from proxy.dialects.chat import ChatDocuments, error_body, error_data
from proxy.dialects.dialect import Dialect, Reader, TextKind
from proxy.dialects.reader import LearningReader
from proxy.wire.errors import ProxyError
from proxy.wire.http import RawHeaders


class PlainReader(LearningReader):
    """A Reader that parses nothing: such a stream is complete when its response ends cleanly."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()
        self.has_content = True  # a stream without events is complete, too

    @property
    def finished(self) -> bool:
        return True

    def note(self, frame: bytes) -> TextKind | None:
        return None

    def error_frame(
        self, message: str, code: str, ident: bytes, last: bytes | None = None, number: int | None = None
    ) -> bytes:
        # With a type of its own, so that listeners for messages don't get it.
        return b"event: error\ndata: %b\nid: %b\n\n" % (error_data(message, code), ident)


class PlainRequests:
    """Requests of which nothing is known; none is rewritten."""

    names_model = True
    reads_body = False

    def model(self, body: bytes) -> str | None:
        return None

    def asks_stream(self, headers: RawHeaders) -> bool:
        return False

    def asks_events(self, headers: RawHeaders, body: bytes) -> bool:
        return False

    def as_stream(self, headers: RawHeaders, body: bytes) -> tuple[list[tuple[bytes, bytes]], bytes] | None:
        return None

    def with_usage(self, body: bytes) -> bytes | None:
        return None

    def asks_cumulative(self, body: bytes) -> bool | None:
        return None

    def choices(self, body: bytes) -> int:
        return 1


class PlainFrames:
    """Frames of which nothing is known."""

    has_text = False

    def reader(self) -> Reader:
        return PlainReader()

    def only_counts(self, frame: bytes) -> bool:
        return False

    def error_body(self, error: ProxyError) -> dict[str, Any]:
        return error_body(error)


class PlainDocuments(ChatDocuments):
    """Data of which nothing is known: there are no increments and no document."""

    has_answer = False
    has_document = False

    def tells(self, document: dict[str, Any]) -> bool:
        return False


PLAIN: Final = Dialect("sse", PlainRequests(), PlainFrames(), PlainDocuments())
