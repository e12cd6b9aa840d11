"""Callers by name in a running proxy: keys that are added, disabled, expired and rotated while streams run."""

import os
import time
from pathlib import Path

import pytest

from proxy.access.key_file import new_key
from proxy.access.known_callers import KnownCallers
from tests.access.keys import code
from tests.access.named import NamedCallers
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.proxy_under_test import CHAT, Tee, chat_body, teed
from tests.stage import Stage


def refreshed(tee: Tee) -> None:
    """Do what the proxy does every second."""
    assert tee.proxy.identification is not None
    tee.proxy.identification.refresh()


async def status(tee: Tee, header: str) -> int:
    """Return the status of a request that needs a caller, and no upstream."""
    return (await tee.ask("GET", "/v1/streams", header)).status


async def test_keys_change_while_streams_run(stage: Stage, tmp_path: Path) -> None:
    """A caller that is disabled is refused from then on; its stream comes to its end; enabled again, it is its own."""
    callers = NamedCallers(tmp_path, alice={})
    alice = callers.header("alice")
    async with teed(stage.url, **callers.tables()) as tee:
        client = await tee.send("POST", CHAT, alice, body=chat_body())
        turn = await stage.next()
        await turn.body()
        turn.begin()
        turn.chunk(chunk_frame("a"))
        answer = await client.answer()
        record = callers.records.callers["alice"]
        callers.put("alice", record.model_copy(update={"disabled": True}))
        refreshed(tee)
        assert await status(tee, alice) == 401
        assert (await tee.follow(answer.stream_id, "", alice)).status == 401
        callers.put("alice", record)
        refreshed(tee)
        assert [one["id"] for one in await tee.listed(alice)] == [answer.stream_id]
        turn.end(FINISH, DONE)
        assert (await answer.read()).endswith(DONE)


async def test_rotated_key_is_the_same_caller(stage: Stage, tmp_path: Path) -> None:
    """Both keys find its streams, until the old one expires."""
    callers = NamedCallers(tmp_path, alice={})
    old = callers.header("alice")
    async with teed(stage.url, **callers.tables()) as tee:
        client = await tee.send("POST", CHAT, old, body=chat_body())
        turn = await stage.next()
        await turn.body()
        turn.begin()
        answer = await client.answer()
        key, made = new_key(time.time())
        new = f"Authorization: Bearer {key}"
        assert await status(tee, new) == 401
        record = callers.records.callers["alice"]
        callers.put("alice", record.expiring(int(time.time()) + 1000).with_key(made))
        refreshed(tee)
        for header in (old, new, f"x-api-key: {key}"):
            assert [one["id"] for one in await tee.listed(header)] == [answer.stream_id]
        callers.put("alice", record.expiring(int(time.time())).with_key(made))
        refreshed(tee)
        assert (await status(tee, old), await status(tee, new)) == (401, 200)
        turn.end(FINISH, DONE)
        await answer.read()


async def test_key_expires_by_itself(tmp_path: Path) -> None:
    """Without a change of the file, when its time has come."""
    now = [time.time()]
    callers = NamedCallers(tmp_path)
    key = callers.add("alice", expires_at=int(now[0]) + 100)
    known = KnownCallers(callers.file, clock=lambda: now[0])
    assert not known.refresh()
    assert known.of_key(key) == "alice"
    now[0] += 100
    assert known.of_key(key) is None
    assert known.refresh()  # so that what was remembered of keys is forgotten
    assert not known.refresh()


@pytest.mark.fault("disk", "connect")
async def test_bad_file_changes_nothing(stage: Stage, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged once, without a word of it; a good one is read again."""
    callers = NamedCallers(tmp_path, alice={})
    known = KnownCallers(callers.file)
    for broken in (b'{"callers": {"a": {"keys": "sk-SECRET"}}}', None, b""):
        callers.file.unlink(missing_ok=True)
        if broken is not None:
            callers.file.write_bytes(broken)
        before = len(caplog.records)
        for _ in range(3):
            assert not known.refresh()
        assert len(caplog.records) == before + 1
        assert known.of_key(callers.keys["alice"]) == "alice"
    assert "SECRET" not in caplog.text
    callers.put("alice", None)
    assert known.refresh()
    assert known.of_key(callers.keys["alice"]) is None


def test_change_of_the_same_size_in_the_same_moment_is_seen(tmp_path: Path) -> None:
    """The file is another one, which its number tells."""
    callers = NamedCallers(tmp_path, alice={})
    known = KnownCallers(callers.file)
    before = callers.file.stat()
    record = callers.records.callers["alice"]
    callers.put("alice", record.model_copy(update={"keys": (new_key(1)[1],)}))
    os.utime(callers.file, ns=(before.st_atime_ns, before.st_mtime_ns))
    known.refresh()
    assert known.of_key(callers.keys["alice"]) is None


async def test_keys_of_two_callers_are_nobodys(tmp_path: Path, stage: Stage) -> None:
    """Whose limits would hold is not the proxy's to guess; the same key twice is one."""
    callers = NamedCallers(tmp_path, alice={}, bob={})
    async with teed(stage.url, **callers.tables()) as tee:
        alice, bob = callers.header("alice"), f"x-api-key: {callers.keys['bob']}"
        assert await code(await tee.ask("GET", "/v1/streams", alice, bob)) == (401, "invalid_api_key")
        assert (await tee.ask("GET", "/v1/streams", alice, f"api-key: {callers.keys['alice']}")).status == 200


async def test_other_callers_streams_are_not_there(stage: Stage, tmp_path: Path) -> None:
    """By no route can a caller see, follow, end or learn of another's stream: it is as one that never was."""
    callers = NamedCallers(tmp_path, alice={}, bob={})
    alice, bob = callers.header("alice"), callers.header("bob")
    secrets = {"capabilities": {"secrets": ["a secret of thirty-two characters"]}}
    async with teed(stage.url, **callers.tables(), **secrets) as tee:
        client = await tee.send("POST", CHAT, alice, "Stream-Key: k", "Idempotency-Key: i", body=chat_body())
        turn = await stage.next()
        await turn.body()
        turn.begin()
        turn.chunk(chunk_frame("a"))
        answer = await client.answer()
        ident = answer.stream_id
        never = "st_" + "a" * 26
        for method, path in (
            ("GET", "/v1/streams/{}"),
            ("HEAD", "/v1/streams/{}"),
            ("DELETE", "/v1/streams/{}"),
            ("GET", "/v1/streams/{}/info"),
            ("POST", "/v1/streams/{}/cancel"),
            ("POST", "/v1/streams/{}/share"),
            ("GET", "/v1/follow?stream={}"),
            ("GET", "/v1/responses/{}"),
            ("GET", "/v1/responses/{}?stream=true"),
            ("POST", "/v1/responses/{}/cancel"),
            ("DELETE", "/v1/responses/{}"),
        ):
            theirs = await tee.ask(method, path.format(ident), bob)
            nobodys = await tee.ask(method, path.format(never), bob)
            assert theirs.status == nobodys.status == 404, path
            if method != "HEAD":
                assert (await theirs.read()).replace(ident.encode(), never.encode()) == await nobodys.read(), path
        for method, path in (
            ("GET", "/v1/keys/k"),
            ("HEAD", "/v1/keys/k"),
            ("GET", "/v1/keys/k/stream"),
            ("POST", "/v1/keys/k/cancel"),
            ("GET", "/v1/follow?key=k"),
        ):
            assert (await tee.ask(method, path, bob)).status == 404, path
        assert await tee.listed(bob) == []
        again = await tee.send("POST", CHAT, bob, "Stream-Key: k", "Idempotency-Key: i", body=chat_body())
        other = await stage.next()  # their idempotency key is not hers: a call of his own is made
        await other.body()
        other.begin()
        assert (await again.answer()).stream_id != ident
        assert [one["id"] for one in await tee.listed(alice)] == [ident]
        assert (await (await tee.ask("GET", f"/v1/streams/{ident}/info", alice)).json())["state"] == "open"
        for one in (turn, other):
            one.end(FINISH, DONE)
        await answer.read()
