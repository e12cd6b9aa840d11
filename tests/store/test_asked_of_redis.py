"""Two nodes: what they ask Redis for, and how often, as Redis itself tells."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from proxy.store import outbox
from tests.access.named import NamedCallers
from tests.event_loops import GUARD_S, until
from tests.event_streams import DONE, FINISH, chunk_frame, stamped
from tests.http_client import Answer
from tests.proxy_under_test import begun
from tests.stage import Turn
from tests.store.monitored import monitored
from tests.store.nodes import Nodes, two_nodes

WORDS = [chunk_frame(f"word {n}") for n in range(1, 1501)]
LAST = [FINISH, DONE]
SLICE = 256
FOLLOWERS, STREAMS, BURST = 50, 20, 10
BOXES = 2
"""Connections that wait for messages to a node, one a node."""


@pytest.fixture
async def nodes() -> AsyncIterator[Nodes]:
    """Run two nodes, of which the owner writes without delay."""
    async with two_nodes({"flush_ms": 5}) as nodes:
        yield nodes


@pytest.fixture
async def seldom() -> AsyncIterator[Nodes]:
    """Run two nodes, of which the owner writes five times a second."""
    async with two_nodes({"flush_ms": 200}) as nodes:
        yield nodes


async def number(nodes: Nodes, section: str, name: str) -> int:
    """Return a number of those that Redis tells of itself."""
    found = re.search(rb"%b:(\d+)" % name.encode(), await nodes.redis.command("INFO", section))
    assert found is not None
    return int(found[1])


async def wait_readers(nodes: Nodes, count: int) -> None:
    """Wait until so many connections wait for entries of logs."""
    async with asyncio.timeout(GUARD_S):
        while (waiting := await number(nodes, "clients", "blocked_clients") - BOXES) != count:
            assert waiting <= 1


def burst(turn: Turn, frames: list[bytes]) -> None:
    """Have the upstream say frames at once."""
    turn.say(b"".join(b"%x\r\n%b\r\n" % (len(frame), frame) for frame in frames))


async def test_follower_at_another_node_catches_up_in_slices(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many entries, each read once; early, late and resumed ones are sent what the owner's client is sent."""
    monkeypatch.setattr(outbox, "ENTRY_FRAMES", 1)
    answer, turn = await begun(nodes.owner, nodes.stage, frames=1)
    ident, epoch = answer.stream_id, answer.epoch
    async with monitored(nodes.redis) as monitor:
        burst(turn, WORDS[1:1200])
        await answer.until(WORDS[1199])
        await until(lambda: not nodes.owner.proxy.node.publisher.lag_bytes)
        late, resumed = await asyncio.gather(
            nodes.other.follow(ident, "mode=raw"), nodes.other.follow(ident, "", f"Last-Event-ID: {epoch}-700")
        )
        await late.until(WORDS[1199])
        reads = await monitor.of("XRANGE", ident)
        burst(turn, WORDS[1200:])
        turn.end(*LAST)
        whole = b"".join([*WORDS, *LAST])
        assert await late.read() == await answer.read() == whole
        assert await resumed.read() == stamped(b"".join([*WORDS[700:], *LAST]), epoch, 701)
        tails = await monitor.of("XREAD", ident)
    entries = [0, *range(SLICE - 2, 1200, SLICE)]  # two entries come before those of frames
    assert [(int(words[2].strip("(").split("-")[0]), words[-1]) for words in reads] == [(n, "256") for n in entries]
    assert tails
    assert {tuple(words[1:3]) for words in tails} == {("COUNT", str(SLICE))}


async def test_followers_of_a_stream_at_a_node_are_one_reader_until_the_last_leaves(nodes: Nodes) -> None:
    """Redis is read as often as for one of them, and then no more."""
    answer, turn = await begun(nodes.owner, nodes.stage, frames=1)
    ident = answer.stream_id
    await wait_readers(nodes, 0)
    async with monitored(nodes.redis) as monitor:
        followers = await asyncio.gather(*(nodes.other.follow(ident, "mode=raw") for _ in range(FOLLOWERS)))
        await wait_readers(nodes, 1)
        for frame in WORDS[1:10]:
            turn.chunk(frame)
            for follower in followers:
                await follower.until(frame)
        assert len(await monitor.of("XRANGE", ident)) == 1
        reads, writes = await monitor.of("XREAD", ident), await monitor.of("XADD", ident)
        assert len(reads) <= len(writes) + 2, reads
        await asyncio.gather(*(follower.client.leave() for follower in followers))
        await until(lambda: ident not in nodes.other.proxy.hub.replicas)
        await wait_readers(nodes, 0)
        await monitor.forget()
        for frame in WORDS[10:12]:
            turn.chunk(frame)
            await answer.until(frame)
            await until(lambda: not nodes.owner.proxy.node.publisher.lag_bytes)
        assert len(await monitor.of("XADD", ident)) == 2
        assert [*await monitor.of("XREAD", ident), *await monitor.of("XRANGE", ident)] == []
    turn.end(*LAST)


async def test_only_commands_of_redis_6_2_are_used(tmp_path: Path) -> None:
    """And only their arguments of then: Redis says since when it has each. With all that nodes share."""
    callers = NamedCallers(tmp_path, alice={"streams": 2, "followers": 5, "requests_per_day": 9})
    named = [callers.header("alice"), "Stream-Key: chat-1", "Idempotency-Key: once"]
    async with two_nodes(**callers.tables(), streams={"retain_s": 0}) as nodes, monitored(nodes.redis) as monitor:
        clients = [await tee.send_chat(*named) for tee in (nodes.owner, nodes.other)]
        turn = await nodes.stage.next()
        await turn.body()
        turn.begin()
        turn.chunk(WORDS[0])
        for answer in [await client.answer() for client in clients]:
            await answer.until(WORDS[0])
        ident = answer.stream_id
        for path in ("/v1/streams", "/v1/keys/chat-1/stream"):
            assert (await nodes.other.ask("GET", path, named[0])).status == 200
        assert (await nodes.other.ask("DELETE", f"/v1/streams/{ident}", named[0])).status == 200
        await turn.wait_left()
        await until(lambda: not nodes.owner.proxy.node.publisher.lag_bytes)
        commands = await monitor.commands()
        with contextlib.closing(redis.Redis(port=nodes.redis.port, protocol=2)) as client:
            client.response_callbacks.pop("COMMAND")
            documented = {name: documentation(client, name) for name, *_ in commands}
    used = {name: {word.upper() for words in commands if words[0] == name for word in words} for name in documented}
    assert {"XADD", "XREAD", "XRANGE", "SET", "PTTL", "HSET", "SADD", "SREM", "DEL"} <= used.keys()
    assert {name: words for name, docs in documented.items() if (words := used[name] & set(later(docs)))} == {}


def documentation(client: Any, name: str) -> list[Any]:
    """Return what Redis says of a command."""
    ((_, docs),) = [client.execute_command("COMMAND", "DOCS", name)]
    return [b"name", name.encode(), *docs]


def later(docs: Any, *, is_late: bool = False) -> Iterator[str]:
    """Yield the names of a command and of its arguments that Redis has only since after 6.2."""
    if not isinstance(docs, list):
        return
    told: dict[bytes, Any] = dict(zip(docs[::2], docs[1::2], strict=False)) if b"name" in docs else {}
    is_late = is_late or tuple(map(int, told.get(b"since", b"0").split(b"."))) >= (6, 3)
    if told and is_late:
        yield (told.get(b"token") or told[b"name"]).decode().upper()
    for one in docs:
        yield from later(one, is_late=is_late)


async def test_frames_of_one_flush_are_one_entry(seldom: Nodes) -> None:
    """However many there are; followers elsewhere are sent them in their order."""
    answer, turn = await begun(seldom.owner, seldom.stage, frames=1)
    follower = await seldom.other.follow(answer.stream_id, "mode=raw")
    await follower.until(WORDS[0])
    async with monitored(seldom.redis) as monitor:
        burst(turn, WORDS[1:300])
        await follower.until(WORDS[299])
        entries = await monitor.of("XADD", answer.stream_id)
    assert len(entries) <= 2, entries  # two, if a flush comes between two reads
    turn.end(*LAST)
    assert await follower.read() == await answer.read() == b"".join([*WORDS[:300], *LAST])


async def test_burst_of_several_entries_is_written_before_more_comes(seldom: Nodes) -> None:
    """Although the upstream then says nothing for long, and the owner's client is served past the log."""
    answer, turn = await begun(seldom.owner, seldom.stage, frames=1)
    follower = await seldom.other.follow(answer.stream_id, "mode=raw")
    await follower.until(WORDS[0])
    burst(turn, WORDS[1:])
    assert await follower.bytes(sum(map(len, WORDS))) == b"".join(WORDS)
    turn.end(*LAST)
    assert await follower.read() == await answer.read()


async def test_what_only_the_client_was_sent_is_written_with_what_is_in_the_log(seldom: Nodes) -> None:
    """A long event is appended to the log at once, the next one has only been sent to the owner's client."""
    answer, turn = await begun(seldom.owner, seldom.stage, frames=1)
    follower = await seldom.other.follow(answer.stream_id, "mode=raw")
    await follower.until(WORDS[0])
    long = chunk_frame("long " * 1000)
    for frame in (long, *WORDS[1:3]):
        turn.chunk(frame)
        await answer.until(frame)
    assert await follower.until(WORDS[2]) == b"".join([WORDS[0], long, *WORDS[1:3]])
    turn.end(*LAST)
    assert await follower.read() == await answer.read()


async def test_streams_are_written_together(seldom: Nodes) -> None:
    """What all of a node's streams have said since the last flush is sent to Redis at once."""
    begun_ones = [await begun(seldom.owner, seldom.stage, frames=1) for _ in range(STREAMS)]
    followers: list[Answer] = [await seldom.other.follow(answer.stream_id, "mode=raw") for answer, _ in begun_ones]
    for follower in followers:
        await follower.until(WORDS[0])
    before = await number(seldom, "stats", "total_reads_processed")
    for _, turn in begun_ones:
        burst(turn, WORDS[1:BURST])
    for follower in followers:
        await follower.until(WORDS[BURST - 1])
    assert await number(seldom, "stats", "total_reads_processed") - before < STREAMS
    for _, turn in begun_ones:
        turn.end(*LAST)
    expected = b"".join([*WORDS[:BURST], *LAST])
    assert [await follower.read() for follower in followers] == [expected] * STREAMS
