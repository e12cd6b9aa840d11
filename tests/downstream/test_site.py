"""Where a port listens: how many connections are accepted at once."""

import asyncio
import os
import socket
import ssl
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from proxy.downstream import site
from proxy.downstream.connection import Connection
from proxy.downstream.listener import Listener
from tests.certificates import self_signed
from tests.downstream.ports import Port
from tests.event_loops import GUARD_S, on_each_loop, until
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


def options(connection: Any) -> tuple[bool, bool]:
    """Return whether a client's socket sends small writes at once, and whether the system asks if it is there."""
    there = connection.peer.get_extra_info("socket")
    return (
        bool(there.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)),
        bool(there.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)),
    )


async def hello(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(text="hello")


async def read(client: socket.socket) -> bytes:
    """Return what comes first, or nothing at the end, be it a reset; close."""
    client.setblocking(False)
    with client:
        try:
            return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 4096), GUARD_S / 10)
        except ConnectionResetError:
            return b""


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


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
@on_each_loop
async def test_sockets_of_clients_send_at_once_and_notice_who_is_gone(few_at_once: None, host: str) -> None:
    """Whether the event loop or the site has accepted them; read from the sockets, since nobody sets it for each."""
    async with teed("http://127.0.0.1:9", listen=f"{host}:0") as tee:
        opened = tee.proxy.clients.open
        port = int(tee.proxy.url.rpartition(":")[2])
        sockets = [socket.create_connection((host.strip("[]"), port)) for _ in range(3)]
        await until(lambda: len(opened) == 3)
        assert [options(one) for one in opened] == [(True, True)] * 3
        for each in sockets:
            each.close()
        await until(lambda: not opened)


@on_each_loop
async def test_sockets_of_clients_by_tls_have_the_same_options(tmp_path: Path) -> None:
    """Their port is listened at in another way."""
    certificate = self_signed(tmp_path, "localhost")
    trusts = ssl.create_default_context(cafile=str(certificate))
    async with teed("http://127.0.0.1:9", tls={"certificate": str(certificate)}) as tee:
        port = int(tee.proxy.url.rpartition(":")[2])
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusts, server_hostname="localhost")
        await until(lambda: bool(tee.proxy.clients.open))
        assert [options(one) for one in tee.proxy.clients.open] == [(True, True)]
        writer.transport.abort()
        await until(lambda: not tee.proxy.clients.open)


@on_each_loop
async def test_descriptors_of_a_burst_are_closed_once(few_at_once: None) -> None:
    """As many are open afterwards as before, by whomever the connections were accepted."""
    async with teed("http://127.0.0.1:9") as tee:
        opened = tee.proxy.clients.open
        before = len(os.listdir("/dev/fd"))
        sockets = connections(tee.proxy.url, COUNT)
        await until(lambda: len(opened) == COUNT)
        assert len(os.listdir("/dev/fd")) == before + 2 * COUNT
        for one in sockets:
            one.close()
        await until(lambda: not opened)
        await until(lambda: len(os.listdir("/dev/fd")) == before)


@on_each_loop
async def test_connections_that_can_not_be_begun_are_closed_and_the_next_is_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The port goes on listening, and each fault is reported."""
    listener, faults = Port(hello, Connection, 1).listener, []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(str(context["exception"])))
    unwilling = iter([True, True])

    def connection(self: Listener) -> Connection:
        if next(unwilling, False):
            raise ValueError("unwilling")
        return begun(self)

    begun = Listener.__call__
    monkeypatch.setattr(Listener, "__call__", connection)
    runner = web.ServerRunner(listener)
    await runner.setup()
    await site.Site(runner, host="127.0.0.1", port=0).start()
    try:
        sockets = connections("http://{}:{}".format(*runner.addresses[0]), 3)
        await until(lambda: len(listener.clients.open) == 1)
        for each in sockets:
            each.sendall(request("GET", "/", "Connection: close"))
        answers = [await read(each) for each in sockets]
        assert sorted(answer[:12] for answer in answers) == [b"", b"", b"HTTP/1.1 200"]
        assert faults == ["unwilling", "unwilling"]
    finally:
        await runner.cleanup()


@on_each_loop
async def test_port_that_was_closed_refuses_connections() -> None:
    """No duplicate of its socket goes on listening."""
    async with teed("http://127.0.0.1:9") as tee:
        url = tee.proxy.url
    with pytest.raises(ConnectionRefusedError):
        connections(url, 1)


async def listening_at(sock: socket.socket) -> web.ServerRunner:
    """Serve at a duplicate of a socket, as each worker does at that of its supervisor."""
    runner = web.ServerRunner(Port(hello, Connection, 1).listener)
    await runner.setup()
    await site.Site(runner, sock=sock.dup()).start()
    return runner


@pytest.mark.parametrize("turns", range(9))
@on_each_loop
async def test_connections_that_come_while_a_port_closes_are_served(few_at_once: None, turns: int) -> None:
    """By it, or by who listens at its socket next: workers are replaced so. However far the accepting had come."""
    with socket.create_server(("127.0.0.1", 0), backlog=COUNT) as listens:
        old = await listening_at(listens)
        sockets = [socket.create_connection(listens.getsockname()) for _ in range(COUNT)]
        for each in sockets:
            each.sendall(request("GET", "/", "Connection: close"))
        for _ in range(turns):
            await asyncio.sleep(0)
        for one in old.sites:
            await one.stop()
        new = await listening_at(listens)
        try:
            assert {(await read(each))[:12] for each in sockets} == {b"HTTP/1.1 200"}
        finally:
            await old.cleanup()
            await new.cleanup()


@on_each_loop
async def test_client_that_connects_when_a_port_begins_to_listen_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others wait there already, as in a reload. Were the queue shorter for a moment, it would try again after 1 s."""
    queue, late, outcomes = site._Queue, socket.socket(), []

    def queued(listening: socket.socket, loop: asyncio.AbstractEventLoop) -> Any:
        late.settimeout(0.5)
        outcomes.append(late.connect_ex(listening.getsockname()))
        return queue(listening, loop)

    monkeypatch.setattr(site, "_Queue", queued)
    with socket.create_server(("127.0.0.1", 0), backlog=COUNT) as listens:
        sockets = [socket.create_connection(listens.getsockname()) for _ in range(5)]
        runner = await listening_at(listens)
        try:
            assert outcomes == [0]
            for each in (*sockets, late):
                each.sendall(request("GET", "/", "Connection: close"))
            assert {(await read(each))[:12] for each in (*sockets, late)} == {b"HTTP/1.1 200"}
        finally:
            await runner.cleanup()
