"""All connections of clients: one timer for the time-outs of all of them, and limits on the bytes held for them.

A new time-out is a field of `ClientTimeouts` and of `[clients]` (`server.configuration.settings`), and a case of
`Connection.check`.

    a client is silent            what it has to do           time-out      what happens
    ----------------------------  --------------------------  ------------  ---------------------------------------
    on a new connection           begin a request             head_s        the connection is closed
    within a head                 send the rest of it         head_s        408
    within a body                 send a byte of it           body_s        408; a reset, if the answer has begun
    between two requests          begin the next one          keepalive_s   the connection is closed
    while bytes wait for it       take one                    write_s       a reset

Half a head that was read together with the request before it counts as silence between two requests, since the parser
does not report that it holds one. nginx, too, closes such a connection without a response, after the time for a head.

The timer checks the connections one after another, a slice of them in each turn of the event loop. So no timer is set
or cancelled when a client is read from or written to. If the process was suspended, the sockets are read before any
client counts as late.
"""

import asyncio
import logging
from collections import Counter
from time import monotonic
from typing import Final, NamedTuple, Protocol

from proxy.downstream.descriptors import Descriptors
from proxy.stream.faults import OVERDUE_S, BackgroundLoop
from proxy.timers import sleep
from proxy.wire.errors import ProxyError, RateLimited

_SLICE = 256  # connections that are checked in one turn of the event loop: 0.3 ms
_SHUTDOWN_S = 2.0  # for clients to read the rest of what they were sent, when the process ends
_POLL_S: Final = 0.02
_LOGGED_AGAIN_S: Final = 60.0  # that descriptors run out is logged again after so long without a shortage

_log = logging.getLogger("streamtee.connections")


class ClientTimeouts(NamedTuple):
    """Seconds a client may be silent; 0 is no limit."""

    head_s: float = 30.0
    keepalive_s: float = 75.0
    body_s: float = 30.0
    write_s: float = 300.0


class ClientConnection(Protocol):
    """What this module needs of a connection."""

    taken_at: float  # when the client last took some of the bytes that wait for it, or they began to wait
    unsent_bytes: int  # the bytes that waited for the client at the last check

    def check(self, now: float, timeouts: ClientTimeouts) -> None:
        """End the connection or its request if the client has exceeded a time-out."""

    def cut(self, reason: str, *, clean: bool) -> None:
        """Close the connection; if not `clean`, by a reset, so that no response looks complete."""

    @property
    def is_busy(self) -> bool:
        """Return whether a request is in progress or about to begin, or bytes wait to be sent.

        Always False on the admin port.
        """

    def end_request(self, error: ProxyError) -> None:
        """End the request in progress, if any: with this error, or by breaking off the response if it has begun.

        Called again for the same request, it does nothing.
        """

    def reject(self) -> None:
        """Refuse a connection that has just been accepted, with an error response, and close it."""


class ClientConnections:
    """The connections of one port, or of several that share the limits on bytes."""

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
        self.idle: dict[ClientConnection, None] = {}  # of the data port; idle for the longest first
        self.cuts: Counter[str] = Counter()  # how many were cut, by reason
        self.body_bytes = 0  # of request bodies, in memory
        self.pending_bytes = 0  # that waited for clients to take them, at the timer's last check
        self.max_body_bytes = max_body_bytes
        self.max_pending_bytes = max_pending_bytes
        self._descriptors = descriptors
        descriptors.counted.append(self.open.__len__)
        self._short_at = float("-inf")

    def hold_body(self, size_bytes: int) -> None:
        """Count bytes of a body that is kept in memory. Raises: RateLimited, if all bodies exceed their limit."""
        held = self.body_bytes + size_bytes
        if held > self.max_body_bytes:
            raise RateLimited(
                f"the bodies of all requests would be {held} bytes, {self.max_body_bytes} are allowed"
                " (limits.total_body_bytes)"
            )
        self.body_bytes = held

    def arrived(self, connection: ClientConnection, *, admin: bool) -> None:
        """Add a new connection. If descriptors run out, close the one that has been idle for the longest, else this.

        A connection of the `admin` port is always kept: some descriptors are reserved for it.
        """
        self.open.add(connection)
        are_short = self._descriptors.are_short
        if admin:
            return
        if are_short:
            self._log_shortage()
            oldest = next(iter(self.idle), None)
            if oldest is None:
                connection.reject()
                return
            del self.idle[oldest]  # at once: `gone` is called later, and the next arrival must not choose it again
            oldest.cut("descriptors", clean=True)
        self.idle[connection] = None

    @property
    def room(self) -> int:
        """How many connections may be added before descriptors are short."""
        return self._descriptors.left_for_clients

    def gone(self, connection: ClientConnection) -> None:
        """Remove a connection that was lost."""
        self.open.discard(connection)
        self.idle.pop(connection, None)

    @property
    def busy(self) -> bool:
        """Return whether any client waits for a response, or for the rest of one."""
        return any(connection.is_busy for connection in self.open)

    async def end_requests(self, error: ProxyError) -> None:
        """End all requests with an error, or by breaking off responses that have begun; also those yet to begin.

        Then reset the connections whose clients don't read the rest within `_SHUTDOWN_S`.
        """
        until = monotonic() + _SHUTDOWN_S
        while self.busy and monotonic() < until:
            for connection in list(self.open):
                connection.end_request(error)
            await asyncio.sleep(_POLL_S)
        for connection in list(self.open):
            if connection.is_busy:
                connection.cut("shutdown", clean=False)

    async def watch(self) -> None:
        """Check every connection at regular intervals, for ever."""
        while True:
            shortest = min(filter(None, self.timeouts), default=60.0)
            every_s = min(2.0, max(0.02, shortest / 20))
            await sleep(every_s)
            with self.background:
                await self._check(monotonic())

    async def _check(self, now: float) -> None:
        pending_bytes = 0
        for number, connection in enumerate(list(self.open), 1):
            try:  # for each: an error in one must not prevent the check of the others
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
        """Cut the clients that have read nothing for the longest, until the bytes that wait are within their limit."""
        stalled = sorted((one for one in self.open if one.unsent_bytes), key=lambda one: one.taken_at)
        for connection in stalled:
            if self.pending_bytes <= self.max_pending_bytes:
                return
            self.pending_bytes -= connection.unsent_bytes
            connection.cut("pending", clean=False)

    def _log_shortage(self) -> None:
        now = monotonic()
        if now - self._short_at > _LOGGED_AGAIN_S:
            _log.warning(
                "file descriptors run out (%d are allowed, ulimit -n): idle client connections are closed, and new ones"
                " if none is idle",
                self._descriptors.limit,
            )
        self._short_at = now
