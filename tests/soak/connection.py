"""One exchange of a client with the proxy: a request out, what comes back, and how that ended. It judges nothing."""

import asyncio
import json
import socket
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

End = Literal["open", "whole", "cut", "left", "late"]
GUARD_S = 75.0
"""How long a client that stays waits for the end of its response; what takes longer is a fault of the proxy."""


class Manner(NamedTuple):
    """How a client reads: how long it stays, how long it rests between two reads, how much its kernel takes for it."""

    leave_s: float | None = None
    rest_s: float = 0.0
    receive_bytes: int = 0


STEADY = Manner()


@dataclass
class Reply:
    """One response as it came. `end`: whole or cut by the proxy, left by the client, or late: it never ended.

    The messages of a WebSocket are in `body` as the blocks of an event stream, and its close code is in `close_code`.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    end: End = "open"
    close_code: int = 0


def request(method: str, target: str, *headers: str, key: str = "caller", body: bytes = b"") -> bytes:
    """Return the bytes of a request."""
    lines = [f"{method} {target} HTTP/1.1", "Host: proxy", f"Authorization: Bearer {key}", *headers]
    if body or method == "POST":
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


WEBSOCKET = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
)


class Connection:
    """A client's connection, for one request after another."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, manner: Manner) -> None:
        self._reader, self._writer = reader, writer
        self._manner = manner

    @classmethod
    async def open(cls, port: int, manner: Manner = STEADY) -> "Connection":
        """Connect. Raises: OSError."""
        client = socket.socket()
        client.setblocking(False)
        if manner.receive_bytes:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, manner.receive_bytes)
        try:
            await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
        except BaseException:
            client.close()
            raise
        limit = 2048 if manner.receive_bytes or manner.rest_s else 65536
        return cls(*await asyncio.open_connection(sock=client, limit=limit), manner)

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    def close(self) -> None:
        self._writer.transport.abort()

    async def reply(self) -> Reply:
        """Read the next response to its end, for as long as the client stays."""
        reply = Reply()
        leave_s = self._manner.leave_s
        try:
            async with asyncio.timeout(GUARD_S if leave_s is None else leave_s):
                await self._head(reply)
                await self._body(reply)
        except TimeoutError:
            reply.end = "late" if leave_s is None else "left"
        except (OSError, asyncio.IncompleteReadError):
            reply.end = "cut"
        return reply

    async def _head(self, reply: Reply) -> None:
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        reply.status = int(lines[0].split()[1])
        for line in filter(None, lines[1:]):
            name, _, value = line.partition(":")
            reply.headers[name.lower()] = value.strip()

    async def _body(self, reply: Reply) -> None:
        if reply.status == 101:
            await self._messages(reply)
        elif "chunked" in reply.headers.get("transfer-encoding", ""):
            while size := int(await self._line(), 16):
                await self._take(reply, size)
                await self._line()
            await self._line()
        elif "content-length" in reply.headers:
            await self._take(reply, int(reply.headers["content-length"]))
        elif reply.status not in (204, 304):
            while data := await self._reader.read(65536):
                reply.body += data
        reply.end = "whole"

    async def _line(self) -> bytes:
        return (await self._reader.readuntil(b"\r\n"))[:-2]

    async def _take(self, reply: Reply, size: int) -> None:
        while size:
            if self._manner.rest_s:
                await asyncio.sleep(self._manner.rest_s)
            data = await self._reader.read(min(size, 65536))
            if not data:
                raise asyncio.IncompleteReadError(b"", size)
            reply.body += data
            size -= len(data)

    async def _messages(self, reply: Reply) -> None:
        """Read messages until the close frame (RFC 6455, section 5.2); answer pings and the close."""
        while True:
            opcode, payload = await self._frame()
            if opcode == 8:
                reply.close_code = int.from_bytes(payload[:2], "big")
                self.send(b"\x88\x82\0\0\0\0" + payload[:2])
                return
            if opcode == 9:
                self.send(b"\x8a\x80\0\0\0\0")
            elif opcode == 1:
                reply.body += _as_block(json.loads(payload))

    async def _frame(self) -> tuple[int, bytes]:
        first, size = await self._reader.readexactly(2)
        if size > 125:
            size = int.from_bytes(await self._reader.readexactly(2 if size == 126 else 8), "big")
        return first & 15, await self._reader.readexactly(size)


def _as_block(message: dict[str, str]) -> bytes:
    """Return a message as the block of an event stream."""
    lines = [f"id: {message['id']}", f"event: {message['event']}"]
    lines += [f"data: {line}" for line in message["data"].split("\n")]
    return "\n".join([*lines, "", ""]).encode()


async def exchange(port: int, data: bytes, manner: Manner = STEADY) -> Reply:
    """Send a request on a connection of its own; return the response."""
    try:
        connection = await Connection.open(port, manner)
    except OSError:
        return Reply(end="cut")
    try:
        connection.send(data)
        return await connection.reply()
    finally:
        connection.close()
