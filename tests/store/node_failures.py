"""What is done to a node, or to Redis before an answer begins, in some rows of the failure table."""

import asyncio

from tests.event_loops import GUARD_S
from tests.event_streams import DONE, FINISH
from tests.http_client import Answer
from tests.stage import Turn
from tests.store.ground import BEFORE, WORDS, Ground, told


async def begin_alone(there: Ground) -> None:
    """Begin the stream at the owner; nobody follows it at the other node."""
    client = await there.ask(there.owner)
    there.turn = await there.answered()
    there.local = await client.answer()
    await there.local.until(b"word 2")


async def begin_while_redis_is_full(there: Ground) -> None:
    """It has room again when a client has had the first words."""
    await there.redis_command("CONFIG", "SET", "maxmemory", "1")
    await begin_alone(there)
    await there.redis_command("CONFIG", "SET", "maxmemory", "0")
    there.remote = await found_elsewhere(there)


async def begin_while_owner_is_cut_off(there: Ground) -> None:
    """It reaches Redis again when a client has had the first words."""
    there.owner.network.down = True
    there.owner.network.drop()
    await begin_alone(there)
    there.owner.network.down = False
    there.owner.network.drop()
    there.remote = await found_elsewhere(there)


async def found_elsewhere(there: Ground) -> Answer:
    """Follow the stream at the other node, as soon as that finds it."""
    async with asyncio.timeout(GUARD_S):
        while (answer := await there.follow()).status != 200:
            assert answer.status == 404
    return answer


async def killed_unseen(there: Ground) -> None:
    """Some node seals the stream although nobody follows it, and whoever comes later is told so."""
    await there.say(WORDS[BEFORE:4])
    async with asyncio.timeout(GUARD_S):
        while b"4-" not in await there.redis_command("XREVRANGE", await there.log_key(), "+", "-", "COUNT", "1"):
            await asyncio.sleep(0.02)
    there.owner.kill()
    async with asyncio.timeout(GUARD_S):
        while [one["state"] for one in await there.other.tee.listed()] != ["failed"]:
            await asyncio.sleep(0.02)
    there.remote = await there.follow()
    assert (await told(there.remote)).frames == 4


async def follower_killed(there: Ground) -> None:
    """A stream that only that node held open is ended; the others go on."""
    turn, _ = await held_elsewhere(there)
    there.other.kill()
    await turn.wait_left()
    await there.finish()


async def follower_stalls(there: Ground) -> None:
    """Beyond its lease: it goes on where it was, unless only that node held the stream open."""
    turn, elsewhere = await held_elsewhere(there)
    there.other.stop()
    await there.say(WORDS[BEFORE:4])
    await turn.wait_left()
    there.other.go_on()
    assert await told(elsewhere) == (2, "an error")
    await there.say(WORDS[4:])
    there.turn.end(FINISH, DONE)


async def held_elsewhere(there: Ground) -> tuple[Turn, Answer]:
    """Begin another stream, which only the other node holds open; return its turn, and its follower there."""
    client = await there.ask(there.owner, key="")
    turn = await there.answered()
    answer = await client.answer()
    elsewhere = await there.other.tee.follow(answer.stream_id)
    await elsewhere.until(b"word 2")
    async with asyncio.timeout(GUARD_S):
        while not (await there.owner.tee.info(answer.stream_id))["followers_elsewhere"]:
            await asyncio.sleep(0.02)
    await client.leave()
    return turn, elsewhere


async def cancelled_while_owner_stalls(there: Ground) -> None:
    """The other node seals the stream itself; the owner learns of it, and closes the upstream."""
    there.owner.stop()
    cancelled = await there.other.tee.ask("POST", f"/v1/streams/{there.ident}/cancel")
    assert (await cancelled.json())["state"] == "cancelled"
    await there.say(WORDS[BEFORE:4])
    there.owner.go_on()
    await there.turn.wait_left()
