"""A network between nodes and their Redis: a TCP relay that delays, drops, cuts, and leads to another server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tests.event_loops import GUARD_S


class Network:
    """A relay to the port of a server."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.delay_s = 0.0
        self.down = False
        """Nothing passes, on connections that are open or new; they stay open."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        self._server.close()
        self.drop()
        for task in self._tasks:
            task.cancel()
        async with asyncio.timeout(GUARD_S):
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def drop(self) -> None:
        """Cut every connection there is."""
        for writer in self._writers:
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, up_writer}
        try:
            await asyncio.gather(self._pass(reader, up_writer), self._pass(up_reader, writer))
        except asyncio.CancelledError:  # `stop`; streams.py would log it
            pass
        finally:
            self._writers -= {writer, up_writer}
            writer.transport.abort()
            up_writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                while self.down:
                    await asyncio.sleep(0.01)
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


@asynccontextmanager
async def network(port: int) -> AsyncIterator[Network]:
    """Run a relay to a port."""
    relay = Network(port)
    await relay.start()
    try:
        yield relay
    finally:
        await relay.stop()
