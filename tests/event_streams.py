"""Event streams as an upstream writes them, and as a client in mode events is sent them."""

import json
import re
from typing import Any

BLOCK = re.compile(rb".*?(?:\r\n\r\n|\n\n|\r\r)", re.DOTALL)
DONE = b"data: [DONE]\n\n"


def chunk_frame(text: str = "word", **more: Any) -> bytes:
    """Return a frame of the OpenAI dialect with some content."""
    delta = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "qwen3-max", "choices": [delta], **more}
    return b"data: %b\n\n" % json.dumps(chunk).encode()


FINISH = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","model":"qwen3-max",'
    b'"choices":[{"index":0,"delta":{"content":""},"finish_reason":"stop"}]}\n\n'
)


def blocks(body: bytes) -> list[bytes]:
    """Return the complete SSE blocks of a body; what is left over must be none."""
    found = BLOCK.findall(body)
    assert b"".join(found) == body, f"a block lacks its end: {body[-200:]!r}"
    return found


def stamped(body: bytes, epoch: str, first: int = 1) -> bytes:
    """Return what mode events makes of complete blocks: an id as the last line of each that has data.

    A block without data loses its blank line, so that it leads the next one, and names of an event or an id in it
    become comments; a byte order mark goes.
    """
    out = []
    for seq, block in enumerate(blocks(body.removeprefix(b"\xef\xbb\xbf")), first):
        newline = b"\r\n" if block.endswith(b"\r\n\r\n") else block[-1:]
        lines = block.removesuffix(newline * 2).split(newline)
        if any(line.startswith(b"data") for line in lines):
            out.append(newline.join([*lines, b"id: %b-%d" % (epoch.encode(), seq), b"", b""]))
        else:
            out += [b":" * line.startswith((b"event", b"id")) + line + newline for line in lines]
    return b"".join(out)
