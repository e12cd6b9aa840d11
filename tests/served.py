"""A server, as the proxy runs it, whose responses a test plays itself: it calls what a stream would call."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

from aiohttp import web

from proxy.downstream.client_socket import ClientSocket
from proxy.downstream.response import Downstream
from proxy.downstream.websocket import WebSocket
from tests.complaints import no_complaints
from tests.event_loops import GUARD_S, until
from tests.http_client import Client

Response = TypeVar("Response", Downstream, WebSocket, ClientSocket)


class Served(Generic[Response]):
    """A server whose last response is `down`, for a test to play."""

    def __init__(self) -> None:
        self.url = ""
        self.down: Response
        self.arrived = asyncio.Event()
        self.outcomes: list[str] = []
        """How responses ended: "ended" by the test, or "left" by their clients."""
        self.clients: list[Client] = []

    def begin(self, request: web.BaseRequest) -> Response:
        """Return the response to a request."""
        raise NotImplementedError

    async def handler(self, request: web.BaseRequest) -> web.StreamResponse:
        """Hand the response to the test, and wait until it has ended."""
        self.down = down = self.begin(request)
        self.arrived.set()
        try:
            self.outcomes.append("ended" if await down.finished() else "left")
        except asyncio.CancelledError:
            self.outcomes.append("left")
            raise
        return down.response

    async def connect(self, *, receive_bytes: int = 0) -> Client:
        """Have a client connect."""
        client = await Client.connect(self.url, receive_bytes=receive_bytes)
        self.clients.append(client)
        return client

    async def send(self, client: Client, request: bytes) -> Response:
        """Have a client send a request; return the response that is to be played."""
        self.arrived.clear()
        client.send(request)
        async with asyncio.timeout(GUARD_S):
            await self.arrived.wait()
        return self.down

    async def wait_outcome(self, outcome: str) -> None:
        """Wait until the one response has ended so."""
        await until(lambda: bool(self.outcomes))
        assert self.outcomes == [outcome]


Server = TypeVar("Server", bound=Served[Any])


@asynccontextmanager
async def running(one: Server) -> AsyncIterator[Server]:
    """Run a server; see afterwards that nothing was complained of."""
    server = web.Server(one.handler, access_log=None, handler_cancellation=True, auto_decompress=False)
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    one.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    with no_complaints():
        try:
            yield one
        finally:
            for client in one.clients:
                await client.leave()
            await runner.cleanup()
