"""All connections of clients: one timer for the time-outs of all of them, and what is held of them at most.

    a client is silent            what it has to do           time-out      what happens
    ----------------------------  --------------------------  ------------  ---------------------------------------
    on a new connection           begin a request             head_s        the connection is closed
    within a head                 send the rest of it         head_s        408
    within a body                 send a byte of it           body_s        408; a reset, if the answer has begun
    between two requests          begin the next one          keepalive_s   the connection is closed
    while bytes wait for it       take one                    write_s       a reset

Half a head that came in one read with the request before it counts as silence between two requests, since the parser
does not say that it holds one. nginx closes such a connection without an answer, too, after the time for a head.

The timer looks at every connection in turn, a slice of them in each turn of the event loop. So nothing is set or
cancelled when a client is read from or written to; and the process may have been stopped: then the sockets are read
before anything is late.
"""

import asyncio
import logging
from collections import Counter
from time import monotonic
from typing import NamedTuple, Protocol

from proxy.downstream.descriptors import Descriptors
from proxy.stream.background import OVERDUE_S, BackgroundLoop
from proxy.timers import sleep
from proxy.wire.errors import ProxyError, RateLimited

_SLICE = 256  # connections that are looked at in one turn of the loop: 0.3 ms
_LAST_WORD_S = 2.0  # for clients to take the end of what they were sent, when the process ends
_TURN_S = 0.02
_PRESSED_S = 60.0  # descriptors that run out are logged again after so long without

_log = logging.getLogger("streamtee.connections")


class ClientTimeouts(NamedTuple):
    """Seconds a client may be silent; 0 is no limit."""

    head_s: float = 30.0
    keepalive_s: float = 75.0
    body_s: float = 30.0
    write_s: float = 300.0


class ClientConnection(Protocol):
    """A connection, as it is looked at from here."""

    taken_at: float  # when bytes last began to wait for the client, or it took some
    unsent_bytes: int  # that waited when it was looked at last

    def check(self, now: float, timeouts: ClientTimeouts) -> None:
        """End it, if it is late."""

    def cut(self, reason: str, *, clean: bool) -> None:
        """End it; `clean`: nothing is lost."""

    @property
    def is_busy(self) -> bool:
        """Return whether a request is being answered, or its answer has yet to be taken; never on the admin port."""

    def end_request(self, error: ProxyError) -> None:
        """End the request that is being answered, if there is one."""

    def turn_away(self) -> None:
        """Say that there is no room, and close it."""


class ClientConnections:
    """The connections of one port, or of several that share what is held."""

    def __init__(
        self,
        timeouts: ClientTimeouts,
        descriptors: Descriptors,
        *,
        max_body_bytes: int,
        max_pending_bytes: int,
    ) -> None:
        self.timeouts = timeouts
        self.background = BackgroundLoop("clients", monotonic, OVERDUE_S)
        self.open: set[ClientConnection] = set()
        self.idle: dict[ClientConnection, None] = {}  # without a request, the longest first
        self.cuts: Counter[str] = Counter()  # by reason
        self.body_bytes = 0  # of requests, in memory
        self.pending_bytes = 0  # that waited for clients to take them, when the timer looked last
        self.max_body_bytes = max_body_bytes
        self.max_pending_bytes = max_pending_bytes
        self._descriptors = descriptors
        descriptors.counted.append(self.open.__len__)
        self._pressed_at = float("-inf")

    def hold_body(self, size_bytes: int) -> None:
        """Count bytes of a body that is kept in memory. Raises: RateLimited, when that is too much in all."""
        held = self.body_bytes + size_bytes
        if held > self.max_body_bytes:
            raise RateLimited(
                f"the bodies of all requests would be {held} bytes, {self.max_body_bytes} are held (total_body_bytes)"
            )
        self.body_bytes = held

    def arrived(self, connection: ClientConnection, *, admin: bool) -> None:
        """Take a new connection in. If descriptors run out, the one that is idle the longest goes, or this one.

        One of the `admin` port stays: some are kept for it.
        """
        self.open.add(connection)
        if not admin and self._descriptors.are_short:
            self._press()
            oldest = next(iter(self.idle), None)
            if oldest is None:
                connection.turn_away()
                return
            del self.idle[oldest]  # it is lost in a turn of its own: the next one to come takes another
            oldest.cut("descriptors", clean=True)
        self.idle[connection] = None

    def gone(self, connection: ClientConnection) -> None:
        """Forget a connection that was lost."""
        self.open.discard(connection)
        self.idle.pop(connection, None)

    @property
    def busy(self) -> bool:
        """Return whether any client waits for an answer, or has yet to take it."""
        return any(connection.is_busy for connection in self.open)

    async def end_requests(self, error: ProxyError) -> None:
        """End all requests with an error; break off what has begun, and what is not taken within a moment."""
        for connection in list(self.open):
            connection.end_request(error)
        until = monotonic() + _LAST_WORD_S
        while self.busy and monotonic() < until:
            await asyncio.sleep(_TURN_S)
        for connection in list(self.open):
            if connection.is_busy:
                connection.cut("shutdown", clean=False)

    async def watch(self) -> None:
        """Look at every connection again and again, for ever."""
        while True:
            shortest = min(filter(None, self.timeouts), default=60.0)
            every_s = min(2.0, max(0.02, shortest / 20))
            await sleep(every_s)
            with self.background:
                await self._look(monotonic())

    async def _look(self, now: float) -> None:
        pending_bytes = 0
        for number, connection in enumerate(list(self.open), 1):
            try:  # of each: what one raises must not keep the others
                connection.check(now, self.timeouts)
            except Exception as error:
                self.background.fail(error)
            pending_bytes += connection.unsent_bytes
            if not number % _SLICE:
                await asyncio.sleep(0)
        self.pending_bytes = pending_bytes
        if pending_bytes > self.max_pending_bytes:
            self._relieve()

    def _relieve(self) -> None:
        """Cut off the clients that have taken nothing for the longest, until what waits is within its limit."""
        stalled = sorted((one for one in self.open if one.unsent_bytes), key=lambda one: one.taken_at)
        for connection in stalled:
            if self.pending_bytes <= self.max_pending_bytes:
                return
            self.pending_bytes -= connection.unsent_bytes
            connection.cut("pending", clean=False)

    def _press(self) -> None:
        now = monotonic()
        if now - self._pressed_at > _PRESSED_S:
            _log.warning(
                "file descriptors run out (%d are allowed, ulimit -n): idle connections of clients are closed, and"
                " new ones where none is idle",
                self._descriptors.limit,
            )
        self._pressed_at = now
