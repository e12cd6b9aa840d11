"""The live feed, read by a real client from the admin port."""

import asyncio
import json
from collections.abc import AsyncIterator

import aiohttp
import pytest

from proxy.server.app import Proxy
from proxy.server.config import Config
from proxy.tools.fake.qwen import FakeQwen

PROMPT = "a prompt nobody else may read"
BODY = {"model": "qwen-plus", "stream": True, "messages": [{"role": "user", "content": PROMPT}]}


def with_token(proxy: Proxy) -> dict[str, str]:
    return {"Authorization": f"Bearer {proxy.operators.token}"}


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    fake = FakeQwen()
    await fake.start()
    proxy = Proxy(Config(listen="127.0.0.1:0", admin="127.0.0.1:0", upstream={"url": fake.url}))  # type: ignore[arg-type]
    await proxy.start()
    yield proxy
    await proxy.stop()
    await fake.stop()


async def test_feed_tells_of_streams_that_begin_and_end(proxy: Proxy) -> None:
    """With what /info says of them, and never what was asked; it ends with the server, properly."""
    async with asyncio.timeout(10), aiohttp.ClientSession() as client:
        feed = await client.get(f"{proxy.admin_url}/admin/events", headers=with_token(proxy))
        assert feed.content_type == "text/event-stream"
        answer = await client.post(f"{proxy.url}/v1/chat/completions", json=BODY)
        await answer.read()
        await proxy.stop()
        told = (await feed.text()).replace("\r\n", "\n")
    begun, ended = [dict(line.split(": ", 1) for line in block.splitlines()) for block in told.strip().split("\n\n")]
    assert (begun["event"], ended["event"]) == ("begun", "ended")
    assert json.loads(begun["data"])["id"] == json.loads(ended["data"])["id"] == answer.headers["Stream-Id"]
    assert json.loads(begun["data"])["state"] == "open"
    assert json.loads(ended["data"])["state"] == "complete"
    assert PROMPT not in told


async def test_admin_port_lists_the_streams_of_all_callers(proxy: Proxy) -> None:
    """Two callers, who do not see each other's on the data port."""
    async with asyncio.timeout(10), aiohttp.ClientSession() as client:
        for caller in ("a", "b"):
            headers = {"Authorization": f"Bearer {caller}"}
            await (await client.post(f"{proxy.url}/v1/chat/completions", json=BODY, headers=headers)).read()
        mine = await (await client.get(f"{proxy.url}/v1/streams", headers={"Authorization": "Bearer a"})).json()
        everyones = await (await client.get(f"{proxy.admin_url}/admin/streams", headers=with_token(proxy))).json()
    assert (len(mine["data"]), len(everyones["data"])) == (1, 2)
