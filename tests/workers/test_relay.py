"""Workers behind TLS of their own: a connection can't go to another worker, so its bytes do."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.http_client import Client, request
from tests.proxy_under_test import CHAT, chat_body
from tests.several_workers import Several, several
from tests.stage import Stage

ALL = (0, 1, 2)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
async def three(stage: Stage, authority: Authority) -> AsyncIterator[Several]:
    async with several(stage.url, tls={"certificate": str(authority.sign("server"))}) as one:
        yield one


async def connect(three: Several, authority: Authority, at: int) -> Client:
    """Connect to a worker by TLS."""
    host, _, port = three.urls[at].removeprefix("http://").rpartition(":")
    loop = asyncio.get_running_loop()
    context = authority.client()
    _, client = await loop.create_connection(Client, host, int(port), ssl=context, server_hostname="localhost")
    three.clients.append(client)
    return client


async def test_follower_by_tls_is_carried_to_the_stream(three: Several, stage: Stage, authority: Authority) -> None:
    """It gets the same bytes, while the stream runs, and its connection goes on to other streams."""
    asking = await connect(three, authority, 1)
    asking.send(request("POST", CHAT, body=chat_body()), method="POST")
    turn = await stage.next()
    turn.begin()
    turn.chunk(chunk_frame("first"))
    asked = await asking.answer()
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
    asking = await connect(three, authority, 1)
    asking.send(request("POST", CHAT, body=chat_body()), method="POST")
    turn = await stage.next()
    turn.begin()
    turn.chunk(chunk_frame("first"))
    asked = await asking.answer()
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
    key = "Stream-Key: chat-1"
    client.send(request("POST", CHAT, key, body=chat_body()), method="POST")
    turn = await stage.next()
    turn.begin()
    turn.chunk(chunk_frame("first"))
    answer = await client.answer()
    await answer.until(b"first")
    await client.leave()
    await turn.wait_left()
    assert not any(three.workers[at].placement.relays for at in ALL)
