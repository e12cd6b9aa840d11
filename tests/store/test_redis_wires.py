"""Connections to a Redis that closes them."""

import asyncio

import pytest

from proxy.store.redis_wires import Wires
from proxy.store.store import StoreError
from tests.event_loops import on_each_loop


class Closed:
    """A connection that Redis has closed before the first command, as one in its protected mode does."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def connect(self) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writer.close()
        await self._writer.wait_closed()

    async def disconnect(self, *, nowait: bool) -> None:
        self._writer.close()


@on_each_loop
async def test_connection_that_redis_closed_at_once_is_an_error_of_the_store() -> None:
    """Not one of the event loop, to which nobody listens."""
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        port: int = server.sockets[0].getsockname()[1]
        wires = Wires(lambda: Closed(port), patience_s=5)
        with pytest.raises(StoreError, match="has closed the connection"):
            await wires.run([("EXISTS", "key")])
        await wires.close()
