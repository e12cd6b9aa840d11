"""How long clients can hold the event loop: `python -m tests.bench.floods`. docs/floods.md has the figures.

One flood after another, each of a new proxy. Printed of each: the CPU time that the loop was held for by one turn, as
`turns` measures it; and by the clock how long /healthz and /metrics took at most, which `probe` asks all the while. The
second is of a machine on which the clients of a flood take as much time as the proxy.
"""

import asyncio
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import click
import uvloop

from proxy.wire.websocket import PING, TEXT
from tests.bench.processes import allow_many_files
from tests.frames import ASK, masked

ROOT = Path(__file__).parents[2]
_CONFIG = """listen = "127.0.0.1:{port}"
admin = "127.0.0.1:{admin}"
[upstream]
url = "http://127.0.0.1:{upstream}"
[generations]
upgrade = "always"
"""
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_FRAME = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":%b}]}\n\n'
)
_END = _FRAME.replace(b'"delta":%b', b'"delta":{},"finish_reason":"stop"') + b"data: [DONE]\n\n"
_FLOOD_S = 5.0


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def said(text: bytes) -> bytes:
    return _FRAME % (b'{"content":"%b"}' % text)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Be the upstream: of long answers, of one that goes on, of one that waits."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = re.search(rb"(?i)content-length: (\d+)", head)
            body = await reader.readexactly(int(length[1]) if length else 0)
            writer.write(_HEAD)
            while b"endless" in body:
                writer.write(chunk(said(b"x")))
                await asyncio.sleep(0.05)
            if b"long" in body:
                writer.write(chunk(said(b"x" * 300) * 1200))
            if b"wait" in body:
                await asyncio.sleep(_FLOOD_S)
            writer.write(chunk(said(b"x")) + chunk(_END) + b"0\r\n\r\n")
            await writer.drain()
    except (OSError, asyncio.IncompleteReadError, RuntimeError, asyncio.CancelledError):
        writer.close()  # also at the end of a measurement, which cancels it


def request(line: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"{line} HTTP/1.1", "Host: x", "Authorization: Bearer k", *headers]
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([*lines, "", ""]).encode() + body


def ask(body: bytes, *headers: str) -> bytes:
    return request("POST /v1/chat/completions", "Stream-Retain: 60", *headers, body=body)


def streamed(what: bytes) -> bytes:
    return b'{"model":"m","stream":true,"messages":[{"role":"user","content":"%b"}]}' % what


class Tee:
    """The proxy of a measurement."""

    def __init__(self, port: int, admin: int, process: "subprocess.Popen[bytes]", answers: int) -> None:
        self.port = port
        self.admin = admin
        self._process = process
        self._answers = answers

    def held_ms(self) -> float:
        """Return for how long the loop was held since the last time."""
        assert self._process.stdin is not None
        self._process.stdin.write(b".")
        self._process.stdin.flush()
        return float(os.read(self._answers, 100))

    async def begin(self, body: bytes) -> tuple[str, asyncio.StreamReader, asyncio.StreamWriter]:
        """Ask for a stream; return its id once it has begun."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 24)
        writer.write(ask(body))
        head = await reader.readuntil(b"\r\n\r\n")
        return re.findall(rb"(?i)stream-id: (\S+)", head)[0].decode(), reader, writer

    async def flood(self, first: bytes, data: bytes) -> None:
        """Send the same again and again, as fast as it is taken."""
        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(first)
        until = time.monotonic() + _FLOOD_S
        try:
            while time.monotonic() < until:
                writer.write(data)
                await asyncio.wait_for(writer.drain(), until - time.monotonic())
        except (OSError, TimeoutError):
            pass
        writer.transport.abort()

    async def come(self, data: bytes, count: int, end: bytes, *, body: bool = True) -> None:
        """Be so many clients at once, each until it has read the end of its answer."""

        async def one() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 24)
            writer.write(data)
            tail = b""
            while end not in tail and (more := await reader.read(1 << 18)):
                tail = (tail if body else b"")[-200:] + more
            writer.transport.abort()

        await asyncio.gather(*[one() for _ in range(count)])


@asynccontextmanager
async def proxy() -> AsyncIterator[Tee]:
    """Run a proxy with a meter, and its upstream."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        port, admin = one.getsockname()[1], other.getsockname()[1]
    upstream = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=4096)
    answers, theirs = os.pipe()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "streamtee.toml"
        config.write_text(_CONFIG.format(port=port, admin=admin, upstream=upstream.sockets[0].getsockname()[1]))
        process = _started(config, theirs)
        os.close(theirs)
        try:
            await _wait_listening(port)
            yield Tee(port, admin, process, answers)
        finally:
            process.kill()
            process.wait()
            upstream.close()


def _started(config: Path, answers: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "tests.bench.turns", "serve", "--config", str(config)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        pass_fds=[answers], env={**os.environ, "TURNS_FD": str(answers)},
    )  # fmt: skip


async def _wait_listening(port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        except OSError:
            await asyncio.sleep(0.1)


async def _followed(tee: Tee, opcode: int, payload: bytes) -> None:
    ident, _, writer = await tee.begin(streamed(b"endless"))
    await tee.flood(request(f"GET /v1/streams/{ident}", *ASK), masked(opcode, payload) * 20_000)
    writer.transport.abort()


async def _joined(tee: Tee, query: str, count: int) -> None:
    ident, reader, writer = await tee.begin(streamed(b"long"))
    while b"[DONE]" not in await reader.read(1 << 18):
        pass
    end = b"]}" if "json" in query else b"0\r\n\r\n"
    await tee.come(request(f"GET /v1/streams/{ident}?{query}"), count, end)
    writer.transport.abort()


async def _many_values(tee: Tee) -> None:
    body = b'{"model":"m","messages":[%b]}' % b",".join([b'{"a":[]}'] * 3_000_000)
    await tee.come(ask(body), 1, b"too_large")


def _joins(mode: str) -> Callable[[Tee], Awaitable[None]]:
    return lambda tee: _joined(tee, f"mode={mode}", 2000)


FLOODS: dict[str, Callable[[Tee], Awaitable[None]]] = {
    "WebSocket: empty pings": lambda tee: _followed(tee, PING, b""),
    "WebSocket: texts of one letter": lambda tee: _followed(tee, TEXT, b"a"),
    "pipelined requests": lambda tee: tee.flood(b"", request("GET /v1/streams") * 2000),
    "chunks of one byte": lambda tee: tee.flood(
        request("POST /v1/files", "Transfer-Encoding: chunked"), b"1\r\nx\r\n" * 20_000
    ),
    **{f"2,000 join 400 kB, mode {mode}": _joins(mode) for mode in ("raw", "events", "coalesced", "text", "json")},
    "3,000 connect and ask for health": lambda tee: tee.come(request("GET /healthz"), 3000, b"ok"),
    "3,000 ask for streams": lambda tee: tee.come(ask(streamed(b"short")), 3000, b"0\r\n\r\n"),
    "3,000 share a call, and its document": lambda tee: tee.come(
        ask(streamed(b"long wait"), "Idempotency-Key: k", "Stream-Mode: json"), 3000, b"]}"
    ),
    "a body of 27 MB with 6 million values": _many_values,
}


@asynccontextmanager
async def _probed(tee: Tee) -> AsyncIterator[list[str]]:
    """Have a `probe` ask meanwhile; its findings are in the list afterwards."""
    pipe = asyncio.subprocess.PIPE
    probe = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.probe", str(tee.port), str(tee.admin), cwd=ROOT, stdin=pipe, stdout=pipe
    )
    await asyncio.sleep(0.5)
    slowest: list[str] = []
    yield slowest
    printed, _ = await probe.communicate(b"")
    slowest += printed.decode().split()


async def measure(name: str) -> str:
    """Flood a new proxy; return what came of it."""
    async with proxy() as tee:
        await asyncio.sleep(0.5)  # what its start takes is no flood
        tee.held_ms()
        async with _probed(tee) as slowest:
            await FLOODS[name](tee)
        return f"| {name} | {tee.held_ms():.0f} | {' | '.join(slowest)} |"


@click.command()
@click.argument("names", nargs=-1)
def main(names: tuple[str, ...]) -> None:
    """Print a row for each flood, or for those whose name begins with one of NAMES."""
    allow_many_files()
    click.echo("| flood | loop held, ms of CPU | health, ms | metrics, ms |\n| --- | ---: | ---: | ---: |")
    for name in FLOODS:
        if not names or name.startswith(names):
            click.echo(uvloop.run(measure(name)))


if __name__ == "__main__":
    main()
