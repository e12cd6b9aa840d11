"""The servers of the two ports: where they listen, what they accept, and what is logged of malformed requests."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from proxy.access.settings import TlsConfig
from proxy.downstream.client_connections import ClientConnections, ClientTimeouts
from proxy.downstream.connection import ERROR_TO_SEND, Connection
from proxy.downstream.descriptors import Descriptors
from proxy.downstream.movable import MovableConnection
from proxy.server.ports import Ports, port_tls
from proxy.stream.turns import Turns
from proxy.wire.errors import ProxyError
from tests.certificates import Authority
from tests.fakes import FakeLoop
from tests.http_client import Client, request
from tests.proxy_under_test import configured


class Unparsed:
    """Stands in for the routes: how they respond to what can't be parsed."""

    def refuse_unparsed(self, method: str, target: str, error: ProxyError) -> bytes:
        return error.code.encode()


ROUTES: Any = Unparsed()


async def hello(request: web.BaseRequest) -> web.StreamResponse:
    """Say which class its connection has, unless there is an error to send."""
    error = request.get(ERROR_TO_SEND)
    return web.Response(text=type(request.protocol).__name__, status=200 if error is None else error.status)


@asynccontextmanager
async def ports(**tables: Any) -> AsyncIterator[Ports]:
    """Make the ports of a configuration; close them afterwards."""
    loop = FakeLoop()
    clients = ClientConnections(
        ClientTimeouts(), Descriptors(1 << 20), max_body_bytes=1 << 20, max_pending_bytes=1 << 20
    )
    made = Ports(
        configured("http://upstream.test", **tables), clients, Turns(loop.call_soon, loop.time), MovableConnection
    )
    try:
        yield made
    finally:
        await made.close()


async def said(url: str, sent: bytes, **how: Any) -> tuple[int, bytes]:
    """Send a request; return the status and the body of the response."""
    client = await Client.connect(url, **how)
    client.send(sent)
    answer = await client.answer()
    body = await answer.read()
    await client.leave()
    return answer.status, body


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "0.0.0.0"])
async def test_url_has_the_host_as_it_is_configured_and_the_port_that_is_listened_on(host: str) -> None:
    """An IPv6 address in brackets; port 0 is a free one."""
    async with ports(listen=f"{host}:0") as both:
        runner = await both.server(hello, ROUTES, f"{host}:0", is_admin=False)
        url, _ = await both.listen(runner, None)
        name, _, port = url.rpartition(":")
        assert (name, int(port) > 0) == (f"http://{host}", True)
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        writer.write(request("GET", "/", "Connection: close"))
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def test_socket_that_listens_already_is_served() -> None:
    """As systemd hands it over; its port is told."""
    async with ports() as both:
        listening = socket.create_server(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        runner = await both.server(hello, ROUTES, "127.0.0.1:0", is_admin=False)
        url, _ = await both.listen(runner, listening)
        assert url.endswith(f":{port}")
        assert (await said(url, request("GET", "/")))[0] == 200


async def test_connections_of_the_admin_port_do_not_move() -> None:
    """Whatever those of the data port are."""
    async with ports() as both:
        data = await both.server(hello, ROUTES, "127.0.0.1:0", is_admin=False)
        admin = await both.server(hello, ROUTES, "127.0.0.1:0", is_admin=True)
        url, _ = await both.listen(data, None)
        assert await said(url, request("GET", "/")) == (200, MovableConnection.__name__.encode())
        url = await both.listen_as_admin(admin, None)
        assert await said(url, request("GET", "/")) == (200, Connection.__name__.encode())
        assert len(both.listeners) == 2


async def test_unix_socket_is_served_too(tmp_path: Path) -> None:
    """Where other workers ask."""
    path = str(tmp_path / "socket")
    async with ports() as both:
        await both.listen_at(await both.server(hello, ROUTES, "127.0.0.1:0", is_admin=False), path)
        reader, writer = await _connected(path)
        writer.write(request("GET", "/", "Connection: close"))
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def _connected(path: str) -> Any:
    return await asyncio.open_unix_connection(path)


async def test_address_that_is_taken_is_an_error() -> None:
    """Nothing is served then."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        async with ports(listen=where) as both:
            runner = await both.server(hello, ROUTES, where, is_admin=False)
            with pytest.raises(OSError, match="address already in use"):
                await both.listen(runner, None)


async def test_malformed_request_is_refused_and_its_headers_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """They may hold a key."""
    with caplog.at_level(logging.DEBUG):
        async with ports() as both:
            runner = await both.server(hello, ROUTES, "127.0.0.1:0", is_admin=False)
            url, _ = await both.listen(runner, None)
            status, _ = await said(url, b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization sk-secret\r\n\r\n")
    assert status == 400
    assert "sk-secret" not in caplog.text


async def test_host_that_is_not_served_on_loopback_is_refused() -> None:
    """By the address that the server is made for."""
    async with ports(hosts=["proxy.example"]) as both:
        runner = await both.server(hello, ROUTES, "127.0.0.1:0", is_admin=False)
        url, _ = await both.listen(runner, None)
        for host, status in (("proxy.example", 200), ("localhost", 200), ("evil.example", 421)):
            sent = b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host.encode()
            assert (await said(url, sent))[0] == status


def test_port_without_a_certificate_has_no_tls(tmp_path: Path) -> None:
    """With one that is not there, nothing starts."""
    assert port_tls(TlsConfig()) is None
    with pytest.raises((OSError, ValueError), match=r"none\.pem"):
        port_tls(TlsConfig(certificate=str(tmp_path / "none.pem")))


async def test_certificate_that_can_not_be_read_leaves_the_one_in_use(tmp_path: Path) -> None:
    """New connections are shown the old one; a good one replaces it."""
    authority = Authority(tmp_path)
    certificate = authority.sign("localhost", file="server.pem")
    async with ports(tls={"certificate": str(certificate)}) as both:
        runner = await both.server(hello, ROUTES, "127.0.0.1:0", is_admin=False)
        url, _ = await both.listen(runner, None)
        shown = [await _shown(url, authority)]
        certificate.write_text("none")
        with pytest.raises((OSError, ValueError), match=r"server\.pem"):
            both.reload_certificates()
        shown.append(await _shown(url, authority))
        authority.sign("localhost", file="server.pem")
        both.reload_certificates()
        shown.append(await _shown(url, authority))
    assert url.startswith("https://")
    assert shown[0] == shown[1] != shown[2]


async def _shown(url: str, authority: Authority) -> bytes:
    """Return the certificate that a new connection is shown."""
    host, port = url.removeprefix("https://").split(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=authority.client(), server_hostname="localhost")
    certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return certificate
