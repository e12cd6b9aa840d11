"""WebSockets that pass through to an upstream: the handshakes on both sides, and the stream that each session is.

Extensions are not offered upstream and not accepted here: a compressed message could not be read. What the upstream
answers in place of switching protocols is the client's answer.
"""

import asyncio
import os
import re
import time
from base64 import b64encode
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote

from aiohttp import web

from proxy.access.admission import Admission
from proxy.access.callers import Caller
from proxy.access.client_addresses import ClientAddresses
from proxy.access.grants import Grants
from proxy.dialects.allowed_paths import AllowedMessages, AllowedPaths
from proxy.dialects.route import AUTHORIZATION, PROTOCOL, Route, key_header, protocol_keys, without_keys
from proxy.downstream.client_socket import ClientSocket
from proxy.downstream.response import Downstream
from proxy.downstream.switched import CLOSING_S
from proxy.downstream.websocket import chosen_protocol
from proxy.server.config import Config
from proxy.server.generations.options import GenerationOptions, read_options
from proxy.server.headers import SET
from proxy.server.models import Models
from proxy.stream.endings import CLIENT_GONE
from proxy.stream.hub import Hub, Places
from proxy.stream.info import StreamInfo
from proxy.stream.stream import Stream
from proxy.stream.vitals import Vitals
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.request_log import request_id
from proxy.upstream.exchange import Exchange
from proxy.upstream.group import OpenExchange
from proxy.upstream.session import Session
from proxy.upstream.upstream import UpstreamRequest
from proxy.wire.errors import Garbled, UpstreamError
from proxy.wire.http import EndToEnd, Headers
from proxy.wire.websocket import accept

_HANDSHAKE = tuple(b"sec-websocket-" + name for name in (b"key", b"version", b"extensions", b"accept"))
_CROSSING = EndToEnd(_HANDSHAKE)
_ANSWER = EndToEnd((*SET, *_HANDSHAKE, b"content-length"))
_PROTOCOL = PROTOCOL.lower().encode()
_MODEL = re.compile(rb"(?<=[?&])model=[^&#]*")


def with_key_apart(headers: Headers) -> Headers:
    """Return the headers of a handshake with the key that was sent as a protocol in the header for keys."""
    stated = ", ".join(value.decode("latin-1") for name, value in headers if name.lower() == _PROTOCOL)
    keys = protocol_keys(stated)
    if not keys:
        return headers
    kept = [header for header in headers if header[0].lower() != _PROTOCOL]
    if others := without_keys(stated):
        kept.append((PROTOCOL.encode(), ", ".join(others).encode("latin-1")))
    if not any(name.lower() == AUTHORIZATION.lower().encode() for name, _ in kept):
        kept.append(key_header(AUTHORIZATION, keys[0]))
    return kept


class _Asked(NamedTuple):
    """What a handshake asks for."""

    route: Route
    target: bytes
    headers: Headers
    model: str | None
    upstream: str
    caller: Caller
    options: GenerationOptions
    client: str  # the address it came from
    began_at: float  # when the request came, in monotonic seconds
    client_request_id: str  # what its client calls it


class Sockets:
    """The handler of WebSockets: one session, and one stream, for each."""

    def __init__(
        self,
        config: Callable[[], Config],
        hub: Hub,
        admission: Admission,
        grants: Grants,
        metrics: Metrics,
        models: Models,
        open_exchange: OpenExchange,
        allowed: AllowedPaths | None = None,
    ) -> None:
        """`allowed`: what clients may refer to in their messages; None: anything."""
        self._config = config
        self._hub = hub
        self._admission = admission
        self._grants = grants
        self._metrics = metrics
        self._models = models
        self._open_exchange = open_exchange
        self._allowed = allowed
        self._client_address = ClientAddresses(config().trusted_proxies).of
        self._handlers: set[asyncio.Task[Any]] = set()

    async def wait_closed(self) -> None:
        """Wait until all sessions have closed: aiohttp's shutdown does not wait for the client's close frame."""
        if self._handlers:
            await asyncio.wait(self._handlers, timeout=2 * CLOSING_S)

    async def serve(
        self, route: Route, request: web.BaseRequest, caller: Caller, target: bytes, headers: Headers, accepted: bytes
    ) -> web.StreamResponse | Exchange:
        """Carry a session until it ends; return its response, or the exchange, if the upstream does not switch.

        `target` and `headers` are those for the upstream, `accepted` the value that accepts the client's handshake.
        """
        asked = self._asked(route, request, caller, target, headers)
        places = self._hub.reserve(streams=1)
        try:
            exchange = await self._ask_unheard(asked, request)
            if exchange.status != 101:
                return exchange
            return await self._carry(asked, request, exchange, accepted, places)
        finally:
            places.give_back()

    def _asked(self, route: Route, request: web.BaseRequest, caller: Caller, target: bytes, headers: Headers) -> _Asked:
        options = read_options(request.headers, self._config())
        named = options.key is not None
        self._admission.admit_generation(caller, False, named, follows=True, at_once=True, shares_bodies=False)
        query = dict(parse_qsl(request.raw_path.partition("?")[2]))
        model, upstream = query.get("model"), ""
        account = self._admission.account(caller)
        if account is not None:
            account.check_model(model)
        row = self._models.find(model) if model else None
        if row is not None:
            upstream = row.upstream
            if row.alias_of:
                target = _MODEL.sub(b"model=" + quote(row.alias_of, safe="").encode(), target, count=1)
        return _Asked(
            route, target, headers, model, upstream, caller, options, self._client_address(request), time.monotonic(),
            request_id(request),
        )  # fmt: skip

    async def _ask_unheard(self, asked: _Asked, request: web.BaseRequest) -> Exchange:
        """Send the handshake upstream; read no more of the client meanwhile, which would gather without a limit."""
        transport = request.transport
        if transport is not None:
            transport.pause_reading()
        try:
            return await self._ask(asked)
        except (UpstreamError, asyncio.CancelledError) as error:
            reason = error.ending if isinstance(error, UpstreamError) else CLIENT_GONE.reason
            self._metrics.never_began(asked.route.name, reason)
            raise
        finally:
            if transport is not None and not transport.is_closing():
                transport.resume_reading()

    async def _ask(self, asked: _Asked) -> Exchange:
        """Send the handshake upstream. Raises: UpstreamError; Garbled, if the answer is no valid handshake."""
        key = b64encode(os.urandom(16))
        headers = with_key_apart(_CROSSING.of(asked.headers))
        headers += [
            (b"Connection", b"Upgrade"),
            (b"Upgrade", b"websocket"),
            (b"Sec-WebSocket-Version", b"13"),
            (b"Sec-WebSocket-Key", key),
        ]
        upstream_request = UpstreamRequest(
            asked.route, b"GET", asked.target, headers, b"", asked.caller.digest, switches=True, upstream=asked.upstream
        )
        exchange = await self._open_exchange(upstream_request)
        if exchange.status == 101:
            accepted, extensions = (
                exchange.header(b"sec-websocket-accept"),
                exchange.header(b"sec-websocket-extensions"),
            )
            if accepted != accept(key.decode()) or extensions:
                exchange.close()
                what = (
                    "with an extension that was not offered" if extensions else "without accepting the handshake's key"
                )
                raise Garbled(f"the upstream switched protocols {what}")
        return exchange

    async def _carry(
        self, asked: _Asked, request: web.BaseRequest, exchange: Exchange, accepted: bytes, places: Places
    ) -> web.StreamResponse:
        try:
            client = ClientSocket(request, Downstream(request, 101), self._hub.turns, self._config().limits.frame_bytes)
            session = self._session(asked, self._begin(asked, places), client)
        except BaseException:  # the client has gone
            exchange.close()
            raise
        stream = session.stream
        self._hub.answered(stream, exchange.upstream_name, exchange.header(b"x-request-id"))
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        task.add_done_callback(self._handlers.discard)
        try:
            answered = _ANSWER.of(exchange.headers)
            chosen = [] if exchange.header(b"sec-websocket-protocol") else chosen_protocol(request)
            client.start(accepted, [*answered, *chosen, *self._found(stream)])
            session.start(exchange)
            client.hear(session)
            await client.finished()
        finally:
            session.client_left()
        return client.response

    def _begin(self, asked: _Asked, places: Places) -> Stream:
        options = asked.options
        info = StreamInfo(
            self._hub.new_id(),
            asked.route.name,
            asked.caller.digest,
            int(time.time()),
            options.retain_s,
            self._config().limits.log_bytes,
            () if options.key is None else (options.key,),
            options.trace_id,
            client=asked.client,
            client_request_id=asked.client_request_id,
        )
        return self._hub.begin(info, Vitals(asked.route.dialect, asked.began_at, asked.model), places)

    def _session(self, asked: _Asked, stream: Stream, client: ClientSocket) -> Session:
        route, metrics = asked.route.name, self._metrics

        def first_token(seconds: float) -> None:
            metrics.answered_in_session(route, stream.vitals.model, seconds)

        def count(side: str, messages: int, size_bytes: int) -> None:
            metrics.socket_messages[route, side] += messages
            metrics.socket_bytes[route, side] += size_bytes

        frame_bytes, turns = self._config().limits.frame_bytes, self._hub.turns
        check = None if self._allowed is None else AllowedMessages(self._allowed).check
        return Session(stream, client, frame_bytes, turns, count=count, on_first_token=first_token, check=check)

    def _found(self, stream: Stream) -> Headers:
        """Return the headers that say where the session's stream is found."""
        ident = stream.id.encode()
        links = [(b"Stream-Follow-URL", self._grants.follow_url(stream.id).encode())] if self._grants else []
        return [(b"Stream-Id", ident), (b"Content-Location", b"/v1/streams/" + ident), *links]
