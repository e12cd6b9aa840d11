"""The sinks there are, each with the client that reads from it: for the contract that all of them keep.

A rig has a sink whose head has left, and the other side of it, where a test stalls, reads on, leaves, and sees in the
end what has arrived.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

from aiohttp import web

from proxy.downstream.response import Downstream
from proxy.downstream.websocket import WebSocket, handshake
from proxy.stream.interfaces import Sink
from proxy.stream.modes.projection import Span
from proxy.stream.turns import Turns
from proxy.wire.websocket import CLOSE, TEXT, close_frame, frame
from tests.fakes import FakeSink
from tests.frames import ASK, heard, masked
from tests.http_client import Client, request
from tests.served import Served, running

_RECEIVE_BYTES = 4096  # of a client's kernel, so that it stalls soon


class Rig(Protocol):
    """A sink and its client."""

    @property
    def sink(self) -> Sink: ...

    def span(self, data: bytes) -> Span:
        """Return a span that the client reads as `data`."""

    def last(self, data: bytes) -> bytes:
        """Return what a response is closed with, which the client reads as `data`."""

    def stall(self) -> None:
        """Have the client read no more."""

    def read_on(self) -> None:
        """Have it read again."""

    async def wait_received(self, data: bytes) -> None:
        """Wait until the client has been sent `data`."""

    def leave(self) -> None:
        """Lose the client, without a word."""

    async def wait_left(self) -> None:
        """Wait until that is noticed on this side."""

    async def outcome(self) -> tuple[bytes, bool]:
        """Return what the client read in all, and whether it takes it for complete."""


class FakeRig:
    """The fake, which is its own client."""

    def __init__(self) -> None:
        self.sink = FakeSink()

    def span(self, data: bytes) -> Span:
        return Span(0, 1, data)

    def last(self, data: bytes) -> bytes:
        return data

    def stall(self) -> None:
        self.sink.room = 3

    def read_on(self) -> None:
        self.sink.drain()

    async def wait_received(self, data: bytes) -> None:
        assert self.sink.received.endswith(data)

    def leave(self) -> None:
        self.sink.lost = True

    async def wait_left(self) -> None: ...

    async def outcome(self) -> tuple[bytes, bool]:
        return self.sink.received, self.sink.ended == "closed"


class _ServedRig:
    """A sink with a real client."""

    def __init__(self, served: "Served[Any]", client: Client) -> None:
        self._served = served
        self._client = client

    def stall(self) -> None:
        self._client.stall()

    def read_on(self) -> None:
        self._client.read_on()

    async def wait_received(self, data: bytes) -> None:
        assert await self._client.wait_bytes(lambda buffer: data in buffer)

    def leave(self) -> None:
        self._client.transport.abort()

    async def wait_left(self) -> None:
        await self._served.wait_outcome("left")


class ResponseRig(_ServedRig):
    """A response to a client of HTTP/1.1 or 1.0."""

    def __init__(self, served: "Served[Downstream]", client: Client, sink: Downstream) -> None:
        super().__init__(served, client)
        self.sink = sink

    def span(self, data: bytes) -> Span:
        return Span(0, 1, data)

    def last(self, data: bytes) -> bytes:
        return data

    async def outcome(self) -> tuple[bytes, bool]:
        self._client.read_on()
        answer = await self._client.answer()
        return await answer.read(), answer.end == "whole"


class WebSocketRig(_ServedRig):
    """A WebSocket, each span of which is a message."""

    def __init__(self, served: "Served[WebSocket]", client: Client, sink: WebSocket) -> None:
        super().__init__(served, client)
        self.sink = sink

    def span(self, data: bytes) -> Span:
        return Span(0, 1, frame(TEXT, data))

    def last(self, data: bytes) -> bytes:
        return (frame(TEXT, data) if data else b"") + close_frame(1000)

    async def outcome(self) -> tuple[bytes, bool]:
        self._client.read_on()
        if await self._client.wait_bytes(lambda buffer: buffer.endswith(close_frame(1000))):
            self._client.send(masked(CLOSE, b"\x03\xe8"))
        await self._client.wait_gone()
        _, _, sent = bytes(self._client.buffer).partition(b"\r\n\r\n")
        frames = heard(sent)
        said = b"".join(payload for kind, payload in frames if kind == TEXT and isinstance(payload, bytes))
        return said, frames[-1:] == [(CLOSE, (1000, ""))]


class _Responses(Served[Downstream]):
    def begin(self, request: web.BaseRequest) -> Downstream:
        down = Downstream(request)
        down.start(b"OK", [])
        down.flush()
        return down


class _WebSockets(Served[WebSocket]):
    def begin(self, request: web.BaseRequest) -> WebSocket:
        socket = WebSocket(
            request, Downstream(request, 101), Turns(asyncio.get_running_loop().call_soon, time.monotonic)
        )
        socket.start(handshake(request), [])
        socket.flush()
        return socket


@asynccontextmanager
async def _fake() -> AsyncIterator[Rig]:
    yield FakeRig()


def _response(version: str) -> Callable[[], AbstractAsyncContextManager[Rig]]:
    @asynccontextmanager
    async def begin() -> AsyncIterator[Rig]:
        async with running(_Responses()) as served:
            client = await served.connect(receive_bytes=_RECEIVE_BYTES)
            yield ResponseRig(served, client, await served.send(client, request("GET", "/", version=version)))

    return begin


@asynccontextmanager
async def _websocket() -> AsyncIterator[Rig]:
    async with running(_WebSockets()) as served:
        client = await served.connect(receive_bytes=_RECEIVE_BYTES)
        yield WebSocketRig(served, client, await served.send(client, request("GET", "/", *ASK)))


SINKS: dict[str, Callable[[], AbstractAsyncContextManager[Rig]]] = {
    "fake": _fake,
    "HTTP/1.1": _response("1.1"),
    "HTTP/1.0": _response("1.0"),
    "WebSocket": _websocket,
}
