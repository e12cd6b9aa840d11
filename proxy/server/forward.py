"""Requests that go upstream: generations, which become streams, and everything else, which passes through."""

import asyncio
import functools
import math
import re
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, NamedTuple

from aiohttp import web

from proxy.edge.downstream import Downstream
from proxy.edge.upstream import Exchange, Headers, Upstream
from proxy.edge.websocket import WebSocket
from proxy.server.auth import Auth
from proxy.server.capabilities import without_cookie, without_parameter
from proxy.server.config import Config
from proxy.server.metrics import Metrics
from proxy.server.pump import GONE, OnDisconnect, Pump
from proxy.server.routes import origin_form
from proxy.server.wish import view_of
from proxy.stream.hub import Hub
from proxy.stream.log import Ending
from proxy.stream.stream import Stream, Subscription, View
from proxy.stream.vitals import Vitals
from proxy.wire.dialect import Dialect
from proxy.wire.errors import BadRequest, Cancelled, ProxyError, TooLarge, UpstreamError
from proxy.wire.http import end_to_end

_KEY = re.compile(r"[\x21-\x7e]{1,200}")
REFUSED = "refused"
_DOT_SEGMENT = re.compile(r"(?:^|/)(?:\.|%2e){1,2}(?:/|$)", re.IGNORECASE)
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}.*")  # W3C Trace Context, 3.2
_MODEL = re.compile(rb'"model"\s*:\s*"([^"\\]{1,100})"')
_PIECE_BYTES = 64 * 1024

# Request headers that are ours to read or to make anew.
_MINE = frozenset(
    (
        b"host",
        b"content-length",
        b"expect",
        b"stream-key",
        b"stream-mode",
        b"stream-on-disconnect",
        b"stream-retain",
    )
)
_MINE_IN_GENERATIONS = _MINE | {b"accept-encoding"}  # identity is asked for: a compressed stream has no frames
_AUTHORIZATION = frozenset((b"authorization",))
# Response headers of a stream that we set ourselves.
_STREAM_HEADERS = frozenset(
    (
        b"content-length",
        b"cache-control",
        b"x-accel-buffering",
        b"stream-id",
        b"location",
        b"content-location",
        b"stream-follow-url",
    )
)
CACHING: Headers = [
    (b"Cache-Control", b"no-cache, no-transform"),
    (b"X-Accel-Buffering", b"no"),
]


@dataclass(frozen=True)
class Route:
    """A prefix that is served, and the path it stands for upstream."""

    name: str  # the label in metrics
    prefix: str
    upstream_prefix: str
    dialect: Dialect

    @functools.lru_cache(maxsize=1024)  # noqa: B019  (routes live as long as the process)
    def target(self, raw_path: str) -> bytes:
        """Return the request target for upstream, its query and its escapes untouched.

        Whatever host an absolute-form target names is dropped. Raises: BadRequest, for dot segments.
        """
        raw = origin_form(raw_path)
        path = raw.partition("?")[0]
        if not path.startswith(self.prefix) or _DOT_SEGMENT.search(path):
            raise BadRequest("the request target has dot segments, or is not below the prefix it seemed to be")
        return (self.upstream_prefix + raw[len(self.prefix) :]).encode("utf-8", "surrogateescape")


class Options(NamedTuple):
    """What a client asks for in headers, so that bodies stay OpenAI's."""

    view: View
    key: str | None
    retain_s: float
    on_disconnect: OnDisconnect
    trace_id: str | None
    model: str | None = None  # where answers name none


class Forward:
    """The handlers of requests that go upstream."""

    def __init__(
        self,
        config: Config,
        hub: Hub,
        upstream: Upstream,
        auth: Auth,
        metrics: Metrics,
        tell: Callable[[str, Stream], None],
    ) -> None:
        """`tell` hears of every stream that begins, and that has ended."""
        self._tell = tell
        self._config = config
        self._hub = hub
        self._upstream = upstream
        self._auth = auth
        self._metrics = metrics

    # Generations

    async def generate(self, route: Route, request: web.BaseRequest, **named: str) -> web.StreamResponse:
        """Send a generation upstream; an event stream that comes back becomes a Stream, followed by this client."""
        caller = self._auth.caller(request.headers.get("Authorization", ""))
        options = self._options(request)
        self._hub.check_room()  # before the upstream is asked, and paid
        self._hub.check_room_to_follow()
        target = self._target(route, request)
        body = await read_body(request, self._config.limits.body_bytes)
        started_at = time.monotonic()
        if route.dialect.name == "dashscope":
            asked = _MODEL.search(body, 0, _PIECE_BYTES)
            options = options._replace(model=asked and asked[1].decode(errors="replace"))
        headers = self._headers(request, _MINE_IN_GENERATIONS)
        headers += [(b"Accept-Encoding", b"identity"), (b"Content-Length", b"%d" % len(body))]
        opening = self._open(route, request.method.encode(), target, headers, body)
        if options.key is None and options.on_disconnect.grace_s == 0:
            try:
                exchange = await opening
            except UpstreamError as error:
                self._metrics.never_began(route.name, error.ending)
                raise
            except asyncio.CancelledError:
                self._metrics.never_began(route.name, GONE.reason)
                raise
            if not _is_stream(exchange):
                return await self._relay(request, exchange)
            try:
                pump = self._pump(route, caller, options, started_at)
            except ProxyError:
                exchange.close()
                raise
            pump.start(exchange)
        else:  # it may have followers, or go on, before this client has its answer
            try:
                pump = self._pump(route, caller, options, started_at)
            except ProxyError:
                opening.close()
                raise
            exchange = await self._begin_apart(opening, pump)
            if not _is_stream(exchange):
                return await self._relay(request, exchange)
        return await self._follow(request, pump, options.view, exchange.headers)

    def _pump(self, route: Route, caller: bytes, options: Options, started_at: float) -> Pump:
        """Make a stream and its writer. Raises: Overloaded."""
        stream = self._hub.create(
            Vitals(route.dialect, started_at),
            route=route.name,
            caller=caller,
            key=options.key,
            retain_s=options.retain_s,
        )
        stream.created_at = int(time.time())
        stream.trace_id = options.trace_id or stream.id
        stream.vitals.model = options.model
        self._tell("begun", stream)
        return Pump(
            stream,
            options.on_disconnect,
            max_frame_bytes=self._config.limits.frame_bytes,
            on_sealed=self._sealed,
            overhead=self._metrics.distribution("proxy_overhead", route.name).observe,
        )

    async def _begin_apart(self, opening: Coroutine[Any, Any, Exchange], pump: Pump) -> Exchange:
        """Open the exchange in a task of the stream's own, which the client's leaving does not end.

        Raises: Cancelled, when the stream was ended before its upstream answered.
        """
        pump.awaited = True
        pump.opening = task = asyncio.create_task(self._begin(opening, pump))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            ending = pump.stream.log.ending
            if task.cancelled() and ending is not None:
                raise Cancelled(ending.message) from None
            task.add_done_callback(_close_refused)
            pump.awaited = False
            if not pump.stream.subscriptions:
                pump.last_left()
            raise

    async def _begin(self, opening: Coroutine[Any, Any, Exchange], pump: Pump) -> Exchange:
        try:
            exchange = await opening
        except UpstreamError as error:
            pump.opening = None
            pump.stop(Ending(error.ending, error.message))
            self._hub.forget(pump.stream)
            raise
        pump.opening = None
        if _is_stream(exchange):
            pump.start(exchange)
        else:
            pump.stop(Ending(REFUSED, f"the upstream answered with status {exchange.status} and no stream"))
            self._hub.forget(pump.stream)
        return exchange

    async def _follow(self, request: web.BaseRequest, pump: Pump, view: View, headers: Headers) -> web.StreamResponse:
        """Answer the client that asked with the stream it has begun."""
        stream = pump.stream
        ident = stream.id.encode()
        location = b"/v1/streams/" + ident
        try:
            downstream = Downstream(request)
        except ConnectionError:
            pump.awaited = False
            pump.last_left()
            raise
        mine = [(b"Stream-Id", ident), (b"Location", location), (b"Content-Location", location)]
        if self._auth.capabilities:
            mine.append((b"Stream-Follow-URL", self._auth.follow_url(stream.id).encode()))
        downstream.start(b"OK", [*end_to_end(headers, _STREAM_HEADERS), *CACHING, *mine])
        subscription = Subscription(stream, view, downstream, 0, self._config.streams.heartbeat_s)
        stream.originator = subscription
        pump.awaited = False
        return await deliver(self._hub, downstream, subscription)

    def _sealed(self, pump: Pump) -> None:
        now = time.monotonic()
        ending = pump.stream.log.ending
        if ending is not None and ending.reason != REFUSED:  # no stream has been
            self._metrics.stream_ended(pump.stream, now)
        self._tell("ended", pump.stream)
        self._hub.retire(pump.stream, now)

    def _options(self, request: web.BaseRequest) -> Options:
        headers, streams = request.headers, self._config.streams
        seen = view_of(headers.get("Stream-Mode", "raw"))
        key = headers.get("Stream-Key")
        if key is not None and not _KEY.fullmatch(key):
            raise BadRequest("Stream-Key takes 1 to 200 visible ASCII characters")
        retain = headers.get("Stream-Retain")
        policy = headers.get("Stream-On-Disconnect", streams.on_disconnect)
        try:
            on_disconnect = OnDisconnect.parse(policy)
        except ValueError as error:
            raise BadRequest(f"Stream-On-Disconnect: {error}") from None
        trace = _TRACEPARENT.fullmatch(headers.get("traceparent", ""))
        return Options(seen, key, self._retain_s(retain), on_disconnect, trace and trace[1])

    def _retain_s(self, text: str | None) -> float:
        streams = self._config.streams
        if text is None:
            return streams.retain_s
        if not text.isdecimal():
            raise BadRequest(f"Stream-Retain {text!r} is not a number of seconds")
        return min(float(text), streams.retain_max_s)

    # Everything else

    async def pass_through(self, route: Route, request: web.BaseRequest) -> web.StreamResponse:
        """Send a request upstream and its response back, both streamed, neither looked into."""
        self._auth.caller(request.headers.get("Authorization", ""))
        target = self._target(route, request)
        headers = self._headers(request, _MINE)
        body: bytes | AsyncIterable[bytes] = b""
        chunked = False
        if request.body_exists:
            _invite(request)
            length = request.headers.get("Content-Length")
            chunked = length is None
            headers.append(
                (b"Transfer-Encoding", b"chunked") if length is None else (b"Content-Length", length.encode())
            )
            body = _pieces(request)
        elif "Content-Length" in request.headers:
            headers.append((b"Content-Length", b"0"))
        method = request.method.encode()
        exchange = await self._open(route, method, target, headers, body, chunked=chunked)
        return await self._relay(request, exchange)

    async def _relay(self, request: web.BaseRequest, exchange: Exchange) -> web.StreamResponse:
        """Send a response back as it comes."""
        try:
            downstream = Downstream(request, exchange.status)
            headers = end_to_end(exchange.headers)
            framed = exchange.bodyless or any(name.lower() == b"content-length" for name, _ in headers)
            downstream.start(exchange.reason, headers, framed=framed)
            exchange.attach(_Conduit(exchange, downstream))
            await downstream.finished()
        finally:
            exchange.close()
        return downstream.response

    # Both

    async def _open(
        self,
        route: Route,
        method: bytes,
        target: bytes,
        headers: Headers,
        body: bytes | AsyncIterable[bytes],
        *,
        chunked: bool = False,
    ) -> Exchange:
        exchange = await self._upstream.open(method, target, headers, body, chunked=chunked)
        self._metrics.distribution("upstream_connect", route.name).observe(exchange.waited_s)
        return exchange

    def _target(self, route: Route, request: web.BaseRequest) -> bytes:
        """Return the target for upstream. Raises: BadRequest."""
        target = request.raw_path
        return route.target(without_parameter(target) if self._auth.capabilities and "?" in target else target)

    def _headers(self, request: web.BaseRequest, mine: frozenset[bytes]) -> Headers:
        authorization = self._auth.upstream_authorization
        headers = end_to_end(request.raw_headers, mine if authorization is None else mine | _AUTHORIZATION)
        if authorization is not None:
            headers.append((b"Authorization", authorization))
        return without_cookie(headers) if self._auth.capabilities else headers


class _Conduit:
    """Carries a response's body to one client, no faster than the client takes it."""

    __slots__ = ("_downstream", "_exchange")

    def __init__(self, exchange: Exchange, downstream: Downstream) -> None:
        self._exchange = exchange
        self._downstream = downstream

    def received(self, data: bytes, at: float) -> None:
        downstream = self._downstream
        downstream.write_data(data)
        if not downstream.writable:
            self._exchange.pause()
            downstream.on_writable(self._exchange.resume)

    def ended(self, data: bytes, at: float, error: UpstreamError | None) -> None:
        (self._downstream.close if error is None else self._downstream.abort)(data)


async def deliver(
    hub: Hub, downstream: Downstream | WebSocket, subscription: Subscription, until: float = math.inf
) -> web.StreamResponse:
    """Attach a subscription and wait until it has ended, or its client has left; at most `until` (monotonic s)."""
    try:
        hub.attach(subscription, time.monotonic(), until)
        await downstream.finished()
    finally:
        subscription.leave("left")
    return downstream.response


async def read_body(request: web.BaseRequest, allowed_bytes: int) -> bytes:
    """Return the whole body of a request. Raises: TooLarge."""
    _invite(request)
    length = request.content_length
    if length is not None and length > allowed_bytes:
        raise TooLarge(f"the request body has {length} bytes, {allowed_bytes} are allowed")
    content = request.content
    pieces = [content.read_nowait()] if content.is_eof() else []  # most came with the head: no need to wait
    size = sum(map(len, pieces))
    while size <= allowed_bytes and (piece := await content.readany()):
        pieces.append(piece)
        size += len(piece)
    if size > allowed_bytes:
        raise TooLarge(f"the request body has more than {allowed_bytes} bytes, {size} came so far")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _is_stream(exchange: Exchange) -> bool:
    return exchange.status == 200 and exchange.is_event_stream and exchange.header(b"content-encoding") is None


def _close_refused(task: asyncio.Task[Exchange]) -> None:
    """Close an answer that is not a stream, and that nobody waits for any more."""
    if not task.cancelled() and task.exception() is None and not _is_stream(task.result()):
        task.result().close()


def _invite(request: web.BaseRequest) -> None:
    """Send the interim response that a client may wait for before it sends its body (RFC 9110 section 10.1.1)."""
    if not request.content.is_eof() and request.headers.get("Expect", "").lower() == "100-continue":
        transport = request.transport
        if transport is not None:
            transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


async def _pieces(request: web.BaseRequest) -> AsyncIterator[bytes]:
    async for piece in request.content.iter_chunked(_PIECE_BYTES):
        yield piece
