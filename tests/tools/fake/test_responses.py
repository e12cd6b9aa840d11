"""The fake's Responses API: what its clients need, in both framings, and its own faults."""

import json
from dataclasses import replace
from typing import Any

import pytest

from proxy.tools.fake.refusals import Refused
from proxy.tools.fake.responses import ResponseAnswer, read_responses
from proxy.tools.fake.text import Ask, Stamp
from tests.cuts import Message, messages

STAMP = Stamp("863df8d9-ad8e-4d4e-9f28-1c3c5bd4f37f", 1769435906)
FUNCTION = {"type": "function", "name": "weather", "parameters": {"properties": {"city": {"type": "string"}}}}
CUSTOM = {"type": "custom", "name": "note"}
THINKING = {"reasoning": {"effort": "high"}}
ASKED: dict[str, dict[str, Any]] = {
    "text": {},
    "thinking": THINKING,
    "function": {"tools": [FUNCTION]},
    "two calls": {"tools": [FUNCTION, CUSTOM]},
    "search": {"tools": [{"type": "web_search"}]},
    "mcp": {"tools": [{"type": "mcp"}]},
    "cut off": {"max_output_tokens": 20},
}


def asked(**more: Any) -> Ask:
    return read_responses({"model": "qwen-plus", "input": "说点什么", "stream": True, **more}, 0)


def said(ask: Ask) -> list[Message]:
    return messages(b"".join(ResponseAnswer(ask, STAMP).frames()))


def events(ask: Ask) -> list[dict[str, Any]]:
    return [json.loads(message.data) for message in said(ask)]


@pytest.mark.parametrize("spaced", [False, True])
@pytest.mark.parametrize("name", ASKED)
def test_events_say_what_the_whole_response_says(name: str, spaced: bool) -> None:
    """Deltas add up to the items, items to the output; and the last event has it all."""
    ask = replace(asked(**ASKED[name]), spaced=spaced)
    told = events(ask)
    whole = json.loads(ResponseAnswer(ask, STAMP).whole())
    assert told[-1]["response"] == whole
    assert [one["item"] for one in told if one["type"] == "response.output_item.done"] == whole["output"]
    assert [one["sequence_number"] for one in told] == list(range(len(told)))
    for number, item in enumerate(whole["output"]):
        mine = [one for one in told if one.get("output_index") == number]
        deltas = "".join(one["delta"] for one in mine if one["type"].endswith(".delta"))
        parts = item.get("content") or item.get("summary") or []
        assert deltas in ("".join(part["text"] for part in parts), item.get("arguments"), item.get("input"), "")
        assert mine[-1]["type"] == "response.output_item.done"
    last = "response.incomplete" if name == "cut off" else "response.completed"
    assert (told[0]["type"], told[1]["type"], told[-1]["type"]) == ("response.created", "response.in_progress", last)


def test_framing_is_dashscopes_or_openais() -> None:
    """Without spaces, with an id and a status in each block, and without a model's name; or the other way."""
    own, other = [list(ResponseAnswer(one, STAMP).frames()) for one in (asked(), replace(asked(), spaced=True))]
    for number, (tight, spaced) in enumerate(zip(own, other, strict=True), 1):
        assert tight.startswith(b"id:%d\nevent:response." % number)
        assert b"\n:HTTP_STATUS/200\ndata:{" in tight
        assert spaced.startswith(b"event: response.")
        assert b"\ndata: {" in spaced
    assert b'"model":""' in own[0]
    assert all(b'"model":"qwen-plus"' in frame for frame in (own[-1], other[0]))


def test_call_is_whole_where_it_is_dashscopes() -> None:
    """And in pieces where it is OpenAI's; the arguments of an MCP call come before its item, or after it."""
    ask = asked(tools=[FUNCTION])
    assert not [one for one in events(ask) if one["type"].endswith(".delta")]
    assert [one for one in events(replace(ask, spaced=True)) if one["type"].endswith(".delta")]
    ask = asked(tools=[{"type": "mcp"}])
    for spaced, first in ((False, "response.mcp_call_arguments.delta"), (True, "response.output_item.added")):
        assert events(replace(ask, spaced=spaced))[2]["type"] == first


def test_sparse_deltas_have_an_index_alone() -> None:
    """As the documentation's samples have."""
    deltas = [one for one in events(replace(asked(**THINKING), sparse=True)) if one["type"].endswith(".delta")]
    assert {frozenset(one) for one in deltas} == {frozenset({"delta", "output_index", "sequence_number", "type"})}


@pytest.mark.parametrize("body", [{"model": ""}, {"input": ""}, {"input": []}])
def test_request_without_model_or_input_is_refused(body: dict[str, Any]) -> None:
    """As the service does."""
    with pytest.raises(Refused):
        asked(**body)


def test_tools_that_have_answered_are_not_called_again() -> None:
    """The answer is text then."""
    items = [{"role": "user", "content": "?"}, {"type": "function_call_output", "call_id": "c", "output": "1"}]
    assert asked(input=items, tools=[FUNCTION]).tools == ()
