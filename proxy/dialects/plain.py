"""Event streams of anyone's: no generated text in them, and nothing known of their data."""

from typing import Any

from proxy.dialects.chat import ChatCompletions
from proxy.dialects.dialect import Summary, TextKind


class Plain(ChatCompletions):
    """The dialect of routes of the user's own: OpenAI's where the proxy itself speaks, but no frame is a chunk."""

    name = "sse"

    def generated(self, frame: bytes, known: str | None = None) -> tuple[str | None, TextKind | None]:
        return known, None

    def thinking(self, frame: bytes) -> bool:
        return False

    def terminal(self, frame: bytes) -> bool:
        return False

    def summary(self, frames: list[bytes]) -> Summary:
        return Summary()

    def document(self, frame: bytes) -> dict[str, Any] | None:
        return None

    def error_frame(self, message: str, code: str, ident: bytes) -> bytes:
        return b"event: error\n" + super().error_frame(message, code, ident)
