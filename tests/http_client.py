"""A client of HTTP/1.1 that sees every byte of its connection, and how each response and the connection ended."""

import asyncio
import gzip
import json
import socket
from collections.abc import Callable
from typing import Any, Literal

from tests.event_loops import GUARD_S

KEY = "sk-the-caller"
HOP_BY_HOP = {b"connection", b"keep-alive", b"transfer-encoding"}
Header = tuple[bytes, bytes]
End = Literal["open", "whole", "cut", "reset"]


class Client(asyncio.Protocol):
    """One connection of a client, byte by byte."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.gone: Literal["", "fin", "reset"] = ""
        self.lost = asyncio.Event()
        self._woken = asyncio.Event()
        self._methods: list[str] = []

    @classmethod
    async def connect(cls, url: str, *, receive_bytes: int = 0) -> "Client":
        """Connect; a small `receive_bytes` makes it a client whose kernel takes little before it is read."""
        sock = socket.socket()
        sock.setblocking(False)
        if receive_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        host, _, port = url.removeprefix("http://").rpartition(":")
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_connect(sock, (host, int(port)))
        except BaseException:  # also if it is cancelled meanwhile
            sock.close()
            raise
        _, client = await loop.create_connection(cls, sock=sock)
        return client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self._woken.set()

    def eof_received(self) -> bool:
        self.gone = self.gone or "fin"
        self._woken.set()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = self.gone or ("reset" if exc else "fin")
        self._woken.set()
        self.lost.set()

    def send(self, data: bytes, *, method: str = "GET") -> None:
        """Write a request, or a part of one; `method` says what kind of answer is due for it."""
        self._methods.append(method)
        self.transport.write(data)

    def stall(self) -> None:
        """Read no more."""
        self.transport.pause_reading()

    def read_on(self) -> None:
        self.transport.resume_reading()

    async def leave(self) -> None:
        """Close the connection, and take back what was not sent yet."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()
        async with asyncio.timeout(GUARD_S):
            await self.lost.wait()

    async def wait_bytes(self, enough: Callable[[bytearray], bool]) -> bool:
        """Wait until the buffer is enough; False when the connection ended before."""
        async with asyncio.timeout(GUARD_S):
            while not enough(self.buffer):
                if self.gone:
                    return False
                self._woken.clear()
                await self._woken.wait()
        return True

    def take(self, count: int) -> bytes:
        data = bytes(self.buffer[:count])
        del self.buffer[:count]
        return data

    async def answer(self) -> "Answer":
        """Read the head of the next answer."""
        method = self._methods.pop(0) if self._methods else "GET"
        while True:
            there = await self.wait_bytes(lambda buffer: b"\r\n\r\n" in buffer)
            assert there, f"the connection ended ({self.gone}) before an answer, after {bytes(self.buffer)!r}"
            head = self.take(self.buffer.index(b"\r\n\r\n") + 4)
            answer = Answer(self, head, method)
            if answer.status != 100:
                return answer

    async def wait_gone(self) -> str:
        """Return how the connection ended."""
        await self.wait_bytes(lambda buffer: False)
        return self.gone


class Answer:
    """One response as its bytes tell it. `end` says how its body ended: whole, or by a FIN or RST before its end."""

    def __init__(self, client: Client, head: bytes, method: str) -> None:
        first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
        version, status, self.reason = first.split(b" ", 2)
        assert version in (b"HTTP/1.1", b"HTTP/1.0")
        self.client = client
        self.head = head
        self.status = int(status)
        self.headers: list[Header] = []
        for line in lines:
            name, _, value = line.partition(b": ")
            self.headers.append((name, value))
        self.body = bytearray()
        self.end: End = "open"
        length = self.header("content-length")
        self._chunked = (self.header("transfer-encoding") or "").lower() == "chunked"
        self._left = None if length is None else int(length)
        if method == "HEAD" or self.status in (204, 304) or (self._left == 0 and not self._chunked):
            self.end = "whole"

    def all(self, name: str) -> list[bytes]:
        """Return every value of a header, `name` in lower case."""
        return [value for key, value in self.headers if key.lower() == name.encode()]

    def header(self, name: str) -> str | None:
        """Return a header that may come once, `name` in lower case."""
        values = self.all(name)
        assert len(values) < 2, f"{name} came {len(values)} times"
        return values[0].decode("latin-1") if values else None

    @property
    def stream_id(self) -> str:
        ident = self.header("stream-id")
        assert ident is not None
        return ident

    @property
    def epoch(self) -> str:
        return self.stream_id[3:9]

    async def read(self) -> bytes:
        """Read the body to its end, or to where it breaks off."""
        while self.end == "open":
            await self._piece()
        return bytes(self.body)

    async def until(self, wanted: bytes) -> bytes:
        """Read until the body holds `wanted`; return the whole body so far."""
        while wanted not in self.body:
            assert self.end == "open", f"the body ended ({self.end}) without {wanted!r}: {bytes(self.body)[-500:]!r}"
            await self._piece()
        return bytes(self.body)

    async def bytes(self, count: int) -> bytes:
        """Read until the body has at least so many bytes."""
        while len(self.body) < count:
            assert self.end == "open", f"the body ended ({self.end}) after {len(self.body)} bytes of {count}"
            await self._piece()
        return bytes(self.body)

    async def json(self) -> Any:
        return json.loads(await self.read())

    async def _piece(self) -> None:
        if self._chunked:
            await self._chunk()
            return
        client = self.client
        await client.wait_bytes(bool)
        data = client.take(len(client.buffer) if self._left is None else self._left)
        self.body += data
        if self._left is not None:
            self._left -= len(data)
        if self._left == 0:
            self.end = "whole"
        elif client.gone and not client.buffer:
            self.end = "whole" if self._left is None and client.gone == "fin" else self._broken

    @property
    def _broken(self) -> End:
        return "reset" if self.client.gone == "reset" else "cut"

    async def _chunk(self) -> None:
        client = self.client
        if not await client.wait_bytes(lambda buffer: b"\r\n" in buffer):
            assert not client.buffer, "the connection ended within a chunk's size"
            self.end = self._broken
            return
        size = int(client.buffer[: client.buffer.index(b"\r\n")], 16)
        start = client.buffer.index(b"\r\n") + 2
        if not await client.wait_bytes(lambda buffer: len(buffer) >= start + size + 2):
            client.take(start)
            self.body += client.take(len(client.buffer))
            self.end = self._broken
            return
        client.take(start)
        self.body += client.take(size)
        assert client.take(2) == b"\r\n"
        if not size:
            self.end = "whole"


def request(method: str, target: str, *headers: str | bytes, body: bytes = b"", version: str = "1.1") -> bytes:
    """Return the bytes of a request; `Host`, `Content-Length` and `Authorization` are added unless given."""
    lines = [header if isinstance(header, bytes) else header.encode() for header in headers]
    names = {line.partition(b":")[0].lower() for line in lines}
    if b"authorization" not in names:
        lines.insert(0, b"Authorization: Bearer " + KEY.encode())
    if b"host" not in names:
        lines.insert(0, b"Host: proxy")
    if (body or method in ("POST", "PUT", "PATCH")) and not names & {b"content-length", b"transfer-encoding"}:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([f"{method} {target} HTTP/{version}".encode(), *lines, b"", b""]) + body


def zipped(body: bytes) -> bytes:
    return gzip.compress(body, mtime=0)
