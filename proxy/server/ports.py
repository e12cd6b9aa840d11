"""The two ports: where each listens, and its TLS."""

import socket

from aiohttp import web

from proxy.access.settings import TlsConfig
from proxy.downstream.site import Site
from proxy.downstream.tls import ServerTls, TlsFiles, TlsSite
from proxy.server.config import address

_BACKLOG = 4096  # connections that the kernel has accepted and the event loop has yet to


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
