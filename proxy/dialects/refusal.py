"""Reads an upstream's error response in any of its formats, also one that is framed as SSE.

With `stream: true` Qwen's compatible mode responds with HTTP 400 and a body that is one SSE frame, in which OpenAI's
SDKs find no error code; the native API responds with HTTP 200 and one `event:error` frame, its status in a comment.
"""

import re
from typing import NamedTuple

from proxy.dialects.delta import record
from proxy.wire import json_text
from proxy.wire.sse import BOM, Splitter, fields

_STATUS = re.compile(rb"^(?::HTTP_STATUS/|status: ?)([1-5][0-9]{2})\s*$", re.MULTILINE)
# Source: Model Studio's error messages, as recorded in reports of their users.
_STREAM_ONLY = (
    b"only support stream mode",
    b"must be set to false for non-streaming calls",
    b"enable_thinking only support stream call",
    b"only support with stream=true",
    b"does not support http call",
)
_FRAMED = re.compile(rb"(?:\xef\xbb\xbf)?(?::|(?:data|event|id|retry|status):)")


class Refusal(NamedTuple):
    """The status and the code of an error response, as its body states them; `body` is its JSON object, unframed."""

    status: int
    code: str | None
    body: bytes | None
    framed: bool  # the body was an SSE frame


def read(status: int, body: bytes) -> Refusal:
    """Read an error response: JSON, framed as SSE or not, with a nested `error` or flat; anything else has no code.

    If the status is 200, the status in the frame is used, if it has one.
    """
    framed = _FRAMED.match(body) is not None
    data = _first_data(body) if framed else body.removeprefix(BOM).strip()
    try:
        told = json_text.read(data or b"")
    except ValueError:
        return Refusal(status, None, None, framed)
    if not isinstance(told, dict):
        return Refusal(status, None, None, framed)
    stated = _STATUS.search(body) if framed and status == 200 else None
    return Refusal(int(stated[1]) if stated else status, _code(told), data, framed)


def asks_for_stream(body: bytes) -> bool:
    """Return whether an error response says that a model, or its thinking mode, supports only streaming."""
    return any(words in body for words in _STREAM_ONLY)


def _first_data(body: bytes) -> bytes | None:
    """Return the data of the first frame that has any; [DONE] may follow it."""
    splitter = Splitter(len(body) + 1)
    frames = [*splitter.feed(body), splitter.tail]
    return next((data for frame in frames if (data := fields(frame).data)), None)


def _code(told: dict[str, object]) -> str | None:
    error = told.get("error")
    code = record(error).get("code") if error else told.get("code")
    return code if isinstance(code, str) else None
