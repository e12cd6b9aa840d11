"""Event streams of anyone's: no generated text in them, and nothing known of their data."""

from typing import Any

from proxy.dialects.chat import ChatDocuments, ChatFrames, ChatRequests
from proxy.dialects.dialect import Dialect, Summary, TextKind


class PlainFrames(ChatFrames):
    """The proxy itself speaks as OpenAI does, but no frame is a chunk."""

    has_text = False

    def generated(self, frame: bytes, known: str | None = None) -> tuple[str | None, TextKind | None]:
        return known, None

    def thinking(self, frame: bytes) -> bool:
        return False

    def terminal(self, frame: bytes) -> bool:
        return False

    def summary(self, frames: list[bytes]) -> Summary:
        return Summary()

    def error_frame(self, message: str, code: str, ident: bytes) -> bytes:
        return b"event: error\n" + super().error_frame(message, code, ident)


class PlainDocuments(ChatDocuments):
    """Nothing is known of the data: no increments, no document."""

    def tells(self, document: dict[str, Any]) -> bool:
        return False


PLAIN = Dialect("sse", ChatRequests(), PlainFrames(), PlainDocuments())
