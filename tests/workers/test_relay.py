"""Workers behind TLS of their own: a connection can't go to another worker, so its bytes do."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.http_client import Answer, Client, request
from tests.proxy_under_test import CHAT, chat_body
from tests.several_workers import Several, several
from tests.stage import Stage, Turn

ALL = (0, 1, 2)


@pytest.fixture
async def three(stage: Stage, authority: Authority) -> AsyncIterator[Several]:
    async with several(stage.url, tls={"certificate": str(authority.sign("server"))}) as one:
        yield one


async def connect(three: Several, authority: Authority, at: int, certificate: Path | None = None) -> Client:
    """Connect to a worker by TLS."""
    host, _, port = three.urls[at].removeprefix("http://").rpartition(":")
    loop = asyncio.get_running_loop()
    context = authority.client(certificate)
    _, client = await loop.create_connection(Client, host, int(port), ssl=context, server_hostname="localhost")
    three.clients.append(client)
    return client


async def begun(client: Client, stage: Stage, *headers: str) -> tuple[Answer, Turn]:
    """Have a client ask for a stream, and the upstream begin it with a word."""
    client.send(request("POST", CHAT, *headers, body=chat_body()), method="POST")
    turn = await stage.next()
    turn.begin()
    turn.chunk(chunk_frame("first"))
    return await client.answer(), turn


async def test_follower_by_tls_is_carried_to_the_stream(three: Several, stage: Stage, authority: Authority) -> None:
    """It gets the same bytes, while the stream runs, and its connection goes on to other streams."""
    asked, turn = await begun(await connect(three, authority, 1), stage)
    followers = []
    for at in ALL:
        client = await connect(three, authority, at)
        client.send(request("GET", f"/v1/streams/{asked.stream_id}?mode=raw"))
        followers.append(await client.answer())
        await followers[-1].until(b"first")
    for frame in (chunk_frame("x" * 300_000), FINISH, DONE):
        turn.chunk(frame)
    turn.end()
    said = await asked.read()
    for following in followers:
        assert (await following.read(), following.end) == (said, "whole")
        following.client.send(request("GET", f"/v1/streams/{asked.stream_id}/info"))
        assert (await following.client.answer()).status == 200
    assert three.handed_over() == 2


async def test_stream_that_fails_does_not_look_complete_by_tls(
    three: Several, stage: Stage, authority: Authority
) -> None:
    """The carried connection breaks off, too."""
    asked, turn = await begun(await connect(three, authority, 1), stage)
    client = await connect(three, authority, 2)
    client.send(request("GET", f"/v1/streams/{asked.stream_id}?mode=raw"))
    following = await client.answer()
    await following.until(b"first")
    turn.reset()
    await asked.read()
    await following.read()
    assert (asked.end, following.end) == ("cut", "cut")


async def test_client_that_leaves_is_gone_from_the_other_worker(
    three: Several, stage: Stage, authority: Authority
) -> None:
    """Its request ends there."""
    client = await connect(three, authority, 0)
    answer, turn = await begun(client, stage, "Stream-Key: chat-1")
    await answer.until(b"first")
    await client.leave()
    await turn.wait_left()
    assert not any(three.workers[at].placement.relays for at in ALL)


async def test_certificate_is_known_to_the_worker_that_serves(
    stage: Stage, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """Whichever that is, also for streams of several workers; so is the address of the client, for the log."""
    caplog.set_level("INFO", "streamtee")
    tables = {
        "tls": {"certificate": str(authority.sign("server")), "client_ca": str(authority.file)},
        "auth": {"mode": "keys"},
        "upstream": {"key": "sk-ours"},
    }
    alice, bob = authority.sign("alice"), authority.sign("bob")
    nokey = "Authorization:"
    async with several(stage.url, **tables) as three:

        async def ask(at: int, certificate: Path, path: str, *headers: str) -> Answer:
            client = await connect(three, authority, at, certificate)
            client.send(request("GET", path, nokey, *headers))
            return await client.answer()

        streams = []
        for number in range(6):
            client = await connect(three, authority, number % 3, alice)
            streams.append(await begun(client, stage, nokey, f"Stream-Key: k{number}"))
        assert len({three.home(answer) for answer, _ in streams}) > 1
        assert three.handed_over() > 0
        for at in ALL:
            for number, (answer, _) in enumerate(streams):
                for path in (f"/v1/streams/{answer.stream_id}/info", f"/v1/keys/k{number}"):
                    told = await ask(at, alice, path)
                    assert (await told.json())["id"] == answer.stream_id
                    assert (await ask(at, bob, path)).status == 404
        query = "&".join(f"stream={answer.stream_id}" for answer, _ in streams)
        together = await ask(0, alice, f"/v1/follow?{query}")
        for forged in ("Streamtee-Certificate-Subject: CN=alice", "streamtee-certificate-subject: CN%3Dalice"):
            assert (await ask(0, bob, f"/v1/follow?{query}", forged)).status == 404
        for answer, turn in streams:
            turn.end(FINISH, DONE)
            await answer.read()
        assert (await together.read()).count(b"first") == 6
        usage = await (await ask(1, alice, "/v1/usage")).json()
        assert (usage["name"], usage["requests"]["total"]) == ("CN=alice", 6)
    ended = [record for record in caplog.records if "client=" in record.getMessage()]
    assert ["client=127.0.0.1" in record.getMessage() for record in ended] == [True] * 6
