"""The way up: one request to an upstream and its response, pushed to a receiver as it is read.

aiohttp's connector makes the connections: TLS, DNS, happy eyeballs, outbound proxies; the loop itself where none of
these is needed. On a connection that aiohttp lends, a Wire takes the place of its protocol and keeps it for many
requests. httptools (llhttp) parses. So a read from the socket reaches the log in the same turn of the loop: no task,
no future, no timer per read, and no private attribute of aiohttp.
"""

import asyncio
import contextlib
import functools
import ipaddress
import ssl
from collections import deque
from collections.abc import AsyncIterable, Callable
from time import monotonic
from typing import Any, NamedTuple, Protocol

import aiohttp
import httptools
from yarl import URL

from proxy.wire.chunked import events
from proxy.wire.errors import Garbled, Truncated, Unreachable, UpstreamError, UpstreamTimeout
from proxy.wire.http import LAST_CHUNK, chunk, head

Headers = list[tuple[bytes, bytes]]
TakeEvents = Callable[[list[bytes], bytes, float], bool]
"""Take a read that is whole events: their frames, the chunks that they came as, and its time in monotonic seconds.

Return False, and take nothing, to be given it as `received` instead.
"""

_NO_BODY = (204, 304)
_LONG_READ = 64 * 1024  # one with so much has no need of a short way
_MAX_HEAD_BYTES = 256 * 1024
_GIVEN_UP = Truncated("given up")
_GIVEN_UP.telling = False


class Timeouts(NamedTuple):
    """Seconds an upstream may take; 0 is no limit. Idle is between two reads of a body, total is the whole.

    First token is from the request on, and asked only of bodies whose Progress tells of tokens.
    """

    connect_s: float
    first_byte_s: float
    idle_s: float
    total_s: float
    first_token_s: float = 0.0


class Receiver(Protocol):
    """Who is given a response's body."""

    def received(self, data: bytes, at: float) -> None:
        """Take the body bytes of one read; `at` is its time in monotonic seconds."""

    def ended(self, data: bytes, at: float, error: UpstreamError | None) -> None:
        """Take the last bytes, and learn how the body ended. Called once; nothing follows."""


class Progress(Protocol):
    """Who knows which bytes of a body bring it on, where not all do: comments say only that the connection lives."""

    @property
    def fed_at(self) -> float:
        """When the last such bytes came, or reading began or went on; in monotonic seconds."""

    @property
    def awaits_token(self) -> bool:
        """Tell whether generated text is due and none has come."""


class Wire(asyncio.Protocol):
    """One connection to an upstream, from its first request to its close.

    It has at most one exchange at a time. The hot path is `data_received`: it touches the wire and the receiver.
    """

    __slots__ = (
        "_body",
        "_chunks",
        "_head_bytes",
        "_lent",
        "_parser",
        "_writable",
        "exchange",
        "idle_since",
        "on_body",
        "on_chunk_complete",
        "on_chunk_header",
        "on_events",
        "over",
        "paused",
        "read_at",
        "receiver",
        "reusable",
        "take_events",
        "transport",
    )

    transport: Any  # asyncio.Transport; uvloop's is not derived from it

    def __init__(self, lent: aiohttp.connector.Connection | None = None) -> None:
        """Be a connection that is about to be made, or one `lent` by aiohttp."""
        self._lent = lent
        self.exchange: Exchange | None = None
        self.receiver: Receiver | None = None
        self._body: list[bytes] = []
        # httptools calls these for each chunk, without a frame of Python: 0.2 us less each.
        self.on_body = self._body.append
        self._chunks: list[bool] = []  # during a read: True for each chunk that began, False for each that ended
        self.on_chunk_header = functools.partial(self._chunks.append, True)
        self.on_chunk_complete = functools.partial(self._chunks.append, False)
        self.take_events: TakeEvents | None = None  # the receiver's
        self.on_events: TakeEvents | None = None  # the same, while a read would begin with a chunk
        self._parser = httptools.HttpResponseParser(self)
        self._writable: asyncio.Future[None] | None = None
        self._head_bytes = 0
        self.read_at = 0.0
        self.idle_since = 0.0
        self.over = False  # the whole response is parsed
        self.reusable = False  # the connection outlives the response
        self.paused = False
        if lent is not None and lent.transport is not None:
            self.transport = lent.transport
            self.transport.set_protocol(self)

    @property
    def usable(self) -> bool:
        return not self.transport.is_closing()

    def begin(self, exchange: "Exchange") -> None:
        """Serve an exchange from now on."""
        self.exchange = exchange
        self.over = self.reusable = False
        self.take_events = self.on_events = None
        self._head_bytes = 0
        self.read_at = monotonic()

    def take(self) -> bytes:
        """Return the body bytes that no receiver has had."""
        body = self._body
        data = body[0] if len(body) == 1 else b"".join(body)
        body.clear()
        return data

    def kept(self) -> bytes:
        """Return the same, and keep them."""
        return b"".join(self._body)

    def put(self, body: bytes) -> None:
        """Replace them."""
        self._body[:] = [body]

    def pause(self) -> None:
        if not self.paused and self.usable:
            self.paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.paused and self.usable:
            self.paused = False
            self.read_at = monotonic()
            self.transport.resume_reading()

    def close(self) -> None:
        """Close the connection at once, whatever of a request has not left yet; safe at any time."""
        self.exchange = self.receiver = None
        self.transport.abort()  # not close(): that waits for an upstream that has stopped reading
        if self._lent is not None:
            self._lent.close()

    async def drained(self) -> None:
        """Wait until the transport takes more of a request."""
        if self._writable is not None:
            await asyncio.shield(self._writable)

    # asyncio.Protocol

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.read_at = at = monotonic()
        take_events = self.on_events
        if take_events is not None and len(data) < _LONG_READ:
            # Without llhttp, and with one call for what else takes nine: each costs a microsecond of cold memory.
            frames = events(data)
            if frames and take_events(frames, data, at):
                return
        self._parse(data, at)

    def _parse(self, data: bytes, at: float) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserUpgrade, httptools.HttpParserError) as exc:
            if not self.over:
                self._fail(Garbled(f"the upstream's response is not valid HTTP: {str(exc) or 'protocol switched'}"))
                return
            self.reusable = False  # bytes after the response, in its last read
        # An LF behind the end of a chunk would be that of the next one's size: so the last one is the chunk's own.
        at_chunk = bool(chunks := self._chunks) and not chunks[-1] and data.endswith(b"\n")
        self.on_events = self.take_events if at_chunk and not self.over else None
        chunks.clear()
        receiver = self.receiver
        if self.over:
            self._conclude()
        elif receiver is not None:
            body = self._body
            if body:
                receiver.received(body.pop() if len(body) == 1 else self.take(), at)
        else:
            self._watch_head(len(data))

    def eof_received(self) -> bool:
        return False  # let the transport close: connection_lost tells how

    def connection_lost(self, exc: Exception | None) -> None:
        if self._lent is not None and self._lent.protocol is not None:
            self._lent.protocol.connection_lost(exc)
        self._wake()
        exchange = self.exchange
        if exchange is None or self.over:
            return
        if exchange.status and not exchange.framed and exc is None:
            self.over = True  # close-delimited (RFC 9112 section 6.3, rule 8)
            self._conclude()
        elif exchange.status or self._head_bytes:
            self._fail(Truncated("the upstream's response broke off"))
        else:
            self._fail(Unreachable("the upstream closed the connection before it answered"))

    def pause_writing(self) -> None:
        if self._writable is None:
            self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        self._wake()

    # httptools

    def on_message_begin(self) -> None:
        if self.over or self.exchange is None:
            raise ValueError("bytes after the response")  # feed_data's caller meets it as a parser error

    def on_status(self, status: bytes) -> None:
        if self.exchange is not None:
            self.exchange.reason += status

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.exchange is not None:
            self.exchange.headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        exchange = self.exchange
        if exchange is None:
            return
        if 100 <= status < 200:  # interim (RFC 9110 section 15.2): another head follows
            exchange.headers.clear()
            exchange.reason = b""
            return
        self.reusable = self._parser.should_keep_alive()
        exchange.responds(status)
        if exchange.is_head_request:
            self.over = True
            self._parser = httptools.HttpResponseParser(self)  # the old one waits for a body

    def on_message_complete(self) -> None:
        if self.exchange is not None and self.exchange.status:
            self.over = True
            self.reusable = self._parser.should_keep_alive()  # llhttp forgets it with the next byte

    # Endings

    def _conclude(self) -> None:
        exchange = self.exchange
        if exchange is None:  # bytes while nothing was asked: RFC 9112 section 9.2 has the connection closed
            self.close()
        else:
            exchange.ends(None)

    def _fail(self, error: UpstreamError) -> None:
        if self.exchange is None:
            self.close()
        else:
            self.exchange.ends(error)

    def _watch_head(self, size: int) -> None:
        exchange = self.exchange
        if exchange is None:
            self.close()
        elif not exchange.status:
            self._head_bytes += size
            if self._head_bytes > _MAX_HEAD_BYTES:
                self._fail(Garbled(f"the upstream's response head is larger than {_MAX_HEAD_BYTES} bytes"))
        else:
            exchange.arrived()

    def _wake(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None


class Exchange:
    """One request and its response at an upstream.

    Made by `Upstream.open`, which returns when the response's head is there. The body goes to the receiver
    given to `attach`; until then it is kept.
    """

    __slots__ = (
        "_arrival",
        "_asked_at",
        "_began_at",
        "_ended",
        "_error",
        "_sender",
        "_upstream",
        "_wire",
        "endless",
        "headers",
        "is_head_request",
        "on_released",
        "progress",
        "reason",
        "responded",
        "status",
        "waited_s",
    )

    def __init__(self, upstream: "Upstream", wire: Wire, method: bytes) -> None:
        self._upstream = upstream
        self._wire: Wire | None = wire
        self._began_at = self._asked_at = monotonic()
        self._sender: asyncio.Task[None] | None = None
        self._ended = False
        self._error: UpstreamError | None = None
        self.is_head_request = method == b"HEAD"
        self.endless = False  # the whole of it may take any time
        self.progress: Progress | None = None  # without, every byte is progress
        self.status = 0
        self.reason = b""
        self.headers: Headers = []
        self.waited_s = 0.0  # for a connection
        self.on_released: Callable[[UpstreamError | None], None] | None = None  # told its error, if it had one
        self._arrival: asyncio.Future[None] | None = None  # what somebody peeks for
        self.responded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        wire.begin(self)

    def header(self, name: bytes) -> bytes | None:
        """Return the value of the header of that (lower-case) name; of several, the last one's.

        Few are asked for: a dict of all took longer.
        """
        size = len(name)
        for given, value in reversed(self.headers):
            if len(given) == size and given.lower() == name:
                return value
        return None

    @property
    def upstream_name(self) -> str:
        return self._upstream.name

    @property
    def is_event_stream(self) -> bool:
        kind = self.header(b"content-type")
        return kind is not None and kind.lower().startswith(b"text/event-stream")

    @property
    def framed(self) -> bool:
        """True when the response itself says where its body ends; a close-delimited one can't."""
        return (
            self.bodyless or self.header(b"transfer-encoding") is not None or self.header(b"content-length") is not None
        )

    @property
    def bodyless(self) -> bool:
        """True when the response can't have a body (RFC 9110 section 6.4.1)."""
        return self.is_head_request or self.status in _NO_BODY

    def send(self, start: bytes, body: bytes | AsyncIterable[bytes], *, chunked: bool) -> None:
        """Write the request: its head, and its body at once or as it comes."""
        assert self._wire is not None
        transport = self._wire.transport
        if isinstance(body, bytes):
            transport.write(start + body if len(body) < 65536 else start)
            if len(body) >= 65536:
                transport.write(body)
        else:
            transport.write(start)
            self._sender = asyncio.create_task(self._send_pieces(self._wire, body, chunked))

    def attach(self, receiver: Receiver, take_events: TakeEvents | None = None) -> None:
        """Push the body to `receiver` from now on, beginning with what has come already.

        `take_events` is asked first, from the second read on.
        """
        wire = self._wire
        if wire is None:
            receiver.ended(b"", monotonic(), self._error or _GIVEN_UP)
            return
        data = wire.take()
        if self._ended:
            at, error = wire.read_at, self._error
            self._release()
            receiver.ended(data, at, error)
            return
        wire.receiver = receiver
        wire.take_events = take_events
        if data:
            receiver.received(data, wire.read_at)

    def take_whole(self) -> bytes | None:
        """Return the body if it is `whole`: the exchange is over then, without a receiver."""
        wire = self._wire
        if wire is None or not self._ended or self._error is not None:
            return None
        body = wire.take()
        self._release()
        return body

    async def peek(self, enough: Callable[[bytes], bool]) -> bytes:
        """Wait until what has come of the body is enough, or the body has ended; return it.

        It stays for whoever attaches; call it before. Cold: it joins all that has come at every read.
        """
        while self._wire is not None:
            body = self._wire.kept()
            if self._ended or enough(body):
                return body
            self._arrival = asyncio.get_running_loop().create_future()
            await self._arrival
        return b""

    @property
    def whole(self) -> bool:
        """True when the body has come to its proper end, and nobody has attached yet."""
        return self._ended and self._error is None

    def put(self, body: bytes) -> None:
        """Replace a `whole` body."""
        if self._wire is not None:
            self._wire.put(body)

    def pause(self) -> None:
        """Stop reading; the idle time-out waits too."""
        if self._wire is not None:
            self._wire.pause()

    def resume(self) -> None:
        """Read on."""
        if self._wire is not None:
            self._wire.resume()

    def close(self) -> None:
        """Give the exchange up: close the connection, tell nobody. Nothing, once it has ended."""
        if self._wire is not None:
            self._error = self._error or _GIVEN_UP
            self._release()

    # For the wire

    def arrived(self) -> None:
        """More of the body has come, or its end, and there is no receiver."""
        arrival, self._arrival = self._arrival, None
        if arrival is not None and not arrival.done():
            arrival.set_result(None)

    def responds(self, status: int) -> None:
        """The head is there."""
        self.status = status
        if not self.responded.done():
            self.responded.set_result(None)

    def ends(self, error: UpstreamError | None) -> None:
        """The response has ended; whoever attaches later is told then."""
        wire = self._wire
        if wire is None or self._ended:
            return
        self._ended, self._error = True, error
        receiver = wire.receiver
        if not self.responded.done():
            self.responded.set_exception(error or Unreachable("the upstream sent no response"))
            self._release()
        elif receiver is not None:
            data, at = wire.take(), wire.read_at
            self._release()
            receiver.ended(data, at, error)
        else:
            self.arrived()

    def late(self, now: float, timeouts: Timeouts) -> UpstreamTimeout | None:
        """Return the time-out that the exchange has run into, if any."""
        wire = self._wire
        if wire is None or self._ended:
            return None
        if timeouts.total_s and not self.endless and now - self._began_at >= timeouts.total_s:
            return UpstreamTimeout(f"the response took longer than {timeouts.total_s:g} s in all", "timeout_total")
        if not self.status:
            if timeouts.first_byte_s and now - self._asked_at >= timeouts.first_byte_s:
                message = f"the upstream sent no response within {timeouts.first_byte_s:g} s"
                return UpstreamTimeout(message, "timeout_first_byte")
            return None
        if wire.paused:  # by us
            return None
        progress, token_s, idle_s = self.progress, timeouts.first_token_s, timeouts.idle_s
        if token_s and progress is not None and progress.awaits_token and now - self._asked_at >= token_s:
            return UpstreamTimeout(f"the upstream sent no token within {token_s:g} s", "timeout_first_token")
        fed_at = wire.read_at if progress is None else progress.fed_at
        if idle_s and now - fed_at >= idle_s:
            what = "nothing but comments" if wire.read_at > fed_at else "nothing"
            return UpstreamTimeout(f"the upstream sent {what} for {idle_s:g} s", "timeout_idle")
        return None

    def _release(self) -> None:
        """Give the wire back, or have it closed."""
        wire, self._wire = self._wire, None
        assert wire is not None
        sender = self._sender
        sending = sender is not None and not sender.done()
        if sender is not None and sending:
            sender.cancel()
        keep = self._error is None and wire.over and wire.reusable and not sending
        self._upstream.released(self, wire, keep)
        if self._arrival is not None:
            self.arrived()
        if self.on_released is not None:
            self.on_released(self._error)

    async def _send_pieces(self, wire: Wire, pieces: AsyncIterable[bytes], chunked: bool) -> None:
        try:
            async for piece in pieces:
                if piece:
                    wire.transport.write(chunk(piece) if chunked else piece)
                    await wire.drained()
                    self._asked_at = monotonic()  # a long upload is not a late answer
            if chunked:
                wire.transport.write(LAST_CHUNK)
        except (OSError, aiohttp.ClientError, aiohttp.http_exceptions.HttpProcessingError):
            error = Unreachable("the client did not finish its request")
            error.telling = False
            self.ends(error)


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
        self.name = ""  # as it is configured
        self.timeouts = timeouts
        self.active: set[Exchange] = set()
        self.retries = 0  # requests sent once more
        origin = URL(url).origin()
        port = "" if origin.is_default_port() else f":{origin.port}"
        self._version = f" HTTP/1.1\r\nHost: {origin.raw_host}{port}".encode()  # and the first header
        self._keepalive_s = keepalive_s
        self._max_connections = max_connections
        self._room = asyncio.Semaphore(max_connections) if max_connections else None
        self._idle: deque[Wire] = deque()  # the one used last, last
        self._connector = aiohttp.TCPConnector(limit=0)
        self._connect_timeout = aiohttp.ClientTimeout(total=None, connect=timeouts.connect_s or None)
        # The connector asks a request only where to connect to; one for the origin serves all.
        self._address = aiohttp.ClientRequest(
            "GET", origin, ssl=ssl_context or True, proxy=URL(outbound_proxy) if outbound_proxy else None
        )
        # An http:// upstream behind a proxy is asked for with the absolute form (RFC 9112 section 3.2.2).
        self._absolute = str(origin).rstrip("/").encode() if outbound_proxy and origin.scheme == "http" else b""
        # Where there is no name to resolve, no TLS and no proxy there is no need of aiohttp's: 50 us instead of 200.
        host, number = origin.host, origin.port
        plain = origin.scheme == "http" and not outbound_proxy
        self._direct = (host, number) if plain and host and number and _is_address(host) else None
        self._watch = asyncio.create_task(self._watch_time())

    async def open(
        self,
        method: bytes,
        target: bytes,
        headers: Headers,
        body: bytes | AsyncIterable[bytes] = b"",
        *,
        chunked: bool = False,
        once: bool = False,
    ) -> Exchange:
        """Send a request; return when the head of its response is there.

        A pooled connection may have been closed by the upstream at the same moment: when no byte of a response
        came on a reused one, the request is sent once more, on a new one (RFC 9112 section 9.3.1 has the client
        decide): unless it is to be sent `once`, or its body came in pieces, which are gone.
        Raises: Unreachable, UpstreamTimeout, Truncated, Garbled.
        """
        line = b"%b %b%b%b" % (method, self._absolute, target, self._version)
        for pooled in (True, False):
            began_at = monotonic()
            if self._room is not None:
                await self._wait_room(self._room)
            wire = self._pooled(began_at) if pooled else None
            reused = wire is not None
            if wire is None:
                wire = await self._connect()
            exchange = Exchange(self, wire, method)
            exchange.waited_s = monotonic() - began_at
            self.active.add(exchange)
            lines = self._proxy_headers() + headers if self._absolute else headers
            exchange.send(head(line, lines), body, chunked=chunked)
            try:
                await exchange.responded
            except Unreachable:
                if once or not (reused and isinstance(body, bytes)):
                    raise
                self.retries += 1
            except asyncio.CancelledError:
                exchange.close()
                raise
            else:
                return exchange
        raise AssertionError("a new connection is not a reused one")

    def released(self, exchange: Exchange, wire: Wire, keep: bool) -> None:
        """Take a wire back from an exchange that has ended."""
        self.active.discard(exchange)
        if self._room is not None:
            self._room.release()
        if keep and not wire.transport.is_closing():
            wire.exchange = wire.receiver = None
            if wire.paused:
                wire.resume()
            wire.idle_since = wire.read_at
            self._idle.append(wire)
        else:
            wire.close()

    async def close(self) -> None:
        """Close every connection."""
        self._watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._watch
        for exchange in list(self.active):
            exchange.close()
        while self._idle:
            self._idle.pop().close()
        await self._connector.close()

    @property
    def idle(self) -> int:
        """The number of connections that wait for a request."""
        return len(self._idle)

    def _pooled(self, now: float) -> Wire | None:
        """Return the connection used last, if one is idle: the others may then expire."""
        idle = self._idle
        while idle:
            wire = idle.pop()
            if now - wire.idle_since < self._keepalive_s and not wire.transport.is_closing():
                return wire
            wire.close()
        return None

    def _proxy_headers(self) -> Headers:
        value = self._address.headers.get("Proxy-Authorization")
        return [(b"Proxy-Authorization", value.encode())] if value else []

    async def _wait_room(self, room: asyncio.Semaphore) -> None:
        try:
            async with asyncio.timeout(self.timeouts.connect_s or None):
                await room.acquire()
        except TimeoutError as exc:
            message = f"all {self._max_connections} connections were taken for {self.timeouts.connect_s:g} s"
            raise UpstreamTimeout(message, "timeout_connect") from exc

    async def _connect(self) -> Wire:
        try:
            if self._direct is None:
                return Wire(await self._connector.connect(self._address, [], self._connect_timeout))
            async with asyncio.timeout(self.timeouts.connect_s or None):
                _, wire = await asyncio.get_running_loop().create_connection(Wire, *self._direct)
                return wire
        except BaseException as exc:
            if self._room is not None:
                self._room.release()
            if isinstance(exc, TimeoutError):
                message = f"no connection to the upstream within {self.timeouts.connect_s:g} s"
                raise UpstreamTimeout(message, "timeout_connect") from exc
            if isinstance(exc, OSError | aiohttp.ClientError):
                raise Unreachable(f"no connection to the upstream: {type(exc).__name__}", sent=False) from exc
            raise

    async def _watch_time(self) -> None:
        """End what is late, and idle connections that are. One timer for all, and none that is set per read."""
        shortest = min(filter(None, (*self.timeouts[1:], self._keepalive_s)), default=10.0)
        every_s = min(1.0, max(0.02, shortest / 20))
        while True:
            await asyncio.sleep(every_s)
            now = monotonic()
            for exchange in list(self.active):
                error = exchange.late(now, self.timeouts)
                if error is not None:
                    exchange.ends(error)
            while self._idle and now - self._idle[0].idle_since >= self._keepalive_s:
                self._idle.popleft().close()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
