"""Requests that pass through: request and response are forwarded as they are, both streamed, neither parsed.

Also used for generation requests: the upstream target, the headers that are forwarded, sending a response back.
"""

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable
from typing import Final

from aiohttp import web

from proxy.access.account import Account
from proxy.access.callers import Caller
from proxy.access.capabilities import without_cookie, without_parameter
from proxy.access.response_ids import ContinuedResponses
from proxy.dialects.allowed_paths import AllowedPaths
from proxy.dialects.route import Route
from proxy.dialects.usage import tokens_of_document
from proxy.downstream.request_body import LargeBody, invite, read_body
from proxy.downstream.response import Downstream
from proxy.downstream.websocket import handshake
from proxy.server.headers import KEPT
from proxy.server.models import Choice, Models
from proxy.server.sockets import Sockets
from proxy.stream.faults import log_fault
from proxy.upstream.exchange import Exchange
from proxy.upstream.group import OpenExchange
from proxy.upstream.upstream import UpstreamRequest
from proxy.wire import json_size
from proxy.wire.errors import UpstreamError
from proxy.wire.http import LAST_CHUNK, EndToEnd, Headers, chunk, origin_form

_PIECE_BYTES: Final = 64 * 1024
_CHECKED_AT_ONCE_BYTES: Final = 256 * 1024  # 5 ms
_BODY_BYTES: Final = 64 * 1024 * 1024  # of a caller with limits, where no other limit is known
_STATED_BYTES: Final = 2 * 1024 * 1024  # a longer response is not searched for its usage
_CROSSING: Final = EndToEnd(KEPT)
_ANSWER: Final = EndToEnd(marked=(b"content-length",))


def _without_limits(caller: Caller) -> Account | None:
    return None


class Forward:
    """Makes the target and headers of an upstream request from a client's. Keys are set elsewhere, in `Upstream`."""

    def __init__(self, allowed: AllowedPaths | None = None, *, hides_tokens: bool = False) -> None:
        """`allowed`: the only paths that are forwarded; None: all that are served are.

        `hides_tokens`: tokens for streams are removed.
        """
        self._allowed = allowed
        self._hides_tokens = hides_tokens

    def target(self, route: Route, request: web.BaseRequest) -> bytes:
        """Return the target for upstream. Raises: BadRequest, PathNotAllowed."""
        target = request.raw_path
        if self._allowed is not None:
            self._allowed.check(request.method, origin_form(target).partition("?")[0])
        return route.target(without_parameter(target) if self._hides_tokens and "?" in target else target)

    def looks_into(self, request: web.BaseRequest) -> bool:
        """Return whether the body of a request that passes through has to be checked."""
        return self._allowed is not None and self._allowed.looks_into(origin_form(request.raw_path).partition("?")[0])

    def check_body(self, request: web.BaseRequest, body: bytes | LargeBody) -> Awaitable[None] | None:
        """Check what a body refers to, of a large one when it is sent; and that it can be read in a short time.

        Of a body that takes long the rest is still to be checked: await what is returned.
        Raises: FileNotAllowed, UnsupportedMediaType, TooLarge.
        """
        if self._allowed is None and type(body) is bytes and len(body) <= json_size.LONG_BYTES:
            return None  # nearly always
        if self._allowed is not None:
            headers = request.headers
            self._allowed.check_coding(headers.getall("Content-Encoding", ()), headers.getall("Content-Type", ()))
            if isinstance(body, LargeBody):
                body.check = self._allowed.body_check().check
                return None
        if isinstance(body, LargeBody):
            return None
        if len(body) > json_size.LONG_BYTES:
            return self._check_in_steps(body)
        if self._allowed is not None:
            self._allowed.check_body(body)
        return None

    async def _check_in_steps(self, body: bytes) -> None:
        if self._allowed is not None:
            check = self._allowed.body_check().check
            for at in range(0, len(body), _CHECKED_AT_ONCE_BYTES):
                check(body[at : at + _CHECKED_AT_ONCE_BYTES])
                await asyncio.sleep(0)
        await _check_size(body)

    def headers(self, request: web.BaseRequest, crossing: EndToEnd) -> tuple[Headers, bool]:
        """Return the request's headers that are forwarded, and whether any was one of `crossing`'s marked names."""
        headers, marked = crossing.parted(request.raw_headers)
        return without_cookie(headers) if self._hides_tokens else headers, marked


class PassThrough:
    """The handler of requests that pass through."""

    def __init__(
        self,
        forward: Forward,
        open_exchange: OpenExchange,
        sockets: Sockets,
        models: Models | None = None,
        body_bytes: Callable[[], int] = int,
        account: Callable[[Caller], Account | None] = _without_limits,
        continued: ContinuedResponses | None = None,
    ) -> None:
        """`models`: JSON that is posted goes to the upstream of its model. `body_bytes`: how much is read of a body.

        `account` returns the account of a caller with limits. `continued` finds the upstreams of earlier responses.
        """
        self._account = account
        self._continued = continued
        self._forward = forward
        self._open_exchange = open_exchange
        self._sockets = sockets
        self._models = models
        self._body_bytes = body_bytes

    async def serve(
        self, route: Route, request: web.BaseRequest, caller: Caller, *, alone: str = ""
    ) -> web.StreamResponse:
        """Send a request upstream and its response back, both streamed, neither parsed.

        `alone`: the name of the only upstream that it may be sent to; "": the usual one, or one that serves its model.
        """
        target = self._forward.target(route, request)
        account = self._account(caller) if caller.name else None
        if request.method == "GET" and "Upgrade" in request.headers and (accepted := handshake(request)):
            return await self._switch(route, request, caller, target, accepted)
        headers, _ = self._forward.headers(request, _CROSSING)
        body: bytes | AsyncIterable[bytes] = b""
        chunked = False
        has_body = request.body_exists
        upstream = alone
        if has_body and (account is not None or self._is_read(route, request)):
            body = await self._read(route, request, account)
            if self._continued is not None and not alone:
                alone = await self._continued.upstream(route.dialect, caller.digest, body)
            upstream, body = self._chosen(request, body, alone)
            headers.append((b"Content-Length", b"%d" % len(body)))
        elif has_body:
            length = request.headers.get("Content-Length")
            chunked = length is None
            headers.append(
                (b"Transfer-Encoding", b"chunked") if length is None else (b"Content-Length", length.encode())
            )
            body = _arrived(request, chunked=chunked) if request.content.is_eof() else _pieces(request)
        elif "Content-Length" in request.headers:
            headers.append((b"Content-Length", b"0"))
        upstream_request = UpstreamRequest(
            route, request.method.encode(), target, headers, body, caller.digest, chunked=chunked, once=has_body,
            upstream=upstream, alone=bool(alone),
        )  # fmt: skip
        return await send_back(request, await self._open_exchange(upstream_request), account)

    def _is_read(self, route: Route, request: web.BaseRequest) -> bool:
        """Return whether the body has to be read: to be checked, or for the model or the responses that it names."""
        names_model = bool(self._models) and _is_posted_json(request)
        return names_model or self._names_responses(route) or self._forward.looks_into(request)

    def _names_responses(self, route: Route) -> bool:
        """Return whether a body may name responses that others were given."""
        return self._continued is not None and route.dialect.objects is not None

    async def _read(self, route: Route, request: web.BaseRequest, account: Account | None) -> bytes:
        """Read a body and check it; with an account, the model that it names, too. Raises: NotAllowedForKey.

        The formats of configured routes are not known, so any model may be named there.
        """
        limit = self._body_bytes()
        body = await read_body(request, limit if account is None else account.body_bytes(limit or _BODY_BYTES))
        await self._check(route, request, body)
        if account is not None and route.dialect.frames.has_text and request.method not in ("GET", "HEAD", "DELETE"):
            account.check_body(body)
        return body

    async def _check(self, route: Route, request: web.BaseRequest, body: bytes) -> None:
        """Check a body that will be read. Raises: as Forward.check_body."""
        rest: Awaitable[None] | None = None
        if self._forward.looks_into(request):
            rest = self._forward.check_body(request, body)
        elif len(body) > json_size.LONG_BYTES and (_is_posted_json(request) or self._names_responses(route)):
            rest = _check_size(body)
        if rest is not None:
            await rest

    def _chosen(self, request: web.BaseRequest, body: bytes, alone: str) -> Choice:
        """Choose the upstream of a body, unless it is known."""
        chosen = self._models.choose(body) if self._models and _is_posted_json(request) else Choice("", body)
        return chosen._replace(upstream=alone) if alone else chosen

    async def _switch(
        self, route: Route, request: web.BaseRequest, caller: Caller, target: bytes, accepted: bytes
    ) -> web.StreamResponse:
        """Serve a WebSocket, or send back what the upstream answers instead."""
        headers, _ = self._forward.headers(request, _CROSSING)
        answer = await self._sockets.serve(route, request, caller, target, headers, accepted)
        return await send_back(request, answer) if isinstance(answer, Exchange) else answer


async def _spend(account: Account, exchange: Exchange) -> None:
    """Count the tokens that a response states which is not a stream."""
    account.spend(tokens_of_document(await exchange.peek(lambda body: len(body) > _STATED_BYTES)))


async def send_back(request: web.BaseRequest, exchange: Exchange, account: Account | None = None) -> web.StreamResponse:
    """Send a response back as it comes; count its tokens, if they are limited for the caller with this `account`."""
    counting = account if account is not None and account.limits.counts_tokens else None
    try:
        if counting is not None and not exchange.is_event_stream and 200 <= exchange.status < 300:
            await _spend(counting, exchange)
        downstream = Downstream(request, exchange.status)
        headers, has_length = _ANSWER.parted(exchange.headers, exchange.names)
        downstream.start(exchange.reason, headers, framed=has_length or exchange.bodyless)
        body = exchange.take_complete()
        if body is not None:  # most small bodies arrived together with their head
            downstream.close(body)
        else:
            exchange.attach(_Conduit(exchange, downstream, counting if exchange.is_event_stream else None))
            await downstream.finished()
    finally:
        exchange.close()
    return downstream.response


class _Conduit:
    """Carries a response's body to one client, no faster than the client takes it."""

    __slots__ = ("_account", "_downstream", "_exchange")

    def __init__(self, exchange: Exchange, downstream: Downstream, account: Account | None) -> None:
        """`account`: that of a caller for whom each event counts as a token, since nobody reads what they state."""
        self._account = account
        self._exchange = exchange
        self._downstream = downstream

    def received(self, data: bytes, at: float) -> None:
        if self._account is not None:
            self._account.spend(data.count(b"data:"))
        downstream = self._downstream
        downstream.write_data(data)
        if not downstream.writable:
            self._exchange.pause()
            downstream.on_writable(self._exchange.resume)

    def ended(self, data: bytes, at: float, error: UpstreamError | None) -> None:
        (self._downstream.close if error is None else self._downstream.abort)(data)

    def failed(self, fault: Exception) -> None:
        log_fault("a response that passes through", fault)
        self._downstream.abort(b"")


def _arrived(request: web.BaseRequest, *, chunked: bool) -> bytes:
    """Return a body that arrived with the head, to send in one write: a task for its pieces would take 17 us more."""
    body = request.content.read_nowait()
    if not chunked:
        return body
    return chunk(body) + LAST_CHUNK if body else LAST_CHUNK


async def _check_size(body: bytes) -> None:
    """Check that JSON is read in a short time. Raises: TooLarge."""
    for _ in json_size.check(body):
        await asyncio.sleep(0)


def _is_posted_json(request: web.BaseRequest) -> bool:
    return request.method == "POST" and request.content_type == "application/json"


def _pieces(request: web.BaseRequest) -> AsyncIterable[bytes]:
    invite(request)
    return request.content.iter_chunked(_PIECE_BYTES)
