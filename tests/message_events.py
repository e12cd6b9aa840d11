"""Events of Anthropic's Messages for tests: frames in both framings, whole messages as streams, and their sums."""

import json
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from anthropic.lib.streaming._messages import accumulate_event
from hypothesis import strategies as st

from tests.cuts import messages

PING = b'event: ping\ndata: {"type": "ping"}\n\n'
MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "model": "qwen3-max", "content": []}
_DELTAS = {"text": ("text_delta", "text"), "thinking": ("thinking_delta", "thinking")}


def event(kind: str, *, spaced: bool = False, **fields: Any) -> bytes:
    """Return an event as DashScope frames it, or, `spaced`, as Anthropic does."""
    told = {"type": kind, **fields}
    if spaced:
        return f"event: {kind}\ndata: {json.dumps(told, ensure_ascii=False)}\n\n".encode()
    return f"event:{kind}\ndata:{json.dumps(told, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


def start(*, spaced: bool = False, **usage: Any) -> bytes:
    """Return the event that begins a message."""
    return event("message_start", spaced=spaced, message={**MESSAGE, "usage": {"output_tokens": 0, **usage}})


def delta(text: str, index: int = 0, kind: str = "text", *, spaced: bool = False) -> bytes:
    """Return an event with text, thinking, or (`tool_use`) a piece of a tool's input."""
    name, key = _DELTAS.get(kind, ("input_json_delta", "partial_json"))
    return event("content_block_delta", spaced=spaced, index=index, delta={"type": name, key: text})


def finish(reason: str = "end_turn", **usage: Any) -> bytes:
    """Return the event with the reason why a message ended, and its usage."""
    return event("message_delta", delta={"stop_reason": reason, "stop_sequence": None}, usage=usage)


STOP = event("message_stop")
UNTYPED = b'data: {"index":0,"delta":{"type":"text_delta","text":"x"}}\n\n'


def block_start(**block: Any) -> bytes:
    """Return the event that starts the first block."""
    return event("content_block_start", index=0, content_block=block)


class Block(NamedTuple):
    """A content block and the pieces of text in which it is streamed."""

    kind: str
    pieces: tuple[str, ...]

    def opening(self) -> dict[str, Any]:
        """Return the block as it starts."""
        if self.kind.endswith("tool_use"):
            return {"type": self.kind, "id": "toolu_1", "name": "get_weather", "input": {}}
        if self.kind == "thinking":
            return {"type": "thinking", "thinking": "", "signature": ""}
        return {"type": self.kind, self.kind: ""}

    def frames(self, index: int) -> Iterator[bytes]:
        yield event("content_block_start", index=index, content_block=self.opening())
        for piece in self.pieces:
            yield delta(piece, index, self.kind)
        if self.kind == "thinking":
            signature = {"type": "signature_delta", "signature": f"signed {index}"}
            yield event("content_block_delta", index=index, delta=signature)
        yield event("content_block_stop", index=index)


def message(blocks: Iterable[Block], reason: str = "end_turn") -> list[bytes]:
    """Return the stream of a message with these blocks."""
    frames = [start(input_tokens=15)]
    for index, block in enumerate(blocks):
        frames += block.frames(index)
    return [*frames, finish(reason, input_tokens=15, output_tokens=9, cache_read_input_tokens=3), STOP]


def _inputs() -> st.SearchStrategy[str]:
    values = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4)
    return st.dictionaries(st.text(max_size=3), values | st.lists(values, max_size=2), max_size=3).map(json.dumps)


def _pieces(text: str, cuts: list[int]) -> tuple[str, ...]:
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return tuple(text[first:last] for first, last in pairwise(places))


_CUTS = st.lists(st.integers(0, 50), max_size=4)
_SAID = st.lists(st.text(max_size=4), max_size=5).map(tuple)
blocks = st.lists(
    st.builds(Block, st.sampled_from(["text", "thinking"]), _SAID)
    | st.builds(Block, st.sampled_from(["tool_use", "server_tool_use"]), st.builds(_pieces, _inputs(), _CUTS)),
    max_size=4,
)
"""Blocks of every kind that has text; the inputs of tools are JSON, in pieces cut anywhere."""


def told_by_sdk(frames: list[bytes]) -> Any:
    """Return what the SDK adds the events up to."""
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    for frame in frames:
        data = json.loads(messages(frame)[0].data)
        if data["type"] != "ping":
            snapshot = accumulate_event(event=data, current_snapshot=snapshot, json_bufs=buffers)
    return without_nulls(json.loads(snapshot.to_json(warnings=False)))


def without_nulls(value: Any) -> Any:
    """Return a document without its members that are null: SDKs set those that were not sent."""
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value
