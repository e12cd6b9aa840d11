"""A port whose requests a test answers itself: the proxy's own listener and connections, and no proxy behind them."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import Any

from aiohttp import web

from proxy.downstream.client_connections import ClientConnections, ClientTimeouts
from proxy.downstream.connection import Connection
from proxy.downstream.descriptors import Descriptors
from proxy.downstream.listener import Listener
from proxy.downstream.movable import MovableConnection
from proxy.stream.turns import Turns
from proxy.wire.errors import ProxyError
from tests.complaints import no_complaints
from tests.event_loops import until
from tests.http_client import Client

Respond = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Port:
    """A port, its connections, and the errors that its requests have met."""

    def __init__(self, respond: Respond, connection_class: type[Connection], max_body_bytes: int) -> None:
        loop = asyncio.get_running_loop()
        self.url = ""
        self.address = ("", 0)
        self.errors: list[ProxyError] = []
        self.clients: list[Client] = []
        self.connections = ClientConnections(
            ClientTimeouts(), Descriptors(1 << 20), max_body_bytes=max_body_bytes, max_pending_bytes=1 << 30
        )
        self._respond = respond
        self.listener = Listener(
            self._serve,
            lambda method, target, error: error.code.encode(),
            header_bytes=10_000,
            max_headers=20,
            clients=self.connections,
            host_error=lambda host: None,
            turns=Turns(loop.call_soon, loop.time),
            urgent=b"GET /healthz",
            is_admin=False,
            connection_class=connection_class,
        )

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._respond(request)
        except ProxyError as error:
            self.errors.append(error)
            return web.Response(status=error.status, text=error.code)

    async def connect(self) -> Client:
        """Have a client connect."""
        client = await Client.connect(self.url)
        self.clients.append(client)
        return client

    async def send(self, data: bytes) -> Client:
        """Have a client connect, and send."""
        client = await self.connect()
        client.send(data)
        return client

    async def adopt(self, descriptor: int, read: bytes) -> MovableConnection:
        """Go on with the connection of another port, of which this was read."""
        connection = self.listener()
        assert isinstance(connection, MovableConnection)
        connection.adopt(read, is_placed=False)
        await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, socket.socket(fileno=descriptor))
        return connection


class Turned:
    """The only connection of a port; each of its reads waits for its turn until the test has it come."""

    def __init__(self, one: Port, connection: Connection) -> None:
        self.connection = connection
        self.read = connection.data_received
        self._planned: list[Callable[[], object]] = []
        listener: Any = one.listener
        listener.turns = Turns(self._planned.append, lambda: 0.0)
        listener.may_begin = lambda now: False

    @classmethod
    async def of(cls, one: Port) -> "Turned":
        """Return the connection of a port, once it is there."""
        await until(lambda: bool(one.connections.open))
        (connection,) = one.connections.open
        assert isinstance(connection, Connection)
        return cls(one, connection)

    def turn(self) -> None:
        """Have the turn of all that waits come."""
        while self._planned:
            self._planned.pop(0)()


@asynccontextmanager
async def port(
    respond: Respond,
    *,
    connection_class: type[Connection] = Connection,
    max_body_bytes: int = 1 << 20,
    complaints: bool = False,
) -> AsyncIterator[Port]:
    """Serve a port; see afterwards that no body counts as held, and, without `complaints`, that there were none."""
    one = Port(respond, connection_class, max_body_bytes)
    listening: Any = await asyncio.get_running_loop().create_server(one.listener, "127.0.0.1", 0)
    one.address = listening.sockets[0].getsockname()
    one.url = "http://{}:{}".format(*one.address)
    with nullcontext() if complaints else no_complaints():
        try:
            yield one
        finally:
            for client in one.clients:
                await client.leave()
            listening.close()
            await one.listener.shutdown(0.1)
    assert one.connections.body_bytes == 0
