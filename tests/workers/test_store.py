"""Several workers of one machine, and another machine, which share a Redis."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson

from tests.event_loops import GUARD_S, POLL_S
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.http_client import Client, request
from tests.proxy_under_test import Tee, teed
from tests.several_workers import Several, several
from tests.stage import Stage, staged
from tests.store.nodes import stored
from tests.store.redis_server import redis_server
from tests.workers_under_test import workers

WORDS = [chunk_frame(f"word {n}") for n in range(1, 4)]
ALL = b"".join([*WORDS, FINISH, DONE])


@asynccontextmanager
async def machines() -> AsyncIterator[tuple[Stage, Several, Tee]]:
    """Run three workers and a proxy on another machine, as it were."""
    async with staged() as stage, redis_server() as redis:
        table = stored(redis.url)
        async with several(stage.url, store=table) as one, teed(stage.url, store=table) as other:
            try:
                yield stage, one, other
            finally:  # together, as each is then looked at for what is left over
                async with asyncio.timeout(GUARD_S):
                    for client in [*one.clients, *other.clients]:
                        await client.leave()
                    await one.stop(*one.workers)
                    await other.proxy.stop()


async def test_stream_of_a_worker_is_followed_at_another_machine() -> None:
    """And one of another machine at every worker, by its id and its key: the same bytes."""
    async with machines() as (stage, one, other):
        for key in ("a", "b"):
            name = f"Stream-Key: {key}"
            client = await (one.send_chat(1, name) if key == "a" else other.send_chat(name))
            turn = await stage.next()
            await turn.body()
            turn.begin()
            turn.chunk(WORDS[0])
            answer = await client.answer()
            targets = (f"/v1/streams/{answer.stream_id}?mode=raw", f"/v1/keys/{key}/stream?mode=raw")
            followers = [await other.ask("GET", target) for target in targets]
            followers += [await one.ask(at, "GET", target) for at in one.workers for target in targets]
            for frame in WORDS[1:]:
                turn.chunk(frame)
            turn.end(FINISH, DONE)
            assert [await follower.read() for follower in followers] == [ALL] * 8
            assert await answer.read() == ALL


async def test_list_has_the_streams_of_all_workers_and_machines() -> None:
    """Each once, wherever the request lands."""
    async with machines() as (stage, one, other):
        idents = set()
        for at in (0, 1, None):
            client = await (other.send_chat() if at is None else one.send_chat(at))
            turn = await stage.next()
            await turn.body()
            turn.begin()
            turn.end(*WORDS, FINISH, DONE)
            answer = await client.answer()
            assert await answer.read() == ALL
            idents.add(answer.stream_id)
        for at in one.workers:
            async with asyncio.timeout(GUARD_S):
                while len(listed := (await (await one.ask(at, "GET", "/v1/streams")).json())["data"]) < len(idents):
                    await asyncio.sleep(POLL_S)
            assert sorted(stream["id"] for stream in listed) == sorted(idents)


async def test_readiness_of_workers_tells_of_the_store() -> None:
    """As that of one process does."""
    ports = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"}
    async with redis_server() as redis, workers({**ports, "store": stored(redis.url)}, 2) as served:
        client = await Client.connect(served.admin_url)
        client.send(request("GET", "/readyz"), method="GET")
        told = orjson.loads(await (await client.answer()).read())
        assert told == {"ready": True, "workers": {"0": True, "1": True}, "store": "up"}
        await client.leave()
