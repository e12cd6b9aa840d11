"""OpenAI's words: chat.completion.chunk, delta, finish_reason, usage. Facts of Qwen's compatible mode."""

from typing import Any

import orjson

from proxy.dialects.choices import ChoiceDocuments
from proxy.dialects.delta import Delta, json_object, record, records, rewritten_body
from proxy.dialects.dialect import Dialect, Summary, TextKind, Usage, count
from proxy.wire.errors import ProxyError, RequestError
from proxy.wire.http import RawHeaders
from proxy.wire.sse import fields, payload

_DONE = b"[DONE]"
_DONE_FRAME = b"data: [DONE]\n\n"  # as Qwen writes it
_CONTENT = b'data: {"choices":[{"delta":{"content":"'  # begins a chunk, also one whose text is empty
_MODEL = b'"model":"'  # in a text its quotes would have backslashes
_SHORT = 1024  # to look for several bytes in a row takes 2.5 ns a byte
_QUOTE = 34


class ChatRequests:
    """How a chat completion is asked for."""

    def streamed(self, headers: RawHeaders, body: bytes) -> tuple[list[tuple[bytes, bytes]], bytes] | None:
        asked = json_object(body, exactly=True)
        if not asked or asked.get("stream"):
            return None
        asked["stream"] = True
        asked["stream_options"] = record(asked.get("stream_options")) | {"include_usage": True}
        rewritten = rewritten_body(asked)
        return None if rewritten is None else (list(headers), rewritten)

    def counted(self, body: bytes) -> bytes | None:
        asked = json_object(body, exactly=True)
        options = record(asked.get("stream_options"))
        if not asked.get("stream") or options.get("include_usage"):
            return None
        asked["stream_options"] = options | {"include_usage": True}
        return rewritten_body(asked)


class ChatFrames:
    """What a frame of a chat completion says: `data: {chunk}`, and `data: [DONE]` at the end."""

    has_text = True

    def generated(self, frame: bytes, known: str | None = None) -> tuple[str | None, TextKind | None]:
        if _has_content(frame) and (model := known or _model(frame)):
            return model, TextKind.CONTENT
        chunk = _chunk(frame)
        stated: Any = known or chunk.get("model")
        return stated if isinstance(stated, str) else None, _kind(chunk)

    def thinking(self, frame: bytes) -> bool:
        return b'"content":null' in frame

    def terminal(self, frame: bytes) -> bool:
        return frame == _DONE_FRAME or (len(frame) < 128 and payload(frame) == _DONE)

    def summary(self, frames: list[bytes]) -> Summary:
        finish, usage, failed, last_text = None, None, False, -1
        place = len(frames)
        while place and not finish:  # usage and errors, if there are any, come after it
            place -= 1
            frame = frames[place]
            if frame == _DONE_FRAME:
                continue
            data = payload(frame) or b""
            chunk = json_object(data)
            if usage is None and (stated := chunk.get("usage")):
                usage = _usage(stated)
            # Some gateways write the flat variant: the event is an error, its object has no "error". An event's name
            # is a line more than `data: ` and two LFs; the search for five bytes takes as long as all of payload.
            named = len(frame) > len(data) + 8 and b"event" in frame
            if chunk.get("error") or (named and fields(frame).type == b"error"):
                failed = True
            if choices := chunk.get("choices"):
                for choice in choices if type(choices) is list else ():
                    if type(choice) is dict:
                        finish = finish or choice.get("finish_reason")
                if last_text < 0 and (_has_content(frame) or _kind(chunk)):
                    last_text = place
        while place and last_text < 0:
            place -= 1
            if _has_content(frames[place]) or _kind(_chunk(frames[place])):
                last_text = place
        return Summary(finish, usage, failed, None, last_text)

    def reports(self, frame: bytes) -> bool:
        return bool(_chunk(frame).get("error"))  # neither SDK of OpenAI's looks at the event's name

    def only_counts(self, frame: bytes) -> bool:
        if b'"usage"' not in frame:
            return False
        chunk = _chunk(frame)
        return chunk.get("choices") == [] and bool(chunk.get("usage"))

    def error_body(self, error: ProxyError) -> dict[str, Any]:
        kind = "invalid_request_error" if isinstance(error, RequestError) else "server_error"
        return {"error": {"message": error.message, "type": kind, "param": None, "code": error.code}}

    def error_frame(self, message: str, code: str, ident: bytes) -> bytes:
        error = {"error": {"message": message, "type": "stream_error", "code": code}}
        return b"data: %b\nid: %b\n\n" % (orjson.dumps(error), ident)


class ChatDocuments(ChoiceDocuments):
    """The increments in chunks, and the finished chat.completion."""

    cumulative = False
    states = True

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
                index = choice.get("index")
                whole = delta is choice.get("message")
                found.append(Delta(index if type(index) is int else place, choice, delta, "content", whole=whole))
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
        told = [choice.choice for choice in choices]
        return {"choices": told, "object": "chat.completion", "usage": usage} | envelope | {"object": "chat.completion"}


_OBJECTS = ("chat.completion.chunk", "chat.completion")
_ENVELOPE = ("id", "created", "model", "system_fingerprint", "service_tier", "request_id", "citations")
_NAMES = frozenset(
    ["id", "type", "index", "role", "name", "object", "format", "status"]
)  # of fields that do not add up


def _delta(choice: dict[str, Any]) -> Any:
    """Return a choice's delta, or the message in place of it; an empty one, put there, where it finishes without."""
    delta = choice.get("delta")
    if isinstance(message := choice.get("message"), dict) and not delta:
        return message
    if delta is None and choice.get("finish_reason"):
        delta = choice["delta"] = {}
    return delta


def _sum(key: str, known: Any, more: Any) -> Any:
    """Add increments as OpenAI's own clients do, but for names, numbers and times, which are not said in pieces.

    Texts add up, lists grow, objects gain field by field.
    """
    if isinstance(known, str) and isinstance(more, str):
        return more if key in _NAMES or key.endswith("_id") else known + more
    if isinstance(known, dict) and isinstance(more, dict):
        return known | {field: _sum(field, known.get(field), value) for field, value in more.items()}
    if isinstance(known, list) and isinstance(more, list):
        return known + more
    return known if more is None else more


def _chunk(frame: bytes) -> dict[str, Any]:
    """Return the chunk in a frame; {} for comments, [DONE] and what is not a JSON object."""
    data = payload(frame)
    return {} if not data or data == _DONE else json_object(data)


def _has_content(frame: bytes) -> bool:
    """Tell without parsing that a chunk has answer text; False when in doubt. 0.2 us, where parsing takes 3."""
    return frame.startswith(_CONTENT) and frame.endswith(b"}\n\n") and frame[len(_CONTENT)] != _QUOTE


def _model(frame: bytes) -> str | None:
    """Return the model that a chunk names, without parsing; None when in doubt. 0.4 us, where parsing takes 2."""
    at = frame.rfind(_MODEL)
    if at < 0 or len(frame) > _SHORT or frame.find(_MODEL) != at:
        return None
    name = frame[at + len(_MODEL) : frame.find(b'"', at + len(_MODEL))]
    return name.decode() if name.isascii() and b"\\" not in name else None


def _usage(stated: Any) -> Usage:
    return Usage(
        count(stated, "prompt_tokens"),
        count(stated, "completion_tokens"),
        count(stated, "completion_tokens_details", "reasoning_tokens"),
        count(stated, "prompt_tokens_details", "cached_tokens"),
    )


def _kind(chunk: dict[str, Any]) -> TextKind | None:
    """Return what the first of a chunk's choices says that says anything. One function: 0.3 us, where calls took 2."""
    choices = chunk.get("choices")
    if type(choices) is not list:
        return None
    for choice in choices:
        if type(choice) is not dict or type(delta := choice.get("delta")) is not dict:
            continue
        if delta.get("content"):
            return TextKind.CONTENT
        if delta.get("reasoning_content"):
            return TextKind.REASONING
        if (calls := delta.get("tool_calls")) and any(map(_arguments, records(calls))):
            return TextKind.TOOL_CALL
    return None


def _arguments(call: dict[str, Any]) -> bool:
    """Tell whether a tool call's fragment carries generated text: a name or arguments, either may be null."""
    function = record(call.get("function"))
    return bool(function.get("name") or function.get("arguments"))


CHAT = Dialect("openai", ChatRequests(), ChatFrames(), ChatDocuments())
