"""Memory: what a stream held is given back when it is forgotten, however it ended."""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator

import pytest
from aiohttp import web

from proxy.stream.log import FrameLog
from tests.event_loops import until
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.http_client import request
from tests.proxy_under_test import CHAT, Serve, Tee, begun, chat_body
from tests.shared_route import first
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


def left_to_the_collector() -> list[str]:
    """Return what only the garbage collector would free: the proxy's objects, and exceptions."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    found = [
        repr(type(one)) for one in gc.garbage if isinstance(one, Exception) or type(one).__module__.startswith("proxy.")
    ]
    gc.garbage.clear()
    return found


async def followed_while_its_upstream_is_kept(tee: Tee, stage: Stage) -> None:
    """Have a client leave, another one come in the time of grace, and leave, too."""
    answer, turn = await begun(tee, stage, "Stream-On-Disconnect: grace=0.02", frames=1)
    follower = await tee.follow(answer.stream_id)
    for client in (answer.client, follower.client):
        client.transport.abort()
    await turn.wait_left()


async def a_shared_route_is_left(tee: Tee, stage: Stage) -> None:
    """Have the only follower of a shared event stream leave."""
    answer, turn = await first(tee, stage, 1)
    answer.client.transport.abort()
    await turn.wait_left()


async def a_document_is_asked_for(tee: Tee, stage: Stage) -> None:
    """Have the finished document of a stream be fetched when nobody follows it."""
    answer, turn = await begun(tee, stage)
    turn.end(chunk_frame("x"), FINISH, DONE)
    await answer.read()
    follower = await tee.follow(answer.stream_id, "mode=json")
    assert (await follower.json())["object"] == "chat.completion"
    for client in (answer.client, follower.client):
        client.transport.abort()


async def a_long_document_is_asked_for(tee: Tee, stage: Stage) -> None:
    """Have a stream that is read in turns be fetched as a document, as text from the middle, and while it runs."""
    answer, turn = await begun(tee, stage, "Stream-On-Disconnect: continue")
    turn.chunk(chunk_frame("x" * 400) * 1000)
    await answer.until(b"x" * 400)
    for query in ("mode=json&wait=0", "mode=text&offset=9000", "mode=coalesced"):
        follower = await tee.follow(answer.stream_id, query)
        if "json" in query:
            assert (await follower.json())["object"] == "chat.completion"
        follower.client.transport.abort()
    turn.end(FINISH, DONE)
    await answer.read()
    follower = await tee.follow(answer.stream_id, "mode=json")
    assert (await follower.json())["object"] == "chat.completion"
    for client in (answer.client, follower.client):
        client.transport.abort()


async def an_upload_stops(tee: Tee, stage: Stage) -> None:
    """Have a body that passes through stop."""
    client = await tee.connect()
    client.send(request("POST", "/v1/embeddings", "Content-Length: 100000") + b"x" * 1000)
    turn = await stage.next()
    assert (await client.answer()).status == 408
    await turn.wait_left()


async def a_client_leaves_amid_its_upload(tee: Tee, stage: Stage) -> None:
    """Have a client leave within a body that passes through."""
    client = await tee.connect()
    client.send(request("POST", "/v1/embeddings", "Content-Length: 100000") + b"x" * 1000)
    turn = await stage.next()
    await turn.reader.readexactly(1000)
    client.transport.abort()
    await turn.wait_left()


@pytest.mark.parametrize(
    "happens",
    [
        followed_while_its_upstream_is_kept,
        a_shared_route_is_left,
        a_document_is_asked_for,
        a_long_document_is_asked_for,
        an_upload_stops,
        a_client_leaves_amid_its_upload,
    ],
)
async def test_whatever_ends_stands_in_no_cycle(
    perform: Serve, stage: Stage, no_collector: None, happens: Callable[[Tee, Stage], Awaitable[None]]
) -> None:
    """A cycle keeps what it refers to until 20,000 more objects are made: all frames of hundreds of streams."""
    tee = await perform(clients={"body_s": 0.1}, routes=[{"path": "/events", "share": "url", "keep_s": 0.02}])
    left_to_the_collector()
    await happens(tee, stage)
    await forget_all(tee)
    await until(lambda: not requests())
    await asyncio.sleep(0)
    assert not left_to_the_collector()
