"""An upstream that says exactly what the test has it say, one `Turn` a request.

`FakeQwen` (proxy.tools.fake.qwen) is the other upstream of the tests: faithful, and faulty on request.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.event_loops import GUARD_S
from tests.http_client import Header

EVENT_STREAM = "text/event-stream;charset=UTF-8"


class Turn:
    """One request as it came to a Stage, and the means to answer it."""

    def __init__(self, stage: "Stage", reader: asyncio.StreamReader, protocol: "_Peer", head: bytes) -> None:
        self.stage = stage
        self.reader = reader
        self.head = head
        self.left = protocol.left
        """Set when the proxy has closed the connection."""
        self.done = asyncio.Event()
        self.said = 0
        line, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
        self.method, self.target, _ = line.split(b" ")
        self.headers: list[Header] = []
        for row in lines:
            name, _, value = row.partition(b": ")
            self.headers.append((name, value))
        self._protocol = protocol
        self._transport: Any = protocol.transport

    def all(self, name: str) -> list[bytes]:
        return [value for key, value in self.headers if key.lower() == name.encode()]

    async def body(self) -> bytes:
        """Read the request's body."""
        length = self.all("content-length")
        async with asyncio.timeout(GUARD_S):
            if length:
                return await self.reader.readexactly(int(length[0]))
            if not self.all("transfer-encoding"):
                return b""
            body = bytearray()
            while piece := await self.body_chunk():
                body += piece
            return bytes(body)

    async def body_chunk(self) -> bytes:
        """Read one chunk of a chunked body."""
        async with asyncio.timeout(GUARD_S):
            size = int(await self.reader.readline(), 16)
            return (await self.reader.readexactly(size + 2))[:-2]

    def say(self, data: bytes) -> None:
        """Write bytes as they are."""
        self.said += len(data)
        self._transport.write(data)

    async def pour(self, data: bytes) -> None:
        """Write bytes, no faster than the proxy takes them."""
        self.say(data)
        await self._protocol.drained()

    def begin(self, *headers: str | bytes, status: str = "200 OK") -> None:
        """Write the head of an event stream."""
        lines = [f"Content-Type: {EVENT_STREAM}", "Transfer-Encoding: chunked", *headers]
        encoded = [line if isinstance(line, bytes) else line.encode() for line in lines]
        self.say(b"\r\n".join([f"HTTP/1.1 {status}".encode(), *encoded, b"", b""]))

    def chunk(self, data: bytes) -> None:
        """Write one chunk of a chunked body."""
        self.say(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self, *last: bytes) -> None:
        """Write what is left, and the end chunk; the connection stays for the next request."""
        for data in last:
            self.chunk(data)
        self.say(b"0\r\n\r\n")
        self.done.set()

    def reply(self, status: str, *headers: str | bytes, body: bytes = b"", length: bool = True) -> None:
        """Write a whole response."""
        lines = [*headers, *([f"Content-Length: {len(body)}"] if length else [])]
        encoded = [line if isinstance(line, bytes) else line.encode() for line in lines]
        self.say(b"\r\n".join([f"HTTP/1.1 {status}".encode(), *encoded, b"", b""]) + body)
        self.done.set()

    def close(self) -> None:
        """End the connection with a FIN."""
        self._transport.close()
        self.done.set()

    def reset(self) -> None:
        """End the connection with an RST."""
        linger = struct.pack("ii", 1, 0)
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._transport.abort()
        self.done.set()

    async def wait_left(self) -> None:
        """Wait until the proxy has closed the connection."""
        async with asyncio.timeout(GUARD_S):
            await self.left.wait()


class _Peer(asyncio.StreamReaderProtocol):
    """A connection that says when the other side has closed it."""

    def __init__(self, stage: "Stage") -> None:
        super().__init__(asyncio.StreamReader(limit=1 << 20), stage.serve)
        self._stage = stage
        self.left = asyncio.Event()
        self.transport: Any = None
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._stage.peers.add(self)
        super().connection_made(transport)

    def eof_received(self) -> bool:
        super().eof_received()
        self.left.set()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.left.set()
        self._writable.set()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writable.clear()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._writable.set()

    async def drained(self) -> None:
        await self._writable.wait()
        await asyncio.sleep(0)  # so that others have their turn, too
        if self.left.is_set():
            raise ConnectionResetError


class Stage:
    """An upstream that says what the test has it say: `next` is the next request that comes."""

    def __init__(self) -> None:
        self.url = ""
        self.turns: list[Turn] = []
        self._inbox: asyncio.Queue[Turn] = asyncio.Queue()
        self.peers: set[_Peer] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Peer(self), "127.0.0.1", 0, backlog=1024)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        self._server.close()
        for turn in self.turns:
            turn.done.set()
        for peer in self.peers:
            peer.transport.abort()
        async with asyncio.timeout(GUARD_S):
            if self._tasks:
                await asyncio.wait(self._tasks)
            for peer in self.peers:
                await peer.left.wait()
            await self._server.wait_closed()

    @property
    def connections(self) -> int:
        """How many connections were made, in all."""
        return len(self.peers)

    @property
    def idle(self) -> bool:
        """Whether every request that came was taken by the test."""
        return self._inbox.empty()

    async def next(self) -> Turn:
        """Return the next request, once its head is there."""
        async with asyncio.timeout(GUARD_S):
            return await self._inbox.get()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        protocol: Any = writer.transport.get_protocol()
        while self._server.is_serving():
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            turn = Turn(self, reader, protocol, head)
            self.turns.append(turn)
            self._inbox.put_nowait(turn)
            await turn.done.wait()


@asynccontextmanager
async def staged() -> AsyncIterator[Stage]:
    """Run a stage."""
    stage = Stage()
    await stage.start()
    try:
        yield stage
    finally:
        await stage.stop()
