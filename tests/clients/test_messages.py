"""Clients of Anthropic's Messages: what they get through the proxy is what they get without it.

@anthropic-ai/sdk, also by its helper; the Vercel AI SDK; LangChain. test_anthropic_python.py asks anthropic-python.
"""

from typing import Any

import anthropic
import pytest
from langchain_anthropic import ChatAnthropic
from pydantic import SecretStr

from proxy.tools.fake.qwen import FakeQwen
from tests.clients.langchain_model import streamed
from tests.clients.node import KEY, WEATHER, Node, Script, in_one_node
from tests.clients.test_anthropic_python import ASKED, HOWS, MORE_FAULTS, SHORT
from tests.contract.corpus import BROKEN, OF_FRAMES, OF_FRAMING, REFUSED
from tests.contract.playback import played
from tests.event_loops import GUARD_S
from tests.proxy_under_test import Tee, teed

MODES = ("raw", "events", "coalesced")


@pytest.fixture
def ai_sdk(node: Node) -> Script:
    """The Vercel AI SDK, which asks Anthropic's provider for messages."""
    return Script(node, "ai_messages")


def questions(faults: tuple[str, ...], **asked: Any) -> dict[str, dict[str, Any]]:
    return {fault: {**SHORT, **asked, "headers": {"Fake-Fault": fault}} for fault in faults}


@in_one_node
@pytest.mark.parametrize("how", HOWS)
async def test_anthropic_node_hears_the_same(node: Node, how: str) -> None:
    """In one piece, event by event, and as its helper adds them up, cut at random places; and the errors."""
    faults = REFUSED if how == "whole" else (*OF_FRAMING, *OF_FRAMES, *MORE_FAULTS, *REFUSED)
    asked = [{**one, "how": how} for one in (ASKED | questions(faults)).values()]
    async with played() as fake, teed(fake.url) as tee:
        direct, through = [
            await node.ask("messages", *[{**question, "url": f"{url}/apps/anthropic"} for question in asked])
            for url in (fake.url, tee.proxy.url)
        ]
    for question, one, other in zip(asked, direct, through, strict=True):
        assert other == one, question
    assert sum(told["error"] is None for told in direct) >= len(ASKED)
    assert {told["error"]["status"] for told in direct if told["error"]} >= {400, 401, 429, 500}


@in_one_node
async def test_anthropic_node_adds_up_the_same_message_in_every_mode(node: Node) -> None:
    """At the path without a prefix."""
    async with played() as fake, teed(fake.url) as tee:
        helper = [{**one, "how": "helper"} for one in ASKED.values()]
        direct = await node.ask("messages", *[{**one, "url": f"{fake.url}/apps/anthropic"} for one in helper])
        for mode in MODES:
            more = {"url": tee.proxy.url, "headers": {"Stream-Mode": mode}}
            through = await node.ask("messages", *[{**one, **more} for one in helper])
            assert [told["message"] for told in through] == [told["message"] for told in direct]
            assert all(told["message"]["content"] for told in through)


@in_one_node
async def test_anthropic_node_is_told_of_every_stream_that_breaks_off(node: Node) -> None:
    """By its helper in the bytes as they came, and, with our words, in a mode of events."""
    async with played() as fake, teed(fake.url) as tee:
        asked = [{**one, "url": tee.proxy.url} for one in questions((*BROKEN, "no_done"), how="helper").values()]
        for told in await node.ask("messages", *asked):
            assert told["error"]
            assert told["message"] is None
        for one in asked:
            one["headers"]["Stream-Mode"] = "events"
        assert all(told["error"] for told in await node.ask("messages", *asked))


@in_one_node
@pytest.mark.parametrize("fault", ["burst", "spaced", "pings"])
async def test_ai_sdk_hears_the_same_of_messages(ai_sdk: Script, fake: FakeQwen, tee: Tee, fault: str) -> None:
    """Thinking, text, tool calls, finish reason and usage, in either framing."""
    headers = {"Fake-Fault": fault}
    heard = await ai_sdk.compare(fake, tee, headers=headers, thinking=True)
    assert len(heard["text"]) > 50
    assert heard["reasoning"]
    assert (heard["finish"], heard["error"]) == ("stop", None)
    assert heard["usage"]["outputTokens"] > 0
    heard = await ai_sdk.compare(fake, tee, headers=headers, tools={"weather": WEATHER})
    assert heard["finish"] == "tool-calls"
    assert all(name == "weather" and given["location"] for _, name, given in heard["calls"])


@in_one_node
@pytest.mark.parametrize("fault", ["status; status=429", "error_inside; after=5", "cut_mid_chunk; after=5"])
async def test_ai_sdk_is_told_of_errors_of_messages(ai_sdk: Script, fake: FakeQwen, tee: Tee, fault: str) -> None:
    """Before the stream, within it, and when it breaks off."""
    asked: dict[str, Any] = {"headers": {"Fake-Fault": fault}}
    heard = await ai_sdk.compare(fake, tee, **asked)
    assert heard["error"]


def model(url: str, **more: Any) -> ChatAnthropic:
    """Return LangChain's model of Anthropic's Messages, at a URL."""
    named: dict[str, Any] = {"model_name": "qwen3-max", "base_url": f"{url}/apps/anthropic", "timeout": GUARD_S}
    return ChatAnthropic(**named, api_key=SecretStr(KEY), max_retries=0, stop=None, **more)


async def test_langchain_streams_the_same_of_messages(fake: FakeQwen, tee: Tee) -> None:
    """Thinking and text, finish reason and usage; and tool calls with their arguments parsed."""
    thinking = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2048}
    direct, through = [await streamed(model(url, **thinking)) for url in (fake.url, tee.proxy.url)]
    assert through.content == direct.content
    assert len(through.text) > 50
    assert through.usage_metadata == direct.usage_metadata
    assert through.response_metadata["stop_reason"] == "end_turn"
    weather = {"name": "weather", "description": "The weather.", "input_schema": WEATHER}
    direct, through = [await streamed(model(url).bind_tools([weather])) for url in (fake.url, tee.proxy.url)]
    calls = [(call["name"], call["args"]) for call in through.tool_calls]
    assert calls == [(call["name"], call["args"]) for call in direct.tool_calls]
    assert calls[0][1]["location"]


async def test_langchain_raises_for_messages(tee: Tee) -> None:
    """When the upstream refuses."""
    with pytest.raises(anthropic.RateLimitError):
        await streamed(model(tee.proxy.url, default_headers={"Fake-Fault": "status; status=429"}))
