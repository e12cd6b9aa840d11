"""Event streams of anyone's: no generated text in them, and nothing known of their data."""

from typing import Any

from proxy.dialects.chat import ChatDocuments, ChatFrames, ChatRequests
from proxy.dialects.dialect import Dialect, Reader, TextKind
from proxy.dialects.reader import LearningReader


class PlainReader(LearningReader):
    """Reads nothing: such a stream is complete when its response ends properly."""

    __slots__ = ()

    @property
    def finished(self) -> bool:
        return True

    def note(self, frame: bytes) -> TextKind | None:
        self.brought = True
        return None


class PlainFrames(ChatFrames):
    """The proxy itself speaks as OpenAI does, but no frame is a chunk."""

    has_text = False

    def reader(self) -> Reader:
        return PlainReader()

    def error_frame(self, message: str, code: str, ident: bytes) -> bytes:
        return b"event: error\n" + super().error_frame(message, code, ident)


class PlainDocuments(ChatDocuments):
    """Nothing is known of the data: no increments, no document."""

    def tells(self, document: dict[str, Any]) -> bool:
        return False


PLAIN = Dialect("sse", ChatRequests(), PlainFrames(), PlainDocuments())
