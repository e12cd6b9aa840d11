"""Connections whose clients have closed their side, or both: who has left, and who still has an answer to read."""

import asyncio
import json

import pytest

from tests.event_streams import DONE, FINISH, chunk_frame, stamped
from tests.http_client import request
from tests.proxy_under_test import CHAT, Tee, chat_body
from tests.stage import Stage


@pytest.mark.parametrize("when", ["with the request", "before the answer", "within the answer"])
@pytest.mark.parametrize("way", ["raw", "events", "text", "json", "pass", "follow"])
@pytest.mark.parametrize("version", ["1.1", "1.0", "1.1, to be closed"])
async def test_client_that_ended_its_side_has_its_answer(
    tee: Tee, stage: Stage, way: str, when: str, version: str
) -> None:
    """Whole, and then the connection is closed; it is not taken for one that has left."""
    whole = chunk_frame("one ") + chunk_frame("two") + FINISH + DONE
    path = "/v1/files" if way == "pass" else CHAT
    mode = way if way in ("events", "text", "json") else "raw"
    client = await tee.connect()
    headers = ["Connection: close"] if "closed" in version else []
    client.send(request("POST", path, f"Stream-Mode: {mode}", *headers, body=chat_body(), version=version[:3]))
    if when == "with the request" and way != "follow":
        client.transport.write_eof()
    turn = await stage.next()
    await turn.body()
    if way == "follow":
        turn.begin()
        turn.chunk(chunk_frame("one "))
        ident = (await client.answer()).stream_id
        client = await tee.connect()
        client.send(request("GET", f"/v1/streams/{ident}?mode=raw", *headers, version=version[:3]))
        if when == "with the request":
            client.transport.write_eof()
        await tee.wait_followers(2)
    if when == "before the answer":
        client.transport.write_eof()
        await (await tee.ask("GET", "/healthz")).read()
    if way != "follow":
        turn.begin()
        turn.chunk(chunk_frame("one "))
    answer = None
    if when == "within the answer" and way != "json":
        answer = await client.answer()
        await answer.bytes(1)
        client.transport.write_eof()
        await (await tee.ask("GET", "/healthz")).read()
    turn.chunk(chunk_frame("two"))
    turn.end(FINISH, DONE)
    answer = answer or await client.answer()
    body = await answer.read()
    assert (answer.status, answer.end) == (200, "whole")
    if way in ("raw", "pass", "follow"):
        assert body == whole
    elif way == "json":
        assert json.loads(body)["choices"][0]["message"]["content"] == "one two"
    else:
        assert body == (b"one two" if way == "text" else stamped(whole, answer.epoch))
    assert when == "within the answer" or await client.wait_gone() == "fin"


async def test_client_of_http_1_0_that_closed_altogether_has_left_when_it_is_written_to(tee: Tee, stage: Stage) -> None:
    """HTTP/1.0 has no byte without a meaning, so the first events have to tell."""
    client = await tee.connect()
    client.send(request("POST", CHAT, body=chat_body(), version="1.0"))
    turn = await stage.next()
    await turn.body()
    turn.begin()
    turn.chunk(chunk_frame())
    await (await client.answer()).bytes(1)
    await client.leave()

    async def speak() -> None:
        while True:
            turn.chunk(chunk_frame())
            await (await tee.ask("GET", "/healthz")).read()

    speaking = asyncio.create_task(speak())
    await turn.wait_left()
    speaking.cancel()


@pytest.mark.parametrize("begun", [False, True])
async def test_client_that_closed_altogether_has_left(tee: Tee, stage: Stage, begun: bool) -> None:
    """Though it says the same: it answers what comes with a reset, and its upstream call ends."""
    client = await tee.connect()
    client.send(request("POST", CHAT, body=chat_body()))
    turn = await stage.next()
    await turn.body()
    if begun:
        turn.begin()
        turn.chunk(chunk_frame())
        await (await client.answer()).bytes(1)
    await client.leave()
    await turn.wait_left()
