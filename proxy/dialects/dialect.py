"""What the rest of the proxy asks of an API: the protocols that each dialect fulfils, and the words they share."""

import re
from enum import Enum
from typing import Any, NamedTuple, Protocol

from proxy.dialects.failure import Failure
from proxy.dialects.increment import Assembler, Channel
from proxy.wire.errors import ProxyError
from proxy.wire.http import RawHeaders

_MODEL = re.compile(rb'"model"\s*:\s*"([^"\\]{1,100})"')
_MODEL_WITHIN_BYTES = 64 * 1024


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


class Requests(Protocol):
    """How an API is asked: what a request says, and the same request asked in another way.

    A body that can't be read, or has something else where an object should be, is left to the upstream to judge.
    """

    names_model: bool
    """Whether answers name their model themselves; else it is the one that was asked for."""
    reads_body: bool
    """Whether a body tells what the proxy must know of any request: then also a large one is held until it is whole."""

    def model(self, body: bytes) -> str | None:
        """Return the model that a request names."""

    def asks_stream(self, headers: RawHeaders) -> bool:
        """Return whether the headers ask for a stream; False where only the body can."""

    def as_stream(self, headers: RawHeaders, body: bytes) -> tuple[list[tuple[bytes, bytes]], bytes] | None:
        """Return the request that asks for the same answer as a stream, usage included.

        None: it asks for one already, or can't be rewritten.
        """

    def with_usage(self, body: bytes) -> bytes | None:
        """Return the body of a request for a stream that asks for usage, too.

        None: it asks for it already, streams always have it, it asks for no stream, or can't be rewritten.
        """

    def asks_cumulative(self, body: bytes) -> bool | None:
        """Return whether a request asks for all so far in every event (True) or for increments; None: for neither."""


class Reader(Protocol):
    """What one stream has said, known when it is said. It is shown every frame once, in order, and never looks back."""

    model: str | None
    finish_reason: str | None
    request_id: str | None
    """The upstream's own, where frames name it."""
    failure: Failure | None
    """The error that the stream told of."""
    ended: bool
    """The dialect's last word was said: nothing can be missing, and nothing that counts can follow."""
    brought: bool
    """It said anything that the dialect defines, but for its last word."""

    @property
    def usage(self) -> Usage | None:
        """The usage that was stated last."""

    @property
    def finished(self) -> bool:
        """True when the stream is complete if its response ends properly now, with or without a last word."""

    def ordinary(self, frame: bytes) -> bool:
        """Tell without parsing that a frame brings generated text and nothing else: then it need not be noted.

        Its kind is that of the last one noted. False when in doubt.
        """

    def note(self, frame: bytes) -> TextKind | None:
        """Take in a frame; return the kind of generated text it carries.

        None: role chunks, empty deltas, usage, comments.
        """


class Frames(Protocol):
    """What the frames of a stream say, without its texts; and how the proxy itself says that something failed."""

    has_text: bool
    """Whether frames carry generated text at all."""

    def reader(self) -> Reader:
        """Return a reader for one stream."""

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


def model_of(body: bytes) -> str | None:
    """Return the model that a request's body names near its beginning, without parsing: it may have megabytes."""
    model = _MODEL.search(body, 0, _MODEL_WITHIN_BYTES)
    return model and model[1].decode(errors="replace")


def count(usage: Any, name: str, part: str | None = None) -> int:
    """Return a number of a usage object, or of the object of that name in it; 0 if it is not there."""
    stated = usage.get(name) if isinstance(usage, dict) else None
    if part is not None:
        stated = stated.get(part) if isinstance(stated, dict) else None
    if isinstance(stated, float) and stated.is_integer():  # also not infinity
        stated = int(stated)
    return stated if isinstance(stated, int) and stated > 0 else 0
