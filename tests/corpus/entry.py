"""What an entry of the corpus is, and the bytes that entries are made of."""

import json
from typing import Any, NamedTuple

DONE = b"data: [DONE]\n\n"
BASE = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1767225600, "model": "qwen-plus"}


class Entry(NamedTuple):
    """The body of an upstream's response, and what is right: in every mode, however it is cut into reads."""

    body: bytes
    text: str = ""
    """What mode text sends, and what the events of every mode add up to."""
    message: dict[str, Any] = {}  # noqa: RUF012  (of a NamedTuple, it is never changed)
    """Of the first choice: fields that mode json has beside the text, and the events of rewriting modes add up to."""
    document: dict[str, Any] = {}  # noqa: RUF012
    """Other fields of the document in mode json."""
    ending: str = "complete"
    why: str = ""
    """Words of the ending's message."""
    ends_properly: bool = True
    """Whether mode raw does."""
    usage: tuple[int, int] | None = (7, 5)
    first: bytes = b""
    """Bytes of the first frame with generated text; none has any, if empty."""
    cumulative: bool | None = None
    """What the request asked for."""


def event(value: Any) -> bytes:
    """Return a value as the data of an event."""
    return b"data: %b\n\n" % json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def chunk(delta: Any = None, finish: Any = None, index: Any = 0, **more: Any) -> bytes:
    """Return a chunk of one choice."""
    choice = {"index": index, "delta": delta or {}, "finish_reason": finish, "logprobs": None}
    return event({"choices": [choice], **BASE, **more})


def native(message: Any = None, finish: Any = "null", **more: Any) -> bytes:
    """Return a result of DashScope's own API, of one choice."""
    return result({"choices": [{"message": message or {}, "finish_reason": finish}]}, **more)


def result(output: Any, **more: Any) -> bytes:
    """Return a result of DashScope's own API."""
    told = {"output": output, "usage": {"input_tokens": 7, "output_tokens": 5}, "request_id": "r-1", **more}
    data = json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()
    return b"id:1\nevent:result\n:HTTP_STATUS/200\ndata:%b\n\n" % data


USAGE = event({"choices": [], **BASE, "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}})
STOP = chunk({}, "stop")
END = STOP + USAGE + DONE
