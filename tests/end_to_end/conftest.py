"""What the tests with real sockets stand on: a proxy between an upstream of the test's own and raw clients.

A `Tee` is a running proxy with its clients; a `Client` sees every byte of its connection and how it ended; a
`Stage` is an upstream that says exactly what the test has it say, one `Turn` a request. `FakeQwen` is the other
upstream: faithful, and faulty on request.

Nothing here sleeps: tests wait for what they are about, each wait with a guard. When a Tee is closed it asserts
that nothing is left over: no stream, no follower, no task, no connection, no error in the logs.
"""

import asyncio
import ctypes
import gc
import gzip
import inspect
import json
import logging
import os
import re
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import pytest
import uvloop
from aiohttp.http_exceptions import HttpProcessingError

from proxy.server.app import Proxy
from proxy.server.config import Config
from proxy.stream.hub import STREAM_BYTES
from proxy.tools.fake_qwen import FakeQwen

GUARD_S = 10.0
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}
CHAT = "/v1/chat/completions"
NATIVE = "/api/v1/services/aigc/text-generation/generation"
KEY = "sk-the-caller"
PROMPT = "a prompt nobody else may read"
EVENT_STREAM = "text/event-stream;charset=UTF-8"
HOP_BY_HOP = {b"connection", b"keep-alive", b"transfer-encoding"}
BLOCK = re.compile(rb".*?(?:\r\n\r\n|\n\n|\r\r)", re.DOTALL)
DONE = b"data: [DONE]\n\n"

Header = tuple[bytes, bytes]
End = Literal["open", "whole", "cut", "reset"]


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, Callable[[], Any]]:
    """Run every test here on both event loops; `@on_one_loop` names the exceptions."""
    return LOOPS


on_one_loop = pytest.mark.asyncio(loop_factories=["uvloop"])
"""For tests that take long, or that measure what does not depend on the loop."""


def on_each_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Do the same for a test of another folder, where the hook above is not heard."""

    def run(loop: str, **named: Any) -> None:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(test(**named))

    parameter = inspect.Parameter("loop", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    signature = inspect.signature(test)
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[parameter, *signature.parameters.values()], return_annotation=None
    )
    run.__name__, run.__qualname__, run.__doc__ = test.__name__, test.__qualname__, test.__doc__
    run.__module__ = test.__module__
    return pytest.mark.parametrize("loop", list(LOOPS))(run)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that no event tells of."""
    async with asyncio.timeout(GUARD_S):
        while not condition():
            await asyncio.sleep(0)


# The client's side.


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
        except OSError:
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


def chat_body(**more: Any) -> bytes:
    body = {"model": "qwen3-max", "messages": [{"role": "user", "content": PROMPT}], "stream": True, **more}
    return json.dumps(body).encode()


def native_body(**parameters: Any) -> bytes:
    return json.dumps({"model": "qwen-max", "input": {"prompt": PROMPT}, "parameters": parameters}).encode()


class Tee:
    """A proxy that runs in front of an upstream, and the clients that came to it."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.clients: list[Client] = []

    async def connect(self, *, receive_bytes: int = 0, admin: bool = False) -> Client:
        client = await Client.connect(self.proxy.admin_url if admin else self.proxy.url, receive_bytes=receive_bytes)
        self.clients.append(client)
        return client

    async def send(self, method: str, target: str, *headers: str | bytes, **more: Any) -> Client:
        """Send a request on a connection of its own; see `request`."""
        client = await self.connect()
        client.send(request(method, target, *headers, **more), method=method)
        return client

    async def ask(self, method: str, target: str, *headers: str | bytes, **more: Any) -> Answer:
        """Send a request, and read the head of its answer."""
        return await (await self.send(method, target, *headers, **more)).answer()

    async def send_chat(self, *headers: str | bytes, fault: str = "", **more: Any) -> Client:
        faults = (f"Fake-Fault: {fault}",) if fault else ()
        return await self.send("POST", CHAT, *headers, *faults, body=chat_body(**more))

    async def chat(self, *headers: str | bytes, fault: str = "", **more: Any) -> Answer:
        """Ask for a chat completion in the OpenAI dialect, streamed."""
        return await (await self.send_chat(*headers, fault=fault, **more)).answer()

    async def native(self, *headers: str | bytes, fault: str = "", **parameters: Any) -> Answer:
        """Ask for a generation in the native dialect, streamed."""
        faults = (f"Fake-Fault: {fault}",) if fault else ()
        return await self.ask(
            "POST", NATIVE, "X-DashScope-SSE: enable", *headers, *faults, body=native_body(**parameters)
        )

    async def generate(self, dialect: str, *headers: str | bytes, fault: str = "") -> Answer:
        """Ask in the dialect of that name."""
        return await (self.native if dialect == "native" else self.chat)(*headers, fault=fault)

    async def follow(self, ident: str, query: str = "", *headers: str | bytes) -> Answer:
        """Follow a stream: `ident` is its id, or `keys/KEY`."""
        path = f"/v1/{ident}/stream" if ident.startswith("keys/") else f"/v1/streams/{ident}"
        return await self.ask("GET", f"{path}?{query}" if query else path, *headers)

    async def info(self, ident: str) -> dict[str, Any]:
        answer = await self.ask("GET", f"/v1/streams/{ident}/info")
        assert answer.status == 200, answer.status
        return await answer.json()

    async def listed(self, *headers: str) -> list[dict[str, Any]]:
        answer = await self.ask("GET", "/v1/streams", *headers)
        return (await answer.json())["data"]

    async def admin(self, path: str) -> Answer:
        client = await self.connect(admin=True)
        client.send(request("GET", path))
        return await client.answer()

    async def metrics(self) -> str:
        return (await (await self.admin("/metrics")).read()).decode()

    async def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that have these labels."""
        total = 0.0
        for line in (await self.metrics()).splitlines():
            found = re.fullmatch(rf"{name}(?:\{{(.*?)\}})? (\S+)(?: #.*)?", line)
            if found and all(f'{key}="{value}"' in (found[1] or "") for key, value in labels.items()):
                total += float(found[2])
        return total

    async def wait_ended(self, ident: str) -> dict[str, Any]:
        """Wait until a stream has ended; return what is told of it."""
        async with asyncio.timeout(GUARD_S):
            while (info := await self.info(ident))["state"] == "open":
                pass
        return info

    async def wait_followers(self, count: int) -> None:
        """Wait until so many follow, in all."""
        await until(lambda: self.proxy.hub.followers == count)

    async def settled(self, number: Callable[[], int], turns: int = 30) -> int:
        """Return a number once it has not moved while so many requests went through the proxy."""
        client = await self.connect()
        still, last = 0, number()
        async with asyncio.timeout(GUARD_S):
            while still < turns:
                client.send(request("GET", "/healthz"))
                await (await client.answer()).read()
                still = still + 1 if number() == last else 0
                last = number()
        return last


# The upstream's side.


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
    stage = Stage()
    await stage.start()
    try:
        yield stage
    finally:
        await stage.stop()


@asynccontextmanager
async def faked(**options: Any) -> AsyncIterator[FakeQwen]:
    fake = FakeQwen(**options)
    await fake.start()
    try:
        yield fake
    finally:
        await fake.stop()


def chunk_frame(text: str = "word", **more: Any) -> bytes:
    """Return a frame of the OpenAI dialect with some content."""
    delta = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "qwen3-max", "choices": [delta], **more}
    return b"data: %b\n\n" % json.dumps(chunk).encode()


FINISH = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","model":"qwen3-max",'
    b'"choices":[{"index":0,"delta":{"content":""},"finish_reason":"stop"}]}\n\n'
)


async def begun(tee: Tee, stage: Stage, *headers: str | bytes, frames: int = 0) -> tuple[Answer, Turn]:
    """Have a client ask for a stream and the upstream begin it, with so many frames; both have seen them."""
    client = await tee.send_chat(*headers)
    turn = await stage.next()
    await turn.body()
    turn.begin()
    said = [chunk_frame(f"word {n}") for n in range(1, frames + 1)]
    for frame in said:
        turn.chunk(frame)
    answer = await client.answer()
    await answer.bytes(sum(map(len, said)) if not headers else 0)
    return answer, turn


# What must be said of an answer.


def blocks(body: bytes) -> list[bytes]:
    """Return the complete SSE blocks of a body; what is left over must be none."""
    found = BLOCK.findall(body)
    assert b"".join(found) == body, f"a block lacks its end: {body[-200:]!r}"
    return found


def stamped(body: bytes, epoch: str, first: int = 1) -> bytes:
    """Return what mode events makes of complete blocks: an id as the last line of each that has data or an id.

    A block of comments loses its blank line, so that it leads the next one; a byte order mark goes.
    """
    out = []
    for seq, block in enumerate(blocks(body.removeprefix(b"\xef\xbb\xbf")), first):
        newline = b"\r\n" if block.endswith(b"\r\n\r\n") else block[-1:]
        lines = block.removesuffix(newline * 2).split(newline)
        if any(line.startswith((b"data", b"id")) for line in lines):
            lines.append(b"id: %b-%d" % (epoch.encode(), seq))
        comments = all(line.startswith(b":") for line in lines)
        out.append(newline.join([*lines, b""] if comments else [*lines, b"", b""]))
    return b"".join(out)


def zipped(body: bytes) -> bytes:
    return gzip.compress(body, mtime=0)


def rss_bytes() -> int:
    """Return the memory this process holds, after it has given back what it does not use."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# Running it.


def configured(url: str, **tables: Any) -> Config:
    """Return a configuration of free ports and this upstream, untouched by the environment."""
    tables["upstream"] = {"url": url, **tables.get("upstream", {})}
    with mock.patch.dict(os.environ):
        for name in [name for name in os.environ if name.startswith("STREAMTEE_")]:
            del os.environ[name]
        return Config(**{"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", **tables})


class _Complaints(logging.Handler):
    """Collects what was logged as a warning or worse."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and isinstance(record.exc_info[1], HttpProcessingError):
            return  # a request that is not HTTP is its client's fault, not ours
        self.lines.append(f"{record.name}: {record.getMessage()} {record.exc_info or ''}")


@contextmanager
def no_complaints() -> Iterator[list[str]]:
    """Fail when anything was logged as a warning or worse, or reached the event loop unhandled."""
    gc.collect()
    gc.freeze()  # so that the collection below looks at what this test leaves, not at the session: 1 ms, not 80
    complaints = _Complaints()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.lines.append(f"event loop: {context}"))
    logging.getLogger().addHandler(complaints)
    try:
        yield complaints.lines
    finally:
        logging.getLogger().removeHandler(complaints)
        gc.collect()  # exceptions that nobody retrieved are told when their task is collected
        loop.set_exception_handler(None)
    assert complaints.lines == []


@asynccontextmanager
async def teed(url: str, *, tracing: Any = None, **tables: Any) -> AsyncIterator[Tee]:
    """Run a proxy in front of the upstream at `url`; see afterwards that nothing is left over."""
    with no_complaints():
        proxy = Proxy(configured(url, **tables), tracing)
        await proxy.start()
        tee = Tee(proxy)
        try:
            yield tee
        finally:
            async with asyncio.timeout(GUARD_S):
                for client in tee.clients:
                    await client.leave()
                await proxy.stop()
        await until(lambda: not any(map(_is_proxys, asyncio.all_tasks())))
    assert proxy.hub.running == 0
    assert proxy.hub.followers == 0
    held = sum(STREAM_BYTES + stream.log.size_bytes for stream in proxy.hub)
    assert proxy.hub.ledger.bytes == held
    assert not proxy.hub.beating


def _is_proxys(task: asyncio.Task[Any]) -> bool:
    """Tell whether a task is of the proxy, or of the server it stands on."""
    code = getattr(task.get_coro(), "cr_code", None)
    path = Path(code.co_filename if code else "").as_posix()
    return "/aiohttp/" in path or ("/proxy/" in path and "/proxy/tools/" not in path)


@pytest.fixture
async def fake() -> AsyncIterator[FakeQwen]:
    """A fake Qwen that answers at once."""
    async with faked() as one:
        yield one
        await until(lambda: not one.connections)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    """An upstream that says what the test has it say."""
    async with staged() as one:
        yield one


Serve = Callable[..., Awaitable[Tee]]


@asynccontextmanager
async def _serving(url: str) -> AsyncIterator[Serve]:
    tees: list[Any] = []

    async def serve(**tables: Any) -> Tee:
        context = teed(tables.pop("url", url), **tables)
        tee = await context.__aenter__()
        tees.append(context)
        return tee

    try:
        yield serve
    finally:
        while tees:
            await tees.pop().__aexit__(None, None, None)


@pytest.fixture
async def serve(fake: FakeQwen) -> AsyncIterator[Serve]:
    """Start a proxy in front of `fake`, with these tables of its configuration."""
    async with _serving(fake.url) as start:
        yield start


@pytest.fixture
async def perform(stage: Stage) -> AsyncIterator[Serve]:
    """Start a proxy in front of `stage`, with these tables of its configuration."""
    async with _serving(stage.url) as start:
        yield start
