"""Connections that go on at another port, as if it were another process: no byte is lost, and none is read twice."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from proxy.downstream import movable
from proxy.downstream.movable import HANDED_OVER, MovableConnection
from tests.downstream.ports import Port, port
from tests.event_loops import on_each_loop, until
from tests.http_client import Client, request

BODY = b"0123456789" * 3
LENGTH = request("POST", "/first", body=BODY)
CHUNKED = request("POST", "/first", "Transfer-Encoding: chunked") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
NEXT = request("GET", "/second")


def connection_of(request: web.BaseRequest) -> MovableConnection:
    connection: object = request.protocol
    assert isinstance(connection, MovableConnection)
    return connection


class Two:
    """A port whose requests wait until the test says what becomes of them, and another, where they are answered."""

    def __init__(self) -> None:
        self.near: Port
        self.far: Port
        self.waiting: list[web.BaseRequest] = []
        self.served: list[str] = []
        self._moved: list[web.BaseRequest] = []
        self._go_on = asyncio.Event()

    async def hold(self, request: web.BaseRequest) -> web.StreamResponse:
        """Wait for the test; then answer, unless the connection was moved."""
        self.waiting.append(request)
        await self._go_on.wait()
        if not any(request is moved for moved in self._moved):
            return await self.serve(request)
        if not request.content.is_eof():
            request.content.feed_eof()
        return HANDED_OVER

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer with the path and the body of a request."""
        body = await request.read()
        self.served.append(request.path)
        return web.Response(body=request.path.encode() + b" " + body)

    async def wait_held(self, count: int = 1) -> MovableConnection:
        """Wait for so many requests at the near port; return the connection of the last one."""
        await until(lambda: len(self.waiting) == count)
        return connection_of(self.waiting[-1])

    async def move(self, connection: MovableConnection, read: bytes) -> None:
        """Have a connection that was let go served at the far port."""
        descriptor = os.dup(connection.descriptor)
        if connection.current is not None:
            self._moved.append(connection.current)
        connection.forget()
        self._go_on.set()
        await self.far.adopt(descriptor, read)

    def go_on(self) -> None:
        """Have what waits be answered."""
        self._go_on.set()


@asynccontextmanager
async def two_ports() -> AsyncIterator[Two]:
    two = Two()
    async with (
        port(two.serve, connection_class=MovableConnection) as two.far,
        port(two.hold, connection_class=MovableConnection) as two.near,
    ):
        yield two


async def answered(client: Client) -> bytes:
    answer = await client.answer()
    assert answer.status == 200
    return await answer.read()


@pytest.mark.parametrize("first", [LENGTH, CHUNKED])
@pytest.mark.parametrize("missing", [0, 1, len(BODY)])
@on_each_loop
async def test_connection_goes_on_with_all_that_was_read_of_its_request(first: bytes, missing: int) -> None:
    """Its head, and the body as far as that came; the rest is read where it is then."""
    async with two_ports() as two:
        client = await two.near.send(first[: len(first) - missing])
        connection = await two.wait_held()
        read = connection.let_go()
        assert read == first[: len(first) - missing]
        await two.move(connection, read)
        client.transport.write(first[len(first) - missing :])
        assert await answered(client) == b"/first " + BODY
        client.send(NEXT)
        assert await answered(client) == b"/second "
        assert two.served == ["/first", "/second"]


@pytest.mark.parametrize("cut", [1, 30, len(NEXT)])
@on_each_loop
async def test_what_came_after_the_request_goes_along(cut: int) -> None:
    """The next request, or its beginning, is answered by whoever has the connection then, in order."""
    async with two_ports() as two:
        client = await two.near.send(LENGTH + NEXT[:cut])
        connection = await two.wait_held()
        read = connection.let_go()
        assert read == LENGTH + NEXT[:cut]
        await two.move(connection, read)
        client.send(NEXT[cut:])
        assert [await answered(client), await answered(client)] == [b"/first " + BODY, b"/second "]
        assert len(two.waiting) == 1


@on_each_loop
async def test_client_that_ended_its_side_has_all_its_answers_where_its_connection_went() -> None:
    """Its end is read there together with the first request, while the others still wait for their turns."""
    async with two_ports() as two:
        client = await two.near.send(LENGTH + NEXT + NEXT)
        client.transport.write_eof()
        connection = await two.wait_held()
        read = connection.let_go()
        assert read is not None
        await two.move(connection, read)
        assert [await answered(client) for _ in range(3)] == [b"/first " + BODY, b"/second ", b"/second "]
        assert await client.wait_gone() == "fin"


@on_each_loop
async def test_what_came_after_a_request_waits_for_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not parsed before, and no more is read when it is much; then it is served here."""
    monkeypatch.setattr(movable, "_BEYOND_BYTES", len(NEXT))
    async with two_ports() as two:
        client = await two.near.send(LENGTH + NEXT)
        connection = await two.wait_held()
        assert connection.transport is not None
        assert not connection.transport.is_reading()
        two.go_on()
        assert [await answered(client), await answered(client)] == [b"/first " + BODY, b"/second "]
        await until(lambda: connection.is_between_requests)
        assert connection.transport.is_reading()


@on_each_loop
async def test_client_that_leaves_is_noticed_though_its_next_request_waits() -> None:
    """Else its request would go on for nobody, until something is written to it."""
    async with two_ports() as two:
        client = await two.near.send(LENGTH + NEXT)
        connection = await two.wait_held()
        client.transport.abort()
        await until(lambda: connection.transport is None)


@on_each_loop
async def test_connection_that_nobody_took_goes_on_here() -> None:
    """The rest of its body is read, and so is what comes after it."""
    async with two_ports() as two:
        client = await two.near.send(LENGTH[:-5])
        connection = await two.wait_held()
        assert connection.let_go() == LENGTH[:-5]
        client.transport.write(LENGTH[-5:] + NEXT)
        assert connection.transport is not None
        assert not connection.transport.is_reading()
        connection.take_back()
        two.go_on()
        assert [await answered(client), await answered(client)] == [b"/first " + BODY, b"/second "]


@on_each_loop
async def test_request_that_is_served_here_is_not_let_go() -> None:
    """Its bytes are not kept; with the next request the connection may go."""
    async with two_ports() as two:
        client = await two.near.send(LENGTH)
        connection = await two.wait_held()
        connection.settle()
        assert connection.let_go() is None
        two.go_on()
        assert await answered(client) == b"/first " + BODY
        await until(lambda: connection.is_between_requests)
        assert connection.let_go() == b""
        connection.take_back()


@pytest.mark.parametrize("begun", [0, 1, 40])
@on_each_loop
async def test_idle_connection_goes_with_what_came_of_its_next_request(begun: int) -> None:
    """Its client does not notice."""
    async with two_ports() as two:
        client = await two.near.send(LENGTH)
        connection = await two.wait_held()
        assert not connection.is_between_requests
        two.go_on()
        await answered(client)
        client.transport.write(NEXT[:begun])
        await until(lambda: connection.is_between_requests and connection.beginning == NEXT[:begun])
        assert connection.let_go() == NEXT[:begun]
        await two.move(connection, NEXT[:begun])
        client.send(NEXT[begun:])
        assert await answered(client) == b"/second "
        assert len(two.waiting) == 1


@on_each_loop
async def test_connection_whose_client_has_left_is_not_let_go() -> None:
    """There is nobody to serve elsewhere."""
    async with two_ports() as two:
        client = await two.near.send(LENGTH[:-1])
        connection = await two.wait_held()
        await client.leave()
        await until(lambda: connection.transport is None)
        assert connection.let_go() is None


@on_each_loop
async def test_wait_ends_when_all_that_was_written_is_sent() -> None:
    """Or when the client has left: then there is nothing to wait for."""
    async with two_ports() as two:
        for leaves in (False, True):
            client = await two.near.send(LENGTH)
            connection = await two.wait_held(len(two.waiting) + 1)
            client.stall()
            connection.peer.write(b"x" * 20_000_000)
            sending = asyncio.create_task(connection.wait_sent())
            await asyncio.sleep(0)
            assert not sending.done()
            if leaves:
                client.transport.abort()
                with pytest.raises(ConnectionError):
                    await sending
            else:
                client.read_on()
                await sending
                assert connection.peer.get_write_buffer_size() == 0
                client.transport.abort()
