"""A connection of a client, from one request to the next: each is handled in the connection's own task."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from proxy.downstream.client_connections import ClientConnections, ClientTimeouts
from proxy.downstream.descriptors import Descriptors
from proxy.downstream.listener import Listener
from proxy.stream.turns import Turns
from tests.event_loops import GUARD_S, on_each_loop

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Serve with a handler; connect to it."""
    loop = asyncio.get_running_loop()
    server = Listener(
        answer,
        lambda method, target, error: b"",
        header_bytes=1000,
        max_headers=10,
        clients=ClientConnections(ClientTimeouts(), Descriptors(1000), max_body_bytes=1000, max_pending_bytes=1000),
        host_error=lambda host: None,
        turns=Turns(loop.call_soon, loop.time),
        urgent=b"GET /urgent",
        is_admin=False,
        access_log=None,
        handler_cancellation=True,
    )
    listening = await loop.create_server(server, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
    try:
        yield reader, writer
    finally:
        writer.close()
        listening.close()
        await server.shutdown(0)


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Send a request; return the body of its answer."""
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(GUARD_S):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        return await reader.readexactly(length)


@on_each_loop
async def test_requests_of_a_connection_run_in_one_task() -> None:
    """A task for each would cost a third more."""
    tasks: list[object] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        tasks.append(asyncio.current_task())
        await asyncio.sleep(0)
        return web.Response()

    async with serving(answer) as (reader, writer):
        for _ in range(3):
            await ask(reader, writer)
    assert len(tasks) == 3
    assert len(set(tasks)) == 1


@on_each_loop
async def test_client_that_leaves_ends_its_request() -> None:
    """At once, and only that one."""
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return web.Response()

    async with serving(answer) as (_, writer), asyncio.timeout(GUARD_S):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await begun.wait()
        writer.close()
        await cancelled.wait()


@on_each_loop
async def test_connection_outlives_a_request_that_ran_out_of_time() -> None:
    """A time-out cancels the task it runs in, and takes that back."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.Event().wait()
        return web.Response(text="late")

    async with serving(answer) as (reader, writer):
        assert [await ask(reader, writer) for _ in range(3)] == [b"late"] * 3


@on_each_loop
async def test_fault_of_a_handler_is_answered_and_the_connection_goes_on_with_the_rest() -> None:
    """aiohttp responds with 500, and closes; what a handler did before is not lost."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/fault":
            raise RuntimeError("secret")
        return web.Response(text="fine")

    async with serving(answer) as (reader, writer):
        assert await ask(reader, writer) == b"fine"
        writer.write(b"GET /fault HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(GUARD_S):
            told = await reader.read()
    assert told.startswith(b"HTTP/1.1 500 ")
    assert b"secret" not in told


@on_each_loop
async def test_rest_of_a_body_is_read_before_the_next_request() -> None:
    """A handler may respond before the body has come."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text=request.method)

    async with serving(answer) as (reader, writer), asyncio.timeout(GUARD_S):
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nabc")
        await reader.readuntil(b"POST")
        writer.write(b"def")
        assert await ask(reader, writer) == b"GET"
