"""The way up: one request to an upstream and its response, pushed to a receiver as it is read.

aiohttp's connector makes, pools and tunnels the connections (TLS, DNS, limits, outbound proxies); on a connection
that it lends, an Exchange takes the place of aiohttp's protocol until the response has ended. httptools (llhttp)
parses. So a read from the socket reaches the log in the same turn of the loop: no task, no future, no timer per
read, and no private attribute of aiohttp. Measured against ClientSession: see docs/hot-path.md.
"""

import asyncio
import contextlib
import ssl
import weakref
from collections.abc import AsyncIterable
from time import monotonic
from typing import NamedTuple, Protocol

import aiohttp
import httptools
from yarl import URL

from proxy.wire.errors import Garbled, Truncated, Unreachable, UpstreamError, UpstreamTimeout
from proxy.wire.http import LAST_CHUNK, chunk, head

Headers = list[tuple[bytes, bytes]]
_NO_BODY = (204, 304)
_MAX_HEAD_BYTES = 256 * 1024


class Timeouts(NamedTuple):
    """Seconds an upstream may take; 0 is no limit. Idle is between two reads of a body, total is the whole."""

    connect_s: float
    first_byte_s: float
    idle_s: float
    total_s: float


class Receiver(Protocol):
    """Who is given a response's body."""

    def received(self, data: bytes, at: float) -> None:
        """Take the body bytes of one read; `at` is its time in monotonic seconds."""

    def ended(self, data: bytes, at: float, error: UpstreamError | None) -> None:
        """Take the last bytes, and learn how the body ended. Called once; nothing follows."""


class Exchange(asyncio.Protocol):
    """One request and its response at an upstream.

    Made by `Upstream.open`, which returns when the response's head is there. The body goes to the receiver
    given to `attach`; until then it is kept.
    """

    __slots__ = (
        "_body",
        "_closed",
        "_connection",
        "_ended",
        "_framed",
        "_head_bytes",
        "_idle_s",
        "_is_head_request",
        "_loop",
        "_over",
        "_parser",
        "_paused",
        "_read_at",
        "_receiver",
        "_reusable",
        "_sender",
        "_timer",
        "_total_at",
        "_transport",
        "_writable",
        "headers",
        "on_body",
        "reason",
        "responded",
        "reused",
        "status",
        "waited_s",
    )

    def __init__(self, connection: aiohttp.connector.Connection, method: bytes, timeouts: Timeouts) -> None:
        loop = asyncio.get_running_loop()
        transport = connection.transport
        assert transport is not None
        self._loop = loop
        self._connection = connection
        self._transport = transport
        self._body: list[bytes] = []
        self.on_body = self._body.append  # httptools calls it without a frame of Python: 0.2 us a chunk less
        self._parser = httptools.HttpResponseParser(self)
        self._is_head_request = method == b"HEAD"
        self._receiver: Receiver | None = None
        self._head_bytes = 0
        self._framed = False  # a content-length or chunks say where the body ends
        self._over = False  # the whole response is parsed
        self._reusable = False  # the connection outlives the response
        self._ended: UpstreamError | bool = False  # how the body ended, for a receiver that comes later
        self._closed = False
        self._paused = False
        self._sender: asyncio.Task[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        now = loop.time()
        self._read_at = now
        self._idle_s = timeouts.idle_s
        self._total_at = now + timeouts.total_s if timeouts.total_s else 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.status = 0
        self.reason = b""
        self.headers: Headers = []
        self.reused = False
        self.waited_s = 0.0  # for a connection
        self.responded: asyncio.Future[None] = loop.create_future()
        if timeouts.first_byte_s:
            self._timer = loop.call_later(timeouts.first_byte_s, self._first_byte_late, timeouts.first_byte_s)

    def header(self, name: bytes) -> bytes | None:
        """Return the value of the first header of that (lower-case) name."""
        for key, value in self.headers:
            if key.lower() == name:
                return value
        return None

    @property
    def is_event_stream(self) -> bool:
        kind = self.header(b"content-type")
        return kind is not None and kind.lower().startswith(b"text/event-stream")

    def send(self, start: bytes, body: bytes | AsyncIterable[bytes], *, chunked: bool = False) -> None:
        """Write the request: its head, and its body at once or as it comes."""
        if isinstance(body, bytes):
            self._transport.writelines([start, body] if body else [start])
        else:
            self._transport.write(start)
            self._sender = self._loop.create_task(self._send_pieces(body, chunked))

    def attach(self, receiver: Receiver) -> None:
        """Push the body to `receiver` from now on, beginning with what has come already."""
        self._receiver = receiver
        if self._ended is not False:
            error = None if self._ended is True else self._ended
            receiver.ended(self._take(), self._read_at, error)
            self._finish(error)
        elif self._body:
            receiver.received(self._take(), self._read_at)

    def pause(self) -> None:
        """Stop reading; the idle time-out waits too."""
        if not self._paused and not self._closed:
            self._paused = True
            with contextlib.suppress(RuntimeError):
                self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._paused and not self._closed:
            self._paused = False
            self._read_at = self._loop.time()
            with contextlib.suppress(RuntimeError):
                self._transport.resume_reading()

    def close(self) -> None:
        """Give the exchange up: close the connection, tell nobody."""
        self._receiver = None
        self._finish(Truncated("given up"))

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        self._read_at = at = monotonic()
        if self._over:  # bytes after the response: RFC 9112 section 9.2 has the connection closed
            if not self._closed:
                self._connection.close()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(Garbled(f"the upstream switched protocols (status {self.status}) without being asked"))
            return
        except httptools.HttpParserError as exc:
            if not self._over:
                self._fail(Garbled(f"the upstream's response is not valid HTTP: {exc}"))
                return
            self._reusable = False  # bytes after the response, in its last read
        receiver = self._receiver
        if self._over:
            self._conclude(None)
        elif receiver is not None:
            body = self._body
            if body:
                receiver.received(body.pop() if len(body) == 1 else self._take(), at)
        elif not self.status:
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES:
                self._fail(Garbled(f"the upstream's response head is larger than {_MAX_HEAD_BYTES} bytes"))

    def eof_received(self) -> bool:
        return False  # let the transport close: connection_lost tells how

    def connection_lost(self, exc: Exception | None) -> None:
        handler = self._connection.protocol
        if handler is not None:
            handler.connection_lost(exc)
        self._wake_sender()
        if self._over or self._closed:
            return
        if self.status and not self._framed and exc is None:
            self._conclude(None)  # close-delimited (RFC 9112 section 6.3, rule 8)
        elif self.status or self._head_bytes:
            self._fail(Truncated("the upstream's response broke off"))
        else:
            self._fail(Unreachable("the upstream closed the connection before it answered"))

    def pause_writing(self) -> None:
        if self._writable is None:
            self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        self._wake_sender()

    # httptools

    def on_message_begin(self) -> None:
        if self._over:
            raise ValueError("bytes after the response")  # seen by feed_data's caller as a parser error

    def on_status(self, status: bytes) -> None:
        self.reason += status

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if 100 <= status < 200:  # interim (RFC 9110 section 15.2): another head follows
            self.headers, self.reason = [], b""
            return
        if self.status:
            raise ValueError("a second head")
        self.status = status
        self._framed = any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in self.headers)
        self._over = self._is_head_request
        self._reusable = self._parser.should_keep_alive()
        self._watch_idle()
        if not self.responded.done():
            self.responded.set_result(None)

    def on_message_complete(self) -> None:
        if self.status:
            self._over = True
            self._reusable = self._parser.should_keep_alive()  # llhttp forgets it with the next byte

    # Endings

    @property
    def bodyless(self) -> bool:
        """True when the response can't have a body (RFC 9110 section 6.4.1)."""
        return self.status in _NO_BODY or self._is_head_request

    @property
    def framed(self) -> bool:
        """True when the response itself says where its body ends; a close-delimited one can't."""
        return self._framed or self.bodyless

    def _take(self) -> bytes:
        body = self._body
        data = body[0] if len(body) == 1 else b"".join(body)
        body.clear()
        return data

    def _conclude(self, error: UpstreamError | None) -> None:
        """The body has ended."""
        if self._ended is not False:
            return
        self._ended = error or True
        if not self.responded.done():
            self.responded.set_exception(error or Unreachable("the upstream sent no response"))
            self._finish(error)
        elif self._receiver is not None:
            self._receiver.ended(self._take(), self._read_at, error)
            self._finish(error)
        elif self._timer is not None:
            self._timer.cancel()

    def _fail(self, error: UpstreamError) -> None:
        self._over = False
        self._conclude(error)

    def _finish(self, error: UpstreamError | None) -> None:
        """Give the connection back, or close it."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        sending = self._sender is not None and not self._sender.done()
        if self._sender is not None and sending:
            self._sender.cancel()
        handler = self._connection.protocol
        reusable = error is None and self._over and self._reusable and not sending
        if reusable and handler is not None and not self._transport.is_closing():
            self._transport.set_protocol(handler)
            if self._paused:
                self._transport.resume_reading()
            self._connection.release()
        else:
            self._connection.close()

    # Time

    def _first_byte_late(self, seconds: float) -> None:
        message = f"the upstream sent no response within {seconds:g} s"
        self._fail(UpstreamTimeout(message, "timeout_first_byte"))

    def _watch_idle(self) -> None:
        """Replace the first-byte timer. One timer a stream, set anew when it fires and not on each read."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._check_time()

    def _check_time(self) -> None:
        now = self._loop.time()
        idle_at = (now if self._paused else self._read_at) + self._idle_s if self._idle_s else 0.0
        if self._total_at and now >= self._total_at:
            self._fail(UpstreamTimeout("the response took longer than is allowed in all", "timeout_total"))
        elif idle_at and now >= idle_at:
            message = f"the upstream sent nothing for {self._idle_s:g} s"
            self._fail(UpstreamTimeout(message, "timeout_idle"))
        else:
            due = [t for t in (idle_at, self._total_at) if t]
            if due:
                self._timer = self._loop.call_at(min(due) + 0.001, self._check_time)

    # The request's body

    async def _send_pieces(self, pieces: AsyncIterable[bytes], chunked: bool) -> None:
        try:
            async for piece in pieces:
                if piece:
                    self._transport.write(chunk(piece) if chunked else piece)
                    await self._drained()
            if chunked:
                self._transport.write(LAST_CHUNK)
        except (OSError, aiohttp.ClientError):  # the client broke its request off
            if not self._over:
                self._fail(Unreachable("the client did not finish its request"))

    async def _drained(self) -> None:
        if self._writable is not None:
            await asyncio.shield(self._writable)

    def _wake_sender(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None


class Upstream:
    """A configured origin, and the connections to it."""

    def __init__(
        self,
        url: str,
        timeouts: Timeouts,
        *,
        max_connections: int = 0,
        keepalive_s: float = 15.0,
        ssl_context: ssl.SSLContext | None = None,
        outbound_proxy: str | None = None,
    ) -> None:
        """Call within a running loop. `max_connections` 0 is no limit."""
        self.timeouts = timeouts
        self.connections_open = 0
        origin = URL(url).origin()
        port = "" if origin.is_default_port() else f":{origin.port}"
        self.host = f"{origin.raw_host}{port}".encode()
        self._connector = aiohttp.TCPConnector(limit=max_connections, keepalive_timeout=keepalive_s)
        self._connect_timeout = aiohttp.ClientTimeout(total=None, connect=timeouts.connect_s or None)
        # The connector asks a request only where to connect to; one for the origin serves all.
        self._address = aiohttp.ClientRequest(
            "GET", origin, ssl=ssl_context or True, proxy=URL(outbound_proxy) if outbound_proxy else None
        )
        # An http:// upstream behind a proxy is asked for with the absolute form (RFC 9112 section 3.2.2).
        self._absolute = str(origin).encode() if outbound_proxy and origin.scheme == "http" else b""
        self._known: weakref.WeakSet[object] = weakref.WeakSet()

    async def open(
        self,
        method: bytes,
        target: bytes,
        headers: Headers,
        body: bytes | AsyncIterable[bytes] = b"",
        *,
        chunked: bool = False,
    ) -> Exchange:
        """Send a request; return when the head of its response is there.

        A pooled connection may have been closed by the upstream at the same moment: when no byte of a response
        came on a reused one, the request is sent once more (RFC 9112 section 9.3.1 has the client decide).
        Raises: Unreachable, UpstreamTimeout, Garbled.
        """
        line = b"%b %b%b HTTP/1.1" % (method, self._absolute, target)
        start = head(line, [(b"Host", self.host), *self._proxy_headers(), *headers])
        while True:
            exchange = await self._connect(method)
            exchange.send(start, body, chunked=chunked)
            try:
                await exchange.responded
            except Unreachable:
                if not (exchange.reused and isinstance(body, bytes)):
                    raise
            except asyncio.CancelledError:
                exchange.close()
                raise
            else:
                return exchange

    async def close(self) -> None:
        await self._connector.close()

    def _proxy_headers(self) -> Headers:
        if not self._absolute:
            return []
        value = self._address.headers.get("Proxy-Authorization")
        return [(b"Proxy-Authorization", value.encode())] if value else []

    async def _connect(self, method: bytes) -> Exchange:
        began_at = monotonic()
        try:
            connection = await self._connector.connect(self._address, [], self._connect_timeout)
        except TimeoutError as exc:
            message = f"no connection to the upstream within {self.timeouts.connect_s:g} s"
            raise UpstreamTimeout(message, "timeout_connect") from exc
        except (OSError, aiohttp.ClientError) as exc:
            raise Unreachable(f"no connection to the upstream: {type(exc).__name__}") from exc
        exchange = Exchange(connection, method, self.timeouts)
        exchange.waited_s = monotonic() - began_at
        exchange.reused = connection.protocol in self._known
        self._known.add(connection.protocol)
        transport = connection.transport
        assert transport is not None
        transport.set_protocol(exchange)
        return exchange
