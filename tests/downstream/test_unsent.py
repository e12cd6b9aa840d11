"""How much of what was written the system still holds, on real sockets."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from proxy.downstream.unsent import unsent_in_kernel
from tests.event_loops import until


class Sending(asyncio.Protocol):
    """The side that writes; it is told nothing."""


@pytest.fixture
async def connected() -> AsyncIterator[tuple[asyncio.Transport, socket.socket]]:
    """A transport, and the socket at its other end, which nobody reads unless the test does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        transport, _ = await asyncio.get_running_loop().create_connection(Sending, *server.getsockname())
        other, _ = server.accept()
        with other:
            other.setblocking(False)
            try:
                yield transport, other
            finally:
                transport.abort()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
async def test_bytes_that_the_client_has_not_taken_are_unsent(
    connected: tuple[asyncio.Transport, socket.socket],
) -> None:
    """None before, some while it does not read, none again when it has read all."""
    transport, other = connected
    assert unsent_in_kernel(transport) == 0
    written = 16 << 20
    transport.write(bytes(written))
    assert 0 < unsent_in_kernel(transport) <= written
    received = 0

    def all_taken() -> bool:
        nonlocal received
        with suppress(BlockingIOError):
            received += len(other.recv(1 << 20))
        return received == written

    await until(all_taken)
    await until(lambda: unsent_in_kernel(transport) == 0)


async def test_nothing_is_told_of_a_connection_that_is_closed(
    connected: tuple[asyncio.Transport, socket.socket],
) -> None:
    """And it is no error: the metrics may ask at any time."""
    transport, _ = connected
    transport.write(bytes(1 << 20))
    transport.abort()
    await asyncio.sleep(0)
    assert unsent_in_kernel(transport) == 0


def test_nothing_is_told_of_a_transport_without_a_socket() -> None:
    """As that of a test, or of another kind of connection."""
    assert unsent_in_kernel(asyncio.Transport()) == 0
