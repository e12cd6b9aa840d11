"""What a real Redis holds of a stream that is not kept after its end: nothing that says anything."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from proxy.store import outbox
from tests.access.named import NamedCallers
from tests.event_loops import GUARD_S, until
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.proxy_under_test import CHAT, RESPONSES, chat_body, response_body
from tests.stage import staged
from tests.store.nodes import Nodes, sharing
from tests.store.redis_server import redis_server

KEY, ONCE, ASKED, SAID, NAME = "walrus-key", "vole-once", "tapir-of-the-prompt", "zebra-of-the-answer", "ocelot"
RESPONSE = "resp_marmot"
CHAT_FRAMES = [chunk_frame(SAID), FINISH, DONE]
RESPONSE_FRAMES = [
    b"event: response.%b\ndata: %b\n\n" % (kind, orjson.dumps({"type": f"response.{kind.decode()}", **said}))
    for kind, said in (
        (b"created", {"response": {"id": RESPONSE, "status": "in_progress"}}),
        (b"output_text.delta", {"delta": SAID}),
        (b"completed", {"response": {"id": RESPONSE, "status": "completed"}}),
    )
]
ALLOWED = {
    "node": 15,
    "nodes": 24 * 3600,
    "idem": 3600,
    "given": 7 * 24 * 3600,
    "used": 2 * 24 * 3600,
    "box": 3600,
    "wake": 24 * 3600,
}
"""The kinds of keys that may stay, and for how many seconds at most (docs/store.md)."""


def held(server: Any) -> dict[str, bytes]:
    """Return all that Redis holds: each key, and what is under it."""
    reads = {b"string": server.get, b"set": server.smembers, b"stream": server.xrange, b"hash": server.hgetall}
    return {key.decode(): repr(reads[server.type(key)](key)).encode() for key in server.scan_iter(count=1000)}


def kind(key: str) -> str:
    """Return what a key is of: `st:{B}:log:ID` is of a log."""
    return key.split(":")[2 if key.startswith("st:{") else 1]


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
async def test_stream_that_is_not_kept_leaves_nothing_readable_in_the_store(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No log, no name that a client or an upstream chose, no caller's name: digests with the secret, and counts."""
    monkeypatch.setattr(outbox, "_LEAST_S", 0.3)
    callers = NamedCallers(tmp_path, **{NAME: {"streams": 2, "followers": 2, "requests_per_day": 9}})
    body, frames = (chat_body, CHAT_FRAMES) if path == CHAT else (response_body, RESPONSE_FRAMES)
    asked = body(**({"messages": [{"role": "user", "content": ASKED}]} if path == CHAT else {"input": ASKED}))
    async with (
        staged() as stage,
        redis_server() as server,
        sharing(stage.url, server.url, **callers.tables(), streams={"retain_s": 0}) as tees,
    ):
        nodes, client = Nodes(stage, server, tees), redis.Redis(port=server.port, protocol=2)
        named = [callers.header(NAME), f"Stream-Key: {KEY}", f"Idempotency-Key: {ONCE}"]
        asking = await nodes.owner.send("POST", path, *named, body=asked)
        turn = await stage.next()
        await turn.body()
        turn.begin()
        for frame in frames[:2]:
            turn.chunk(frame)
        answer = await asking.answer()
        follower = await nodes.other.ask("GET", f"/v1/keys/{KEY}/stream", callers.header(NAME))
        assert follower.status == 200
        assert {"log", "key", "held"} <= set(map(kind, held(client)))
        turn.end(*frames[2:])
        for one in (answer, follower):
            assert SAID.encode() in await one.read()
            await one.client.leave()
        async with asyncio.timeout(GUARD_S):
            while set(map(kind, found := held(client))) - ALLOWED.keys():
                await asyncio.sleep(0.05)
        await until(lambda: not any(tee.proxy.node.publisher.lag_bytes for tee in tees))
        for secret in (KEY, ONCE, ASKED, SAID, NAME, RESPONSE, hashlib.sha256(asked).hexdigest()):
            assert secret not in repr(found)
        for key in found:
            assert 0 < client.ttl(key) <= ALLOWED[kind(key)], key
        client.close()


async def test_key_that_leads_to_a_newer_stream_stays(tmp_path: Path) -> None:
    """A stream that is not kept takes none but its own names away."""
    callers = NamedCallers(tmp_path, **{NAME: {}})
    async with (
        staged() as stage,
        redis_server() as server,
        sharing(stage.url, server.url, **callers.tables()) as tees,
    ):
        nodes = Nodes(stage, server, tees)
        turns = []
        for retain_s in (0, 300):
            header = [callers.header(NAME), f"Stream-Key: {KEY}", f"Stream-Retain: {retain_s}"]
            asking = await nodes.owner.send("POST", CHAT, *header, body=chat_body())
            turn = await stage.next()
            await turn.body()
            turn.begin()
            turn.chunk(CHAT_FRAMES[0])
            turns.append((await asking.answer(), turn))
        for answer, turn in turns:
            turn.end(*CHAT_FRAMES[1:])
            await answer.read()
        await until(lambda: len(nodes.owner.proxy.node.publisher._outboxes) == 1)
        follower = await nodes.other.ask("GET", f"/v1/keys/{KEY}/stream", callers.header(NAME))
        assert (follower.status, follower.stream_id) == (200, turns[1][0].stream_id)
        await follower.read()
