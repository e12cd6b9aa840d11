"""Streams that upstreams might send, made up by hypothesis, and recorded ones with a few bytes changed."""

import json

from hypothesis import strategies as st

from tests import message_events
from tests.corpus.table import CORPUS
from tests.cuts import recorded
from tests.dialects.response_events import message, numbered, response
from tests.event_streams import FINISH, chunk_frame
from tests.message_events import Block

DEEP = b"[" * 300 + b"]" * 300
DEEPER = b"[" * 1500 + b",null]" * 1500
PUT = [b"", b"null", b"1e999", b"{}", b"[]", b'"', b"\n\n", b"\\ud83d", DEEP, DEEPER, b'{"type":"stop"}']
DONE = b"data: [DONE]\n\n"
MESSAGE = message_events.message([Block("text", ("a", "ab")), Block("tool_use", ('{"a": ', "1}"))])
BLOCK_EVENTS = ["message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta"]
BLOCKS = ["text_delta", "thinking_delta", "input_json_delta", "signature_delta", "citations_delta", "text", "tool_use"]
NAMES = [
    "choices", "delta", "message", "content", "reasoning_content", "reasoning", "role", "index", "finish_reason",
    "tool_calls", "function", "name", "arguments", "id", "type", "text", "usage", "prompt_tokens", "models", "error",
    "code", "status_code", "request_id", "output", "audio", "data", "transcript", "logprobs", "object", "model",
    "delta", "response", "item", "output_index", "content_index", "sequence_number", "status", "incomplete_details",
    "part", "workflow_message", "detail", "expires_at", "completion_tokens_details", "reasoning_tokens", "refusal",
]  # fmt: skip
WORDS = ["", "stop", "null", "error", "assistant", "chat.completion.chunk", "ha", "haha", "\ud800", "\udc00", "\u2028"]
RESPONSE = numbered(response(message(0, ["a", "b"])), by_dashscope=True)
EVENTS = [
    "response.created", "response.output_item.added", "response.output_text.delta", "response.audio.delta",
    "response.function_call_arguments.delta", "response.output_item.done", "response.completed", "response.failed",
    "response.incomplete", "response.done", "error",
]  # fmt: skip
LINES = [
    b"data: ", b"data:", b'data: {"a":1}\n', b'data:{"choices":[{"delta":{"content":"a"}}]}\r\n', b"data: [DONE]\n",
    b"id: 1", b"event: error", b": c", b"retry: 1", b"\n", b"\r\n", b"\r", b"\xef\xbb\xbf",
]  # fmt: skip
scalars = st.none() | st.booleans() | st.integers() | st.integers(0, 3) | st.floats() | st.text(max_size=5)
values = st.recursive(
    scalars | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=25,
)
choices = st.fixed_dictionaries(
    {},
    optional={
        "index": values,
        "delta": st.dictionaries(st.sampled_from(NAMES), values, max_size=4) | values,
        "message": st.dictionaries(st.sampled_from(NAMES), values, max_size=4),
        "finish_reason": st.sampled_from([*WORDS, None]) | values,
        "logprobs": values,
    },
)
chunks = st.fixed_dictionaries({"choices": st.lists(choices, max_size=3) | values}, optional={"usage": values})
events = st.fixed_dictionaries(
    {"type": st.sampled_from(EVENTS)}, optional=dict.fromkeys(("response", "item", "delta", "output_index"), values)
)
blocks = values | st.fixed_dictionaries(
    {"type": st.sampled_from(BLOCKS)},
    optional={"text": values, "thinking": values, "partial_json": values, "signature": values, "citation": values},
)
block_events = st.fixed_dictionaries(
    {"type": st.sampled_from(BLOCK_EVENTS)},
    optional={"index": values, "delta": blocks, "content_block": blocks, "message": values, "usage": values},
)
outputs = st.fixed_dictionaries({"output": chunks | st.dictionaries(st.sampled_from(NAMES), values, max_size=3)})
frames = (values | chunks | outputs | events | block_events).map(
    lambda said: b"data: %b\n\n" % json.dumps(said).encode()
)
WHOLE = [chunk_frame("a"), chunk_frame("ab"), FINISH, DONE, *RESPONSE, *MESSAGE]
streams = st.lists(frames | st.sampled_from(WHOLE), max_size=8)
noise = st.lists(st.binary(max_size=20) | st.sampled_from(LINES) | frames, max_size=12)
RECORDED = [path.read_bytes() for path in recorded()]
RECORDED += [entry.body for entries in CORPUS.values() for entry in entries.values()]


@st.composite
def mutated(draw: st.DrawFn) -> list[bytes]:
    """Draw a stream that was recorded or reported, a few places of which are replaced, left out or doubled."""
    said = bytearray(draw(st.sampled_from(RECORDED))[:20_000])
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(0, len(said) - 1)))
        size = draw(st.integers(0, 40))
        said[at : at + size] = draw(st.sampled_from([*PUT, bytes(said[at : at + size]) * 2]))
    return [bytes(said)]
