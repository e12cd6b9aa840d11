"""Where a port listens: how many connections are accepted at once."""

import asyncio
import socket
from itertools import pairwise

import pytest

from proxy.downstream import site
from tests.event_loops import on_each_loop, until
from tests.http_client import Client, request
from tests.proxy_under_test import teed

COUNT, AT_ONCE = 50, 16


@pytest.fixture
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "AT_ONCE", AT_ONCE)


def connections(url: str, count: int) -> list[socket.socket]:
    """Connect so often before the event loop has a turn: the kernel does so, without the server."""
    host, port = url.removeprefix("http://").split(":")
    return [socket.create_connection((host, int(port))) for _ in range(count)]


@on_each_loop
async def test_burst_of_connections_is_accepted_in_slices(few_at_once: None) -> None:
    """Neither one in each turn of the event loop, nor all in one; each is served, and its client is known."""
    async with teed("http://127.0.0.1:9") as tee:
        opened = tee.proxy.clients.open
        sockets = connections(tee.proxy.url, COUNT)
        counts = [0]
        while counts[-1] < COUNT:
            await asyncio.sleep(0)
            counts.append(len(opened))
        most = max(after - before for before, after in pairwise(counts))
        assert 1 < most <= AT_ONCE
        peers = {one.peer.get_extra_info("peername") for one in opened}  # type: ignore[attr-defined]
        assert peers == {one.getsockname() for one in sockets}
        for one in sockets:
            one.setblocking(False)
            _, client = await asyncio.get_running_loop().create_connection(Client, sock=one)
            client.send(request("GET", "/healthz"))
            assert (await client.answer()).status == 200
            client.transport.abort()
        await until(lambda: not opened)


@on_each_loop
async def test_connection_that_is_lost_at_once_does_not_matter(few_at_once: None) -> None:
    """Those that are reset before they are accepted leave nothing behind, nor in the log."""
    async with teed("http://127.0.0.1:9") as tee:
        for one in connections(tee.proxy.url, COUNT):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            one.close()
        assert (await tee.ask("GET", "/healthz")).status == 200
        await until(lambda: len(tee.proxy.clients.open) == 1)


@on_each_loop
async def test_port_that_was_closed_refuses_connections() -> None:
    """No duplicate of its socket goes on listening."""
    async with teed("http://127.0.0.1:9") as tee:
        url = tee.proxy.url
    with pytest.raises(ConnectionRefusedError):
        connections(url, 1)
