"""Two servers of two workers each that share a Redis: each worker is a node, and connections land on any of them."""

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest

from tests.event_loops import GUARD_S, POLL_S
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.http_client import Answer
from tests.proxy_under_test import Tee
from tests.stage import Stage, Turn, staged
from tests.store.nodes import stored
from tests.store.redis_server import redis_server
from tests.workers_under_test import workers

WORDS = [chunk_frame(f"word {n}") for n in range(1, 4)]
ALL = b"".join([*WORDS, FINISH, DONE])
KEY, IDEMPOTENT = "Stream-Key: chat-1", "Idempotency-Key: once"
CONNECTIONS = 6  # so that some land on either worker


class Servers(NamedTuple):
    """Two servers before one upstream."""

    stage: Stage
    first: Tee
    second: Tee


@pytest.fixture
async def servers() -> AsyncIterator[Servers]:
    async with staged() as stage, redis_server() as redis:
        tables = {"upstream": {"url": stage.url}, "store": stored(redis.url)}
        ports = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"}
        async with workers({**ports, **tables}, 2) as one, workers({**ports, **tables}, 2) as other:
            tees = Tee(one), Tee(other)
            yield Servers(stage, *tees)
            for client in [client for tee in tees for client in tee.clients]:
                await client.leave()


async def started(servers: Servers, *headers: str) -> tuple[Answer, Turn]:
    """Have a client ask the first server for a stream, and the upstream say a word."""
    client = await servers.first.send_chat(*headers)
    turn = await servers.stage.next()
    await turn.body()
    turn.begin()
    turn.chunk(WORDS[0])
    answer = await client.answer()
    await answer.until(WORDS[0])
    return answer, turn


async def test_stream_is_followed_and_cancelled_through_any_worker_of_another_server(servers: Servers) -> None:
    """By its id, by its key, and by whoever asks for the same; and it is in each list."""
    answer, turn = await started(servers, KEY, IDEMPOTENT)
    followers = [await servers.second.follow(answer.stream_id, "mode=raw") for _ in range(CONNECTIONS)]
    followers += [await tee.follow("keys/chat-1", "mode=raw") for tee in servers[1:] for _ in range(CONNECTIONS)]
    followers += [await tee.chat(IDEMPOTENT) for tee in servers[1:] for _ in range(2)]
    for frame in WORDS[1:]:
        turn.chunk(frame)
    turn.end(FINISH, DONE)
    assert [await follower.read() for follower in (answer, *followers)] == [ALL] * (len(followers) + 1)
    assert len(servers.stage.turns) == 1
    for tee in servers[1:]:
        for _ in range(2):
            async with asyncio.timeout(GUARD_S):
                while [(one["id"], one["state"]) for one in await tee.listed()] != [(answer.stream_id, "complete")]:
                    await asyncio.sleep(POLL_S)
    await check_cancel(servers)


async def check_cancel(servers: Servers) -> None:
    """Cancel a stream of the first server at the second: the upstream is closed, and followers of both are told."""
    answer, turn = await started(servers)
    followers = [await tee.follow(answer.stream_id) for tee in servers[1:] for _ in range(2)]
    cancelled = await servers.second.ask("POST", f"/v1/streams/{answer.stream_id}/cancel")
    assert (await cancelled.json())["state"] == "cancelled"
    await turn.wait_left()
    for follower in followers:
        assert b"cancelled" in await follower.read()
