"""Requests that pass through: sent upstream, and answered as they are, both streamed, neither looked into.

Also what generations share with them: where a target leads, which headers cross, how a request is sent.
"""

from collections.abc import AsyncIterable, Iterable

from aiohttp import web

from proxy.access.callers import Auth
from proxy.access.capabilities import without_cookie, without_parameter
from proxy.dialects.allowed_paths import AllowedPaths
from proxy.dialects.route import Route
from proxy.downstream.request_body import invite
from proxy.downstream.response import Downstream
from proxy.telemetry.metrics import Metrics
from proxy.upstream.exchange import Exchange
from proxy.upstream.group import OpenExchange
from proxy.upstream.upstream import UpstreamRequest
from proxy.wire.errors import UpstreamError
from proxy.wire.http import LAST_CHUNK, EndToEnd, Headers, chunk, origin_form

_PIECE_BYTES = 64 * 1024

# Request headers that are ours to read or to make anew.
MINE = frozenset(
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
_AUTHORIZATION = frozenset((b"authorization",))
_ANSWER = EndToEnd(marked=(b"content-length",))


class Forward:
    """The way from a client's request to the upstream, and the handler of requests that pass through."""

    def __init__(
        self, open_exchange: OpenExchange, auth: Auth, metrics: Metrics, allowed: AllowedPaths | None = None
    ) -> None:
        """`allowed`: the only paths that lead upstream; None: all that are served do."""
        self._open_exchange = open_exchange
        self._allowed = allowed
        self._auth = auth
        self._metrics = metrics
        self._authorization = auth.upstream_authorization
        self._pages = auth.pages
        self._hides_tokens = bool(auth.capabilities)
        self._crossing = self.crossing(MINE)

    async def pass_through(self, route: Route, request: web.BaseRequest) -> web.StreamResponse:
        """Send a request upstream and its response back, both streamed, neither looked into."""
        caller = self._auth.caller(request.headers.get("Authorization", ""))
        target = self.target(route, request)
        headers, _ = self.headers(request, self._crossing)
        body: bytes | AsyncIterable[bytes] = b""
        chunked = False
        has_body = request.body_exists
        if has_body:
            length = request.headers.get("Content-Length")
            chunked = length is None
            headers.append(
                (b"Transfer-Encoding", b"chunked") if length is None else (b"Content-Length", length.encode())
            )
            body = _at_hand(request, chunked=chunked) if request.content.is_eof() else _pieces(request)
        elif "Content-Length" in request.headers:
            headers.append((b"Content-Length", b"0"))
        upstream_request = UpstreamRequest(
            request.method.encode(), target, headers, body, caller, chunked=chunked, once=has_body
        )
        exchange = await self.open(route, upstream_request)
        return await self.send_back(request, exchange)

    async def send_back(self, request: web.BaseRequest, exchange: Exchange) -> web.StreamResponse:
        """Send a response back as it comes."""
        try:
            downstream = Downstream(request, exchange.status)
            headers, has_length = _ANSWER.parted(exchange.headers)
            downstream.start(exchange.reason, headers, framed=has_length or exchange.bodyless)
            body = exchange.take_whole()
            if body is not None:  # most small ones came with their head
                downstream.close(body)
            else:
                exchange.attach(_Conduit(exchange, downstream))
                await downstream.finished()
        finally:
            exchange.close()
        return downstream.response

    async def open(self, route: Route, upstream_request: UpstreamRequest) -> Exchange:
        """Send a request upstream; return when the head of its response is there.

        Raises: UpstreamError, RateLimited, Overloaded.
        """
        exchange = await self._open_exchange(upstream_request)
        self._metrics.distribution("upstream_connect", route.name).observe(exchange.waited_s)
        return exchange

    def target(self, route: Route, request: web.BaseRequest) -> bytes:
        """Return the target for upstream. Raises: BadRequest, PathNotAllowed."""
        target = request.raw_path
        if self._allowed is not None:
            self._allowed.check(request.method, origin_form(target).partition("?")[0])
        return route.target(without_parameter(target) if self._hides_tokens and "?" in target else target)

    def crossing(self, mine: frozenset[bytes], marked: Iterable[bytes] = ()) -> EndToEnd:
        """Return what tells the headers that go upstream from `mine` (in lower case); made once, for `headers`."""
        return EndToEnd(mine if self._authorization is None else mine | _AUTHORIZATION, marked)

    def headers(self, request: web.BaseRequest, crossing: EndToEnd) -> tuple[Headers, bool]:
        """Return the request's headers that cross, with the configured upstream key, and whether any was marked.

        Raises: OriginNotAllowed, UnsupportedMediaType, for a web page that may not use that key.
        """
        headers, marked = crossing.parted(request.raw_headers)
        if self._authorization:
            self._pages.check(request)
            headers.append((b"Authorization", self._authorization))
        return without_cookie(headers) if self._hides_tokens else headers, marked


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


def _at_hand(request: web.BaseRequest, *, chunked: bool) -> bytes:
    """Return a body that came with the head: it goes up in one write, in pieces it takes a task and 17 us more."""
    body = request.content.read_nowait()
    if not chunked:
        return body
    return chunk(body) + LAST_CHUNK if body else LAST_CHUNK


def _pieces(request: web.BaseRequest) -> AsyncIterable[bytes]:
    invite(request)
    return request.content.iter_chunked(_PIECE_BYTES)
