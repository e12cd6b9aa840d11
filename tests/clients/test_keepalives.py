"""Keepalives to the client that asked, before the upstream's head and in the middle of its silence.

Every SDK hears what it hears of an upstream that is as slow without a proxy.
"""

import asyncio
import json
from itertools import groupby
from typing import Any

import anthropic
import pytest
from openai import AsyncOpenAI

from proxy.tools.fake.qwen import FakeQwen
from tests.clients.node import KEY, Node, in_one_node
from tests.contract.sdks import undrawn
from tests.proxy_under_test import CHAT, RESPONSES, Tee, chat_body, response_body, teed

KEPT_ALIVE: dict[str, Any] = {"keepalive_before_head_s": 0.1, "client_keepalive_s": 0.2}
BY_EVENTS = {**KEPT_ALIVE, "empty_events": True}
SLOW = {"before the head": "slow_first_token; seconds=0.35", "within": "stall; after=4; seconds=0.8"}
MESSAGE = {"model": "qwen-plus", "max_tokens": 99, "messages": [{"role": "user", "content": "x"}]}
ASKED = {
    CHAT: chat_body(),
    RESPONSES: response_body(),
    "/v1/messages": json.dumps({**MESSAGE, "stream": True}).encode(),
}
BEATS = (b"\n:\n", b'event: ping\ndata: {"type": "ping"}\n\n', b'"text":""}}\n\n', b'"thinking":""}}\n\n')
NODE = {  # scripts of Node, each with what it asks
    "openai": [{"stream": True}],
    "responses": [{"stream": True}, {"how": "helper"}],
    "messages": [{"how": "events"}, {"how": "helper"}],
    "ai_sdk": [{}],
    "ai_responses": [{}],
    "ai_messages": [{}],
}
each_silence = pytest.mark.parametrize("fault", SLOW.values(), ids=SLOW)
each_sort = pytest.mark.parametrize("streams", [KEPT_ALIVE, BY_EVENTS], ids=["pings", "empty events"])


@each_sort
@each_silence
async def test_every_api_sends_something_in_silence(fake: FakeQwen, fault: str, streams: dict[str, Any]) -> None:
    """What the tests below are about: a comment first of all, or one or a ping between two events."""
    async with teed(fake.url, streams=streams) as tee:
        bodies = await asyncio.gather(*(_raw(tee, path, fault) for path in ASKED))
    assert all(body.startswith(b":\n") or any(beat in body for beat in BEATS) for body in bodies)


async def _raw(tee: Tee, path: str, fault: str) -> bytes:
    answer = await tee.ask("POST", path, f"Authorization: Bearer {KEY}", f"Fake-Fault: {fault}", body=ASKED[path])
    return await answer.read()


@in_one_node
@pytest.mark.parametrize("name", NODE)
async def test_sdks_of_node_survive_keepalives(node: Node, fake: FakeQwen, name: str) -> None:
    """openai-node and anthropic's, events and helpers, and the Vercel AI SDK with three providers.

    In every silence and of every sort; all are asked at once.
    """
    told = [{**one, "headers": {"Fake-Fault": fault}} for fault in SLOW.values() for one in NODE[name]]
    async with teed(fake.url, streams=KEPT_ALIVE) as pings, teed(fake.url, streams=BY_EVENTS) as events:
        served = (fake.url, pings.proxy.url, events.proxy.url)
        urls = [url + ("/apps/anthropic" if name == "messages" else "") for url in served]
        heard = await node.ask(name, *[{**one, "url": url} for url in urls for one in told])
        for tee in (pings, events):  # together: each sees afterwards that nothing of a proxy is left
            await tee.proxy.stop()
    direct, *through = (heard[n * len(told) : (n + 1) * len(told)] for n in range(len(urls)))
    for told_by in through:
        assert [_but_pings(one) for one in told_by] == [_but_pings(one) for one in direct]
        assert all(one["error"] is None for one in told_by)


@each_sort
@each_silence
async def test_sdks_of_python_survive_keepalives(fake: FakeQwen, fault: str, streams: dict[str, Any]) -> None:
    """openai's, of chat completions and responses, with the helper, too; anthropic's, events and helper."""
    async with teed(fake.url, streams=streams) as tee:
        direct, through = await asyncio.gather(*(_python(url, fault) for url in (fake.url, tee.proxy.url)))
    assert through == direct
    assert all(len(one) > 4 for one in through)


async def _python(url: str, fault: str) -> list[list[Any]]:
    headers = {"Fake-Fault": fault}
    said: list[Any] = [{"role": "user", "content": "x"}]
    openai = AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=20)
    claude = anthropic.AsyncAnthropic(base_url=f"{url}/apps/anthropic", api_key=KEY, max_retries=0, timeout=20)

    async def chat() -> list[Any]:
        stream = await openai.chat.completions.create(
            model="qwen-plus", messages=said, stream=True, extra_headers=headers
        )
        return [{**chunk.to_dict(), "created": 0} async for chunk in stream]

    async def responses() -> list[Any]:
        stream = await openai.responses.create(model="qwen-plus", input="x", stream=True, extra_headers=headers)
        return [event.to_dict() async for event in stream]

    async def helper() -> list[Any]:
        async with openai.responses.stream(model="qwen-plus", input="x", extra_headers=headers) as stream:
            return [event.type async for event in stream]

    async def messages(create: Any) -> list[Any]:
        stream = await create(model="qwen-plus", max_tokens=99, messages=said, stream=True, extra_headers=headers)
        return [event for event in [event.to_dict() async for event in stream] if not _is_empty(event)]

    async def added_up(open_stream: Any) -> list[Any]:
        async with open_stream(model="qwen-plus", max_tokens=99, messages=said, extra_headers=headers) as stream:
            return [text async for text in stream.text_stream if text]

    async with openai, claude:
        heard: list[list[Any]] = await asyncio.gather(
            chat(), responses(), helper(), messages(claude.messages.create), added_up(claude.messages.stream)
        )
    return [undrawn(one) for one in heard]


def _but_pings(heard: dict[str, Any]) -> dict[str, Any]:
    """Leave out the pings and the deltas without text that clients of messages are shown; of names those in a row."""
    if "events" not in heard:
        return heard
    told = [one for one in heard["events"] if not (isinstance(one, dict) and _is_empty(one))]
    kept = [one for one in told if (one["type"] if isinstance(one, dict) else one) != "ping"]
    named = bool(kept) and isinstance(kept[0], str)
    return {**heard, "events": [one for one, _ in groupby(kept)] if named else kept}


def _is_empty(event: dict[str, Any]) -> bool:
    """Return whether an event is a delta without text, as the proxy sends it in silence."""
    delta = event.get("delta")
    return isinstance(delta, dict) and any(delta.get(key) == "" for key in ("text", "thinking", "partial_json"))
