"""Memory: what a stream held is given back when it is forgotten, however it ended."""

import gc
from collections.abc import Iterator

import pytest
from aiohttp import web

from proxy.stream.log import FrameLog
from tests.event_loops import until
from tests.event_streams import DONE, chunk_frame
from tests.http_client import request
from tests.proxy_under_test import CHAT, Serve, Tee, chat_body
from tests.stage import Stage


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Switch the garbage collector off: as it is tuned, it does not reach what has lived long."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def logs() -> list[FrameLog]:
    """Return the logs that something still refers to, or that stand in a cycle."""
    return [found for found in gc.get_objects() if isinstance(found, FrameLog)]


async def forget_all(tee: Tee) -> None:
    """Have all streams forgotten, and what belongs to them finished."""
    await until(lambda: not tee.proxy.hub.running and not tee.proxy.hub.followers)
    while list(tee.proxy.hub):
        tee.proxy.hub.forget(next(iter(tee.proxy.hub)))
    await until(lambda: not logs())


@pytest.mark.parametrize("way", ["complete", "closed", "cut", "client_leaves", "client_stalls_and_leaves"])
@pytest.mark.parametrize("headers", [(), ("Stream-Mode: events",), ("Stream-Mode: cumulative",), ("Stream-Key: k",)])
async def test_forgotten_stream_is_referred_to_by_nothing(
    perform: Serve, stage: Stage, no_collector: None, way: str, headers: tuple[str, ...]
) -> None:
    """Nor does it stand in a cycle: neither connections, kept or closed, nor clients that left hold its log."""
    tee = await perform()
    client = await tee.connect(receive_bytes=4096)
    client.send(request("POST", CHAT, *headers, body=chat_body()))
    turn = await stage.next()
    await turn.body()
    turn.begin()
    answer = await client.answer()
    frame = chunk_frame("x" * 500)
    for _ in range(80):
        turn.chunk(frame)
    await answer.until(b"x" * 500)
    if way == "client_stalls_and_leaves":
        client.stall()
        for _ in range(100):
            turn.chunk(chunk_frame("x" * 200_000))
        await until(lambda: any(one.parked for stream in tee.proxy.hub for one in stream.subscriptions))
    if way.startswith("client"):
        client.transport.abort()
        await turn.wait_left()
    elif way == "cut":
        turn.reset()
    else:
        turn.end(DONE)
        if way == "closed":
            turn.close()
    if not way.startswith("client"):
        await answer.read()
    await forget_all(tee)


async def test_refused_request_is_referred_to_by_nothing(perform: Serve, stage: Stage, no_collector: None) -> None:
    """An upstream that breaks off before it answers leaves neither a stream nor its request behind."""
    tee = await perform()
    for headers in ((), ("Stream-Key: k",)):
        client = await tee.send_chat(*headers)
        turn = await stage.next()
        await turn.body()
        turn.reset()
        assert (await client.answer()).status == 502
    await forget_all(tee)


def requests() -> list[web.BaseRequest]:
    """Return the requests of clients that something still refers to, or that stand in a cycle."""
    return [found for found in gc.get_objects() if isinstance(found, web.BaseRequest)]


@pytest.mark.parametrize("kind", ["text/event-stream", "application/json"])
async def test_answered_requests_stand_in_no_cycle(perform: Serve, stage: Stage, no_collector: None, kind: str) -> None:
    """Else all that is made for a request would be left to the garbage collector: half as much CPU time again."""
    tee = await perform()
    client = await tee.connect()
    for method, path in [("POST", CHAT), ("GET", "/v1/models")] * 2:
        client.send(request(method, path, body=chat_body() if method == "POST" else b""))
        turn = await stage.next()
        await turn.body()
        turn.reply("200 OK", f"Content-Type: {kind}", body=chunk_frame("x") + DONE)
        answer = await client.answer()
        await answer.read()
        assert answer.end == "whole"
        await until(lambda: len(requests()) <= 1)  # aiohttp keeps the last one of a connection
