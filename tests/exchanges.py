"""Requests on a pool of connections, and a receiver that keeps what it is given of a response."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from proxy.upstream.exchange import Exchange, Timeouts
from proxy.upstream.pool import ConnectionPool
from proxy.wire.errors import UpstreamError
from proxy.wire.http import Headers
from tests.complaints import no_complaints
from tests.event_loops import GUARD_S, until
from tests.stage import Turn

NO_LIMITS = Timeouts(connect_s=0, first_byte_s=0, idle_s=0, total_s=0)
GET: tuple[bytes, bytes, Headers] = (b"GET", b"/x", [])


class Listener:
    """A receiver that keeps what it is given, and holds its exchange to the Receiver protocol."""

    def __init__(self) -> None:
        self.body = b""
        self.error: UpstreamError | None = None
        self.over = asyncio.Event()
        self.times: list[float] = []

    def received(self, data: bytes, at: float) -> None:
        assert not self.over.is_set(), "received after the end"
        assert data, "received nothing"
        self.body += data
        self.times.append(at)

    def ended(self, data: bytes, at: float, error: UpstreamError | None) -> None:
        assert not self.over.is_set(), "ended twice"
        self.body += data
        self.error = error
        self.times.append(at)
        self.over.set()

    def failed(self, fault: Exception) -> None:
        raise fault  # what does not hold is the test's failure

    async def wait(self) -> None:
        async with asyncio.timeout(GUARD_S):
            await self.over.wait()
        assert self.times == sorted(self.times)

    async def bytes(self, count: int) -> bytes:
        await until(lambda: len(self.body) >= count)
        return self.body


@asynccontextmanager
async def upstream(url: str, timeouts: Timeouts = NO_LIMITS, **more: Any) -> AsyncIterator[ConnectionPool]:
    """Open the way to an upstream; see afterwards that nothing of it is left."""
    with no_complaints():
        one = ConnectionPool(url, timeouts, **more)
        try:
            yield one
        finally:
            await one.close()
        assert not one.active
        assert one.idle == 0


def opening(up: ConnectionPool, method: bytes = b"GET", *more: Any, **named: Any) -> "asyncio.Task[Exchange]":
    """Begin a request."""
    return asyncio.create_task(up.open(method, b"/x", [], *more, **named))


async def listened(exchange: Exchange) -> Listener:
    """Hear a response to its end."""
    listener = Listener()
    exchange.attach(listener)
    await listener.wait()
    return listener


def whole(data: bytes) -> list[bytes]:
    return [data]


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


CUTS = pytest.mark.parametrize("cut", [whole, bytewise])


async def say(turn: Turn, pieces: Iterable[bytes]) -> None:
    """Write pieces, each to be read by itself."""
    for piece in pieces:
        await turn.pour(piece)


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece
