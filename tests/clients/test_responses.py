"""Clients of the Responses API: what they get through the proxy is what they get without it.

openai-node, also by its helper; the Vercel AI SDK; LangChain. tests/contract asks openai-python.
"""

from typing import Any

import pytest

from proxy.tools.fake.qwen import FakeQwen
from tests.clients.langchain_model import model, streamed
from tests.clients.node import KEY, WEATHER, Node, Script, in_one_node
from tests.contract.corpus import BROKEN, all_responses, of_helper, responses
from tests.contract.playback import played
from tests.proxy_under_test import Tee, teed

OPENAI = {"Fake-Fault": "openai"}


@pytest.fixture
def openai(node: Node) -> Script:
    return Script(node, "responses")


@pytest.fixture
def ai_sdk(node: Node) -> Script:
    """The Vercel AI SDK, which asks OpenAI's provider for responses."""
    return Script(node, "ai_responses")


@in_one_node
async def test_openai_node_hears_the_same_of_responses(node: Node) -> None:
    """Event by event, and as its helper adds them up, cut at random places; and the errors."""
    asked = list(all_responses().items()) + [(f"{name}, added up", one) for name, one in of_helper().items()]
    async with played() as fake, teed(fake.url) as tee:
        direct, through = [
            await node.ask("responses", *[{**question, "url": url} for _, question in asked])
            for url in (fake.url, tee.proxy.url)
        ]
    for (name, _), one, other in zip(asked, direct, through, strict=True):
        assert other == one, name
    assert sum(told["error"] is None and len(told["events"]) > 5 for told in direct) > 40
    assert sum(told["final"] is not None for told in direct) > 20


@in_one_node
async def test_openai_node_is_never_told_that_a_broken_response_is_complete(node: Node) -> None:
    """Neither as it comes nor added up."""
    asked = [*responses(BROKEN).values(), *responses(BROKEN, how="helper").values()]
    async with played() as fake, teed(fake.url) as tee:
        for told in await node.ask("responses", *[{**question, "url": tee.proxy.url} for question in asked]):
            assert told["error"]
            assert told["final"] is None
            assert "response.completed" not in [event["type"] for event in told["events"]]


@in_one_node
async def test_openai_node_follower_of_a_failed_response_is_told(openai: Script, tee: Tee) -> None:
    """By GET: the failed response, with the id of that which began."""
    body = b'{"model":"qwen-plus","input":"x","stream":true}'
    headers = (f"Authorization: Bearer {KEY}", "Fake-Fault: reset; after=6")
    answer = await tee.ask("POST", "/v1/responses", *headers, body=body)
    await answer.read()
    heard = await openai.hear(tee.proxy.url, ident=answer.stream_id)
    assert [event["type"] for event in heard["events"]][-1] == "response.failed"
    assert heard["events"][-1]["response"]["error"]["code"] == "upstream_reset"
    assert heard["error"] is None


@in_one_node
@pytest.mark.parametrize("headers", [{}, OPENAI])
async def test_ai_sdk_hears_the_same_of_responses(
    ai_sdk: Script, fake: FakeQwen, tee: Tee, headers: dict[str, str]
) -> None:
    """Text, tool calls, finish reason and usage, in either framing."""
    heard = await ai_sdk.compare(fake, tee, headers=headers)
    assert len(heard["text"]) > 50
    assert (heard["finish"], heard["error"]) == ("stop", None)
    assert heard["usage"]["outputTokens"] > 0
    heard = await ai_sdk.compare(fake, tee, headers=headers, tools={"weather": WEATHER})
    assert heard["finish"] == "tool-calls"
    assert heard["calls"]
    assert all(name == "weather" and given["location"] for _, name, given in heard["calls"])


@in_one_node
@pytest.mark.parametrize("fault", ["status; status=429", "error_inside; after=5", "cut_mid_chunk; after=5"])
async def test_ai_sdk_is_told_of_errors_of_responses(ai_sdk: Script, fake: FakeQwen, tee: Tee, fault: str) -> None:
    """Before the stream, within it, and when it breaks off."""
    heard = await ai_sdk.compare(fake, tee, headers={"Fake-Fault": fault})
    assert heard["error"]


@in_one_node
async def test_ai_sdk_is_told_why_a_response_in_events_broke_off(ai_sdk: Script, tee: Tee) -> None:
    """In the words of our failure event, which it takes with its number only."""
    headers = {"Fake-Fault": "cut_mid_chunk; after=5", "Stream-Mode": "events"}
    heard = await ai_sdk.hear(tee.proxy.url, headers=headers)
    assert "the upstream" in heard["error"]["message"]


@in_one_node
async def test_ai_sdk_refers_to_earlier_items_with_a_key_of_ours(node: Node, fake: FakeQwen) -> None:
    """It sends no answer back that the upstream has stored, only its id."""
    async with teed(fake.url, upstream={"url": fake.url, "key": "sk-ours"}) as tee:
        (heard,) = await node.ask("ai_turns", {"url": tee.proxy.url, "headers": OPENAI, "turns": 3})
    assert [turn["error"] for turn in heard] == [None] * 3
    assert all(turn["text"] for turn in heard)
    assert heard[2]["asked"] == ["user", "item_reference", "user", "item_reference", "user"]


async def test_langchain_streams_the_same_response(fake: FakeQwen, tee: Tee) -> None:
    """Text, calls and usage, in both framings."""
    weather = {"name": "weather", "description": "The weather.", "parameters": WEATHER}
    for headers in ({}, OPENAI):
        heard: list[Any] = []
        for url in (fake.url, tee.proxy.url):
            llm = model(url, use_responses_api=True, default_headers=headers)
            text, call = await streamed(llm), await streamed(llm.bind_tools([weather]))
            calls = [(one["name"], one["args"]) for one in call.tool_calls]
            heard.append((text.text, text.usage_metadata, calls))
        direct, through = heard
        assert through == direct
        assert len(through[0]) > 50
        assert through[1]["output_tokens"] > 0
        assert through[2][0][1]["location"]
