"""Where a port listens. In each turn of the event loop it accepts many of the connections that wait, but not all.

uvloop's servers accept one in each turn (libuv 1.52). Turns are longer the more there is to do, so that a health check
which came with 3,000 requests waited for 2.2 s of the proxy's CPU time; now for 0.3 s. asyncio's servers accept as many
in each turn as their backlog: so they are given a backlog of 1, which is then raised.
"""

import asyncio
import os
import socket
from typing import Any

from aiohttp import web

from proxy.downstream.connection import Connection
from proxy.downstream.listener import Listener

AT_ONCE = 512  # connections that are accepted in one turn: 20 to 40 ms
_BACKLOG = 4096  # connections that may wait


class Site(web.BaseSite):
    """A port that listens: at an address, or at a socket that is bound."""

    __slots__ = ("_beginning", "_listener", "_sockets", "_where")

    _server: asyncio.Server | None

    def __init__(self, runner: web.BaseRunner, **where: Any) -> None:
        """`runner`: of a Listener. `where`: `host` and `port`, or `sock`, as `create_server` takes them."""
        super().__init__(runner)
        assert isinstance(runner.server, Listener)
        self._listener = runner.server
        self._where = where
        self._sockets: list[socket.socket] = []  # duplicates of those that the event loop listens at
        self._beginning: set[asyncio.Task[Any]] = set()  # connections that are accepted, and not made yet

    @property
    def name(self) -> str:
        """Return where it listens."""
        return " ".join(map(str, self._where.values()))

    async def start(self) -> None:
        """Listen. Raises: OSError."""
        await super().start()
        self._server = await asyncio.get_running_loop().create_server(self._begin, backlog=1, **self._where)
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

    def _begin(self) -> Connection:
        """Return the protocol of a connection that the event loop has accepted; accept others that wait."""
        at_most = min(AT_ONCE - 1, self._listener.clients.room - len(self._beginning))
        for listening in self._sockets if at_most > 0 else ():
            self._accept_from(listening, at_most)
        return self._listener()

    def _accept_from(self, listening: socket.socket, at_most: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(at_most):
            try:
                accepted = listening.accept()[0]
            except OSError:  # none waits, or no descriptor is left
                return
            accepted.setblocking(False)
            beginning = loop.create_task(loop.connect_accepted_socket(self._listener, accepted))
            self._beginning.add(beginning)
            beginning.add_done_callback(self._has_begun)

    def _has_begun(self, beginning: asyncio.Task[Any]) -> None:
        self._beginning.discard(beginning)
        if not beginning.cancelled():
            beginning.exception()  # it was lost again: not to be logged
