"""A request in its connection's task: that it is so, and that nothing else is changed by it."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from proxy.downstream.inline import InlineLoop, server_loop
from tests.event_loops import GUARD_S, on_each_loop

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Serve on the server's loop; connect to it."""
    server = web.Server(answer, access_log=None, handler_cancellation=True, loop=server_loop())
    listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
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


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="from Python 3.12 on aiohttp starts a request's task at once")
@on_each_loop
async def test_requests_of_a_connection_run_in_one_task() -> None:
    """If they do not, aiohttp has moved what is looked for, and each costs a third more."""
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
async def test_all_else_gets_its_task() -> None:
    """And what the loop has besides is found."""
    loop = InlineLoop(asyncio.get_running_loop())

    async def other() -> int:
        return 5

    task = loop.create_task(other())
    assert isinstance(task, asyncio.Task)
    assert await task == 5
    assert loop.is_running()
