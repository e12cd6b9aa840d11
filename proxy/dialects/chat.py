"""The dialect of OpenAI's chat completions, as Qwen's compatible mode implements them."""

from typing import Any, Final

from proxy.dialects.dialect import Dialect, Origin, Reader, StreamedByBody, TextKind, choices_of
from proxy.dialects.documents.choices import ChoiceDocuments
from proxy.dialects.documents.delta import Delta, channel, index_of, json_object, record
from proxy.dialects.documents.increment import Channel
from proxy.dialects.failure import FOREIGN, Failure, failure, foreign, names_error
from proxy.dialects.generated import generated
from proxy.dialects.question import Asking, Question
from proxy.dialects.reader import LearningReader
from proxy.dialects.usage import Usage
from proxy.wire import json_text
from proxy.wire.errors import ProxyError, RequestError
from proxy.wire.http import RawHeaders
from proxy.wire.json_members import Members, members
from proxy.wire.sse import fields, payload

_DONE: Final = b"[DONE]"
_DONE_WITHIN_S: Final = 5.0  # after the last finish reason


def error_body(error: ProxyError) -> dict[str, Any]:
    """Return the JSON body of an error response, in the format that OpenAI's clients read."""
    kind = "invalid_request_error" if isinstance(error, RequestError) else "server_error"
    return {"error": {"message": error.message, "type": kind, "param": None, "code": error.code}}


def error_data(message: str, code: str) -> bytes:
    """Return the data of the event that ends a failed stream."""
    return json_text.written({"error": {"message": message, "type": "stream_error", "code": code}})


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


class ChatReader(LearningReader):
    """The Reader of the chunks of one chat completion."""

    __slots__ = ()

    def note(self, frame: bytes) -> TextKind | None:
        data = payload(frame)
        plain = data is not None and len(frame) == len(data) + 8  # the frame is `data: `, the data, and two LFs
        named = not plain and self._note_fields(frame, data)
        if data is None and not named:
            return None
        if data is not None and data.startswith(_DONE):  # SDKs compare the beginning only, and then stop reading
            self.ended = True
            return None
        chunk = json_object(data or b"")
        choices, usage = chunk.get("choices"), chunk.get("usage")
        if not usage and "x_groq" in chunk:
            usage = record(chunk["x_groq"]).get("usage")
        if named or not (choices or usage) or "error" in chunk:
            self._note_failure(frame, data or b"", chunk, named)
        if self.model is None and isinstance(model := chunk.get("model"), str):
            self.model = model
        if usage:
            self._take_usage(usage)
            self.has_content = True
        return self._note_choices(frame, choices) if choices and type(choices) is list else None

    @property
    def enough_after_s(self) -> float:
        """Only [DONE] says so at once; before it, the usage may be some time in coming."""
        return self._quiet_s(_DONE_WITHIN_S)

    def lacks_only_end(self, lines: bytes) -> bool:
        if _DONE in lines and (fields(lines).data or b"").startswith(_DONE):
            self.ended = True
        return self.ended

    def error_frame(
        self, message: str, code: str, ident: bytes, last: bytes | None = None, number: int | None = None
    ) -> bytes:
        return CHUNKS.fail(message, code, ident)

    def _note_fields(self, frame: bytes, data: bytes | None) -> bool:
        """Check a frame's fields besides its data; return whether the event is named error."""
        if b"event" in frame and names_error(frame):
            return True
        if data is None or frame.startswith(FOREIGN):
            self._fail(foreign(frame))
        return False

    def _note_choices(self, frame: bytes, choices: list[Any]) -> TextKind | None:
        kind = None
        self.has_content = True
        for place, choice in enumerate(choices):
            if type(choice) is not dict:
                continue
            index, reason = index_of(choice, place), choice.get("finish_reason")
            delta = choice.get("delta") or choice.get("message")
            for part in (choice, delta):
                if type(part) is dict and "error" in part:
                    self._fail(_in_choice(failure(b"", b"", {"error": part["error"]}, named=False)))
            self._finish(index, reason)
            if "usage" in choice:
                self._take_usage(choice["usage"])
            found = generated(delta if type(delta) is dict else choice)
            if found is None:
                continue
            if kind is None or kind is TextKind.REASONING:  # content takes precedence over reasoning
                kind = found.kind
            if reason is None and found.text and len(choices) == 1 and self.failure is None:
                self._learn(frame, found.key, found.text, index)
        return kind

    def _note_failure(self, frame: bytes, data: bytes, chunk: dict[str, Any], named: bool) -> None:
        found = failure(frame, data, chunk, named=named)
        # OpenAI's SDKs ignore an event's name, and recognise an error only under the key "error".
        self._fail(found._replace(recognised=bool(chunk.get("error"))) if found is not None else None)

    def _read_numbers(self, frame: bytes) -> None:
        self._take_usage(_chunk(frame).get("usage"))


class ChatFrames:
    """The frames of a chat completion: `data: {chunk}`, and `data: [DONE]` at the end."""

    has_text = True

    def reader(self) -> Reader:
        return ChatReader()

    def only_counts(self, frame: bytes) -> bool:
        if b'"usage"' not in frame:
            return False
        chunk = _chunk(frame)
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
        return document.get("object", _OBJECTS[0]) in _OBJECTS and (choices == [] or bool(document.get("usage")))

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


class ChatChunks:
    """Writes what a stream of any API says as chunks of a chat completion."""

    def chunk(self, origin: Origin, texts: list[tuple[Channel, str]], ident: bytes, first: bool) -> bytes:
        texts_of: dict[Channel, str] = {}
        for where, text in texts:
            texts_of[where] = texts_of.get(where, "") + text
        choices: dict[int, Delta] = {}
        if first:
            choices[0] = _choice(0)
            choices[0].message.update(_SPEAKER)
        for where, text in texts_of.items():
            delta = choices.get(where.part)
            if delta is None:
                delta = choices[where.part] = _choice(where.part)
            delta.put(where, text)
        return _event(_chunk_of(origin, [choices[index].choice for index in sorted(choices)]), ident)

    def complete(self, origin: Origin, reason: str, reader: Reader, ident: bytes) -> bytes:
        frames = b""
        if reason:
            last = _choice(0)
            last.put(channel(0, "finish_reason"), reason)
            frames += _event(_chunk_of(origin, [last.choice]))
        if reader.usage is not None:
            frames += _event(_chunk_of(origin, []) | {"model": reader.model or "", "usage": _usage(reader.usage)})
        return frames + b"data: %b\nid: %b\n\n" % (_DONE, ident)

    def fail(self, message: str, code: str, ident: bytes) -> bytes:
        return b"data: %b\nid: %b\n\n" % (error_data(message, code), ident)


_SPEAKER: Final = {"role": "assistant", "content": ""}


def _choice(index: int) -> Delta:
    message: dict[str, Any] = {}
    return Delta(index, {"delta": message, "finish_reason": None, "index": index}, message, "content")


def _chunk_of(origin: Origin, choices: list[dict[str, Any]]) -> dict[str, Any]:
    envelope = {"id": f"chatcmpl-{origin.ident}", "object": _OBJECTS[0], "created": origin.created_at, "model": ""}
    return envelope | {"choices": choices}


def _event(chunk: dict[str, Any], ident: bytes = b"") -> bytes:
    data = json_text.written(chunk)
    return b"data: %b\nid: %b\n\n" % (data, ident) if ident else b"data: %b\n\n" % data


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }


_OBJECTS: Final[tuple[str, ...]] = ("chat.completion.chunk", "chat.completion")
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


def _chunk(frame: bytes) -> dict[str, Any]:
    """Return the chunk in a frame; {} for comments, [DONE] and anything that is not a JSON object."""
    data = payload(frame)
    return {} if not data or data == _DONE else json_object(data)


def _in_choice(found: Failure | None) -> Failure | None:
    return None if found is None else found._replace(recognised=False)


CHUNKS: Final = ChatChunks()
CHAT: Final = Dialect("openai", ChatRequests(), ChatFrames(), ChatDocuments())


def _body(question: Question) -> dict[str, Any]:
    limit = {"max_tokens": question.max_tokens} if question.max_tokens else {}
    usage = {"stream_options": {"include_usage": True}}
    return {"model": question.model, "stream": True, "messages": question.messages, **usage, **limit}


ASK_CHAT: Final = Asking("Chat completions", "/chat/completions", _body)
