"""The way down, on aiohttp's server, to clients that see every byte."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple

import pytest
from aiohttp import web

from proxy.downstream.response import EXTRA, Downstream
from tests.event_loops import GUARD_S, on_each_loop, until
from tests.http_client import Client, request
from tests.served import Served, running

Play = Callable[[Downstream], Awaitable[None]]
LAST_CHUNK = b"0\r\n\r\n"


class Piece(NamedTuple):
    """Bytes, plain and as one chunk."""

    plain: bytes
    chunked: bytes


def piece(data: bytes) -> Piece:
    return Piece(data, b"%x\r\n%b\r\n" % (len(data), data))


class Played(Served[Downstream]):
    """A server of responses with this status, whose requests have these extra lines noted on them."""

    def __init__(self) -> None:
        super().__init__()
        self.status = 200
        self.extra: list[tuple[bytes, bytes]] | None = None

    def begin(self, request: web.BaseRequest) -> Downstream:
        if self.extra is not None:
            request[EXTRA] = self.extra
        return Downstream(request, self.status)

    async def ask(self, *headers: str, version: str = "1.1", receive_bytes: int = 0) -> tuple[Client, Downstream]:
        """Have a client ask; return it with the response that is to be played."""
        client = await self.connect(receive_bytes=receive_bytes)
        return client, await self.again(client, *headers, version=version)

    async def again(self, client: Client, *headers: str, version: str = "1.1") -> Downstream:
        """Have it ask once more."""
        return await self.send(client, request("GET", "/", *headers, version=version))


def served() -> AbstractAsyncContextManager[Played]:
    return running(Played())


# Heads.


@pytest.mark.parametrize(
    ("version", "asked", "framed", "added", "stays"),
    [
        ("1.1", (), False, [b"Transfer-Encoding: chunked"], True),
        ("1.1", (), True, [], True),
        ("1.1", ("Connection: close",), False, [b"Transfer-Encoding: chunked"], False),
        ("1.1", ("Connection: close",), True, [b"Connection: close"], False),
        ("1.0", (), False, [b"Connection: close"], False),
        ("1.0", (), True, [b"Connection: close"], False),
        ("1.0", ("Connection: keep-alive",), False, [b"Connection: close"], False),
        ("1.0", ("Connection: keep-alive",), True, [b"Connection: keep-alive"], True),
    ],
)
@on_each_loop
async def test_head_says_how_the_body_ends(
    version: str, asked: tuple[str, ...], framed: bool, added: list[bytes], stays: bool
) -> None:
    """Chunks for HTTP/1.1 unless a length is given; the connection's end for HTTP/1.0; then it does what it says."""
    async with served() as one:
        client, down = await one.ask(*asked, version=version)
        length = [(b"Content-Length", b"5")] if framed else []
        down.start(b"OK", [(b"X-A", b"b"), *length], framed=framed)
        assert down.write(piece(b"hel"))
        down.close(b"lo")
        answer = await client.answer()
        given = [b"X-A: b", *([b"Content-Length: 5"] if framed else [])]
        assert answer.head == b"\r\n".join([b"HTTP/1.1 200 OK", *given, *added, b"", b""])
        assert await answer.read() == b"hello"
        if stays:
            again = await one.again(client, *asked, version=version)
            again.start(b"OK", [(b"Content-Length", b"0")], framed=True)
            again.close(b"")
            assert (await client.answer()).status == 200
        else:
            assert await client.wait_gone() == "fin"


@on_each_loop
async def test_head_is_the_bytes_it_is_given() -> None:
    """Status, reason, names and values are not looked into."""
    async with served() as one:
        one.status = 299
        client, down = await one.ask()
        down.start(b"Quite \xe9", [(b"x-latin", b"caf\xe9"), (b"Set-Cookie", b"a"), (b"set-cookie", b"b")])
        down.close(b"")
        answer = await client.answer()
        assert answer.head == (
            b"HTTP/1.1 299 Quite \xe9\r\nx-latin: caf\xe9\r\nSet-Cookie: a\r\nset-cookie: b\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        assert await answer.read() == b""


@on_each_loop
async def test_head_does_not_wait_for_a_body() -> None:
    """Flushed, it is there before any of it; flushing twice sends it once."""
    async with served() as one:
        client, down = await one.ask()
        down.start(b"OK", [])
        down.flush()
        down.flush()
        answer = await client.answer()
        assert client.buffer == b""
        down.close(b"x")
        assert await answer.read() == b"x"


@pytest.mark.parametrize("extra", [[(b"Vary", b"Origin"), (b"Access-Control-Allow-Origin", b"*")], []])
@on_each_loop
async def test_extra_lines_of_the_request_stand_for_the_access_control_given(extra: list[tuple[bytes, bytes]]) -> None:
    """Whatever the upstream says of it; its other lines stay."""
    async with served() as one:
        one.extra = extra
        client, down = await one.ask()
        upstreams = [(b"X-A", b"b"), (b"ACCESS-CONTROL-ALLOW-ORIGIN", b"x"), (b"access-control-max-age", b"1")]
        down.start(b"OK", [*upstreams, (b"Vary", b"Accept")])
        down.close(b"")
        answer = await client.answer()
        assert answer.headers == [(b"X-A", b"b"), (b"Vary", b"Accept"), *extra, (b"Transfer-Encoding", b"chunked")]
        assert await answer.read() == b""


# Bodies.


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@on_each_loop
async def test_body_is_what_was_written(version: str) -> None:
    """Spans and bytes of its own, in their order; nothing is not a chunk, which would end the body."""
    async with served() as one:
        client, down = await one.ask(version=version)
        down.start(b"OK", [])
        assert down.write(piece(b"one,"))
        down.write_data(b"two,")
        down.write_data(b"")
        assert down.writable
        assert down.write(piece(b"three,"))
        down.close(b"four")
        answer = await client.answer()
        assert await answer.read() == b"one,two,three,four"
        assert answer.end == "whole"
        await until(lambda: one.outcomes == ["ended"])


@pytest.mark.parametrize(("version", "chunked"), [("1.1", True), ("1.0", False)])
@on_each_loop
async def test_transport_is_there_while_it_takes_what_write_would_send(version: str, chunked: bool) -> None:
    """From when the head has left until the response has ended: then another's may follow."""
    async with served() as one:
        client, down = await one.ask(version=version)
        down.start(b"OK", [])
        assert down.transport() is None
        first, second = piece(b"first"), piece(b"second")
        assert down.write(first)
        found = down.transport()
        assert found is not None
        transport, as_chunks = found
        assert as_chunks == chunked
        transport.write(second.chunked if as_chunks else second.plain)
        down.close(b"")
        assert down.transport() is None
        assert await (await client.answer()).read() == b"firstsecond"


@on_each_loop
async def test_last_bytes_and_the_end_are_one_write() -> None:
    """A client that closes right after the last event has been sent the end, too."""
    async with served() as one:
        client, down = await one.ask()
        down.start(b"OK", [])
        down.flush()
        await client.answer()
        down.close(b"data: [DONE]\n\n")
        await client.wait_bytes(bool)
        assert client.take(100) == piece(b"data: [DONE]\n\n").chunked + LAST_CHUNK


@pytest.mark.parametrize(
    ("version", "framed", "ends"),
    [("1.1", False, {"cut"}), ("1.1", True, {"cut", "reset"}), ("1.0", False, {"reset"})],
)
@pytest.mark.parametrize("written", [b"", b"some"])
@pytest.mark.parametrize("last", [b"", b"last"])
@on_each_loop
async def test_abort_can_not_be_taken_for_an_end(
    version: str, framed: bool, ends: set[str], written: bytes, last: bytes
) -> None:
    """The head and all bytes are there; the end chunk is not, or the connection is reset."""
    async with served() as one:
        client, down = await one.ask(version=version)
        down.start(b"OK", [(b"Content-Length", b"100")] if framed else [], framed=framed)
        if written:
            assert down.write(piece(written))
            await client.wait_bytes(lambda buffer: written in buffer)
        down.abort(last)
        await client.wait_gone()
        assert {"fin": "cut", "reset": "reset"}[client.gone] in ends
        if client.buffer or client.gone == "fin":  # a reset may overtake what was sent right before it
            answer = await client.answer()
            body = await answer.read()
            assert answer.end in ends
            assert (written + last).startswith(body)
            assert body.startswith(written)
            if answer.end == "cut":
                assert body == written + last


# Back-pressure.


@on_each_loop
async def test_abort_of_a_full_sink_resets() -> None:
    """Waiting for a client that does not read would not end."""
    async with served() as one:
        client, down = await one.ask(receive_bytes=4096)
        client.stall()
        down.start(b"OK", [])
        while down.write(piece(bytes(65536))):
            pass
        down.abort(b"")
        await until(lambda: one.outcomes != [])
        client.read_on()
        assert await client.wait_gone() == "reset"


# Leaving.


@pytest.mark.parametrize("when", ["waiting", "writing", "full"])
@on_each_loop
async def test_client_that_leaves_ends_the_wait(when: str) -> None:
    """Whatever the feeder was at; what it does afterwards is no harm."""
    async with served() as one:
        client, down = await one.ask(receive_bytes=4096)
        down.start(b"OK", [])
        down.flush()
        if when == "writing":
            assert down.write(piece(b"x"))
        elif when == "full":
            client.stall()
            while down.write(piece(bytes(65536))):
                pass
            down.on_writable(lambda: None)
        client.transport.abort()
        await until(lambda: one.outcomes == ["left"])
        down.write(piece(b"x"))
        down.write_data(b"x")
        down.flush()
        down.on_writable(lambda: None)
        down.close(b"x")


@on_each_loop
async def test_pipelined_requests_are_answered_one_after_another() -> None:
    """The second response begins when the first has ended."""
    async with served() as one:
        client, first = await one.ask()
        one.arrived.clear()
        client.send(request("GET", "/second"))
        first.start(b"OK", [])
        assert first.write(piece(b"first"))
        answer = await client.answer()
        await answer.bytes(5)
        assert not one.arrived.is_set()
        first.close(b"")
        async with asyncio.timeout(GUARD_S):
            await one.arrived.wait()
        assert one.down is not first
        one.down.start(b"OK", [])
        one.down.close(b"second")
        assert await answer.read() == b"first"
        assert await (await client.answer()).read() == b"second"
