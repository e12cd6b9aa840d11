"""OpenAI's words: chat.completion.chunk, delta, finish_reason, usage. Facts of Qwen's compatible mode."""

from typing import Any

import orjson

from proxy.wire.dialect import Summary, Text, Usage, count, record, records
from proxy.wire.errors import ProxyError, RequestError
from proxy.wire.sse import payload

_DONE = b"[DONE]"
_DELTA_TEXT = (  # the order in which a delta that has several is classified
    ("content", Text.CONTENT),
    ("reasoning_content", Text.REASONING),
)


class ChatCompletions:
    """The OpenAI dialect: `data: {chunk}` frames, `data: [DONE]` at the end."""

    name = "openai"

    def generated(self, frame: bytes) -> tuple[str | None, Text | None]:
        chunk = _chunk(frame)
        model = chunk.get("model")
        kinds = (_kind(record(choice.get("delta"))) for choice in records(chunk.get("choices")))
        return model if isinstance(model, str) else None, next(filter(None, kinds), None)

    def thinking(self, frame: bytes) -> bool:
        return b'"content":null' in frame

    def terminal(self, frame: bytes) -> bool:
        return len(frame) < 128 and payload(frame) == _DONE

    def summary(self, frames: list[bytes]) -> Summary:
        finish, usage, failed = None, None, False
        for frame in reversed(frames):
            chunk = _chunk(frame)
            failed = failed or bool(chunk.get("error"))
            for choice in records(chunk.get("choices")):
                finish = finish or choice.get("finish_reason")
            usage = usage or _usage(chunk.get("usage"))
            if finish:  # usage, if it is stated, comes after it
                break
        return Summary(finish, usage, failed)

    def error_body(self, error: ProxyError) -> dict[str, Any]:
        kind = "invalid_request_error" if isinstance(error, RequestError) else "server_error"
        return {"error": {"message": error.message, "type": kind, "param": None, "code": error.code}}

    def error_frame(self, message: str, code: str, ident: bytes) -> bytes:
        error = {"error": {"message": message, "type": "stream_error", "code": code}}
        return b"data: %b\nid: %b\n\n" % (orjson.dumps(error), ident)


def _chunk(frame: bytes) -> dict[str, Any]:
    """Return the chunk in a frame; {} for comments, [DONE] and what is not a JSON object."""
    data = payload(frame)
    if not data or data == _DONE:
        return {}
    try:
        chunk = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return chunk if isinstance(chunk, dict) else {}


def _usage(stated: Any) -> Usage | None:
    if not stated:
        return None
    return Usage(
        count(stated, "prompt_tokens"),
        count(stated, "completion_tokens"),
        count(stated, "completion_tokens_details", "reasoning_tokens"),
        count(stated, "prompt_tokens_details", "cached_tokens"),
    )


def _kind(delta: dict[str, Any]) -> Text | None:
    for key, kind in _DELTA_TEXT:
        if delta.get(key):
            return kind
    return Text.TOOL_CALL if any(map(_arguments, records(delta.get("tool_calls")))) else None


def _arguments(call: dict[str, Any]) -> bool:
    """Tell whether a tool call's fragment carries generated text: a name or arguments, either may be null."""
    function = record(call.get("function"))
    return bool(function.get("name") or function.get("arguments"))
