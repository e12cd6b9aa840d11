"""Where a port listens. In each turn of the event loop it accepts many of the connections that wait, but not all.

uvloop's servers accept one in each turn (libuv 1.52). Turns are longer the more there is to do, so that a health check
which came with 3,000 requests waited for 2.2 s of the proxy's CPU time; now for 0.3 s. asyncio's servers accept as many
in each turn as their backlog: so they are given a backlog of 1, which their sockets do not heed.

Clients may wait at a socket before this process listens at it: when workers are replaced. If its backlog were less for
a moment than how many wait, the kernel would drop what comes then, and these clients would try again after a second.
"""

import asyncio
import functools
import os
import select
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from aiohttp import web

from proxy.downstream.listener import Listener

AT_ONCE = 512  # connections that are accepted in one turn: 20 to 40 ms
_BACKLOG = 4096  # connections that may wait
_MAKING_TURNS = 3  # of asyncio's loop, from the acceptance of a connection until its protocol has its transport


async def listen(protocol_factory: Callable[[], asyncio.Protocol], **how: Any) -> asyncio.Server:
    """Listen, as `create_server` does, with the options that connections are to have. Raises: OSError.

    They have those that the socket which listens had when they came, so none is set for each: SO_KEEPALIVE, by which
    the system asks whether a silent client is still there. TCP_NODELAY is set by event loops.
    """
    server = await asyncio.get_running_loop().create_server(protocol_factory, start_serving=False, **how)
    for listening in server.sockets:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    await server.start_serving()
    return server


async def accept_no_more(server: asyncio.AbstractServer | None) -> None:
    """Close a server when the connections that it has accepted are made. Others wait at its socket, if that is shared.

    asyncio's servers drop a connection if they are closed between its acceptance and its transport (Python 3.11).
    """
    if server is None:
        return
    if isinstance(server, asyncio.Server):  # uvloop's is not
        for listening in server.sockets:
            asyncio.get_running_loop().remove_reader(listening.fileno())
        for _ in range(_MAKING_TURNS):
            await asyncio.sleep(0)
    server.close()


class Site(web.BaseSite):
    """A port that listens: at an address, or at a socket that is bound."""

    __slots__ = ("_beginning", "_listener", "_loop", "_queues", "_where")

    _server: asyncio.Server | None

    def __init__(self, runner: web.BaseRunner, **where: Any) -> None:
        """`runner`: of a Listener. `where`: `host` and `port`, or `sock`, as `create_server` takes them."""
        super().__init__(runner)
        assert isinstance(runner.server, Listener)
        self._listener = runner.server
        self._where = where
        self._loop = asyncio.get_running_loop()
        self._queues: list[_Queue] = []
        self._beginning = 0  # connections that are accepted, and not made yet

    @property
    def name(self) -> str:
        """Return where it listens."""
        return " ".join(map(str, self._where.values()))

    async def start(self) -> None:
        """Listen. Raises: OSError."""
        await super().start()
        backlog, where = _BACKLOG, self._where
        if isinstance(self._loop, asyncio.BaseEventLoop):
            backlog = 1
            if "sock" in where:
                where = {"sock": _Listening(fileno=where["sock"].detach())}
        self._server = await listen(self._begin, backlog=backlog, **where)
        for listening in self._server.sockets:
            self._queues.append(_Queue(socket.socket(fileno=os.dup(listening.fileno())), self._loop))

    async def stop(self) -> None:
        """Listen no more."""
        for queue in self._queues:
            queue.close()
        self._queues.clear()
        await accept_no_more(self._server)
        await super().stop()
        while self._beginning:
            await asyncio.sleep(0)

    def _begin(self) -> Any:
        """Return the protocol of a connection that the event loop has accepted; accept others that wait."""
        for queue in self._queues:
            if queue.is_empty:
                continue
            for _ in range(min(AT_ONCE - 1, self._listener.clients.room - self._beginning)):
                accepted = None if queue.is_empty else queue.accept()
                if accepted is None:
                    break
                self._begin_accepted(accepted)
        return self._listener()

    def _begin_accepted(self, accepted: Any) -> None:
        """Begin to make a connection's transport, as a task would that awaits it: at a third of the time.

        The method of the event loop suspends once: until the protocol has its transport.
        """
        making = self._loop.connect_accepted_socket(self._listener, accepted)
        try:
            made: Any = making.send(None)
        except Exception as fault:  # raised here, it would end the listening
            os.close(accepted.detach())
            self._loop.call_exception_handler({"message": "a connection could not be begun", "exception": fault})
            return
        self._beginning += 1
        made.add_done_callback(functools.partial(self._has_begun, making))

    def _has_begun(self, making: Coroutine[Any, Any, Any], made: asyncio.Future[Any]) -> None:
        self._beginning -= 1
        try:
            making.send(None)
        except (StopIteration, OSError, RuntimeError):
            return  # it ends; or the connection was lost again, which is not to be logged


class _Listening(socket.socket):
    """A socket that listens, whatever it is told, with the backlog that it is to have."""

    def listen(self, backlog: int = 0) -> None:
        super().listen(_BACKLOG)


class _Queue:
    """The connections that wait at a socket that listens: its duplicate, beside that of the event loop."""

    def __init__(self, listening: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        listening.setblocking(False)
        listening.listen(_BACKLOG)
        poll = select.poll()
        poll.register(listening, select.POLLIN)
        self._listening = listening
        self._poll = poll.poll
        self._family = int(listening.family)
        self._needs_sockets = isinstance(loop, asyncio.BaseEventLoop)  # uvloop needs only descriptors

    @property
    def is_empty(self) -> bool:
        """Return whether none waits: in vain, `accept` would take ten times as long."""
        return not self._poll(0)

    def accept(self) -> Any:
        """Return the socket of the connection that has waited for the longest; None: it can't be accepted."""
        try:
            number: int = self._listening._accept()[0]  # type: ignore[attr-defined]  # `accept` without a new socket
        except OSError:  # it waits no more, or no descriptor is left
            return None
        if self._needs_sockets:
            accepted = socket.socket(fileno=number)
            accepted.setblocking(False)
            return accepted
        return _Accepted(number, self._family)

    def close(self) -> None:
        """Accept no more."""
        self._listening.close()


class _Accepted:
    """The descriptor of a connection, in place of a socket: what uvloop asks for, which closes it, too.

    A socket takes as many instructions as all that uvloop does for a connection.
    """

    __slots__ = ("_number", "family")

    type = int(socket.SOCK_STREAM)

    def __init__(self, number: int, family: int) -> None:
        self._number = number
        self.family = family

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._number

    detach = fileno

    def close(self) -> None:
        """Do nothing: uvloop calls this when it has closed the descriptor."""
