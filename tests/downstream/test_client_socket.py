"""A client's WebSocket that passes through: what its session is told, and what it is sent, byte by byte."""

import asyncio
from contextlib import AbstractAsyncContextManager

import pytest
from aiohttp import web

from proxy.downstream import switched
from proxy.downstream.client_socket import ClientSocket
from proxy.downstream.response import Downstream
from proxy.downstream.websocket import handshake
from proxy.stream.turns import Turns
from proxy.wire.errors import RequestError
from proxy.wire.websocket import BINARY, CLOSE, FRAMES_A_FEED, PING, PONG, TEXT, Message, close_frame, frame
from tests.event_loops import on_each_loop, until
from tests.frames import ASK, masked
from tests.http_client import Client, request
from tests.served import Served, running


class Hearer:
    """A session that notes what it is told, and holds the client back when it shall."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.closed: list[bytes] = []
        self.errors: list[RequestError] = []
        self.held_bytes = 0
        self.full: ClientSocket | None = None

    def client_sent(self, messages: list[Message]) -> None:
        self.sent += messages
        if self.full is not None:
            self.full.pause()

    def client_closed(self, payload: bytes) -> None:
        self.closed.append(payload)

    def client_holds(self, size_bytes: int) -> None:
        self.held_bytes = size_bytes

    def client_erred(self, error: RequestError) -> None:
        self.errors.append(error)


class Opened(Served[ClientSocket]):
    """A server of WebSockets: the test plays the session."""

    def __init__(self) -> None:
        super().__init__()
        self.hearer = Hearer()

    def begin(self, request: web.BaseRequest) -> ClientSocket:
        loop = asyncio.get_running_loop()
        socket = ClientSocket(request, Downstream(request, 101), Turns(loop.call_soon, loop.time), 1000)
        socket.start(handshake(request), [(b"X-A", b"b")])
        socket.hear(self.hearer)
        return socket

    async def open(self, behind: bytes = b"") -> Client:
        """Have a client open one; `behind` is what it sends with its request."""
        client = await self.connect()
        await self.send(client, request("GET", "/", *ASK) + behind)
        answer = await client.answer()
        assert answer.head.startswith(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n")
        assert answer.head.endswith(b"\r\nX-A: b\r\n\r\n")
        return client


def served() -> AbstractAsyncContextManager[Opened]:
    return running(Opened())


@on_each_loop
async def test_messages_are_told_and_pings_answered() -> None:
    """Also what came with the handshake; fragments are one message, and a pong is nobody's."""
    async with served() as one:
        client = await one.open(masked(TEXT, b"early"))
        client.send(masked(TEXT, b"a", final=False) + masked(PING, b"p") + masked(PONG, b"") + masked(0, b"b"))
        client.send(masked(BINARY, b"\xff"))
        await until(lambda: len(one.hearer.sent) == 3)
        assert one.hearer.sent == [(TEXT, b"early"), (TEXT, b"ab"), (BINARY, b"\xff")]
        await client.wait_bytes(lambda buffer: len(buffer) >= 3)
        assert client.buffer == frame(PONG, b"p")
        client.send(masked(TEXT, b"x" * 100)[:-1])
        await until(lambda: one.hearer.held_bytes == 105)


@on_each_loop
async def test_many_messages_are_told_in_turns_and_none_while_it_is_held_back() -> None:
    """Those that had been read wait, the rest is left in the socket; then all come, in order."""
    async with served() as one:
        client = await one.open()
        one.hearer.full = one.down
        count = 10 * FRAMES_A_FEED
        client.send(b"".join(masked(TEXT, b"%d" % number) for number in range(count)))
        await until(lambda: bool(one.hearer.sent))
        for _ in range(20):
            await asyncio.sleep(0)
        told = len(one.hearer.sent)
        assert 0 < told <= FRAMES_A_FEED
        one.hearer.full = None
        one.down.resume()
        await until(lambda: len(one.hearer.sent) == count)
        assert [payload for _, payload in one.hearer.sent] == [b"%d" % number for number in range(count)]


@on_each_loop
async def test_close_of_the_client_is_left_to_the_session() -> None:
    """It is told once, and what follows is not read; messages may be sent until it answers."""
    async with served() as one:
        client = await one.open()
        client.send(masked(CLOSE, b"\x03\xe8bye") + masked(TEXT, b"late"))
        await until(lambda: bool(one.hearer.closed))
        assert (one.hearer.closed, one.hearer.sent) == ([b"\x03\xe8bye"], [])
        one.down.write(frame(TEXT, b"last"))
        one.down.close(close_frame(1000, "bye"))
        one.down.close(close_frame(1001))
        one.down.write(frame(TEXT, b"too late"))
        assert await client.wait_gone() == "fin"
        assert client.buffer == frame(TEXT, b"last") + close_frame(1000, "bye")
        await one.wait_outcome("ended")


@on_each_loop
async def test_close_of_the_session_waits_for_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if it was held back; one that does not answer is let go after a while."""
    async with served() as one:
        client = await one.open()
        one.down.pause()
        one.down.close(close_frame(1001))
        await client.wait_bytes(lambda buffer: len(buffer) == 4)
        assert client.gone == ""
        client.send(masked(CLOSE, b"\x03\xe9"))
        assert await client.wait_gone() == "fin"
        monkeypatch.setattr(switched, "CLOSING_S", 0.02)
        silent = await one.open()
        one.down.close(close_frame(1001))
        assert await silent.wait_gone() == "fin"


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(TEXT, b"x"), "bad_request"),
        (masked(TEXT, b"x" * 1001), "too_large"),
        (masked(CLOSE, b"\x03\xed"), "bad_request"),
        (masked(CLOSE, b"\x03"), "bad_request"),
    ],
)
@on_each_loop
async def test_what_no_client_may_send_is_told(sent: bytes, code: str) -> None:
    """After what it sent before, and nothing after it."""
    async with served() as one:
        client = await one.open()
        client.send(masked(TEXT, b"before") + sent + masked(TEXT, b"after"))
        await until(lambda: bool(one.hearer.errors))
        assert [error.code for error in one.hearer.errors] == [code]
        assert (TEXT, b"after") not in one.hearer.sent
        one.down.close(close_frame(1002))
        assert await client.wait_gone() == "fin"


@on_each_loop
async def test_client_that_goes_ends_the_handler() -> None:
    """Without a word."""
    async with served() as one:
        client = await one.open()
        client.transport.abort()
        await one.wait_outcome("left")
