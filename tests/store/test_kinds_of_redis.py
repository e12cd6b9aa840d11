"""Two nodes over each kind of Redis that a URL can name: a socket, TLS, the primary of a Sentinel, a cluster."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest

from tests.event_loops import GUARD_S
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.proxy_under_test import Tee
from tests.stage import Stage, staged
from tests.store.kinds import over_tls, over_unix
from tests.store.nodes import sharing
from tests.store.redis_server import redis_cluster, redis_sentinel

WORDS = [chunk_frame(f"word {n}") for n in range(1, 4)]
ALL = b"".join([*WORDS, FINISH, DONE])
STREAMS = 8
"""With different slots, and so at different servers of a cluster."""


KINDS: dict[str, Callable[[], AbstractAsyncContextManager[str]]] = {
    "unix": over_unix,
    "tls": over_tls,
    "sentinel": redis_sentinel,
    "cluster of two": redis_cluster,
}


@pytest.mark.parametrize("kind", KINDS)
async def test_streams_are_shared_over_each_kind_of_redis(kind: str) -> None:
    """Followed, found by their keys, called once for both nodes, listed, cancelled and deleted at the other node."""
    async with staged() as stage, KINDS[kind]() as url, sharing(stage.url, url) as (owner, other):
        asked = []
        for number in range(STREAMS):
            headers = (f"Stream-Key: key-{number}", f"Idempotency-Key: once-{number}")
            clients = [await tee.send_chat(*headers) for tee in (owner, other)]
            turn = await stage.next()
            await turn.body()
            turn.begin()
            turn.chunk(WORDS[0])
            answers = [await client.answer() for client in clients]
            asked.append((answers, turn))
        for number, (answers, turn) in enumerate(asked):
            late = await other.follow(f"keys/key-{number}", "mode=raw")
            for frame in WORDS[1:]:
                turn.chunk(frame)
            turn.end(FINISH, DONE)
            assert [await answer.read() for answer in (*answers, late)] == [ALL] * 3
        assert len(stage.turns) == STREAMS
        idents = {answers[0].stream_id for answers, _ in asked}
        for tee in (owner, other):
            async with asyncio.timeout(GUARD_S):
                while {one["id"]: one["state"] for one in await tee.listed()} != dict.fromkeys(idents, "complete"):
                    pass
        await check_ending(stage, owner, other)
        assert {one["id"] for tee in (owner, other) for one in await tee.listed()} == idents


async def check_ending(stage: Stage, owner: Tee, other: Tee) -> None:
    """Begin a stream, then cancel and delete it at the other node."""
    client = await owner.send_chat()
    turn = await stage.next()
    await turn.body()
    turn.begin()
    ident = (await client.answer()).stream_id
    cancelled = await other.ask("POST", f"/v1/streams/{ident}/cancel")
    assert (await cancelled.json())["state"] == "cancelled"
    await turn.wait_left()
    assert (await (await other.ask("DELETE", f"/v1/streams/{ident}")).json())["deleted"]
    async with asyncio.timeout(GUARD_S):
        while (await owner.follow(ident)).status != 404:
            pass
