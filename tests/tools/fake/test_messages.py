"""The fake's Messages: what its events add up to, and what its refusals and faults look like in them."""

import json
from typing import Any

import pytest

from proxy.tools.fake.messages import MessagesAnswer, read_messages
from proxy.tools.fake.qwen import FakeQwen
from proxy.tools.fake.refusals import Refused
from proxy.tools.fake.text import Stamp
from tests.cuts import messages
from tests.message_events import told_by_sdk, without_nulls
from tests.tools.fake.test_qwen import ask

PATH = "/apps/anthropic/v1/messages"
STAMP = Stamp("0f8fad5b-d9cb-469f-a165-70867728950e", 0)
WEATHER = {"name": "weather", "input_schema": {"type": "object", "properties": {"place": {"type": "string"}}}}
SEARCH = {"type": "web_search_20250305", "name": "web_search"}
ASKED: dict[str, dict[str, Any]] = {
    "text": {},
    "short": {"max_tokens": 4},
    "thinking": {"thinking": {"type": "enabled", "budget_tokens": 1024}},
    "tool": {"tools": [WEATHER]},
    "tools that think": {"tools": [WEATHER, WEATHER], "thinking": {"type": "enabled", "budget_tokens": 9}},
    "search": {"tools": [SEARCH]},
}


def body(**more: Any) -> dict[str, Any]:
    asked = [{"role": "user", "content": "说点什么"}]
    return {"model": "qwen3-max", "max_tokens": 1024, "stream": True, "messages": asked, **more}


@pytest.mark.parametrize("name", ASKED)
def test_events_add_up_to_the_whole_message(name: str) -> None:
    """As Anthropic's client adds them."""
    answer = MessagesAnswer(read_messages(body(**ASKED[name]), 0), STAMP)
    assert told_by_sdk(list(answer.frames())) == without_nulls(json.loads(answer.whole()))


def test_what_is_asked_for_is_what_comes() -> None:
    """Blocks by kind, and why the message ended."""
    found = {}
    for name, more in ASKED.items():
        said = json.loads(MessagesAnswer(read_messages(body(**more), 0), STAMP).whole())
        found[name] = ([block["type"] for block in said["content"]], said["stop_reason"])
    assert found == {
        "text": (["text"], "end_turn"),
        "short": (["text"], "max_tokens"),
        "thinking": (["thinking", "text"], "end_turn"),
        "tool": (["tool_use"], "tool_use"),
        "tools that think": (["thinking", "tool_use", "tool_use"], "tool_use"),
        "search": (["server_tool_use", "web_search_tool_result", "text"], "end_turn"),
    }


@pytest.mark.parametrize(
    ("choice", "calls"),
    [
        ({"type": "auto"}, 2),
        ({"type": "none"}, 0),
        ({"type": "auto", "disable_parallel_tool_use": True}, 1),
        ({"type": "tool", "name": "time"}, 1),
    ],
)
def test_tools_are_called_as_chosen_and_not_again_after_their_answer(choice: dict[str, Any], calls: int) -> None:
    """By their names."""
    asked = body(tools=[WEATHER, {**WEATHER, "name": "time"}], tool_choice=choice)
    assert len(read_messages(asked, 0).tools) == calls
    asked["messages"].append({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}]})
    assert read_messages(asked, 0).tools == ()


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_request_without_what_it_needs_is_refused(missing: str) -> None:
    """As the service refuses chat completions."""
    with pytest.raises(Refused):
        read_messages({key: value for key, value in body().items() if key != missing}, 0)


async def test_paths_beside_it_answer(fake: FakeQwen) -> None:
    """Tokens are counted; a refusal of a stream is JSON in Anthropic's shape."""
    counted = await ask(fake, PATH + "/count_tokens", body())
    assert counted.json["input_tokens"] > 1
    refused = await ask(fake, PATH, body(messages=[]))
    assert (refused.status, refused.json["type"], refused.json["error"]["type"]) == (
        400,
        "error",
        "invalid_request_error",
    )
    assert (await ask(fake, PATH, body(), "Fake-Fault: status; status=429")).json["error"]["type"] == "rate_limit_error"


async def test_faults_of_its_framing(fake: FakeQwen) -> None:
    """Spaces as Anthropic writes them, pings anywhere, and an end without the last event."""
    plain, spaced, pinged, cut = [
        (await ask(fake, PATH, body(), f"Fake-Fault: {fault}")).body
        for fault in ("burst", "spaced", "pings", "no_done")
    ]
    types = [one.type for one in messages(plain)]
    assert plain.startswith(b"event:message_start\ndata:{")
    assert spaced.startswith(b"event: message_start\ndata: {")
    assert [one.type for one in messages(spaced)] == types
    assert [one.type for one in messages(pinged)][::2] == [b"ping"] * (len(types) + 1)
    assert [one.type for one in messages(cut)] == types[:-1]
    assert types[-1] == b"message_stop"
