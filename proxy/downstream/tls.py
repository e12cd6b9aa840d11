"""TLS of a port: its certificate, which can be replaced while connections go on, and whose certificates clients show.

New handshakes use a replaced certificate; connections that are open keep theirs. Only HTTP/1.1 is offered (ALPN).
Until its handshake is over a connection is the event loop's, and not among those that `client_connections` counts: so
handshakes have a time limit of their own.
"""

import socket
import ssl
from typing import Any, NamedTuple

from aiohttp import web

from proxy.downstream.site import accept_no_more, listen
from proxy.pem import load_authorities, load_pair

_MINIMA = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class TlsFiles(NamedTuple):
    """The files of a port's TLS, all PEM. An empty `key` is in the file of the certificate."""

    certificate: str
    key: str = ""
    client_ca: str = ""  # "": clients are not asked for certificates


class ServerTls:
    """The TLS of one port."""

    def __init__(self, files: TlsFiles, *, minimum: str, client_required: bool) -> None:
        """`minimum`: the oldest version of TLS, "1.2" or "1.3". `client_required`: clients must show a certificate.

        Raises: OSError.
        """
        self._files = files
        self.context = _context(files)
        self.context.minimum_version = _MINIMA[minimum]
        self.context.set_alpn_protocols(["http/1.1"])
        if files.client_ca:
            load_authorities(self.context, files.client_ca)
            self.context.verify_mode = ssl.CERT_REQUIRED if client_required else ssl.CERT_OPTIONAL

    def reload(self) -> None:
        """Use the certificate that the files hold now. Raises: OSError, having changed nothing."""
        _context(self._files)  # a pair that does not fit must not replace the one in use, not even in part
        load_pair(self.context, self._files.certificate, self._files.key)


class TlsSite(web.BaseSite):
    """A place that is listened on by TLS: aiohttp's, with a time limit for handshakes."""

    def __init__(
        self,
        runner: web.BaseRunner,
        where: tuple[str, int] | socket.socket,
        tls: ServerTls,
        *,
        handshake_s: float,
        backlog: int,
    ) -> None:
        """`where`: a host and a port, or a socket that listens already. `handshake_s`: 0 is the event loop's limit."""
        super().__init__(runner, ssl_context=tls.context, backlog=backlog)
        self._where = where
        self._handshake_s = handshake_s or None

    @property
    def name(self) -> str:
        return f"TLS at {self._where}"

    async def start(self) -> None:
        """Listen. Raises: OSError."""
        await super().start()
        server = self._runner.server
        assert server is not None
        limits: dict[str, Any] = {
            "ssl": self._ssl_context,
            "backlog": self._backlog,
            "ssl_handshake_timeout": self._handshake_s,
        }
        if isinstance(self._where, socket.socket):
            self._server = await listen(server, sock=self._where, **limits)
        else:
            host, port = self._where
            self._server = await listen(server, host=host, port=port, **limits)

    async def stop(self) -> None:
        """Listen no more."""
        await accept_no_more(self._server)
        await super().stop()


def _context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_NO_RENEGOTIATION
    load_pair(context, files.certificate, files.key)
    return context
