"""Limits of callers at two nodes: they hold in sum, by an equal share while the store is away, and over a restart."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy.access.account import Account
from tests.access.named import NamedCallers
from tests.event_loops import GUARD_S, POLL_S, until
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.proxy_under_test import CHAT, Tee, chat_body, teed
from tests.several_workers import several
from tests.stage import Stage, Turn, staged
from tests.store.nodes import Nodes, sharing, stored
from tests.store.redis_server import redis_server

USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":60,"completion_tokens":40,"total_tokens":100}}\n\n'


@asynccontextmanager
async def limited(folder: Path, **limits: Any) -> AsyncIterator[tuple[Nodes, NamedCallers]]:
    """Run two nodes with a caller that has limits."""
    callers = NamedCallers(folder, alice=limits, bob={})
    async with (
        staged() as stage,
        redis_server() as server,
        sharing(stage.url, server.url, {"lease_s": 1}, **callers.tables()) as tees,
    ):
        await until(lambda: all(tee.proxy.node.leases.seen == 2 for tee in tees))
        yield Nodes(stage, server, tees), callers


async def asked(tee: Tee, callers: NamedCallers, name: str = "alice") -> Any:
    return await tee.send("POST", CHAT, callers.header(name), body=chat_body())


async def answer_all(stage: Stage, *last: bytes) -> None:
    """Answer whatever comes."""
    while True:
        turn: Turn = await stage.next()
        await turn.body()
        turn.begin()
        turn.end(chunk_frame("a"), FINISH, *last, DONE)


@asynccontextmanager
async def answering(stage: Stage, *last: bytes) -> AsyncIterator[None]:
    task = asyncio.create_task(answer_all(stage, *last))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def statuses(nodes: Nodes, callers: NamedCallers, count: int) -> Counter[int]:
    """Ask so often at each node, at all at once; return how many were answered by which status."""
    clients = [await asked(tee, callers) for _ in range(count) for tee in (nodes.owner, nodes.other)]
    answers = [await client.answer() for client in clients]
    for answer in answers:
        await answer.read()
    return Counter(answer.status for answer in answers)


async def used(tee: Tee, callers: NamedCallers, what: str, name: str = "alice") -> int:
    told = await (await tee.ask("GET", "/v1/usage", callers.header(name))).json()
    count: int = told[what]["day"]["used"]
    return count


def account(tee: Tee) -> Account:
    """Return the account of alice at a node."""
    found: list[Account] = list(tee.proxy.admission.accounts)
    (one,) = found
    return one


async def test_requests_are_limited_in_sum(tmp_path: Path) -> None:
    """Of many that come to both nodes at once no more get in than may; what is refused uses nothing."""
    async with limited(tmp_path, requests_per_day=7) as (nodes, callers), answering(nodes.stage):
        first = (await statuses(nodes, callers, 10))[200]  # who is refused is counted for a moment, so fewer may get in
        assert first <= 7
        later = [(await statuses(nodes, callers, 1))[200] for _ in range(9)]  # one after the other
        assert first + sum(later) == 7
        for tee in (nodes.owner, nodes.other):
            assert await used(tee, callers, "requests") == 7
            assert account(tee).streams == 0


async def test_tokens_are_limited_in_sum(tmp_path: Path) -> None:
    """What a response at one node has used is used at the other, as soon as it has ended."""
    async with limited(tmp_path, tokens_per_day=200) as (nodes, callers), answering(nodes.stage, USAGE):
        for tee in (nodes.owner, nodes.other):
            answer = await (await asked(tee, callers)).answer()
            assert answer.status == 200
            await answer.read()
        for tee in (nodes.owner, nodes.other):
            async with asyncio.timeout(GUARD_S):
                while await used(tee, callers, "tokens") < 200:
                    await asyncio.sleep(POLL_S)
            refused = await (await asked(tee, callers)).answer()
            assert refused.status == 429
            assert "tokens_per_day" in (await refused.json())["error"]["message"]


async def test_caller_without_limits_waits_for_no_store(tmp_path: Path) -> None:
    """It is counted afterwards."""
    async with limited(tmp_path) as (nodes, callers), answering(nodes.stage):
        nodes.redis.pause()
        try:
            async with asyncio.timeout(0.4):
                answer = await (await asked(nodes.owner, callers, "bob")).answer()
            assert answer.status == 200
        finally:
            nodes.redis.go_on()
        async with asyncio.timeout(GUARD_S):
            while await used(nodes.other, callers, "requests", "bob") != 1:
                await asyncio.sleep(POLL_S)


@pytest.mark.parametrize("how", ["killed", "paused"])
async def test_each_node_has_an_equal_share_while_the_store_is_away(how: str, tmp_path: Path) -> None:
    """Of what was left: all together never more than the limit. When it is back, all is counted."""
    async with limited(tmp_path, requests_per_day=9) as (nodes, callers), answering(nodes.stage):
        assert await statuses(nodes, callers, 1) == {200: 2}
        port = nodes.redis.port
        (nodes.redis.kill if how == "killed" else nodes.redis.pause)()
        found = await statuses(nodes, callers, 9)
        assert 5 <= found[200] <= 7, found
        assert found[429] == 18 - found[200]
        if how == "killed":
            await nodes.redis.start()
            assert nodes.redis.port == port
        else:
            nodes.redis.go_on()
            async with asyncio.timeout(GUARD_S):
                while {await used(tee, callers, "requests") for tee in (nodes.owner, nodes.other)} != {2 + found[200]}:
                    await asyncio.sleep(0.05)
            assert (await statuses(nodes, callers, 9))[200] == 7 - found[200]


async def test_usage_of_the_day_survives_a_restart_of_all_nodes(tmp_path: Path) -> None:
    """It is in the store; no file is needed."""
    callers = NamedCallers(tmp_path, alice={"requests_per_day": 3})
    async with staged() as stage, redis_server() as server, answering(stage):
        for expected in ({200: 2}, {200: 1, 429: 1}, {429: 2}):
            async with sharing(stage.url, server.url, **callers.tables()) as tees:
                assert await statuses(Nodes(stage, server, tees), callers, 1) == expected


async def test_workers_of_one_machine_and_another_machine_are_limited_together(tmp_path: Path) -> None:
    """Each worker is a node; what the supervisor has counted of its machine is not counted twice."""
    callers = NamedCallers(tmp_path, alice={"requests_per_day": 6})
    async with staged() as stage, redis_server() as server, answering(stage):
        tables = {**callers.tables(), "store": stored(server.url)}
        async with several(stage.url, **tables) as one, teed(stage.url, **tables) as other:
            found = []
            for at in (0, 1, None, 2, None, 0, 1, None):
                header = callers.header("alice")
                answer = await (other.chat(header) if at is None else one.chat(at, header))
                await answer.read()
                found.append(answer.status)
            assert found == [200] * 6 + [429] * 2
            assert await used(other, callers, "requests") == 6
            told = await (await one.ask(0, "GET", "/v1/usage", callers.header("alice"))).json()
            assert told["requests"]["day"]["used"] == 6
            async with asyncio.timeout(GUARD_S):
                for client in [*one.clients, *other.clients]:
                    await client.leave()
                await one.stop(*one.workers)
                await other.proxy.stop()
