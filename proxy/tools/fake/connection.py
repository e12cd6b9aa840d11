"""One HTTP connection of a client: parses its requests, and performs the steps of their answers. Knows no fault."""

import asyncio
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Protocol, cast

import httptools

from proxy.tools.fake.realtime import PREFIX, FakeSocket
from proxy.tools.fake.steps import Close, End, Framing, Hang, Head, Part, Raw, Reset, State, Steps, Wait


@dataclass(eq=False)
class Received:
    """One request, and the state of its answer."""

    method: str
    target: str
    """Path and query as received."""
    headers: list[tuple[bytes, bytes]]
    """Names and values as received, in order."""
    body: bytes
    keep_alive: bool = True
    chunked: bool = True
    """Whether the client understands chunked answers (HTTP/1.1)."""
    sent: bytearray = field(default_factory=bytearray)
    """The answer's body bytes written so far, before chunk framing."""
    state: State = "open"
    """complete: its proper end was written. client_gone: the client left before. cut: a fault or `stop` ended it."""
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def header(self, name: str) -> str:
        """Return the first value of a header, or the empty string; `name` in lower case."""
        wanted = name.encode()
        found = (value for key, value in self.headers if key.lower() == wanted)
        return next(found, b"").decode("latin-1")

    def finish(self, state: State) -> None:
        """Set the final state; only the first call counts."""
        if self.state == "open":
            self.state = state
            self.closed.set()


class Server(Protocol):
    """What a connection needs of the server."""

    connections: "set[Connection]"
    sockets: list[FakeSocket]

    def admit(self, received: Received) -> None:
        """Record a request that has arrived."""

    def plan(self, received: Received) -> Steps:
        """Return the steps of the answer to a request."""


_BODIES: dict[Framing, Callable[[bytes], bytes]] = {
    "chunked": lambda body: b"%x\r\n%b\r\n" % (len(body), body) if body else b"",
    "length": lambda body: body,
    "close": lambda body: body,
    "none": lambda body: b"",
}
_ENDS: dict[Framing, bytes] = {"chunked": b"0\r\n\r\n"}
_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class Connection(asyncio.Protocol):
    """One connection of a client: parses its requests, and performs the steps of their answers, one after another."""

    _transport: asyncio.Transport
    _task: asyncio.Task[None]

    def __init__(self, server: Server) -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._inbox: asyncio.Queue[Received] = asyncio.Queue()
        self._received: list[Received] = []
        self._writable = asyncio.Event()
        self._writable.set()
        self._held_wire, self._held_body = bytearray(), bytearray()
        self._framing: Framing = "length"
        self._socket: FakeSocket | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Both loops set TCP_NODELAY on accepted connections: a write is a segment.
        self._transport = cast(asyncio.Transport, transport)
        self._task = asyncio.get_running_loop().create_task(self._serve())
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        if self._socket is not None:
            self._socket.lost()
        self._end("client_gone")

    def pause_writing(self) -> None:
        (self._writable if self._socket is None else self._socket.writable).clear()

    def resume_writing(self) -> None:
        (self._writable if self._socket is None else self._socket.writable).set()

    def data_received(self, data: bytes) -> None:
        if self._socket is not None:
            self._socket.feed(data)
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:  # the request is complete
            if self._socket is not None:
                self._socket.feed(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._transport.write(_BAD_REQUEST)
            self._transport.close()

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = bytearray()

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if any(name.lower() == b"expect" for name, _ in self._headers):
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        received = Received(
            self._parser.get_method().decode(),
            self._target.decode("latin-1"),
            self._headers,
            bytes(self._body),
            keep_alive=self._parser.should_keep_alive(),
            chunked=self._parser.get_http_version() != "1.0",
        )
        self._received = [*(one for one in self._received if one.state == "open"), received]
        self._server.admit(received)
        if self._parser.should_upgrade() and received.path.startswith(PREFIX):
            headers = {name.decode().lower(): value.decode("latin-1") for name, value in received.headers}
            self._socket = FakeSocket(self._transport, received.target, headers)
            self._server.sockets.append(self._socket)
        else:  # answered as if it had no Upgrade header
            self._inbox.put_nowait(received)

    def cut(self) -> asyncio.Task[None]:
        """Abort at once; return the task of the connection, which ends soon."""
        self._end("cut")
        self._transport.abort()
        return self._task

    def _end(self, state: State) -> None:
        self._task.cancel()
        for received in self._received:
            received.finish(state)

    async def _serve(self) -> None:
        while not self._transport.is_closing():
            received = await self._inbox.get()
            try:
                await self._perform(received, self._server.plan(received))
            except Exception:
                self.cut()
                raise

    async def _perform(self, received: Received, steps: Steps) -> None:
        for step in steps:
            match step:
                case Head():
                    self._held_wire += self._head_wire(received, step)
                case Part(body, held):
                    wire = _BODIES[self._framing](body)
                    await self._write(received, wire, body if wire else b"", held)
                case Raw(wire, body):
                    await self._write(received, wire, body)
                case Wait(seconds):
                    await self._write(received)
                    await asyncio.sleep(seconds)
                case Hang():
                    await self._write(received)
                    await asyncio.Event().wait()
                case End() | Close() | Reset():
                    await self._finish(received, step)
                    return

    def _head_wire(self, received: Received, head: Head) -> bytes:
        framing = "close" if head.framing == "chunked" and not received.chunked else head.framing
        received.keep_alive = received.keep_alive and framing != "close"
        self._framing = framing if received.method != "HEAD" else "none"
        rows = (
            (framing == "chunked", "transfer-encoding", "chunked"),
            (framing == "length", "content-length", f"{head.length}"),
            (not received.keep_alive, "connection", "close"),
        )
        headers = (*head.headers, *((name, value) for present, name, value in rows if present))
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
        return f"HTTP/1.1 {head.status} {HTTPStatus(head.status).phrase}\r\n{lines}\r\n".encode("latin-1")

    async def _write(self, received: Received, wire: bytes = b"", body: bytes = b"", held: bool = False) -> None:
        self._held_wire += wire
        self._held_body += body
        if held or not self._held_wire:
            return
        self._transport.write(bytes(self._held_wire))
        received.sent += self._held_body
        self._held_wire, self._held_body = bytearray(), bytearray()
        # One turn of the loop, so that the next write is a segment of its own and other streams have theirs.
        await asyncio.sleep(0)
        await self._writable.wait()

    async def _finish(self, received: Received, step: End | Close | Reset) -> None:
        await self._write(received, _ENDS.get(self._framing, b"") if isinstance(step, End) else b"")
        received.finish(step.state if isinstance(step, End) else "cut")
        if isinstance(step, Reset):
            # Lingering for no time makes the kernel send RST instead of FIN.
            linger = struct.pack("ii", 1, 0)
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self._transport.abort()
        elif isinstance(step, Close) or not received.keep_alive:
            self._transport.close()
