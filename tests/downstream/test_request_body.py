"""Bodies of requests: read whole up to a limit, or as they come; counted while they are held, and invited when due."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from proxy.downstream.request_body import LargeBody, arrived_body, invite, read_body, read_body_or_beginning
from proxy.wire.errors import BadRequest, ProxyError, RateLimited, TooLarge
from tests.downstream.ports import Port, port
from tests.event_loops import on_each_loop, until
from tests.http_client import request

BODY = b"0123456789" * 10


def chunked(*pieces: bytes, ended: bool = True) -> bytes:
    """Return a request whose body comes in these chunks."""
    last = b"0\r\n\r\n" if ended else b""
    return request("POST", "/", "Transfer-Encoding: chunked") + b"".join(
        b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces
    ) + last  # fmt: skip


class Reading:
    """What a handler has read of bodies, in order."""

    def __init__(self, one: Port, results: list[Any]) -> None:
        self.port = one
        self.results = results

    @property
    def held_bytes(self) -> int:
        """How many bytes of bodies count as held now."""
        return self.port.connections.body_bytes


@asynccontextmanager
async def reading(read: Callable[[web.BaseRequest], Any], **limits: int) -> AsyncIterator[Reading]:
    """Serve a port whose handler reads bodies so, and responds when the client asks for that by leaving."""
    results: list[Any] = []
    left = asyncio.Event()

    async def respond(request: web.BaseRequest) -> web.StreamResponse:
        found = read(request)
        results.append(await found if asyncio.iscoroutine(found) else found)
        await left.wait()
        return web.Response()

    async with port(respond, **limits) as one:
        try:
            yield Reading(one, results)
        finally:
            left.set()


async def refusal(one: Reading, sent: bytes) -> ProxyError:
    """Send a request; return the error that its reader raised."""
    client = await one.port.send(sent)
    await until(lambda: bool(one.port.errors))
    (error,) = one.port.errors
    assert (await client.answer()).status == error.status
    return error


@on_each_loop
async def test_body_that_came_with_its_head_is_taken_and_counted() -> None:
    """Without waiting; one that has not come, or not all of it, is not taken, and a request without one has b""."""
    async with reading(lambda request: arrived_body(request, 1000)) as one:
        for sent in (request("POST", "/", body=BODY), chunked(BODY), request("GET", "/")):
            await one.port.send(sent)
            await until(lambda: one.results.__len__() == len(one.port.clients))
        assert one.results == [BODY, BODY, b""]
        assert one.held_bytes == 2 * len(BODY)
        for sent in (request("POST", "/", body=BODY)[:-1], chunked(BODY, ended=False)):
            await one.port.send(sent)
            await until(lambda: one.results.__len__() == len(one.port.clients))
        assert one.results[3:] == [None, None]
        assert one.held_bytes == 2 * len(BODY)


@on_each_loop
async def test_body_is_read_to_its_end_however_it_comes() -> None:
    """At once or byte by byte; it counts as it comes."""
    async with reading(lambda request: read_body(request, 1000)) as one:
        for sent in (request("POST", "/", body=BODY), chunked(BODY[:7], BODY[7:])):
            client = await one.port.connect()
            for at in range(len(sent)):
                client.transport.write(sent[at : at + 1])
                await asyncio.sleep(0)
            await until(lambda: one.results.__len__() == len(one.port.clients))
        assert one.results == [BODY, BODY]
        assert one.held_bytes == 2 * len(BODY)


@pytest.mark.parametrize("read", [arrived_body, read_body])
@pytest.mark.parametrize("sent", [request("POST", "/", body=BODY), chunked(BODY[:50], BODY[50:])])
@on_each_loop
async def test_body_beyond_its_limit_is_refused_and_not_held(read: Any, sent: bytes) -> None:
    """The error names both numbers; a body of just the limit is read."""
    async with reading(lambda request: read(request, 100)) as one:
        await one.port.send(sent)
        await until(lambda: bool(one.results))
        assert one.results == [BODY]
    async with reading(lambda request: read(request, 99)) as one:
        error = await refusal(one, sent)
        assert isinstance(error, TooLarge)
        assert "100 bytes" in error.message
        assert "99" in error.message
        assert one.held_bytes == 0


@on_each_loop
async def test_body_that_says_that_it_is_too_large_is_not_waited_for() -> None:
    """Its client is told before it has sent any of it."""
    async with reading(lambda request: read_body(request, 99)) as one:
        assert isinstance(await refusal(one, request("POST", "/", "Content-Length: 100")), TooLarge)


@on_each_loop
async def test_body_that_goes_on_beyond_its_limit_is_refused_before_its_end() -> None:
    """In chunks, it may have no end."""
    async with reading(lambda request: read_body(request, 99)) as one:
        assert isinstance(await refusal(one, chunked(BODY, ended=False)), TooLarge)


@pytest.mark.parametrize("read", [arrived_body, read_body])
@on_each_loop
async def test_bodies_of_all_requests_have_a_limit_together(read: Any) -> None:
    """The one that is too much is refused; those before it stay."""
    async with reading(lambda request: read(request, 1000), max_body_bytes=199) as one:
        await one.port.send(request("POST", "/", body=BODY))
        await until(lambda: bool(one.results))
        error = await refusal(one, request("POST", "/", body=BODY))
        assert isinstance(error, RateLimited)
        assert "limits.total_body_bytes" in error.message
        assert one.held_bytes == len(BODY)


@pytest.mark.parametrize(
    ("sent", "allowed"),
    [
        (request("POST", "/", body=BODY), 100),
        (chunked(BODY), 100),
        (request("POST", "/", body=BODY), 5000),
        (request("GET", "/"), 0),
    ],
)
@on_each_loop
async def test_body_that_may_be_held_is_read_whole(sent: bytes, allowed: int) -> None:
    """To the last byte that may be held, also if more is allowed."""
    async with reading(lambda request: read_body_or_beginning(request, 100, allowed)) as one:
        await one.port.send(sent)
        await until(lambda: bool(one.results))
        assert one.results == [BODY if b"POST" in sent else b""]
        assert one.held_bytes == len(one.results[0])


class Large:
    """Reads a large body to its end: what there was of it at first, its pieces, and what was checked with each."""

    def __init__(self, refused: bytes = b"") -> None:
        """`refused` is found by the check."""
        self.beginning = b""
        self.pieces: list[bytes] = []
        self.checked: list[bytes] = []
        self.ended_at = 0.0
        self._refused = refused

    async def __call__(self, request: web.BaseRequest) -> int | None:
        large = await read_body_or_beginning(request, 40, 200)
        assert isinstance(large, LargeBody)
        self.beginning = large.beginning
        large.check = self._check
        async for piece in large:
            self.pieces.append(piece)
            assert large.ended_at == 0
        self.ended_at = large.ended_at
        return large.size_bytes

    def _check(self, piece: bytes) -> None:
        self.checked.append(piece)
        if self._refused and self._refused in piece:
            raise BadRequest("found")

    async def wait_came(self, data: bytes) -> None:
        """Wait until just this has been read."""
        await until(lambda: b"".join(self.pieces) == data)


@pytest.mark.parametrize("framing", ["length", "chunks"])
@on_each_loop
async def test_large_body_is_read_as_it_comes(framing: str) -> None:
    """It begins with what had come, and is not counted as held; its end has a time."""
    large, first = Large(), BODY[:60]
    async with reading(large) as one:
        if framing == "length":
            client = await one.port.send(request("POST", "/", "Content-Length: 100") + first)
        else:
            client = await one.port.send(chunked(first, ended=False))
        await large.wait_came(first)
        assert large.beginning == first
        for end in (80, 100):
            piece = BODY[end - 20 : end]
            client.transport.write(piece if framing == "length" else b"14\r\n%b\r\n" % piece)
            await large.wait_came(BODY[:end])
        if framing == "chunks":
            assert large.ended_at == 0
            client.transport.write(b"0\r\n\r\n")
        await until(lambda: bool(one.results))
        assert one.results == [100 if framing == "length" else None]
        assert large.ended_at > 0
        assert one.held_bytes == 0


@on_each_loop
async def test_large_body_that_goes_on_beyond_its_limit_breaks_off() -> None:
    """What was sent on before is not the whole body, and its reader learns that."""
    async with reading(Large()) as one:
        error = await refusal(one, chunked(BODY, BODY, b"1", ended=False))
        assert isinstance(error, TooLarge)
        assert "200" in error.message


@on_each_loop
async def test_check_of_a_large_body_is_given_each_piece_before_it_goes_up() -> None:
    """Once, in their order; what it raises ends the request. It remembers itself what may stand across two pieces."""
    large = Large(refused=b"secret")
    async with reading(large) as one:
        client = await one.port.send(chunked(BODY, ended=False))
        await large.wait_came(BODY)
        client.transport.write(b"6\r\nsecret\r\n")
        await until(lambda: bool(one.port.errors))
        assert one.port.errors[0].message == "found"
        assert large.checked == [BODY, b"secret"]


@pytest.mark.parametrize("read", [invite, lambda request: read_body(request, 1000)])
@on_each_loop
async def test_client_that_waits_with_its_body_is_invited(read: Any) -> None:
    """By an interim response, and only one whose body is yet to come (RFC 9110 section 10.1.1)."""
    async with reading(read) as one:
        client = await one.port.send(request("POST", "/", "Expect: 100-Continue", "Content-Length: 100"))
        await client.wait_bytes(lambda buffer: b"\r\n\r\n" in buffer)
        assert client.buffer == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.transport.write(BODY)
        other = await one.port.send(request("POST", "/", "Expect: 100-continue", body=BODY))
        await until(lambda: one.results.__len__() == 2)
        assert not other.buffer
