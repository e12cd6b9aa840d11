"""Streams and followers of a caller at two machines that share a Redis: limited in sum, and free when a machine dies.

Real processes: with one worker each, and with two.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.access.named import NamedCallers
from tests.event_loops import GUARD_S, POLL_S
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.http_client import Answer
from tests.proxy_under_test import Tee
from tests.stage import Stage, Turn, staged
from tests.store.nodes import stored
from tests.store.redis_server import RedisServer, redis_server
from tests.workers_under_test import Workers, workers

LEASE_S = 1.0
BOTH = pytest.mark.parametrize("count", [1, 2], ids=["one process each", "two workers each"])


class Machines(NamedTuple):
    """Two machines before one upstream, and a caller with limits."""

    stage: Stage
    redis: RedisServer
    tees: tuple[Tee, Tee]
    servers: tuple[Workers, Workers]
    alice: str

    async def ask(self, at: int) -> tuple[Answer, Turn | None]:
        """Ask for a stream at a machine; return what came, and the upstream's turn if the request got there."""
        client = await self.tees[at].send_chat(self.alice)
        answer = asyncio.create_task(client.answer())
        turn = asyncio.create_task(self.stage.next())
        await asyncio.wait([answer, turn], return_when=asyncio.FIRST_COMPLETED)
        if not turn.done():
            turn.cancel()
            return await answer, None
        await turn.result().body()
        turn.result().begin()
        turn.result().chunk(chunk_frame("a"))
        return await answer, turn.result()

    async def fill(self, at: int) -> tuple[Answer, Turn]:
        """Ask for a stream until there is a place for it: one that was given back is known in a moment."""
        async with asyncio.timeout(GUARD_S):
            while True:
                answer, turn = await self.ask(at)
                if turn is not None:
                    return answer, turn
                assert await limit_of(answer) == "streams"

    async def follow(self, at: int, ident: str) -> Answer:
        return await self.tees[at].ask("GET", f"/v1/streams/{ident}?mode=raw", self.alice)

    async def follow_when_free(self, at: int, ident: str) -> Answer:
        async with asyncio.timeout(GUARD_S):
            while (answer := await self.follow(at, ident)).status != 200:
                assert await limit_of(answer) == "followers"
        return answer

    async def now(self, what: str) -> set[int]:
        """Return how many streams or followers the machines say that there are."""
        told = [await (await tee.ask("GET", "/v1/usage", self.alice)).json() for tee in self.tees for _ in range(3)]
        return {one[what]["now"] for one in told}

    async def wait_now(self, what: str, count: int) -> None:
        """Wait until all of them say so: they are told of one that is refused, too, until it is."""
        async with asyncio.timeout(GUARD_S):
            while await self.now(what) != {count}:
                await asyncio.sleep(POLL_S)


async def limit_of(answer: Answer) -> str:
    """Return the limit that a refusal names."""
    assert answer.status == 429, answer.status
    assert answer.header("retry-after") == "1"
    message: str = (await answer.json())["error"]["message"]
    return message.split()[2]


def end(turn: Turn) -> None:
    turn.end(FINISH, DONE)


@asynccontextmanager
async def machines(folder: Path, count: int, **limits: int) -> AsyncIterator[Machines]:
    callers = NamedCallers(folder, alice=limits)
    tables = callers.tables()
    async with staged() as stage, redis_server() as redis:
        tables["upstream"]["url"] = stage.url
        tables["capabilities"] = {"secrets": ["a secret of thirty-two characters"]}
        tables["store"] = stored(redis.url, lease_s=LEASE_S)
        async with workers(tables, count) as one, workers(tables, count) as other:
            both = Machines(stage, redis, (Tee(one), Tee(other)), (one, other), callers.header("alice"))
            yield both
            for client in [client for tee in both.tees for client in tee.clients]:
                await client.leave()


@BOTH
async def test_streams_are_limited_in_sum_over_machines(count: int, tmp_path: Path) -> None:
    """Of many at once never more than may; a place that is given back is free at the other machine, too."""
    async with machines(tmp_path, count, streams=3) as both:
        clients = [await both.tees[number % 2].send_chat(both.alice) for number in range(12)]
        heads = [asyncio.create_task(client.answer()) for client in clients]
        turns: list[Turn] = []
        while sum(head.done() for head in heads) + len(turns) < 12:
            came = asyncio.create_task(both.stage.next())
            await asyncio.wait(
                [came, *(head for head in heads if not head.done())], return_when=asyncio.FIRST_COMPLETED
            )
            if came.done():
                turns.append(came.result())
            came.cancel()
        assert 1 <= len(turns) <= 3
        for turn in turns:
            await turn.body()
            turn.begin()
        while len(turns) < 3:
            turns.append((await both.fill(len(turns) % 2))[1])
        for at in (0, 1, 0, 1):
            answer, turn_of_more = await both.ask(at)
            assert (await limit_of(answer), turn_of_more) == ("streams", None)
        await both.wait_now("streams", 3)
        end(turns.pop())
        turns.append((await both.fill(0))[1])
        end(turns.pop())
        turns.append((await both.fill(1))[1])
        for turn in turns:
            end(turn)
        await both.wait_now("streams", 0)


@BOTH
async def test_followers_are_limited_in_sum_over_machines(count: int, tmp_path: Path) -> None:
    """Wherever the stream is, and those that wait for one."""
    async with machines(tmp_path, count, followers=2) as both:
        answer, turn = await both.fill(0)
        first, second = await both.follow(0, answer.stream_id), await both.follow(1, answer.stream_id)
        assert (first.status, second.status) == (200, 200)
        for at in (0, 1, 0, 1):
            assert await limit_of(await both.follow(at, answer.stream_id)) == "followers"
        await both.wait_now("followers", 2)
        await first.client.leave()
        third = await both.follow_when_free(1, answer.stream_id)
        assert await limit_of(await both.follow(0, answer.stream_id)) == "followers"
        await third.client.leave()
        async with asyncio.timeout(GUARD_S):
            while (waits := await both.tees[0].ask("GET", "/v1/keys/k/stream?wait=60", both.alice)).status != 200:
                await asyncio.sleep(POLL_S)
        assert await limit_of(await both.follow(1, answer.stream_id)) == "followers"
        await waits.client.leave()
        await both.follow_when_free(1, answer.stream_id)
        assert turn is not None
        end(turn)


async def test_followers_by_token_are_limited_where_their_caller_never_came(tmp_path: Path) -> None:
    """The caller is in the keys file, which all machines have."""
    async with machines(tmp_path, 1, followers=2) as both:
        answer, turn = await both.fill(0)
        shared = await (await both.tees[0].ask("POST", f"/v1/streams/{answer.stream_id}/share", both.alice)).json()
        first, second = [await both.tees[at].ask("GET", shared["url"]) for at in (1, 0)]
        assert (first.status, second.status) == (200, 200)
        for at in (0, 1):
            assert await limit_of(await both.tees[at].ask("GET", shared["url"])) == "followers"
        end(turn)


async def test_machine_that_is_killed_gives_its_places_back_within_its_lease(tmp_path: Path) -> None:
    """Its streams and followers are gone with it; nobody tells so."""
    async with machines(tmp_path, 1, streams=2, followers=1) as both:
        loop = asyncio.get_running_loop()
        kept, turn = await both.fill(1)
        await both.fill(0)
        assert (await both.follow(0, kept.stream_id)).status == 200
        assert await limit_of((await both.ask(1))[0]) == "streams"
        assert await limit_of(await both.follow(1, kept.stream_id)) == "followers"
        both.servers[0].process.kill()
        killed_at = loop.time()
        await both.fill(1)
        await both.follow_when_free(1, kept.stream_id)
        assert loop.time() - killed_at < LEASE_S + 3  # a lease, a look at it each second, and a machine that is busy
        end(turn)


async def test_streams_have_equal_shares_while_the_store_is_away(tmp_path: Path) -> None:
    """Of four places each of two machines has two; when the store is back, all of them are anywhere."""
    async with machines(tmp_path, 1, streams=4, followers=2) as both:
        async with asyncio.timeout(GUARD_S):
            while len((await both.redis.command("SMEMBERS", "st:nodes")).split(b"$")) < 3:
                await asyncio.sleep(POLL_S)
        await asyncio.sleep(LEASE_S)  # until both have looked at it
        both.redis.kill()
        turns = []
        for at in (0, 1, 0, 1):
            answer, turn = await both.ask(at)
            assert turn is not None
            turns.append((answer, turn))
        for at in (0, 1):
            assert await limit_of((await both.ask(at))[0]) == "streams"
            assert (await both.follow(at, turns[at][0].stream_id)).status == 200
            assert await limit_of(await both.follow(at, turns[at][0].stream_id)) == "followers"
        await both.redis.start()
        for at in (0, 2):
            end(turns[at][1])
        turns += [await both.fill(1), await both.fill(1)]
        async with asyncio.timeout(GUARD_S):
            while await both.now("streams") != {4}:  # until then each allows its share
                await asyncio.sleep(POLL_S)
        for at in (0, 1):
            assert await limit_of((await both.ask(at))[0]) == "streams"
        for _, turn in turns:
            turn.end()
