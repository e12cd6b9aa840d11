"""Generations: which requests are, and which answers are streams."""

import asyncio

import pytest

from proxy.tools.fake_qwen import FakeQwen
from tests.event_streams import DONE, stamped
from tests.proxy_under_test import CHAT, Tee, begun, teed
from tests.stage import Stage


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_only_post_generates(tee: Tee, fake: FakeQwen, method: str) -> None:
    """Other methods at a generation's path pass through."""
    answer = await tee.ask(method, CHAT)
    assert answer.status == 200
    assert answer.header("stream-id") is None
    assert fake.requests[0].method == method


async def test_mode_of_the_answer_is_chosen(tee: Tee, fake: FakeQwen) -> None:
    """Raw unless it is asked for otherwise."""
    raw = await tee.chat()
    assert await raw.read() == bytes(fake.requests[0].sent)
    events = await tee.chat("Stream-Mode: events")
    assert await events.read() == stamped(bytes(fake.requests[1].sent), events.epoch)


@pytest.mark.parametrize(
    ("status", "kind", "is_stream"),
    [
        ("200 OK", "text/event-stream", True),
        ("200 OK", "text/event-stream;charset=UTF-8", True),
        ("200 OK", "Text/Event-Stream ; charset=utf-8", True),
        ("200 OK", "application/json", False),
        ("200 OK", "text/plain", False),
        ("201 Created", "text/event-stream", False),
        ("400 Bad Request", "text/event-stream", False),
        ("500 Oh No", "text/event-stream", False),
    ],
)
async def test_event_stream_with_status_200_is_a_stream(stage: Stage, status: str, kind: str, is_stream: bool) -> None:
    """And nothing else is; all of it comes back as it is."""
    async with teed(stage.url) as tee:
        client = await tee.send_chat()
        turn = await stage.next()
        await turn.body()
        turn.reply(status, f"Content-Type: {kind}", body=DONE)
        answer = await client.answer()
        assert f"{answer.status} {answer.reason.decode()}" == status
        assert await answer.read() == DONE
        assert answer.header("content-type") == kind
        assert (answer.header("stream-id") is not None) == is_stream
        assert len(await tee.listed()) == int(is_stream)
        assert answer.end == "whole"


async def test_stream_with_a_length_is_a_stream(stage: Stage) -> None:
    """Its length is the upstream's framing, not ours; too little of it is a truncation."""
    async with teed(stage.url) as tee:
        client = await tee.send_chat()
        turn = await stage.next()
        turn.say(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 100\r\n\r\n: half\n\n")
        answer = await client.answer()
        assert answer.header("content-length") is None
        await answer.until(b"half")
        turn.close()
        await answer.read()
        assert answer.end != "whole"


async def test_refused_stream_lets_go_of_its_upstream(stage: Stage) -> None:
    """If the upstream was asked for a stream that there is no room for, it is not left to speak to nobody."""
    async with teed(stage.url, limits={"streams": 1}) as tee:
        _, first = await begun(tee, stage)
        client = await tee.send_chat()
        asked, refused = asyncio.create_task(stage.next()), asyncio.create_task(client.wait_bytes(bool))
        await asyncio.wait({asked, refused}, return_when=asyncio.FIRST_COMPLETED)
        if asked.done():
            asked.result().begin()
            await asked.result().wait_left()
        asked.cancel()
        await refused
        assert (await client.answer()).status == 503
        assert not first.left.is_set()
