"""What the event loop, and aiohttp's parser, readers and writers, call of a client's connection."""

import asyncio

import pytest
from aiohttp import web

from proxy.downstream.connection import Connection
from proxy.downstream.movable import MovableConnection
from proxy.downstream.response import Downstream
from tests.downstream.ports import Port, port
from tests.event_loops import GUARD_S, on_each_loop, until
from tests.http_client import request

LARGE = 64 * 1024 * 1024  # more than kernels keep
SWITCH = {"Connection": "Upgrade", "Upgrade": "websocket"}
MALFORMED = b"GET / HTTP/1.1\r\nmalformed\r\n\r\n"


def asks_to_switch(path: str) -> bytes:
    head = f"GET {path} HTTP/1.1\r\nHost: x\r\n" + "".join(f"{name}: {value}\r\n" for name, value in SWITCH.items())
    return head.encode() + b"\r\n"


async def hello(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(text=(await request.read()).decode() or request.path)


@on_each_loop
async def test_parser_is_made_for_what_is_not_known() -> None:
    """A head that came twice before needs none, on whichever connection."""
    async with port(hello) as one, asyncio.timeout(GUARD_S):
        for number, has_parser in enumerate([True, True, False]):
            client = await one.send(request("POST", "/", body=b"body"))
            assert await (await client.answer()).read() == b"body"
            (connection,) = one.connections.open
            assert isinstance(connection, Connection)
            assert (connection._parser is not None, number) == (has_parser, number)
            client.send(request("GET", "/other"))
            assert await (await client.answer()).read() == b"/other"
            await client.leave()


async def test_what_comes_after_the_end_makes_no_parser() -> None:
    """The connection would refer to it, and it to the connection, for ever."""
    connection = Port(hello, Connection, 1).listener()
    connection.force_close()
    connection.data_received(b"GET / HTTP/1.1\r\n\r\n")
    assert connection._parser is None


@pytest.mark.parametrize(
    ("fault", "status"), [(web.HTTPNotFound, 404), (TimeoutError, 504), (KeyError, 500), (ConnectionError, 500)]
)
@on_each_loop
async def test_what_a_handler_raises_is_answered(fault: type[Exception], status: int) -> None:
    """Without what it says. Handlers of the proxy raise none of these: `Routes` answers their errors."""

    async def fail(request: web.BaseRequest) -> web.StreamResponse:
        raise fault() from KeyError("secret")

    async with port(fail, complaints=True) as one, asyncio.timeout(GUARD_S):
        client = await one.send(request("GET", "/"))
        answer = await client.answer()
        assert answer.status == status
        assert b"secret" not in answer.head + await answer.read()


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@on_each_loop
async def test_response_whose_handler_raises_midway_does_not_look_complete(version: str) -> None:
    async def fail(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"begun")
        raise KeyError

    async with port(fail, complaints=True) as one, asyncio.timeout(GUARD_S):
        client = await one.send(f"GET / HTTP/{version}\r\nHost: x\r\n\r\n".encode())
        await client.lost.wait()
        assert client.gone == "reset"


@pytest.mark.parametrize("together", [True, False])
@on_each_loop
async def test_what_follows_a_switch_that_was_refused_is_answered(together: bool) -> None:
    """It is HTTP then (RFC 9110 section 7.8), even where it came before the refusal."""
    turn = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/switch":
            await turn.wait()
        return await hello(request)

    async with port(answer) as one, asyncio.timeout(GUARD_S):
        client = await one.connect()
        if together:
            client.send(asks_to_switch("/switch") + request("GET", "/next"))
            await until(lambda: any(one.connections.open))
        else:
            client.send(asks_to_switch("/switch"))
            await until(lambda: any(connection.current for connection in one.listener.made))
            client.send(request("GET", "/next"))
        await until(lambda: any(connection._message_tail for connection in one.listener.made))
        turn.set()
        assert await (await client.answer()).read() == b"/switch"
        assert await (await client.answer()).read() == b"/next"
        client.send(request("GET", "/last"))
        assert await (await client.answer()).read() == b"/last"


@on_each_loop
async def test_what_is_malformed_after_a_switch_that_was_refused_is_told() -> None:
    async with port(hello) as one, asyncio.timeout(GUARD_S):
        client = await one.send(asks_to_switch("/switch") + MALFORMED)
        assert await (await client.answer()).read() == b"/switch"
        assert (await client.answer()).status == 400


@on_each_loop
async def test_response_of_aiohttps_waits_for_a_client_that_does_not_read() -> None:
    """And its handler ends when the client leaves."""
    written, over = 0, asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal written
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while written < LARGE:
                await response.write(bytes(65536))
                written += 65536
        finally:
            over.set()
        return response

    async with port(answer) as one, asyncio.timeout(GUARD_S):
        client = await one.send(request("GET", "/"))
        client.transport.pause_reading()
        await until(lambda: any(connection.writing_paused for connection in one.listener.made))
        begun = written
        assert 0 < begun < LARGE
        client.transport.resume_reading()
        await until(lambda: written > begun)
        client.transport.abort()
        await over.wait()
        assert written < LARGE


@on_each_loop
async def test_shutdown_waits_for_responses_and_for_nothing_else() -> None:
    turn = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/slow":
            await turn.wait()
        return await hello(request)

    async with port(answer) as one, asyncio.timeout(GUARD_S):
        silent, answered = await one.connect(), await one.send(request("GET", "/quick"))
        assert await (await answered.answer()).read() == b"/quick"
        slow = await one.send(request("GET", "/slow"))
        await until(lambda: sum(connection.is_responding for connection in one.listener.made) == 1)
        one.listener.pre_shutdown()
        closing = asyncio.ensure_future(one.listener.shutdown(GUARD_S))
        await asyncio.wait([asyncio.ensure_future(client.lost.wait()) for client in (silent, answered)])
        assert not closing.done()
        turn.set()
        assert await (await slow.answer()).read() == b"/slow"
        await closing
        await slow.lost.wait()
        await until(lambda: not one.listener.made)


@on_each_loop
async def test_shutdown_ends_a_response_that_takes_too_long() -> None:
    cancelled = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await asyncio.get_running_loop().create_future()
        finally:
            cancelled.set()

    async with port(answer) as one, asyncio.timeout(GUARD_S):
        client = await one.send(request("GET", "/"))
        await until(lambda: any(connection.is_responding for connection in one.listener.made))
        await one.listener.shutdown(0.01)
        await cancelled.wait()
        await client.lost.wait()


@pytest.mark.parametrize("connection_class", [Connection, MovableConnection])
@on_each_loop
async def test_nothing_is_answered_after_a_response_that_closes_the_connection(
    connection_class: type[Connection],
) -> None:
    """Not even while bytes of it wait to be sent: what followed would look like a part of it."""
    served: list[str] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        served.append(request.path)
        response = Downstream(request)
        response.start(b"OK", [])
        while not response.unsent_bytes:
            response.write_data(bytes(20_000))
        response.abort(b"")
        await response.finished()
        return response.response

    async with port(answer, connection_class=connection_class) as one, asyncio.timeout(GUARD_S):
        client = await one.connect()
        client.stall()
        client.send(request("GET", "/broken") + request("GET", "/next") * 40)
        await until(lambda: bool(served) and not any(connection.current for connection in one.listener.made))
        client.read_on()
        await client.lost.wait()
        assert bytes(client.buffer).count(b"HTTP/1.1 200") == 1
    assert served == ["/broken"]


@pytest.mark.parametrize("sent", [MALFORMED, request("GET", "/large")])
@on_each_loop
async def test_connection_that_is_lost_within_a_response_is_not_idle(sent: bytes) -> None:
    """It would be kept for ever, and closed in place of one that is there when descriptors run short."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=bytes(LARGE))

    async with port(answer) as one, asyncio.timeout(GUARD_S):
        client = await one.connect()
        client.stall()
        client.send(sent)
        await until(lambda: any(connection.is_responding for connection in one.listener.made))
        client.transport.abort()
        await until(lambda: not one.listener.made)
        assert not one.connections.open
        assert not one.connections.idle
