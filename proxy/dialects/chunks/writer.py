"""Writes chunks of a chat completion, whatever the API of the stream that they tell of."""

from typing import Any, Final

from proxy.dialects.dialect import Origin, Reader
from proxy.dialects.documents.delta import Delta, channel
from proxy.dialects.documents.increment import Channel
from proxy.dialects.usage import Usage
from proxy.wire import json_text

DONE: Final = b"[DONE]"
OBJECTS: Final[tuple[str, ...]] = ("chat.completion.chunk", "chat.completion")


def error_data(message: str, code: str) -> bytes:
    """Return the data of the event that ends a failed stream."""
    return json_text.written({"error": {"message": message, "type": "stream_error", "code": code}})


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
        return frames + b"data: %b\nid: %b\n\n" % (DONE, ident)

    def fail(self, message: str, code: str, ident: bytes) -> bytes:
        return b"data: %b\nid: %b\n\n" % (error_data(message, code), ident)


_SPEAKER: Final = {"role": "assistant", "content": ""}


def _choice(index: int) -> Delta:
    message: dict[str, Any] = {}
    return Delta(index, {"delta": message, "finish_reason": None, "index": index}, message, "content")


def _chunk_of(origin: Origin, choices: list[dict[str, Any]]) -> dict[str, Any]:
    envelope = {"id": f"chatcmpl-{origin.ident}", "object": OBJECTS[0], "created": origin.created_at, "model": ""}
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


CHUNKS: Final = ChatChunks()
