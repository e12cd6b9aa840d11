"""What the two dialects of Qwen have in common: the questions asked of a frame, and the shapes of an error."""

from enum import Enum
from typing import Any, NamedTuple, Protocol

from proxy.wire.errors import ProxyError


class Text(Enum):
    """What kind of generated text a frame carries."""

    REASONING = "reasoning"
    CONTENT = "content"
    TOOL_CALL = "tool_call"


class Usage(NamedTuple):
    """Token counts as the upstream states them."""

    prompt: int = 0
    completion: int = 0
    reasoning: int = 0
    cached: int = 0


class Summary(NamedTuple):
    """What the last frames of a stream tell."""

    finish_reason: str | None = None
    usage: Usage | None = None
    failed: bool = False  # an error event was among them


class Dialect(Protocol):
    """How one API writes chunks and errors."""

    name: str

    def generated(self, frame: bytes) -> tuple[str | None, Text | None]:
        """Return the model a frame names, and the kind of generated text it carries.

        No kind: role chunks, empty deltas, usage, comments.
        """

    def thinking(self, frame: bytes) -> bool:
        """Tell without parsing that a frame has no answer text; False when in doubt."""

    def terminal(self, frame: bytes) -> bool:
        """Tell whether a frame is the dialect's own last word, after which nothing can be missing."""

    def summary(self, frames: list[bytes]) -> Summary:
        """Read the last frames of a stream."""

    def error_body(self, error: ProxyError) -> dict[str, Any]:
        """Return the JSON body of an error response."""

    def error_frame(self, message: str, code: str, ident: bytes) -> bytes:
        """Return the frame that ends a failed stream; `ident` is the last frame's id."""


def count(usage: Any, *path: str) -> int:
    """Return the number at `path` within a usage object, 0 if it is not there."""
    for key in path:
        usage = usage.get(key) if isinstance(usage, dict) else None
    return usage if isinstance(usage, int) else 0


def record(value: Any) -> dict[str, Any]:
    """Return a JSON object as it is, anything else as an empty one: an upstream may send what it likes."""
    return value if isinstance(value, dict) else {}


def records(value: Any) -> list[dict[str, Any]]:
    """Return the objects in a JSON array; none of anything else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
