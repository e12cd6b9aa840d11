"""The failure table: what is done to two nodes and their Redis in mid-stream, and what followers must be told then.

    python -m tests.store.failures [--runs 3]

runs each row so often and prints the table of docs/store.md. A loss is silent if a follower lacks frames, or has them
twice, and was told `complete`, or waits for ever; `told` in ground.py fails then.
"""

import argparse
import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import NamedTuple

from tests.event_loops import GUARD_S
from tests.event_streams import DONE, FINISH
from tests.store.ground import BEFORE, LEASE_S, WORDS, Ground, Node, ending, ground, told
from tests.store.node_failures import (
    begin_alone,
    begin_while_owner_is_cut_off,
    begin_while_redis_is_full,
    cancelled_while_owner_stalls,
    follower_killed,
    follower_stalls,
    killed_unseen,
)
from tests.store.redis_server import redis_replicated, redis_server
from tests.store.takeovers import (
    ask_both,
    both_are_owners,
    ends_in_time,
    goes_on_beyond_its_time,
    killed_when_all_is_sent,
    other_takes_over,
    race,
)

Act = Callable[[Ground], Awaitable[None]]


class Row(NamedTuple):
    """One row: what happens, and how the stream may end for followers elsewhere and for the owner's client."""

    what: str
    act: Act
    remote: tuple[str, ...]
    local: tuple[str, ...]
    is_quick: bool = False
    where: Callable[[], AbstractAsyncContextManager[Ground]] = ground
    begin: Act = Ground.begin


async def owner_killed(there: Ground) -> None:
    await there.say(WORDS[BEFORE:4])
    await there.remote.until(b"word 4")
    there.owner.kill()


async def owner_killed_with_what_clients_had(there: Ground) -> None:
    """Its clients go on at the other node, after words that are not stored."""
    await _say_to_owner_alone(there)
    there.owner.kill()
    await asyncio.gather(*(_goes_on(there, there.other, f"after={had}", b"producer_lost") for had in (3, 4)))


async def owner_goes_on_for_clients_told_elsewhere(there: Ground) -> None:
    """They are refused there, and are sent everything if they name the last event that they had."""
    await _say_to_owner_alone(there)
    last = _last_id(await there.remote.read())
    refused = await there.owner.tee.follow(there.ident, "", f"Last-Event-ID: {last}")
    late = await there.owner.tee.follow(there.ident, f"after={BEFORE}")
    assert (refused.status, await late.until(WORDS[3].rstrip())) == (416, bytes(late.body))
    assert WORDS[2].rstrip() in late.body
    there.owner.network.down = False
    there.owner.network.drop()
    assert b"producer_lost" in await late.read()
    await _goes_on(there, there.owner, f"after={BEFORE + 2}", b"producer_lost")


async def owner_does_not_answer_to_a_cancel(there: Ground) -> None:
    """The other node seals; clients of the owner go on there."""
    await _say_to_owner_alone(there)
    assert (await there.other.tee.ask("POST", f"/v1/streams/{there.ident}/cancel")).status == 200
    await asyncio.gather(*(_goes_on(there, there.other, f"after={had}", b"cancelled") for had in (3, 4)))
    there.owner.network.down = False
    there.owner.network.drop()
    await there.turn.wait_left()


async def _say_to_owner_alone(there: Ground) -> None:
    """Have the owner's client be sent two words that the store does not get."""
    there.owner.network.down = True
    await there.say(WORDS[BEFORE : BEFORE + 2])
    await there.local.until(WORDS[BEFORE + 1].rstrip())


async def _goes_on(there: Ground, node: Node, cursor: str, word: bytes) -> None:
    """Go on at a node as a client that had all of a stream but its ending; be told it once, and then that it was."""
    async with asyncio.timeout(GUARD_S):
        while (late := await node.tee.follow(there.ident, cursor)).status == 416:  # nobody knows yet that there is more
            await asyncio.sleep(0.1)
    body = await late.read()
    assert (late.status, body.count(b"word"), word in body) == (200, 0, True)
    again = await node.tee.follow(there.ident, "", f"Last-Event-ID: {_last_id(body)}")
    assert again.status == 204


def _last_id(body: bytes) -> str:
    """Return the id of the last event."""
    return [line[4:].decode() for line in body.splitlines() if line.startswith(b"id: ")][-1]


async def owner_stalls(there: Ground) -> None:
    there.owner.stop()
    await there.say(WORDS[BEFORE:4])
    await there.remote.read()
    there.owner.go_on()
    await there.turn.wait_left()


async def owner_stalls_shortly(there: Ground) -> None:
    there.owner.stop()
    await asyncio.sleep(LEASE_S / 2)
    there.owner.go_on()
    await there.finish()


async def owner_cut_off(there: Ground) -> None:
    there.owner.network.down = True
    await there.say(WORDS[BEFORE:4])
    await there.remote.read()
    there.owner.network.down = False
    there.owner.network.drop()
    await there.turn.wait_left()


async def follower_cut_off_shortly(there: Ground) -> None:
    there.other.network.down = True
    await there.say(WORDS[BEFORE:4])
    there.other.network.down = False
    there.other.network.drop()
    await there.say(WORDS[4:])
    there.turn.end(FINISH, DONE)


async def follower_cut_off(there: Ground) -> None:
    there.other.network.down = True
    there.other.network.drop()
    await there.finish()


async def drops_and_delays(there: Ground) -> None:
    for node in (there.owner, there.other):
        node.network.delay_s = 0.03
    for frame in WORDS[BEFORE:]:
        await there.say([frame])
        there.owner.network.drop()
        there.other.network.drop()
    there.turn.end(FINISH, DONE)


async def redis_killed(there: Ground) -> None:
    there.redis.kill()
    await there.finish()


async def redis_restarted_empty(there: Ground) -> None:
    there.redis.kill()
    await there.redis.start()
    await there.finish()


async def redis_paused(there: Ground) -> None:
    there.redis.pause()
    await there.say(WORDS[BEFORE:4])
    there.redis.go_on()
    await there.say(WORDS[4:])
    there.turn.end(FINISH, DONE)


async def redis_fails_over_with_loss(there: Ground) -> None:
    """The second server has what the first one had before two more words."""
    async with redis_server("--replicaof", "127.0.0.1", str(there.redis.port)) as second:
        await there.redis.wait_replica(second)
        await second.command("REPLICAOF", "NO", "ONE")
        await there.say(WORDS[BEFORE:4])
        await there.remote.until(b"word 4")
        for node in (there.owner, there.other):
            node.network.target = second.port
        there.redis.kill()
        await there.say(WORDS[4:])
        late = await there.follow()
        there.turn.end(FINISH, DONE)
        assert (await told(late)).ending == "complete"
        await there.remote.read()


@asynccontextmanager
async def ground_of_sentinel() -> AsyncIterator[Ground]:
    """Run two nodes whose store is the primary that a Sentinel names; there is a replica of it."""
    async with (
        redis_replicated() as (url, primary),
        ground(STREAMTEE_STORE__URL=url, STREAMTEE_STORE__LEASE_S="3") as there,
    ):
        there.redis = primary
        yield there


async def primary_killed(there: Ground) -> None:
    """Sentinel notices it after half a second, and has the replica take over."""
    await there.say(WORDS[BEFORE:4])
    await there.remote.until(b"word 4")
    there.redis.kill()
    await there.say(WORDS[4:])
    there.turn.end(FINISH, DONE)


async def log_deleted(there: Ground) -> None:
    await there.redis_command("DEL", await there.log_key())
    await there.finish()


async def log_trimmed(there: Ground) -> None:
    """By hand, beyond what a late follower reads."""
    await there.say(WORDS[BEFORE:4])
    await there.remote.until(b"word 4")
    there.other.network.down = True
    there.other.network.drop()
    await there.say(WORDS[4:6])
    await there.redis_command("XTRIM", await there.log_key(), "MAXLEN", "1")
    there.other.network.down = False
    await there.say(WORDS[6:])
    there.turn.end(FINISH, DONE)


async def redis_full(there: Ground) -> None:
    await there.redis_command("CONFIG", "SET", "maxmemory", "1")
    await there.finish()


async def redis_full_shortly(there: Ground) -> None:
    await there.redis_command("CONFIG", "SET", "maxmemory", "1")
    await there.say(WORDS[BEFORE:4])
    await there.redis_command("CONFIG", "SET", "maxmemory", "0")
    await there.say(WORDS[4:])
    there.turn.end(FINISH, DONE)


async def _cancel_at(there: Ground, *nodes: Node) -> None:
    """Cancel at nodes in the moment in which the upstream ends."""

    async def cancel(node: Node) -> int:
        await asyncio.sleep(random.uniform(0, 0.01))
        return (await node.tee.ask("POST", f"/v1/streams/{there.ident}/cancel")).status

    await there.say(WORDS[BEFORE:])
    cancelling = asyncio.gather(*map(cancel, nodes))
    await asyncio.sleep(random.uniform(0, 0.01))
    there.turn.end(FINISH, DONE)
    assert await cancelling == [200] * len(nodes)


async def cancel_meets_finish(there: Ground) -> None:
    await _cancel_at(there, there.other)


async def owner_cancels_at_finish(there: Ground) -> None:
    await _cancel_at(there, there.owner)


async def both_cancel_at_finish(there: Ground) -> None:
    await _cancel_at(there, there.owner, there.other)


async def all_is_well(there: Ground) -> None:
    await there.finish()


LOST, WELL = ("producer_lost",), ("complete",)
ONE_OF_TWO = ("complete", "cancelled")
ROWS = [
    Row("nothing", all_is_well, WELL, WELL),
    Row("owner killed (SIGKILL)", owner_killed, LOST, ("cut off",), is_quick=True),
    Row("owner killed, nobody followed elsewhere until later", killed_unseen, LOST, ("cut off",), begin=begin_alone),
    Row(
        "owner killed, and its clients go on at the other node after events that are not stored",
        owner_killed_with_what_clients_had,
        LOST,
        ("cut off",),
        is_quick=True,
    ),
    Row(
        "owner cut off from Redis, and clients of the other node, who were told, go on at it",
        owner_goes_on_for_clients_told_elsewhere,
        LOST,
        LOST,
    ),
    Row(
        "owner cut off from Redis, and a cancel at the other node",
        owner_does_not_answer_to_a_cancel,
        ("cancelled",),
        ("cancelled",),
        where=lambda: ground(STREAMTEE_STORE__LEASE_S="30"),
    ),
    Row("owner stalls beyond its lease (SIGSTOP), then goes on", owner_stalls, LOST, LOST, is_quick=True),
    Row("owner stalls within its lease", owner_stalls_shortly, WELL, WELL),
    Row("owner told to end (SIGTERM), the answer ends before `drain_s`", ends_in_time, WELL, WELL, is_quick=True),
    Row(
        "owner told to end (SIGTERM), the answer goes on beyond `drain_s`",
        goes_on_beyond_its_time,
        ("drained",),
        ("drained",),
        is_quick=True,
        where=lambda: ground(STREAMTEE_DRAIN_S="0.5"),
    ),
    Row(
        'owner killed, with `ack = "stored"`',
        killed_when_all_is_sent,
        LOST,
        ("cut off",),
        where=lambda: ground(STREAMTEE_STORE__ACK="stored", STREAMTEE_STORE__FLUSH_MS="200"),
    ),
    Row("both nodes asked for the same at once, ten times", all_is_well, WELL, WELL, begin=race),
    Row(
        "both nodes asked for the same at once, the clock of the other node an hour ahead",
        all_is_well,
        WELL,
        WELL,
        is_quick=True,
        where=lambda: ground(skew_s=3600),
        begin=race,
    ),
    Row(
        "owner killed before its upstream answers, the other node asked for the same",
        other_takes_over,
        WELL,
        ("cut off",),
        begin=ask_both,
    ),
    Row(
        "owner stalls beyond its lease, the other node asked for the same, then the owner goes on",
        both_are_owners,
        LOST,
        LOST,
        is_quick=True,
    ),
    Row(
        "owner stalls (SIGSTOP), cancel at the other node, then the owner goes on",
        cancelled_while_owner_stalls,
        ("cancelled",),
        ("cancelled",),
        where=lambda: ground(STREAMTEE_STORE__LEASE_S="15"),
    ),
    Row("owner cut off from Redis beyond its lease, then not", owner_cut_off, LOST, LOST),
    Row(
        "owner cut off from Redis when the answer begins, then not",
        all_is_well,
        WELL,
        WELL,
        begin=begin_while_owner_is_cut_off,
    ),
    Row("follower's node killed (SIGKILL)", follower_killed, ("cut off",), WELL, is_quick=True),
    Row("follower's node stalls beyond its lease (SIGSTOP), then goes on", follower_stalls, WELL, WELL),
    Row("follower's node cut off from Redis shortly", follower_cut_off_shortly, WELL, WELL),
    Row("follower's node cut off from Redis for good", follower_cut_off, LOST, WELL),
    Row("all connections to Redis cut, seven times, and 30 ms of delay", drops_and_delays, WELL, WELL, is_quick=True),
    Row("Redis killed", redis_killed, LOST, WELL),
    Row("Redis killed and restarted, empty", redis_restarted_empty, LOST, WELL, is_quick=True),
    Row("Redis paused (SIGSTOP), then not", redis_paused, WELL, WELL),
    Row("failover that loses two acknowledged entries", redis_fails_over_with_loss, WELL, WELL, is_quick=True),
    Row("failover by Sentinel, the primary killed", primary_killed, WELL, WELL, where=ground_of_sentinel),
    Row("log deleted by hand", log_deleted, LOST, WELL),
    Row("log trimmed by hand before it was read", log_trimmed, LOST, WELL),
    Row("Redis full (maxmemory, noeviction) to the end", redis_full, LOST, WELL),
    Row("Redis full, then not", redis_full_shortly, WELL, WELL),
    Row("Redis full when the answer begins, then not", all_is_well, WELL, WELL, begin=begin_while_redis_is_full),
    Row(
        "cancel at the other node against the end of the answer",
        cancel_meets_finish,
        ONE_OF_TWO,
        ONE_OF_TWO,
        is_quick=True,
    ),
    Row("cancel at the owner against the end of the answer", owner_cancels_at_finish, ONE_OF_TWO, ONE_OF_TWO),
    Row("cancel at both nodes against the end of the answer", both_cancel_at_finish, ONE_OF_TWO, ONE_OF_TWO),
    Row("clock of the other node an hour ahead", all_is_well, WELL, WELL, where=lambda: ground(skew_s=3600)),
]


async def run(row: Row) -> tuple[str, str]:
    """Run a row once; return how the stream ended for the follower elsewhere and for the owner's client.

    Raises: AssertionError, if one of them lost something silently, or ended otherwise than it may.
    """
    async with row.where() as there:
        await row.begin(there)
        await row.act(there)
        remote, local = await _ended(there, "remote"), await _ended(there, "local")
        assert remote in row.remote, f"{row.what}: elsewhere {remote}"
        assert local in row.local, f"{row.what}: at the owner {local}"
        if "cancelled" in row.remote:
            assert remote == local, "two endings of one stream"
        return remote, local


async def _ended(there: Ground, who: str) -> str:
    answer = getattr(there, who)
    if answer is None:
        return "cut off"  # before there was an answer
    how = await told(answer)
    return how.ending if how.ending in ("complete", "cut off") else await ending(answer)


def table(found: dict[str, list[tuple[str, str]]]) -> str:
    """Return the table of what was found, by what happened."""
    lines = ["| What happens in mid-stream | Followers elsewhere | The owner's client | Runs | Silent losses |"]
    lines.append("|---|---|---|---|---|")
    for what, endings in found.items():
        remote, local = (Counter(one[side] for one in endings) for side in (0, 1))
        lines.append(f"| {what} | {_words(remote)} | {_words(local)} | {len(endings)} | 0 |")
    return "\n".join(lines)


def _words(endings: Counter[str]) -> str:
    return ", ".join(f"{word}" if len(endings) == 1 else f"{word} ({count})" for word, count in endings.most_common())


async def main(runs: int) -> None:
    found: dict[str, list[tuple[str, str]]] = {}
    for row in ROWS:
        found[row.what] = [await run(row) for _ in range(runs)]
    print(table(found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=3)
    asyncio.run(main(parser.parse_args().runs))
