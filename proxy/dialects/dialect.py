"""What the two dialects of Qwen have in common: the questions asked of a frame, and the shapes of an error."""

from enum import Enum
from typing import Any, NamedTuple, Protocol

from proxy.dialects.increment import Assembler, Channel
from proxy.wire.errors import ProxyError
from proxy.wire.http import RawHeaders


class TextKind(Enum):
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
    request_id: str | None = None  # the upstream's own, where frames name it
    last_text: int = -1  # the place among them of the last one with generated text


class Requests(Protocol):
    """How an API is asked: what a request says, and the same request asked in another way."""

    def streamed(self, headers: RawHeaders, body: bytes) -> tuple[list[tuple[bytes, bytes]], bytes] | None:
        """Return the request that asks for the same answer as a stream, usage included.

        None: it does ask for a stream, or its body is no JSON object.
        """

    def counted(self, body: bytes) -> bytes | None:
        """Return the request for a stream that asks for usage, too; None: it does, or has it anyway, or is none."""


class Frames(Protocol):
    """What a frame of a stream says, without its texts; and how the proxy itself says that something failed."""

    has_text: bool
    """Whether frames carry generated text at all."""

    def generated(self, frame: bytes, known: str | None = None) -> tuple[str | None, TextKind | None]:
        """Return the model a frame names, or the one that is known, and the kind of generated text it carries.

        No kind: role chunks, empty deltas, usage, comments.
        """

    def thinking(self, frame: bytes) -> bool:
        """Tell without parsing that a frame has no answer text; False when in doubt."""

    def terminal(self, frame: bytes) -> bool:
        """Tell whether a frame is the dialect's own last word, after which nothing can be missing."""

    def summary(self, frames: list[bytes]) -> Summary:
        """Read the last frames of a stream."""

    def reports(self, frame: bytes) -> bool:
        """Tell whether a frame is an error event, and one that clients of this API take for one."""

    def only_counts(self, frame: bytes) -> bool:
        """Tell whether a frame is there for nothing but the usage."""

    def error_body(self, error: ProxyError) -> dict[str, Any]:
        """Return the JSON body of an error response."""

    def error_frame(self, message: str, code: str, ident: bytes) -> bytes:
        """Return the frame that ends a failed stream; `ident` is the last frame's id."""


class Documents(Protocol):
    """The increments in frames, and the finished document that they add up to."""

    cumulative: bool
    """What a stream's texts are taken for, all so far or increments, unless the request said."""
    states: bool
    """Whether a frame may tell of all so far: else modes that take that from frames, or make it, have no meaning."""

    def assembler(self) -> Assembler:
        """Return the reader of the frames of one stream."""

    def answers(self, channel: Channel) -> bool:
        """Tell whether the texts of a channel are answer text, as mode text says it."""


class Dialect(NamedTuple):
    """One API: all that is known of how it is asked and how it answers."""

    name: str
    requests: Requests
    frames: Frames
    documents: Documents


def count(usage: Any, name: str, part: str | None = None) -> int:
    """Return a number of a usage object, or of the object of that name in it; 0 if it is not there."""
    stated = usage.get(name) if isinstance(usage, dict) else None
    if part is not None:
        stated = stated.get(part) if isinstance(stated, dict) else None
    return stated if isinstance(stated, int) else 0
