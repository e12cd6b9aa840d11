"""What the rest of the proxy needs from an API: the protocols that each dialect implements, and their types."""

import re
from collections.abc import Callable, Collection, Mapping
from enum import Enum
from typing import Any, Final, NamedTuple, Protocol

from proxy.dialects.allowance import Allowance, rate_limit_headers
from proxy.dialects.documents.increment import Assembler, Channel
from proxy.dialects.failure import Failure, StatusOf, no_status
from proxy.dialects.usage import Usage
from proxy.wire.errors import ProxyError
from proxy.wire.http import Headers, RawHeaders
from proxy.wire.json_members import members

_MODEL: Final = re.compile(rb'"model"\s*:\s*"([^"\\]{1,100})"')
_CHOICES: Final = re.compile(rb'"n"\s*:\s*([1-9][0-9]?)\b')
_MODEL_WITHIN_BYTES: Final = 64 * 1024


class TextKind(Enum):
    """What kind of generated text a frame carries."""

    REASONING = "reasoning"
    CONTENT = "content"
    TOOL_CALL = "tool_call"


class Requests(Protocol):
    """Reads and rewrites an API's requests.

    A body that can't be read, or that has something else in place of an object, is left for the upstream to reject.
    """

    names_model: bool
    """Whether responses name their model; otherwise it is taken from the request."""
    reads_body: bool
    """Whether the proxy needs the body of every request: then a large one is held, too, until it is complete."""

    def model(self, body: bytes) -> str | None:
        """Return the model that a request names."""

    def asks_stream(self, headers: RawHeaders) -> bool:
        """Return whether the headers request a stream; False for an API where only the body does."""

    def asks_events(self, headers: RawHeaders, body: bytes) -> bool:
        """Return whether a request asks for a stream, by its headers or its body."""

    def as_stream(self, headers: RawHeaders, body: bytes) -> tuple[list[tuple[bytes, bytes]], bytes] | None:
        """Return the headers and the body of a request for the same response as a stream, usage included.

        None, if it requests a stream already, or can't be rewritten.
        """

    def with_usage(self, body: bytes) -> bytes | None:
        """Return the body of a streaming request, changed to request usage, too.

        None, if it requests usage already, streams always have usage, it requests no stream, or can't be rewritten.
        """

    def asks_cumulative(self, body: bytes) -> bool | None:
        """Return whether a request asks for the full text so far in every event (True) or for increments (False).

        None, if it does not say.
        """

    def choices(self, body: bytes) -> int:
        """Return how many alternative answers a request asks for; 1 if it does not say."""


class Reader(Protocol):
    """Follows one stream, and knows its state so far. It is given every frame once, in order."""

    model: str | None
    finish_reason: str | None
    request_id: str | None
    """The upstream's id of the request, if frames contain it."""
    failure: Failure | None
    """The first error that the stream reported."""
    ended: bool
    """The dialect's final event has come, such as [DONE]: nothing is missing, and nothing relevant can follow."""
    has_content: bool
    """Content that the dialect defines has come, apart from the final event."""
    choices: int
    """How many alternative answers were asked for: with fewer of them, silence does not show that nothing follows."""

    @property
    def answers_begun(self) -> int:
        """The number of answers that have begun, in a session that may have several; 0 for a single answer."""

    @property
    def heartbeat(self) -> bytes:
        """What may be sent to a follower between two frames now, to show that its connection is alive.

        Either a comment of one line, which becomes a part of the next block, or a complete block with data: after an
        id, openai-python raises JSONDecodeError on a block without data.
        """

    @property
    def empty_event(self) -> bytes:
        """The same for clients to which only events with content count: one without text, if the API has such now."""

    @property
    def usage(self) -> Usage | None:
        """The latest usage that the stream reported."""

    @property
    def finished(self) -> bool:
        """True when the stream is complete if its response ends cleanly now, with or without a final event."""

    @property
    def enough_after_s(self) -> float:
        """How many seconds of silence now show that nothing follows, since the answer has finished; 0: none do."""

    @property
    def answered_after_s(self) -> float:
        """How many seconds of silence now show that the answer is known, if no final event says so; 0: none do."""

    def lacks_only_end(self, lines: bytes) -> bool:
        """Return whether the lines of a frame that has not ended are the last that the stream needs.

        If they say nothing but that, the reader has `ended` from now on.
        """

    @property
    def surroundings(self) -> tuple[bytes, bytes] | None:
        """What precedes and follows the text of `ordinary` frames that differ in nothing else.

        It begins a frame and ends it, without a CR, and the text ends at the first quotation mark. None: not known.
        """

    def ordinary(self, frame: bytes) -> bool:
        """Return, without parsing, whether a frame adds only generated text, so that `note` need not be called for it.

        Its kind of text is that of the last frame that `note` read. False when in doubt.
        """

    def note(self, frame: bytes) -> TextKind | None:
        """Read a frame; return the kind of generated text it carries.

        None for frames without text: role chunks, empty deltas, usage, comments.
        """

    def error_frame(
        self, message: str, code: str, ident: bytes, last: bytes | None = None, number: int | None = None
    ) -> bytes:
        """Return the frame that tells followers that this stream has failed; `ident` is its event id.

        `last`: the last frame that was sent to a follower which is ended alone, and may resume; b"" if there was none.
        `number`: what the frame is numbered with, if the API numbers its events; None: with what comes next.
        """


class Frames(Protocol):
    """Reads an API's frames, and writes the proxy's own error responses in the API's format."""

    has_text: bool
    """Whether generated text is expected of every stream."""

    def reader(self) -> Reader:
        """Return a reader for one stream."""

    def only_counts(self, frame: bytes) -> bool:
        """Return whether a frame contains only the usage."""

    def error_body(self, error: ProxyError) -> dict[str, Any]:
        """Return the JSON body of an error response."""


class Documents(Protocol):
    """The increments in frames, and the finished document that they add up to."""

    cumulative: bool
    """Whether each text is the full text so far, not an increment, unless the request says otherwise."""
    has_cumulative: bool
    """Whether frames can carry the full text so far (a state of it); otherwise modes that need this are refused."""

    has_answer: bool
    """Whether frames tell the text of an answer; otherwise modes that send only that are refused."""
    has_document: bool
    """Whether there is a finished document of a stream; otherwise mode json is refused."""

    def assembler(self) -> Assembler:
        """Return an assembler for the frames of one stream."""

    chunks: bool
    """Whether frames are those that the proxy retells other APIs in (`Chunks`), or their data is not known at all."""
    finish_reasons: Mapping[str, str]
    """Finish reasons of the API and what they are called in chunks; those that are not listed are called the same."""

    def answers(self, channel: Channel) -> bool:
        """Return whether the texts of a channel are part of the answer that mode text sends."""

    def in_chat(self, channel: Channel) -> Channel | None:
        """Return the channel in which chunks tell the texts of this one; None, if they have no place there.

        If it has a `place`, the number of a call, that need not be what it is in chunks, but the order must be.
        """


class Origin(NamedTuple):
    """What all chunks of a stream say of it."""

    ident: str
    created_at: int  # Unix seconds


class Chunks(Protocol):
    """Writes frames that tell what a stream says, whatever its API: its content, reasoning, calls, and its end."""

    def chunk(self, origin: Origin, texts: list[tuple[Channel, str]], ident: bytes, first: bool) -> bytes:
        """Return a frame with these texts; `ident` is its id. The first frame of a stream says who speaks, too."""

    def complete(self, origin: Origin, reason: str, reader: Reader, ident: bytes) -> bytes:
        """Return the frames that end a complete stream; the last one has the id, so that they are sent together.

        `reason`: the finish reason, as chunks have it; "" if frames said it already.
        """

    def fail(self, message: str, code: str, ident: bytes) -> bytes:
        """Return the frame that ends a stream that failed."""


class Background(NamedTuple):
    """A request for a response in the background, as it is sent upstream."""

    body: bytes
    """The body to send: it requests the same response in the foreground, as a stream."""
    streams: bool
    """Whether the client also wants the events; otherwise it wants only the object, which it will fetch later."""


class Objects(Protocol):
    """The responses of an API as objects: each has an id, by which clients fetch it, resume it and continue it."""

    def background(self, body: bytes) -> Background | None:
        """Return what to send upstream for a background request; None, if it is not one, or can't be rewritten."""

    def continued(self, body: bytes) -> list[str]:
        """Return the ids of the earlier response, its items and the conversation that a request continues, if any.

        By any of several members with one name, in upper or lower case: parsers differ in which they take.
        Raises: BadRequest, if the body can't be read.
        """

    def ident(self, reader: Reader) -> str | None:
        """Return the id that the upstream gave the response; None before it is known."""

    def ident_of(self, document: bytes) -> str | None:
        """Return the id of the object in a response that is not a stream; None, if it is not such an object."""

    def items(self, reader: Reader) -> Collection[str]:
        """Return the ids of the items of the response that have come, to which later requests may refer."""

    def items_of(self, document: bytes) -> Collection[str]:
        """Return the ids of the items of the object in a response that is not a stream."""

    def seen(self, reader: Reader) -> bytes | None:
        """Return the latest object that the upstream sent, unchanged; None before the first one."""

    def begun(self, ident: str, model: str | None, created_at: int) -> bytes:
        """Return the object of a response before the upstream has sent one; `created_at` is in Unix seconds."""

    def ended(self, document: bytes, reader: Reader, code: str, message: str) -> bytes:
        """Return the object of a response that has failed or was cancelled; `document` is the latest known object."""

    def deleted(self, ident: str) -> bytes:
        """Return the response to a request that deletes an object."""

    def number(self, frame: bytes) -> int | None:
        """Return the number in a frame by which clients resume; None, if it has none."""


class Dialect(NamedTuple):
    """One API: how its requests and its responses are read and written."""

    name: str
    requests: Requests
    frames: Frames
    documents: Documents
    objects: Objects | None = None
    """None: its responses are not stored, or have no ids to fetch them by."""
    cached_apart: bool = False
    """Whether usage counts the prompt's tokens that a cache had, or was given, beside those of the prompt."""
    limit_headers: Callable[[Allowance | None, Allowance | None, float], Headers] = rate_limit_headers
    """Returns the headers that tell a client what its limits leave, on requests and on tokens, at a Unix time."""
    status_of: StatusOf = no_status
    """Returns the HTTP status of an error by its type, if within a stream a type is all that errors state."""
    events: tuple[str, ...] = ()
    """How the types of its events begin, apart from pings; (): its events have no types."""


class StreamedByBody:
    """Requests of an API whose body alone says whether a stream is asked for, by `stream`, and which model."""

    def model(self, body: bytes) -> str | None:
        return model_of(body)

    def asks_stream(self, headers: RawHeaders) -> bool:
        return False

    def choices(self, body: bytes) -> int:
        return 1

    def asks_events(self, headers: RawHeaders, body: bytes) -> bool:
        asked = members(body)
        return asked is not None and asked.get("stream") is True


def model_of(body: bytes) -> str | None:
    """Return the model that a body names near its beginning, found without parsing: the body may have megabytes."""
    model = _MODEL.search(body, 0, _MODEL_WITHIN_BYTES)
    return model and model[1].decode(errors="replace")


def choices_of(body: bytes) -> int:
    """Return the member `n` of a body, the number of choices; found without parsing: the body may have megabytes."""
    # `in` would first take these bytes for a number, and make an error of it: 1 us.
    found = _CHOICES.search(body) if body.find(b'"n"') >= 0 else None
    return 1 if found is None else int(found[1])
