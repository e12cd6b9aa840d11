"""A network that breaks: a TCP relay between a client and the proxy, which cuts what passes."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any

from tests.event_loops import GUARD_S, until

_MOMENT_S = 0.03


class Relay:
    """A TCP relay to the proxy. It can cut what passes: all that is open now, or each event stream after some bytes."""

    def __init__(self, url: str) -> None:
        self._target = url.removeprefix("http://").rpartition(":")
        self._budgets: Iterator[int] = iter(())
        self._open: set[asyncio.StreamWriter] = set()
        self._frozen: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.event_streams = 0
        """How many answers with an event stream have begun."""
        self.cuts = 0
        self.down = False
        """Reset whoever comes."""
        self.refused = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        self._server.close()
        self.cut()
        async with asyncio.timeout(GUARD_S):
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut_each_after(self, budgets: Iterable[int]) -> None:
        """Cut the event streams that begin from now on, each after so many bytes, its head's included."""
        self._budgets = iter(budgets)

    def cut(self) -> None:
        """Reset every connection there is."""
        for writer in list(self._open):
            self._reset(writer)

    async def wait_refused(self, count: int) -> None:
        await until(lambda: self.refused >= count)

    def freeze(self) -> None:
        """Let nothing more pass on the connections there are, and leave them open: a network that has gone."""
        self._frozen = set(self._open)

    def _reset(self, writer: asyncio.StreamWriter) -> None:
        self.cuts += 1
        transport: Any = writer.transport
        if not transport.is_closing():
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._open.add(writer)
        if self.down:
            self.refused += 1
            self._reset(writer)
            return
        host, _, port = self._target
        up_reader, up_writer = await asyncio.open_connection(host, int(port))
        upwards = asyncio.create_task(self._upwards(reader, up_writer))
        try:
            await self._downwards(up_reader, writer)
        except ConnectionError:
            pass
        finally:
            self._open.discard(writer)
            upwards.cancel()
            up_writer.transport.abort()
            writer.close()

    async def _upwards(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.transport.abort()

    async def _downwards(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        budget: int | None = None
        while data := await reader.read(65536):
            if writer in self._frozen:
                continue
            if budget is None and b"text/event-stream" in data:
                self.event_streams += 1
                budget = next(self._budgets, 1 << 60)
            if budget is not None and (budget := budget - len(data)) <= 0:
                writer.write(data[: len(data) + budget])
                await writer.drain()
                self.cuts += 1
                # Chromium's fetch drops what the page has not read when it learns of the cut: leave it a moment.
                await asyncio.sleep(_MOMENT_S)
                return  # a FIN: what was written arrives, but the end chunk is missing
            writer.write(data)
            await writer.drain()
            if data.endswith(b"\r\n0\r\n\r\n"):
                budget = None  # it came to its end; the next answer on this connection is another one


@asynccontextmanager
async def relayed(url: str) -> AsyncIterator[Relay]:
    relay = Relay(url)
    await relay.start()
    try:
        yield relay
    finally:
        await relay.stop()
