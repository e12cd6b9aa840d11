"""openai-node: what it gets through the proxy is what it gets without it, and it follows streams as they are."""

import asyncio
import json
from typing import Any

import pytest

from proxy.tools.fake.qwen import FakeQwen
from tests.clients.node import KEY, WEATHER, Node, Script, in_one_node
from tests.contract.corpus import all_chats
from tests.contract.playback import played
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.proxy_under_test import Tee, chat_body, teed
from tests.stage import Stage

pytestmark = in_one_node
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": WEATHER}}]


@pytest.fixture
def openai(node: Node) -> Script:
    return Script(node, "openai")


@pytest.mark.parametrize("stream", [True, False])
async def test_openai_node_hears_the_same(openai: Script, fake: FakeQwen, tee: Tee, stream: bool) -> None:
    """Thinking, text, finish reason and usage, streamed or in one piece."""
    asked: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}, "enable_thinking": True}
    heard = await openai.compare(fake, tee, **(asked if stream else {}))
    assert len(heard["text"]) > 50
    assert bool(heard["reasoning"]) == stream
    assert heard["finish"] == "stop"
    assert heard["usage"]["completion_tokens"] > 0
    assert heard["error"] is None


async def test_openai_node_calls_tools(openai: Script, fake: FakeQwen, tee: Tee) -> None:
    """Qwen's fragments become calls whose arguments are JSON."""
    heard = await openai.compare(fake, tee, stream=True, tools=TOOLS)
    assert heard["finish"] == "tool_calls"
    assert [json.loads(arguments)["location"] for *_, arguments in heard["calls"].values()]


@pytest.mark.parametrize(
    ("fault", "name", "code"),
    [
        ("status; status=429", "RateLimitError", "limit_requests"),
        ("error_inside; after=5", "APIError", "data_inspection_failed"),
    ],
)
async def test_openai_node_raises_what_the_upstream_says(
    openai: Script, fake: FakeQwen, tee: Tee, fault: str, name: str, code: str
) -> None:
    """Before the stream and within it, with its code."""
    heard = await openai.compare(fake, tee, stream=True, headers={"Fake-Fault": fault})
    assert (heard["error"]["name"], heard["error"]["code"]) == (name, code)


async def test_openai_node_raises_when_the_stream_breaks_off(openai: Script, tee: Tee) -> None:
    """It never ends silently."""
    heard = await openai.hear(tee.proxy.url, stream=True, headers={"Fake-Fault": "cut_mid_frame; after=5"})
    assert heard["chunks"] == 5
    assert heard["error"]


async def test_openai_node_hears_the_same_of_the_whole_contract(node: Node) -> None:
    """Of every stream that tests/contract asks the Python SDKs about, recorded ones and faulty ones."""
    questions = all_chats()
    async with played() as fake, teed(fake.url) as tee:
        direct, through = [
            await node.ask("openai", *[{**question, "url": url} for question in questions.values()])
            for url in (fake.url, tee.proxy.url)
        ]
    for name, one, other in zip(questions, direct, through, strict=True):
        assert other == one, name
    assert sum(told["error"] is None and told["chunks"] > 1 for told in direct) > 20


async def test_openai_node_follows_a_running_stream(openai: Script, tee: Tee, stage: Stage) -> None:
    """By GET in mode events: the past, heartbeats, what comes, and the end."""
    client = await tee.send("POST", "/v1/chat/completions", f"Authorization: Bearer {KEY}", body=chat_body())
    turn = await stage.next()
    await turn.body()
    turn.begin()
    turn.chunk(chunk_frame("one "))
    answer = await client.answer()
    await answer.bytes(1)
    query = {"mode": "events", "heartbeat": "0.05"}
    following = asyncio.create_task(openai.hear(tee.proxy.url, ident=answer.stream_id, query=query))
    await tee.wait_followers(2)
    turn.chunk(chunk_frame("two "))
    turn.chunk(FINISH)
    turn.end(DONE)
    heard = await following
    assert heard["text"] == "one two "
    assert (heard["finish"], heard["chunks"], heard["error"]) == ("stop", 3, None)


async def test_openai_node_follower_of_a_failed_stream_raises(openai: Script, tee: Tee) -> None:
    """By GET, after the chunks before the failure, with the failure's code."""
    answer = await tee.chat(f"Authorization: Bearer {KEY}", fault="reset; after=4")
    await answer.read()
    heard = await openai.hear(tee.proxy.url, ident=answer.stream_id)
    assert heard["chunks"] == 4
    assert heard["error"]["code"] == "upstream_reset"
