"""Whole answers as streams in either dialect, and what a client makes of what it is sent: to compare modes by."""

import json
from dataclasses import replace
from typing import Any

import orjson
from hypothesis import strategies as st

from proxy.tools.fake.chat import ChatAnswer, read_chat
from proxy.tools.fake.messages import MessagesAnswer, read_messages
from proxy.tools.fake.native import NativeAnswer, read_native
from proxy.tools.fake.responses import ResponseAnswer, read_responses
from proxy.tools.fake.text import Stamp
from tests.cuts import messages

STAMP = Stamp("54036480-037a-9e3e-b1fe-50453ba831a1", 1770764906)
Said = dict[tuple[int, str, int], str]
"""The text of each channel: choice, field, tool call (-1: none)."""

_TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"properties": {"place": {}, "days": {}}}}}
    for name in ("weather", "time")
]
_words = st.sampled_from(["stream", "溪水", "one more", "🍵", "!"])


@st.composite
def chats(draw: st.DrawFn) -> ChatAnswer:
    """Draw an answer of the compatible mode."""
    body = {
        "model": "qwen-plus",
        "messages": [{"role": "user", "content": draw(_words)}],
        "stream": True,
        "enable_thinking": draw(st.booleans()),
        "thinking_budget": 20,
        "tools": draw(st.sampled_from([None, None, _TOOLS])),
        "parallel_tool_calls": draw(st.booleans()),
        "n": draw(st.integers(1, 3)),
        "max_tokens": draw(st.integers(1, 40)),
        "stream_options": {"include_usage": draw(st.booleans())},
    }
    return ChatAnswer(read_chat(body, draw(st.integers(0, 99))), STAMP)


@st.composite
def natives(draw: st.DrawFn, incremental: bool | None = None) -> NativeAnswer:
    """Draw an answer of DashScope's own API, cumulative or not."""
    incremental = draw(st.booleans()) if incremental is None else incremental
    in_parts = draw(st.booleans())
    body = {
        "model": "qwen-plus",
        "input": {"messages": [{"role": "user", "content": draw(_words)}]},
        "parameters": {
            "incremental_output": incremental,
            "enable_thinking": incremental and draw(st.booleans()),
            "thinking_budget": 20,
            "result_format": draw(st.sampled_from(["message", "message", "text"])),
            "tools": draw(st.sampled_from([None, None, _TOOLS])),
            "parallel_tool_calls": draw(st.booleans()),
            "n": draw(st.integers(1, 3)),
            "max_tokens": draw(st.integers(1, 40)),
            "enable_search": draw(st.booleans()),
        },
    }
    if body["parameters"]["enable_thinking"] or body["parameters"]["tools"] or body["parameters"]["n"] > 1:  # type: ignore[index]
        body["parameters"]["result_format"] = "message"  # type: ignore[index]
    return NativeAnswer(read_native(body, draw(st.integers(0, 99)), stream=True, multimodal=in_parts), STAMP)


@st.composite
def responses(draw: st.DrawFn) -> ResponseAnswer:
    """Draw a response, in either framing."""
    function, custom = {"type": "function", **_TOOLS[0]["function"]}, {"type": "custom", "name": "note"}  # type: ignore[dict-item]
    tools = st.lists(st.sampled_from([function, custom, {"type": "web_search"}, {"type": "mcp"}]), max_size=2)
    body = {
        "model": "qwen-plus",
        "input": draw(_words),
        "stream": True,
        "reasoning": {"effort": draw(st.sampled_from(["none", "low"]))},
        "tools": draw(tools),
        "max_output_tokens": draw(st.integers(1, 40)),
    }
    ask = read_responses(body, draw(st.integers(0, 99)))
    spaced, sparse = draw(st.sampled_from([(False, False), (True, False), (False, True)]))
    return ResponseAnswer(replace(ask, thinking_budget=20, spaced=spaced, sparse=sparse), STAMP)


@st.composite
def messages_of_blocks(draw: st.DrawFn) -> MessagesAnswer:
    """Draw a message of Anthropic's."""
    schema: dict[str, Any] = {"properties": {"place": {}, "days": {}}}
    own = [{"name": name, "input_schema": schema} for name in ("weather", "time")]
    search = {"type": "web_search_20250305", "name": "web_search"}
    body = {
        "model": "qwen-plus",
        "messages": [{"role": "user", "content": draw(_words)}],
        "stream": True,
        "thinking": {"type": draw(st.sampled_from(["enabled", "disabled"])), "budget_tokens": 20},
        "tools": draw(st.sampled_from([[], own, [search], [search, *own]])),
        "max_tokens": draw(st.integers(1, 40)),
    }
    return MessagesAnswer(read_messages(body, draw(st.integers(0, 99))), STAMP)


def documents(rendered: bytes) -> list[dict[str, Any]]:
    """Return the JSON objects among the events of a body."""
    found = []
    for message in messages(rendered):
        try:
            found.append(json.loads(message.data))
        except ValueError:
            continue
    return [document for document in found if isinstance(document, dict)]


def _choices(document: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    output = document.get("output", document)
    if "text" in output:
        return [(0, {"content": output["text"]})]
    choices = output.get("choices")
    told = enumerate(choices if isinstance(choices, list) else [])
    return [(one.get("index", place), one.get("delta") or one.get("message") or {}) for place, one in told]


def texts(document: dict[str, Any]) -> Said:
    """Return what one document says in each channel, read by the plain names of its fields."""
    said: Said = {}
    event = str(document.get("type"))
    if event.startswith("response."):
        if not event.endswith(".delta"):
            return said
        name = event.removeprefix("response.").removesuffix(".delta")
        return {(document["output_index"], "content" if name == "output_text" else name, -1): document["delta"]}
    if event == "content_block_delta":
        fields = {"text": "content", "thinking": "thinking", "partial_json": "arguments"}
        delta = document["delta"].items()
        return {(document["index"], fields[key], -1): text for key, text in delta if key in fields}
    for index, message in _choices(document):
        for field in ("reasoning_content", "refusal", "content"):
            text = message.get(field)
            if isinstance(text, list):
                text = "".join(part["text"] for part in text)
            if text is not None:
                said[index, field, -1] = text
        for call in message.get("tool_calls") or []:
            said[index, "arguments", call["index"]] = call["function"].get("arguments") or ""
    return said


def joined(rendered: bytes) -> Said:
    """Add up increments, as a client of mode coalesced or incremental does; channels that say nothing are left out."""
    whole: Said = {}
    for document in documents(rendered):
        for channel, text in texts(document).items():
            whole[channel] = whole.get(channel, "") + text
    return {channel: text for channel, text in whole.items() if text}


def latest(rendered: bytes) -> Said:
    """Replace each channel by what was said of it last, as a client of mode cumulative does."""
    whole: Said = {}
    for document in documents(rendered):
        whole |= texts(document)
    return {channel: text for channel, text in whole.items() if text}


def made_cumulative(frames: list[bytes]) -> list[bytes]:
    """Return a compatible stream as an upstream sends it that repeats all its text in each chunk."""
    whole: Said = {}
    told = []
    for frame in frames:
        found = documents(frame)
        for index, message in _choices(found[0]) if found else []:
            for field in ("reasoning_content", "content"):
                if message.get(field):
                    whole[index, field, -1] = message[field] = whole.get((index, field, -1), "") + message[field]
            for call in message.get("tool_calls") or []:
                key = (index, "arguments", call["index"])
                if call["function"].get("arguments"):
                    whole[key] = call["function"]["arguments"] = whole.get(key, "") + call["function"]["arguments"]
        told.append(b"data: %b\n\n" % orjson.dumps(found[0]) if found else frame)
    return told


def ids(rendered: bytes, epoch: bytes) -> list[int]:
    """Return the numbers of the events that have one, in order."""
    return [int(m.id.removeprefix(epoch + b"-")) for m in messages(rendered) if m.id and m.id.startswith(epoch)]


def kinds(rendered: bytes) -> list[tuple[int, str, int]]:
    """Return the channel of each increment that says something, in order."""
    return [channel for document in documents(rendered) for channel, text in texts(document).items() if text]
