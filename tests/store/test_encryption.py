"""Two nodes whose store is encrypted: what a real Redis holds, and what nodes with other keys are told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from proxy.server.reload import reload
from proxy.store import replicas
from proxy.store.entries import SEAL, EntryId, Frames, read_header, read_seal
from proxy.store.leases import seal_lost
from tests.event_loops import GUARD_S, until
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.http_client import Answer
from tests.proxy_under_test import CHAT, Tee, chat_body, configured, teed
from tests.stage import Stage, Turn, staged
from tests.store.nodes import stored
from tests.store.redis_server import RedisServer, redis_server

FIRST, SECOND = "1" * 64, "2" * 64
SAID = ["zebra", "yak", "wombat"]
WORDS = [chunk_frame(f"{word}-of-the-answer") for word in SAID]
ALL = b"".join([*WORDS, FINISH, DONE])
KEY, ONCE, CALLED, ASKED = "walrus-key", "vole-once", "urchin-id", "tapir-of-the-prompt"
CONTENT = [*SAID, KEY, ONCE, CALLED, ASKED, "sk-upstream-id", "qwen3-max", "127.0.0.1"]
"""What stands in the answer, or what its client sent."""


class Pair:
    """Two nodes with keys of their own, their upstream, and their Redis."""

    def __init__(self, stage: Stage, server: RedisServer, tees: list[Tee]) -> None:
        self.stage = stage
        self.server = server
        self.owner, self.other = tees
        self.redis: Any = redis.Redis(port=server.port, protocol=2)

    async def begin(self, *headers: str) -> tuple[Answer, Turn]:
        """Have a client ask at the owner, and the upstream say a word."""
        body = chat_body(messages=[{"role": "user", "content": ASKED}])
        client = await self.owner.send("POST", CHAT, *headers, body=body)
        turn = await self.stage.next()
        await turn.body()
        turn.begin("X-Request-Id: sk-upstream-id")
        turn.chunk(WORDS[0])
        answer = await client.answer()
        await answer.until(b"zebra")
        return answer, turn

    def log(self, ident: str) -> str:
        """Return the key of a stream's log in Redis."""
        (key,) = self.redis.keys(f"*log:{ident}")
        return str(key, "ascii")

    def entries(self, ident: str) -> list[Any]:
        """Return what a stream's log has: nothing, until its owner has written it."""
        found: list[Any] = self.redis.xrange(self.log(ident)) if self.redis.keys(f"*log:{ident}") else []
        return found

    def held(self) -> bytes:
        """Return all that Redis holds, by its own commands, and as it would be dumped."""
        found = []
        for key in self.redis.scan_iter(count=1000):
            kind = self.redis.type(key)
            reads = {b"string": self.redis.get, b"set": self.redis.smembers, b"stream": self.redis.xrange}
            found += [key, repr(reads[kind](key)).encode(), self.redis.dump(key) or b""]
        return b"\n".join(found)


@asynccontextmanager
async def pair(*keys: list[str], arguments: tuple[str, ...] = (), **tables: Any) -> AsyncIterator[Pair]:
    """Run two nodes, each with these keys for what their store keeps."""
    async with staged() as stage, redis_server(*arguments) as server:
        one, two = [stored(server.url, **({"encryption_keys": some} if some else {})) for some in keys]
        async with teed(stage.url, store=one, **tables) as owner, teed(stage.url, store=two, **tables) as other:
            both = Pair(stage, server, [owner, other])
            try:
                yield both
            finally:
                both.redis.close()
                async with asyncio.timeout(GUARD_S):
                    for client in [*owner.clients, *other.clients]:
                        await client.leave()
                    await owner.proxy.stop()
                    await other.proxy.stop()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What nodes log of what they can't read; it is none of the tests' complaints."""
    lines: list[str] = []

    class Log:
        def error(self, text: str, *values: object) -> None:
            lines.append(text % values)

    monkeypatch.setattr(replicas, "_log", Log())
    return lines


def files(folder: Path) -> bytes:
    """Return what stands in all files of a folder."""
    return b"".join(file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file())


@pytest.mark.parametrize("keys", [[SECOND, FIRST], []], ids=["encrypted", "plain"])
async def test_redis_holds_nothing_that_was_asked_or_answered(keys: list[str], tmp_path: Path) -> None:
    """In memory, in dumps and in the append-only file; the other node is sent all of it. Without keys all is found."""
    headers = (f"Stream-Key: {KEY}", f"Idempotency-Key: {ONCE}", f"X-Request-Id: {CALLED}")
    disk = ("--appendonly", "yes", "--appendfsync", "always", "--dir", str(tmp_path))
    async with pair(keys, keys[::-1], arguments=disk) as both:
        answer, turn = await both.begin(*headers)
        by_key = await both.other.follow(f"keys/{KEY}", "mode=raw")
        for word in WORDS[1:]:
            turn.chunk(word)
        running = both.held()
        turn.end(FINISH, DONE)
        assert await answer.read() == await by_key.read() == ALL
        again = await both.other.send(
            "POST", CHAT, *headers, body=chat_body(messages=[{"role": "user", "content": ASKED}])
        )
        assert await (await again.answer()).read() == ALL
        async with asyncio.timeout(GUARD_S):
            while str(SEAL).encode() not in dict(both.entries(answer.stream_id)):
                await asyncio.sleep(0.01)
        found = {word for word in CONTENT if word.encode() in running + both.held() + files(tmp_path)}
    # Prompts are never stored.
    assert found == (set() if keys else set(CONTENT) - {ASKED, ONCE})


async def test_node_without_the_key_says_so(told: list[str]) -> None:
    """To whoever follows, names or lists, and in its log; the stream goes on, and its own streams do."""
    async with pair([FIRST], [SECOND]) as both:
        answer, turn = await both.begin(f"Stream-Key: {KEY}", f"Idempotency-Key: {ONCE}")
        asked = [
            await both.other.follow(answer.stream_id),
            await both.other.follow(f"keys/{KEY}"),
            await both.other.chat(f"Idempotency-Key: {ONCE}"),
            await both.other.ask("GET", "/v1/streams"),
        ]
        for refused in asked:
            error = (await refused.json())["error"]
            assert (refused.status, error["code"]) == (503, "store_unavailable")
            assert "encrypted by a key that this process does not have" in error["message"]
        assert any("the stream can't be read here: it is encrypted by a key" in line for line in told)
        turn.end(*WORDS[1:], FINISH, DONE)
        assert await answer.read() == ALL
        mine = await both.other.send_chat()
        turn = await both.stage.next()
        await turn.body()
        turn.begin()
        turn.end(*WORDS, FINISH, DONE)
        assert await (await mine.answer()).read() == ALL


@pytest.mark.parametrize("keys", [([FIRST], []), ([], [FIRST])], ids=["lacks", "has"])
async def test_nodes_with_and_without_keys_read_nothing_of_each_other(
    keys: tuple[list[str], ...], told: list[str]
) -> None:
    """What is not encrypted may be anybody's; and both say so."""
    async with pair(*keys) as both:
        answer, turn = await both.begin()
        refused = await both.other.follow(answer.stream_id)
        assert refused.status == 503
        assert "encrypted" in (await refused.json())["error"]["message"]
        turn.end(*WORDS[1:], FINISH, DONE)
        assert await answer.read() == ALL


async def test_streams_of_a_node_with_another_key_are_not_taken_for_lost() -> None:
    """Its lease is seen without a key."""
    async with pair([FIRST], [SECOND]) as both:
        _, turn = await both.begin()
        assert await both.other.proxy.node.leases.alive(both.owner.proxy.node.id)
        assert await both.other.proxy.node.leases.dead(0.0) == set()
        assert await both.other.proxy.node.leases.dead(1e6) == set()
        turn.end(FINISH, DONE)


async def test_keys_are_replaced_while_streams_run() -> None:
    """Step by step, each at all nodes; followers notice nothing, and what is new is by the new key."""
    async with pair([FIRST], [FIRST]) as both:
        answer, turn = await both.begin()
        follower = await both.other.follow(answer.stream_id, "mode=raw")
        await follower.until(WORDS[0])
        used = [_key_of(both, answer.stream_id)]
        for keys, word in (([FIRST, SECOND], WORDS[1]), ([SECOND, FIRST], WORDS[2]), ([SECOND], FINISH)):
            for tee in (both.owner, both.other):
                config = configured(both.stage.url, store=stored(both.server.url, encryption_keys=keys))
                assert reload(tee.proxy, config).made == ["store.encryption_keys"]
            turn.chunk(word)
            await follower.until(word)
            used.append(_key_of(both, answer.stream_id))
        assert used[0] == used[1] != used[2] == used[3]
        turn.end(DONE)
        assert await follower.read() == await answer.read() == ALL


def _key_of(both: Pair, ident: str) -> bytes:
    """Return the id of the key by which the last entry was written."""
    (value,) = both.entries(ident)[-1][1].values()
    key: bytes = value[1:5]
    return key


@pytest.mark.parametrize("change", ["moved", "copied", "plain", "flipped"])
async def test_entry_that_somebody_changed_ends_the_stream(change: str) -> None:
    """One that is another stream's, stands at another place, is not encrypted, or has another bit; never as text."""
    async with pair([FIRST], [FIRST]) as both:
        answer, turn = await both.begin()
        second, turn_of_second = await both.begin()
        follower = await both.other.follow(answer.stream_id)
        await follower.until(b"zebra")
        async with asyncio.timeout(GUARD_S):
            while len(both.entries(second.stream_id)) < 3:
                await asyncio.sleep(0.01)
        last, own = both.entries(answer.stream_id)[-1][0], both.entries(answer.stream_id)[-1][1][b"x"]
        theirs = both.entries(second.stream_id)[-1][1][b"x"]
        after = EntryId(2, int(last.split(b"-")[1]) * 2)
        flipped = own[:-1] + bytes([own[-1] ^ 1])
        fields = {
            "moved": {b"x": own},
            "copied": {b"x": theirs},
            "plain": Frames(after, [WORDS[0]]).entry().fields,
            "flipped": {b"x": flipped},
        }[change]
        both.redis.xadd(both.log(answer.stream_id), fields, id=str(after))
        async with asyncio.timeout(GUARD_S):
            events = await follower.read()
        assert events.count(b"of-the-answer") == 1
        assert b"producer_lost" in events
        assert b"[DONE]" not in events
        for one in (turn, turn_of_second):
            one.end(FINISH, DONE)


async def test_seal_by_another_key_ends_the_stream_at_its_owner() -> None:
    """And hinders no other stream of it."""
    async with pair([FIRST], [SECOND]) as both:
        answer, turn = await both.begin("Stream-Mode: events")
        async with asyncio.timeout(GUARD_S):
            while len(both.entries(answer.stream_id)) < 3:
                await asyncio.sleep(0.01)
        await seal_lost(both.other.proxy.node.store, [answer.stream_id])
        turn.chunk(WORDS[1])
        assert b"producer_lost" in await answer.read()
        second, turn = await both.begin()
        turn.end(*WORDS[1:], FINISH, DONE)
        assert await second.read() == ALL
        await until(lambda: str(SEAL).encode() in dict(both.entries(second.stream_id)))
        (entry,) = await both.owner.proxy.node.store.last([second.stream_id])
        assert read_seal(entry).ending.reason == "complete"
        first = (await both.owner.proxy.node.store.entries(second.stream_id, EntryId(0, 0), 1))[0]
        assert read_header(first).info.id == second.stream_id
