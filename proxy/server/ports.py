"""The servers of the two ports: what each accepts, where it listens, and its TLS."""

import socket
from typing import Any

from aiohttp import web

from proxy.access.pages import Hosts
from proxy.access.settings import TlsConfig
from proxy.downstream.client_connections import ClientConnections
from proxy.downstream.connection import Connection
from proxy.downstream.listener import Listener
from proxy.downstream.site import Site
from proxy.downstream.tls import ServerTls, TlsFiles, TlsSite
from proxy.server.config import Config, address
from proxy.server.routes import Routes
from proxy.stream.turns import Turns

_BACKLOG = 4096  # connections that the kernel has accepted and the event loop has yet to
_SHUTDOWN_S = 1.0


def new_listener(
    config: Config,
    handler: Any,
    routes: Routes,
    where: str,
    clients: ClientConnections,
    turns: Turns,
    *,
    urgent: bytes,
    is_admin: bool,
    connection_class: type[Connection] = Connection,
) -> Listener:
    """Make what accepts the connections of a port; `where`: the address by which it is known which hosts are served.

    `handler` responds to requests, and `routes` to those that can't be parsed.
    """
    return Listener(
        handler,
        routes.refuse_unparsed,
        header_bytes=config.limits.header_bytes,
        max_headers=config.limits.headers,
        clients=clients,
        host_error=Hosts(address(where)[0], config.hosts).error,
        turns=turns,
        urgent=urgent,
        is_admin=is_admin,
        connection_class=connection_class,
    )


def port_tls(config: TlsConfig) -> ServerTls | None:
    """Make the TLS of a port, if it is configured. Raises: OSError, ValueError."""
    if not config.certificate:
        return None
    files = TlsFiles(config.certificate, config.key, config.client_ca)
    return ServerTls(files, minimum=config.minimum, client_required=config.client_required)


async def listen(
    runner: web.BaseRunner, where: str, listening: socket.socket | None, tls: ServerTls | None, handshake_s: float
) -> tuple[str, web.BaseSite]:
    """Listen at HOST:PORT, or on a socket that listens already; return the URL, and the site. Raises: OSError."""
    host, port = address(where)
    site: web.BaseSite
    if tls is not None:
        site = TlsSite(runner, listening or (host, port), tls, handshake_s=handshake_s, backlog=_BACKLOG)
    else:
        site = Site(runner, sock=listening) if listening is not None else Site(runner, host=host, port=port)
    await site.start()
    port = runner.addresses[0][1]
    shown = f"[{host}]" if ":" in host else host
    return f"{'http' if tls is None else 'https'}://{shown}:{port}", site


class Ports:
    """The servers of a proxy: those of its two ports, and of its Unix socket, if it is one of several workers."""

    def __init__(
        self, config: Config, clients: ClientConnections, turns: Turns, connection_class: type[Connection]
    ) -> None:
        """`connection_class`: of the connections of clients, not of those to the admin port.

        Raises: OSError, ValueError, for a certificate that can't be used.
        """
        self.listeners: list[Listener] = []
        self._config = config
        self._clients = clients
        self._turns = turns
        self._connection_class = connection_class
        self._tls = port_tls(config.tls)
        self._admin_tls = port_tls(config.admin_tls)
        self._runners: list[web.BaseRunner] = []

    async def server(self, handler: Any, routes: Routes, where: str, *, is_admin: bool) -> web.ServerRunner:
        """Make a server, which does not listen yet; `where`: as in `new_listener`."""
        listener = new_listener(
            self._config,
            handler,
            routes,
            where,
            self._clients,
            self._turns,
            urgent=b"GET /healthz",  # it tells of the process, not of those who wait
            is_admin=is_admin,
            connection_class=Connection if is_admin else self._connection_class,
        )
        self.listeners.append(listener)
        runner = web.ServerRunner(listener, shutdown_timeout=_SHUTDOWN_S)
        await runner.setup()
        self._runners.append(runner)
        return runner

    async def listen(self, runner: web.BaseRunner, listening: socket.socket | None) -> tuple[str, web.BaseSite]:
        """Have a server listen at the data port, or on a socket of it that listens already; return its URL and site.

        Raises: OSError.
        """
        return await listen(runner, self._config.listen, listening, self._tls, self._config.clients.head_s)

    async def listen_as_admin(self, runner: web.BaseRunner, listening: socket.socket | None) -> str:
        """Have a server listen at the admin port, or on a socket of it; return its URL. Raises: OSError."""
        return (await listen(runner, self._config.admin, listening, self._admin_tls, self._config.clients.head_s))[0]

    async def listen_at(self, runner: web.BaseRunner, path: str) -> None:
        """Have a server listen at a Unix socket. Raises: OSError."""
        await web.UnixSite(runner, path, backlog=_BACKLOG).start()

    def reload_certificates(self) -> None:
        """Read the files again. Raises: OSError, ValueError; then the certificate in use stays in use."""
        for tls in (self._tls, self._admin_tls):
            if tls is not None:
                tls.reload()

    async def close(self) -> None:
        """Listen no more, and close all connections."""
        for runner in self._runners:
            await runner.cleanup()
