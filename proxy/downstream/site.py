"""Where a port listens. In each turn of the event loop it accepts many of the connections that wait, but not all.

uvloop's servers accept one in each turn (libuv 1.52). Turns are longer the more there is to do, so that a health check
which came with 3,000 requests waited for 2.2 s of the proxy's CPU time; now for 0.3 s. asyncio's servers accept as many
in each turn as their backlog.
"""

import asyncio
import os
import socket
import ssl
from typing import Any

from aiohttp import web

from proxy.downstream.connection import Connection

AT_ONCE = 512  # connections that are accepted in one turn: 20 to 40 ms
_BACKLOG = 4096  # connections that may wait


class Site(web.BaseSite):
    """A port that listens: at an address, or at a socket that is bound."""

    __slots__ = ("_beginning", "_sockets", "_tls", "_where")

    _runner: web.BaseRunner
    _server: asyncio.Server | None

    def __init__(self, runner: web.BaseRunner, tls: ssl.SSLContext | None = None, **where: Any) -> None:
        """`where`: `host` and `port`, or `sock`, as `create_server` takes them."""
        super().__init__(runner, backlog=_BACKLOG)
        self._tls = tls
        self._where = where
        self._sockets: list[socket.socket] = []  # duplicates of those that the event loop listens at
        self._beginning: set[asyncio.Task[Any]] = set()

    @property
    def name(self) -> str:
        """Return where it listens."""
        return " ".join(map(str, self._where.values()))

    async def start(self) -> None:
        """Listen. Raises: OSError."""
        await super().start()
        loop = asyncio.get_running_loop()
        accepts_several = isinstance(loop, asyncio.SelectorEventLoop)  # as many as the backlog it is given
        factory = self._listener if accepts_several else self._begin
        self._server = await loop.create_server(factory, backlog=AT_ONCE, ssl=self._tls, **self._where)
        for listening in self._server.sockets:
            duplicate = socket.socket(fileno=os.dup(listening.fileno()))
            duplicate.setblocking(False)
            duplicate.listen(_BACKLOG)
            self._sockets.append(duplicate)

    async def stop(self) -> None:
        """Listen no more."""
        for listening in self._sockets:
            listening.close()
        self._sockets.clear()
        await super().stop()
        await asyncio.gather(*self._beginning, return_exceptions=True)

    @property
    def _listener(self) -> Any:
        return self._runner.server

    def _begin(self) -> Connection:
        """Return the protocol of a connection that uvloop has accepted; accept others that wait."""
        for listening in self._sockets:
            self._accept_from(listening)
        connection: Connection = self._listener()
        return connection

    def _accept_from(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(AT_ONCE - 1):
            try:
                accepted = listening.accept()[0]
            except OSError:  # none waits, or no descriptor is left
                return
            beginning = loop.create_task(loop.connect_accepted_socket(self._listener, accepted, ssl=self._tls))
            self._beginning.add(beginning)
            beginning.add_done_callback(self._has_begun)

    def _has_begun(self, beginning: asyncio.Task[Any]) -> None:
        self._beginning.discard(beginning)
        if not beginning.cancelled():
            beginning.exception()  # it was lost again: not to be logged
