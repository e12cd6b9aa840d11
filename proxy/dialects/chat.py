"""The dialect of OpenAI's chat completions, as Qwen's compatible mode implements them."""

from typing import Any, Final

from proxy.dialects.chunks.known import KnownChunks
from proxy.dialects.chunks.reader import ChatReader, chunk_in
from proxy.dialects.chunks.writer import OBJECTS
from proxy.dialects.dialect import Dialect, Reader, StreamedByBody, choices_of
from proxy.dialects.documents.choices import ChoiceDocuments
from proxy.dialects.documents.delta import Delta, index_of, record
from proxy.dialects.question import Asking, Question
from proxy.wire.errors import ProxyError, RequestError
from proxy.wire.http import RawHeaders
from proxy.wire.json_members import Members, members


def error_body(error: ProxyError) -> dict[str, Any]:
    """Return the JSON body of an error response, in the format that OpenAI's clients read."""
    kind = "invalid_request_error" if isinstance(error, RequestError) else "server_error"
    return {"error": {"message": error.message, "type": kind, "param": None, "code": error.code}}


class ChatRequests(StreamedByBody):
    """What requests for chat completions contain."""

    names_model = True
    reads_body = False

    def as_stream(self, headers: RawHeaders, body: bytes) -> tuple[list[tuple[bytes, bytes]], bytes] | None:
        asked = members(body)
        if asked is None or not (asked.get("stream") is None or asked.get("stream") is False):
            return None
        rewritten = _with_usage(asked, {"stream": b"true"})
        return None if rewritten is None else (list(headers), rewritten)

    def with_usage(self, body: bytes) -> bytes | None:
        asked = members(body)
        if asked is None or asked.get("stream") is not True:
            return None
        return None if record(asked.get("stream_options")).get("include_usage") else _with_usage(asked, {})

    def asks_cumulative(self, body: bytes) -> bool | None:
        return None

    def choices(self, body: bytes) -> int:
        return choices_of(body)


class ChatFrames:
    """The frames of a chat completion: `data: {chunk}`, and `data: [DONE]` at the end."""

    has_text = True

    def __init__(self) -> None:
        self._chunks = KnownChunks()

    def reader(self) -> Reader:
        return ChatReader(self._chunks)

    def only_counts(self, frame: bytes) -> bool:
        if b'"usage"' not in frame:
            return False
        chunk = chunk_in(frame)
        return chunk.get("choices") == [] and bool(chunk.get("usage"))

    def error_body(self, error: ProxyError) -> dict[str, Any]:
        return error_body(error)


class ChatDocuments(ChoiceDocuments):
    """The increments in chunks, and the finished chat.completion that they add up to."""

    cumulative = False
    has_cumulative = True
    chunks = True

    def tells(self, document: dict[str, Any]) -> bool:
        if document.get("error"):
            return False
        if choices := document.get("choices"):
            return isinstance(choices, list)
        return document.get("object", OBJECTS[0]) in OBJECTS and (choices == [] or bool(document.get("usage")))

    def deltas(self, document: dict[str, Any]) -> list[Delta]:
        found = []
        for place, choice in enumerate(document.get("choices") or ()):
            if isinstance(choice, dict) and isinstance(delta := _delta(choice), dict):
                whole = delta is choice.get("message")
                key = "content" if "content" in delta or not isinstance(delta.get("text"), str) else "text"
                found.append(Delta(index_of(choice, place), choice, delta, key, whole=whole))
        return found

    def select(self, document: dict[str, Any], deltas: list[Delta]) -> None:
        document["choices"] = [delta.choice for delta in deltas]

    def beside(self, document: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in document.items() if key not in ("choices", "usage")}

    def envelope(self, document: dict[str, Any]) -> dict[str, Any]:
        return {key: document[key] for key in _ENVELOPE if key in document}

    def accumulate(self, message: dict[str, Any], key: str, value: Any) -> None:
        message[key] = _sum(key, message.get(key), value)

    def blank(self, index: int, shape: Delta, *, streamed: bool = False) -> Delta:
        message: dict[str, Any] = {} if streamed else {"role": "assistant", "content": None}
        key = "delta" if streamed else "message"
        return Delta(index, {key: message, "finish_reason": None, "index": index, "logprobs": None}, message, "content")

    def whole(self, envelope: dict[str, Any], usage: Any, choices: list[Delta]) -> dict[str, Any]:
        listed = [choice.choice for choice in choices]
        return (
            {"choices": listed, "object": "chat.completion", "usage": usage} | envelope | {"object": "chat.completion"}
        )


_ENVELOPE: Final[tuple[str, ...]] = (
    "id",
    "created",
    "model",
    "system_fingerprint",
    "service_tier",
    "request_id",
    "citations",
)
_NAMES: Final = frozenset(
    ["id", "type", "index", "role", "name", "object", "format", "status"]
)  # fields whose values are replaced, not concatenated


def _with_usage(asked: Members, more: dict[str, bytes]) -> bytes | None:
    """Return the body of a request with usage enabled and the members `more`; None if stream_options is no object."""
    options = asked.inner("stream_options")
    counting = None if options is None else options.put({"include_usage": b"true"})
    return None if counting is None else asked.put({**more, "stream_options": counting})


def _delta(choice: dict[str, Any]) -> Any:
    """Return a choice's delta, or what is in its place: the message, or the choice itself with a text.

    A choice that finishes without any of these gets an empty delta.
    """
    delta = choice.get("delta")
    if isinstance(message := choice.get("message"), dict) and not delta:
        return message
    if not delta and isinstance(choice.get("text"), str):  # of legacy completions
        return choice
    if delta is None and choice.get("finish_reason"):
        delta = choice["delta"] = {}
    return delta


def _sum(key: str, known: Any, more: Any) -> Any:
    """Return the sum of a value and its increment, as OpenAI's own clients add them.

    Strings and lists are concatenated, objects merged field by field. Names, numbers and times are never sent in
    pieces, so they are replaced.
    """
    if isinstance(known, str) and isinstance(more, str):
        return more if key in _NAMES or key.endswith("_id") else known + more
    if isinstance(known, dict) and isinstance(more, dict):
        return known | {field: _sum(field, known.get(field), value) for field, value in more.items()}
    if isinstance(known, list) and isinstance(more, list):
        return known + more
    return known if more is None else more


CHAT: Final = Dialect("openai", ChatRequests(), ChatFrames(), ChatDocuments())


def _body(question: Question) -> dict[str, Any]:
    limit = {"max_tokens": question.max_tokens} if question.max_tokens else {}
    usage = {"stream_options": {"include_usage": True}}
    return {"model": question.model, "stream": True, "messages": question.messages, **usage, **limit}


ASK_CHAT: Final = Asking("Chat completions", "/chat/completions", _body)
