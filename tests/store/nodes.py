"""Several proxies that share a Redis, before an upstream that says what the test has it say."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from tests.event_loops import GUARD_S
from tests.http_client import Answer
from tests.proxy_under_test import RESPONSES, Tee, begun, response_body, teed
from tests.stage import Stage, Turn, staged
from tests.store.redis_server import RedisServer, redis_server

SECRET = "a secret of all nodes"


class Nodes:
    """Two proxies, their upstream and their store."""

    def __init__(self, stage: Stage, redis: RedisServer, tees: list[Tee]) -> None:
        self.stage = stage
        self.redis = redis
        self.owner, self.other = tees


def stored(url: str, **more: Any) -> dict[str, Any]:
    """Return the table of a configuration with a store."""
    return {"url": url, "secret": SECRET, **more}


@asynccontextmanager
async def sharing(
    url: str, redis_url: str, store: dict[str, Any] | None = None, **tables: Any
) -> AsyncIterator[list[Tee]]:
    """Run two proxies before an upstream, which share a Redis; they are stopped together."""
    table = stored(redis_url, **(store or {}))
    async with AsyncExitStack() as stack:
        tees = [await stack.enter_async_context(teed(url, store=table, **tables)) for _ in range(2)]
        try:
            yield tees
        finally:
            async with asyncio.timeout(GUARD_S):
                for client in [client for tee in tees for client in tee.clients]:
                    await client.leave()
                for tee in tees:
                    await tee.proxy.stop()


@asynccontextmanager
async def two_nodes(store: dict[str, Any] | None = None, **tables: Any) -> AsyncIterator[Nodes]:
    """Run two proxies that share a Redis."""
    async with staged() as stage, redis_server() as redis, sharing(stage.url, redis.url, store, **tables) as tees:
        yield Nodes(stage, redis, tees)


async def ahead(nodes: Nodes, words: list[bytes]) -> tuple[Answer, Turn]:
    """Have a stream with two words that is followed at the other node, and a third word that only the owner has.

    The owner must write seldom.
    """
    answer, turn = await begun(nodes.owner, nodes.stage, frames=2)
    follower = await nodes.other.follow(answer.stream_id, "mode=raw")
    await follower.until(words[1])
    turn.chunk(words[2])
    await answer.until(words[2])
    assert nodes.other.proxy.hub.replicas[answer.stream_id].log.end == 2
    return answer, turn


async def response_ahead(nodes: Nodes, frames: list[bytes]) -> tuple[Answer, Turn]:
    """Have the same of a response of the Responses API: three events are at both nodes, a fourth at the owner alone."""
    client = await nodes.owner.send("POST", RESPONSES, body=response_body())
    turn = await nodes.stage.next()
    await turn.body()
    turn.begin()
    for frame in frames[:3]:
        turn.chunk(frame)
    answer = await client.answer()
    await answer.until(frames[2])
    follower = await nodes.other.follow(answer.stream_id, "mode=raw")
    await follower.until(frames[2])
    turn.chunk(frames[3])
    await answer.until(frames[3])
    return answer, turn
