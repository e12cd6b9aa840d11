"""What a server adds to a stream, such as heartbeats, and which of these additions the parsers of SDKs fail at.

The rules are those of the SDKs' parsers; tests/tools/check/test_heartbeats.py has the SDKs read an example of each.
Pure: knows no connection.
"""

from collections.abc import Iterator
from enum import Enum

import orjson

from proxy.tools.endpoint import Api
from proxy.wire.sse import Splitter, fields

_MAX_FRAME_BYTES = 64 * 1024 * 1024


class Harm(Enum):
    """What a block does to clients, in words that complete "it sends ..."."""

    NONE = "comments or events that every parser skips"
    NO_DATA = "a block with an event or id line and without data, at which OpenAI's SDKs raise an exception"
    AFTER_ID = "a block of comments alone in a stream that has ids, at which openai-python raises an exception"
    NOT_JSON = "data that is not JSON, at which SDKs raise an exception"
    FOREIGN = "an event that the API does not have: `chunk.choices[0]`, as most programs write it, raises an exception"


def frames_of(body: bytes) -> list[bytes]:
    """Return the complete blocks of a body, and what follows the last one if it is not empty."""
    splitter = Splitter(_MAX_FRAME_BYTES)
    frames = splitter.feed(body)
    return [*frames, splitter.tail] if splitter.tail else frames


def added(received: bytes, sent: bytes) -> list[bytes]:
    """Return what a server added to a body: blocks of its own, and lines that it put before blocks of the upstream."""
    upstream = iter(frames_of(sent))
    expected, found = next(upstream, None), []
    for frame in frames_of(received):
        if expected is not None and frame.endswith(expected):
            if len(frame) > len(expected):
                found.append(frame[: -len(expected)])
            expected = next(upstream, None)
        else:
            found.append(frame)
    return found


def harm(block: bytes, api: Api, *, after_id: bool) -> Harm:
    """Return what a block, or some lines before one, does to clients of an API. `after_id`: an id came before it."""
    if not block.endswith((b"\n\n", b"\r\r", b"\r\n\r\n")):  # lines that belong to the block behind them
        return Harm.NONE
    lines = [line for line in block.splitlines() if line]
    event = fields(block)
    if api.asking.by_name:
        is_read = event.type.decode("latin-1").startswith(api.dialect.events)
        return Harm.NOT_JSON if is_read and _object(event.data or b"") is None else Harm.NONE
    if all(line.startswith(b":") for line in lines):
        return Harm.AFTER_ID if after_id else Harm.NONE
    if not event.data:
        return Harm.NO_DATA
    if event.data == b"[DONE]":
        return Harm.NONE
    return _harm_of_data(event.data, api)


def _harm_of_data(data: bytes, api: Api) -> Harm:
    found = _object(data)
    if found is None:
        return Harm.NOT_JSON
    member = "type" if api.dialect.events else "choices"
    return Harm.NONE if member in found or "error" in found else Harm.FOREIGN


def _object(data: bytes) -> dict[str, object] | None:
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def harms(blocks: list[bytes], body: bytes, api: Api) -> Iterator[Harm]:
    """Yield what each of the blocks, which were added to a body, does to clients."""
    has_ids = any(fields(frame).id is not None for frame in frames_of(body))
    for block in blocks:
        yield harm(block, api, after_id=has_ids)
