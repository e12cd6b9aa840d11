"""The connections to one server: opens them, sends requests on them, and keeps them for later requests.

aiohttp's connector opens the connections, with TLS, DNS, happy eyeballs and outbound proxies; the event loop does
where none of these is needed. On a connection from aiohttp, a Connection replaces aiohttp's protocol, and keeps the
connection for many requests. No private attribute of aiohttp is used.
"""

import asyncio
import contextlib
import errno
import ipaddress
import math
import re
import ssl
from collections import deque
from collections.abc import AsyncIterable, Callable
from time import monotonic
from typing import Final

import aiohttp
from yarl import URL

from proxy.machine import head
from proxy.stream.faults import OVERDUE_S, BackgroundLoop
from proxy.timers import Limit, Within, sleep
from proxy.upstream.connection import Connection
from proxy.upstream.exchange import Exchange, Timeouts
from proxy.wire.errors import ConnectTimeout, Overloaded, Unreachable
from proxy.wire.http import Headers

_SAFE: Final[tuple[bytes, ...]] = (b"GET", b"HEAD", b"OPTIONS")
_NO_DESCRIPTOR: Final = (errno.EMFILE, errno.ENFILE)
_OUT_OF_DESCRIPTORS: Final = "this server has no file descriptor left for another connection to the upstream"
_NO_TIMEOUT: Final = aiohttp.ClientTimeout(total=None)  # of aiohttp's own: a Limit is set here
_ZONE: Final = re.compile("%25[^]]*")


def _ignore(label: str, waited_s: float) -> None:
    """Do nothing."""


class ConnectionPool:
    """The connections to one server: those in use, and those that are kept for the next request."""

    def __init__(
        self,
        url: str,
        timeouts: Timeouts,
        *,
        name: str = "",
        max_connections: int = 0,
        keepalive_s: float = 15.0,
        ssl_context: ssl.SSLContext | None = None,
        server_name: str = "",
        outbound_proxy: str | None = None,
        are_descriptors_out: Callable[[], bool] = bool,
        on_connected: Callable[[str, float], object] = _ignore,
    ) -> None:
        """Must be called within a running loop. `max_connections` 0 is no limit.

        `on_connected` is called for each request that got a response, with its `label` and the seconds that it waited
        for a connection.
        `are_descriptors_out` returns whether no connection may be made because the last file descriptors are reserved.
        """
        self._are_descriptors_out = are_descriptors_out
        self._on_connected = on_connected
        self.name = name  # as it is configured
        self.timeouts = timeouts
        self.active: set[Exchange] = set()
        self.retries = 0  # requests sent again on a new connection
        origin = URL(url).origin()
        port = "" if origin.is_default_port() else f":{origin.port}"
        # With the first header. Without an IPv6 zone, which has a meaning on this machine only (RFC 6874 section 1).
        self._version = f" HTTP/1.1\r\nHost: {_ZONE.sub('', origin.host_subcomponent or '')}{port}".encode()
        self._keepalive_s = keepalive_s
        self._max_connections = max_connections
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Semaphore(max_connections) if max_connections else None
        self._idle: deque[Connection] = deque()  # the most recently used one is the last
        self._connecting: dict[Limit, float] = {}  # connections that are being made, and since when
        self._connector = aiohttp.TCPConnector(limit=0)
        # The connector reads only the address from a request, so one request for the origin is enough.
        self._address = aiohttp.ClientRequest(
            "GET",
            origin,
            ssl=ssl_context or True,
            server_hostname=server_name or None,
            proxy=URL(outbound_proxy) if outbound_proxy else None,
        )
        # Requests to an http:// upstream behind a proxy have the absolute form (RFC 9112 section 3.2.2).
        self._absolute = str(origin).rstrip("/").encode() if outbound_proxy and origin.scheme == "http" else b""
        # Without a name to resolve, TLS, or a proxy, aiohttp's connector is not needed: 50 us instead of 200.
        host, number = origin.host, origin.port
        plain = origin.scheme == "http" and not outbound_proxy
        self._direct = (host, number) if plain and host and number and _is_address(host) else None
        self.background = BackgroundLoop(f"timeouts:{name}", monotonic, OVERDUE_S)
        self._watch = asyncio.create_task(self._watch_time())

    async def open(
        self,
        method: bytes,
        target: bytes,
        headers: Headers,
        body: bytes | AsyncIterable[bytes] = b"",
        *,
        chunked: bool = False,
        switches: bool = False,
        label: str = "",
    ) -> Exchange:
        """Send a request; return when the head of its response has been received.

        A pooled connection that turns out to be closed before the request is written is skipped, for any request. If
        the upstream closes it later, it may have begun to process the request; then only a GET, HEAD or OPTIONS that
        got no byte of a response is sent again, on a new connection (RFC 9110 section 9.2.2).
        `switches`: it asks to switch to another protocol; only then may the response do that.
        Raises: Unreachable, UpstreamTimeout, Truncated, Garbled.
        """
        line = b"%b %b%b%b" % (method, self._absolute, target, self._version)
        for pooled in (True, False):
            began_at = monotonic()
            if self._room is not None:
                await self._wait_room(self._room)
            connection = self._pooled(began_at) if pooled else None
            reused = connection is not None
            if connection is None:
                connection = await self._connect()
            exchange = Exchange(self, connection, method, switches)
            waited_s = connection.read_at - began_at
            self.active.add(exchange)
            lines = self._proxy_headers() + headers if self._absolute else headers
            exchange.send(head(line, lines), body, chunked=chunked)
            responded = exchange.responded
            assert responded is not None
            try:
                await responded
            except Unreachable:
                if not (reused and method in _SAFE and isinstance(body, bytes)):  # pieces can't be sent again
                    raise
                self.retries += 1
            except asyncio.CancelledError:
                exchange.close()
                raise
            else:
                exchange.responded = None  # one object less while the response goes on
                self._on_connected(label, waited_s)
                return exchange
        raise AssertionError("a new connection is not a reused one")

    def released(self, exchange: Exchange, connection: Connection, keep: bool) -> None:
        """Take a connection back from an exchange that has ended."""
        self.active.discard(exchange)
        if self._room is not None:
            self._room.release()
        if keep:
            connection.forget_exchange()
            if connection.paused:
                connection.resume()
            connection.idle_since = connection.read_at
            self._idle.append(connection)
        else:
            connection.close()

    def limit(self, timeouts: Timeouts) -> None:
        """Keep these time-outs from now on."""
        self.timeouts = timeouts
        for exchange in self.active:
            exchange.look_soon()

    async def close(self) -> None:
        """Close every connection."""
        self._watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._watch
        for limit in self._connecting:
            limit.expire()
        for exchange in list(self.active):
            exchange.close()
        while self._idle:
            self._idle.pop().close()
        await self._connector.close()

    @property
    def idle(self) -> int:
        """The number of connections that wait for a request."""
        return len(self._idle)

    @property
    def descriptors(self) -> int:
        """The number of file descriptors of its connections, also of those that are being made."""
        return len(self.active) + len(self._idle) + len(self._connecting)

    def _pooled(self, now: float) -> Connection | None:
        """Return the idle connection used most recently, so that the others can expire; None if there is none."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if now - connection.idle_since < self._keepalive_s and connection.usable and connection.quiet:
                return connection
            connection.close()
        return None

    def _proxy_headers(self) -> Headers:
        value = self._address.headers.get("Proxy-Authorization")
        return [(b"Proxy-Authorization", value.encode())] if value else []

    async def _wait_room(self, room: asyncio.Semaphore) -> None:
        try:
            if not room.locked():
                await room.acquire()  # at once
                return
            with Within(self.timeouts.connect_s):
                await room.acquire()
        except TimeoutError as exc:
            message = f"all {self._max_connections} connections were in use for {self.timeouts.connect_s:g} s"
            raise ConnectTimeout(message) from exc

    async def _connect(self) -> Connection:
        no_descriptor = self._are_descriptors_out()
        limit = Limit(self._loop)
        self._connecting[limit] = monotonic()
        try:
            if no_descriptor:
                raise OSError(errno.EMFILE, "kept for the admin port")
            with limit:
                if self._direct is None:
                    return Connection(await self._connector.connect(self._address, [], _NO_TIMEOUT))
                _, connection = await self._loop.create_connection(Connection, *self._direct)  # type: ignore[type-var]  # it is a Protocol, but not by inheritance
                return connection
        except BaseException as exc:
            if self._room is not None:
                self._room.release()
            if isinstance(exc, TimeoutError):
                message = f"no connection to the upstream within {self.timeouts.connect_s:g} s"
                raise ConnectTimeout(message) from exc
            if isinstance(exc, OSError) and exc.errno in _NO_DESCRIPTOR:
                raise Overloaded(_OUT_OF_DESCRIPTORS) from exc
            if isinstance(exc, OSError | aiohttp.ClientError):
                raise Unreachable(f"no connection to the upstream: {type(exc).__name__}", sent=False) from exc
            raise
        finally:
            del self._connecting[limit]

    async def _watch_time(self) -> None:
        """End whatever has exceeded a time-out: what connects, exchanges, what is idle; one timer for all of them."""
        while True:
            shortest = min(filter(None, (*self.timeouts, self._keepalive_s)), default=10.0)
            every_s = min(1.0, max(0.02, shortest / 20))
            await sleep(every_s)
            self._end_late(monotonic())

    def _end_late(self, now: float) -> None:
        """End what is late now. A function of its own, so that no variable keeps the last exchange alive."""
        for exchange in list(self.active):
            if exchange.look_at > now:
                continue
            try:  # for each: an exception of one must not affect the others
                error = exchange.late(now, self.timeouts)
                if error is not None:
                    exchange.ends(error)
            except Exception as fault:
                self.background.fail(fault)
        with self.background:
            self._end_connecting(now)
            self._close_idle(now)

    def _end_connecting(self, now: float) -> None:
        connect_s = self.timeouts.connect_s or math.inf
        for limit, began_at in self._connecting.items():
            if now - began_at >= connect_s:
                limit.expire()

    def _close_idle(self, now: float) -> None:
        while self._idle and now - self._idle[0].idle_since >= self._keepalive_s:
            self._idle.popleft().close()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
