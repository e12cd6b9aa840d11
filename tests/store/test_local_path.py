"""Clients at the owner wait for nothing that is asked of Redis."""

import asyncio

from tests.event_streams import DONE, FINISH, chunk_frame, stamped
from tests.proxy_under_test import begun
from tests.store.nodes import two_nodes

WORDS = [chunk_frame(f"word {n}") for n in range(1, 6)]
ALL = b"".join([*WORDS, FINISH, DONE])


async def test_owner_serves_at_once_while_redis_hangs() -> None:
    """The client of a stream that runs and of one that begins, and followers by id, early, late and resumed."""
    async with two_nodes() as nodes:
        running = await begun(nodes.owner, nodes.stage, frames=2)
        nodes.redis.pause()
        try:
            async with asyncio.timeout(2):  # Redis is given up after 5 s
                for answer, turn in (running, await begun(nodes.owner, nodes.stage, frames=2)):
                    early = await nodes.owner.follow(answer.stream_id, "mode=raw")
                    turn.chunk(WORDS[2])
                    for follower in (answer, early):
                        await follower.until(WORDS[2])
                    resumed = await nodes.owner.follow(answer.stream_id, "", f"Last-Event-ID: {answer.epoch}-1")
                    turn.end(*WORDS[3:], FINISH, DONE)
                    late = await nodes.owner.follow(answer.stream_id, "mode=raw")
                    assert [await follower.read() for follower in (answer, early, late)] == [ALL] * 3
                    assert await resumed.read() == stamped(ALL, answer.epoch)[len(stamped(WORDS[0], answer.epoch)) :]
        finally:
            nodes.redis.go_on()
