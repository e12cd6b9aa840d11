"""Generations: read whole, sent upstream, answered with a stream; alone, or with others that ask for the same.

Alone, a client waits for its own upstream call, and its leaving ends it. Where the call may outlive the client, or
have other followers (a key, a grace, `Idempotency-Key`, `share`, `respond-async`), it runs apart, in a task and with
a stream of its own, and every client attaches to that. An answer that is no event stream is then a log, too, its
reads its frames: so it is waited for, shared, kept and replayed like a stream.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from aiohttp import web
from multidict import CIMultiDict

from proxy.access.callers import Auth
from proxy.dialects.route import Route
from proxy.downstream.request_body import read_body
from proxy.server.config import Config
from proxy.server.delivery import begin_answer, begin_stream, deliver, refusal
from proxy.server.document import JSON, deliver_document
from proxy.server.generation_options import NAMES, GenerationOptions, read_options
from proxy.server.generation_request import GenerationRequest, ask, asks_cumulative, is_stream, model_of, rewrite
from proxy.server.json_responses import answer
from proxy.server.pass_through import MINE, Forward
from proxy.server.shared_calls import Call, Calls, Identity, by_body, by_key
from proxy.stream.endings import CLIENT_GONE, COMPLETE, UPSTREAM_ERROR, ending_of
from proxy.stream.hub import Hub
from proxy.stream.on_disconnect import OnDisconnect
from proxy.stream.projections import View
from proxy.stream.stream import Stream
from proxy.stream.subscription import Subscription
from proxy.stream.vitals import Vitals
from proxy.telemetry import access_log
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.stream_object import describe
from proxy.upstream.exchange import Exchange
from proxy.upstream.pump import Pump
from proxy.wire.errors import OffsetGone, Overloaded, ProxyError, RateLimited, UpstreamError
from proxy.wire.http import Head, Headers

if TYPE_CHECKING:
    from proxy.telemetry.tracing import Trace, Tracing

# Identity is asked for: a compressed stream has no frames. The Idempotency-Key is kept here, since behind one key of
# ours two callers' keys would be one.
_MINE = MINE | {b"accept-encoding", b"idempotency-key"}
_IDENTITY = (b"Accept-Encoding", b"identity")
_RUN_ON = OnDisconnect(None)
_REPLAYED = (b"Idempotency-Replayed", b"true")


class Generations:
    """The handler of generations, and what it begins."""

    def __init__(
        self,
        config: Config,
        hub: Hub,
        forward: Forward,
        calls: Calls,
        auth: Auth,
        metrics: Metrics,
        tell: Callable[[str, Stream], None],
        tracing: "Tracing | None",
    ) -> None:
        """`tell` hears of every stream that begins, and that has ended."""
        self._config = config
        self._hub = hub
        self._forward = forward
        self._calls = calls
        self._auth = auth
        self._metrics = metrics
        self._tell = tell
        self._tracing = tracing
        generations = config.generations
        self._by_body = generations.share == "body"
        self._rewrites = generations.upgrade != "never" or generations.include_usage
        self._has_links = bool(auth.capabilities)
        self._crossing = forward.crossing(_MINE, NAMES)
        self._frame_bytes = config.limits.frame_bytes
        self._body_bytes = config.limits.body_bytes
        self._usual = read_options(CIMultiDict(), config)  # what most ask for

    async def generate(self, route: Route, request: web.BaseRequest, **named: str) -> web.StreamResponse:
        """Answer with the stream of an upstream call: a new one, or one that others share."""
        caller = self._auth.caller(request.headers.get("Authorization", ""))
        headers, has_options = self._forward.headers(request, self._crossing)
        options = read_options(request.headers, self._config) if has_options else self._usual
        shared = self._by_body or options.idempotency_key is not None
        if not shared:  # before the body is read; a call that is there already needs no more room
            self._hub.check_room()
        if not options.respond_async:
            self._hub.check_room_to_follow()
        target = self._forward.target(route, request)
        body = await read_body(request, self._body_bytes)
        if options.respond_async:
            headers = [header for header in headers if header[0].lower() != b"prefer"]
        headers.append(_IDENTITY)
        generation = GenerationRequest(route, caller, options, target, headers, body, None, False, time.monotonic())
        if self._rewrites:
            generation = rewrite(generation, self._config.generations)
            options = generation.options
        if shared:
            return await self._share(request, generation)
        if options.detached:
            return await self._answer(request, self._call(generation, None), options)
        if self._tracing is None:
            return await self._alone(request, generation)
        with _begin_trace(self._tracing, generation) as trace:
            return await self._alone(request, replace(generation, trace=trace))

    async def _alone(self, request: web.BaseRequest, generation: GenerationRequest) -> web.StreamResponse:
        """Make the upstream call in this client's own task: its leaving ends it."""
        try:
            exchange = await ask(self._forward, generation)
        except (UpstreamError, asyncio.CancelledError) as error:
            reason = error.ending if isinstance(error, UpstreamError) else CLIENT_GONE.reason
            self._metrics.never_began(generation.route.name, reason)
            raise
        if not await is_stream(exchange):
            return await self._forward.send_back(request, exchange)
        try:
            pump = self._pump(generation)
        except ProxyError:
            exchange.close()
            raise
        access_log.answered(pump.stream, exchange)
        pump.start(exchange)
        stream, view, ours = pump.stream, generation.options.view, self._found(pump.stream)
        if view == JSON:
            return await self._document(request, stream, ours, first=True)
        try:
            downstream = begin_stream(request, exchange.head, ours, view)
        except ConnectionError:
            pump.last_left()
            raise
        stream.originator = Subscription(stream, view, downstream, 0, self._config.streams.heartbeat_s)
        return await deliver(self._hub, downstream, stream.originator)

    # Apart

    async def _share(self, request: web.BaseRequest, generation: GenerationRequest) -> web.StreamResponse:
        """Attach to the call that this request shares, or make it."""
        identity, options = _identify(request, generation), generation.options
        call = self._calls.find(identity)
        if call is None:
            return await self._answer(request, self._call(generation, identity), options)
        policy = _RUN_ON if options.respond_async else options.on_disconnect
        call.pump.on_disconnect = call.pump.on_disconnect.or_longer(policy)
        if options.key is not None:
            self._hub.name(call.stream, options.key)
        return await self._answer(request, call, options, late=True)

    def _call(self, generation: GenerationRequest, identity: Identity | None) -> Call:
        """Begin an upstream call in a task of its own. Raises: Overloaded."""
        if self._tracing is not None and generation.trace is None:
            with _begin_trace(self._tracing, generation) as trace:
                return self._call(replace(generation, trace=trace), identity)
        call = Call(self._pump(generation), identity)
        call.opening = call.pump.opening = asyncio.create_task(self._begin(generation, call))
        call.opening.add_done_callback(_retrieve_error)
        self._calls.add(call)
        return call

    async def _begin(self, generation: GenerationRequest, call: Call) -> Head:
        """Open the exchange and have the pump take its body."""
        pump = call.pump
        try:
            exchange = await ask(self._forward, generation)
        except (UpstreamError, RateLimited, Overloaded) as error:
            pump.opening = None
            if not call.promised:
                call.stream.retain_s = 0.0
            pump.stop(ending_of(error))
            raise
        pump.opening = None
        access_log.answered(pump.stream, exchange)
        head = exchange.head
        if await is_stream(exchange):
            pump.start(exchange)
        else:
            self._keep(call, exchange, head)
        return head

    def _keep(self, call: Call, exchange: Exchange, head: Head) -> None:
        """Take an answer that is no event stream into the log, for those who wait for it.

        It stays after its end if it is a success under an Idempotency-Key, or if a client was promised it. A refusal
        is found by no request that comes later: a retry asks again. Followers that are there already came for a
        stream, and are told that there is none.
        """
        stream, pump = call.stream, call.pump
        stream.kept_head = head
        good = 200 <= head.status < 300
        refused = refusal(head)
        if not good:
            self._calls.forget(stream)
        pump.awaited += 1  # by this one: upstream is not closed because they end
        for subscription in list(stream.subscriptions):
            subscription.fail(refused)
        pump.awaited -= 1
        if not (call.promised or (good and call.lasting)):
            stream.retain_s = 0.0
            self._hub.unname(stream)
            if not pump.awaited:
                exchange.close()
                pump.stop(CLIENT_GONE)
                return
        pump.keep(exchange, COMPLETE if good else refused._replace(clean=True))

    async def _answer(
        self, request: web.BaseRequest, call: Call, options: GenerationOptions, *, late: bool = False
    ) -> web.StreamResponse:
        """Answer a client with a call's stream from its start, or, if it prefers that, with where it will be found.

        `late`: the call was another request's.
        """
        stream = call.stream
        ours: Headers = [_REPLAYED] if late and options.idempotency_key is not None else []
        if options.respond_async:
            call.promised = True
            stream.retain_s = max(stream.retain_s, options.retain_s)  # it may have been decided that nobody needs it
            return _accepted(stream, ours + self._links(stream))
        head = await call.answered()
        view = options.view if stream.kept_head is None else View("raw")
        try:
            if late:
                self._check_late(stream, view)
            if stream.kept_head is None and view == JSON:
                return await self._document(request, stream, self._found(stream) + ours, first=not late)
            if stream.kept_head is None:
                downstream = begin_stream(request, head, self._found(stream) + ours, view)
            else:
                found = [(b"Stream-Id", stream.id.encode()), *self._links(stream)] if stream.retain_s else []
                downstream = begin_answer(request, head, found + ours)
        except (ConnectionError, ProxyError):
            call.left()
            raise
        subscription = Subscription(stream, view, downstream, 0, self._config.streams.heartbeat_s)
        if not late:
            stream.originator = subscription
        return await deliver(self._hub, downstream, subscription)

    async def _document(
        self, request: web.BaseRequest, stream: Stream, headers: Headers, *, first: bool
    ) -> web.StreamResponse:
        return await deliver_document(
            request, self._hub, stream, headers, first=first, keepalive_s=self._config.generations.keepalive_s
        )

    def _check_late(self, stream: Stream, view: View) -> None:
        """Raises: Overloaded, when too many follow; OffsetGone, when the log does not hold its start any more."""
        self._hub.check_room_to_follow(stream)
        log = stream.log
        if log.start:
            raise OffsetGone(f"the stream's start is gone, the earliest frame held is {log.start + 1}", log.start + 1)
        self._metrics.replayed[view.mode] += log.end_bytes

    # Both

    def _found(self, stream: Stream) -> Headers:
        """Return the headers that say where a stream is found."""
        ident = stream.id.encode()
        found = b"/v1/streams/" + ident
        headers = [(b"Stream-Id", ident), (b"Location", found), (b"Content-Location", found)]
        return headers + self._links(stream) if self._has_links else headers

    def _links(self, stream: Stream) -> Headers:
        """Return the header by which a stream can be followed without the caller's key, if that is configured."""
        return [(b"Stream-Follow-URL", self._auth.follow_url(stream.id).encode())] if self._has_links else []

    def _pump(self, generation: GenerationRequest) -> Pump:
        """Make a stream and its writer. Raises: Overloaded."""
        options, route = generation.options, generation.route
        stream = self._hub.create(
            Vitals(route.dialect, generation.started_at),
            route=route.name,
            caller=generation.caller,
            key=options.key,
            retain_s=options.retain_s,
        )
        stream.created_at = int(time.time())
        stream.trace_id = options.trace_id or stream.id
        if generation.trace is not None:
            generation.trace.take(stream)
        if route.dialect.name == "dashscope":  # its answers name no model
            stream.vitals.model = model_of(generation.body)
            stream.cumulative = asks_cumulative(generation.body)
        self._tell("begun", stream)
        overhead = self._metrics.distribution("proxy_overhead", route.name).observe
        # By place, as the hub makes a stream: names make a dict, 0.5 us a constructor.
        return Pump(stream, options.on_disconnect, self._frame_bytes, self._sealed, overhead, generation.hides_usage)

    def _sealed(self, pump: Pump) -> None:
        now = time.monotonic()
        stream = pump.stream
        if stream.kept_head is None:  # else it has been none
            self._metrics.stream_ended(stream, now)
            access_log.ended(stream, now)
            failure, ending = stream.vitals.reader.failure, stream.log.ending
            if (
                stream.upstream
                and failure is not None
                and ending is not None
                and ending.reason == UPSTREAM_ERROR.reason
            ):
                self._forward.group.erred(stream.upstream, failure)
        self._calls.ended(stream)
        self._tell("ended", stream)
        self._hub.retire(stream, now)


def _identify(request: web.BaseRequest, generation: GenerationRequest) -> Identity:
    """Return what makes a request one with others: its Idempotency-Key if it has one, else all that it asks for."""
    route, key = generation.route, generation.options.idempotency_key
    if key is None:
        return by_body(generation.caller, route.name, generation.target, generation.body, request.raw_headers)
    native = route.dialect.name == "dashscope"
    return by_key(
        generation.caller, route.name, key, generation.target, generation.body, request.raw_headers, native=native
    )


def _begin_trace(tracing: "Tracing", generation: GenerationRequest) -> "Trace":
    return tracing.begin(
        generation.route, generation.target, generation.headers, model_of(generation.body), generation.started_at
    )


def _accepted(stream: Stream, ours: Headers) -> web.Response:
    """Answer with a handle (RFC 7240 section 4.1)."""
    headers = {"Stream-Id": stream.id, "Location": f"/v1/streams/{stream.id}", "Preference-Applied": "respond-async"}
    headers |= {name.decode(): value.decode() for name, value in ours}
    return answer(describe(stream), 202, headers)


def _retrieve_error(opening: asyncio.Task[Head]) -> None:
    """Mark an upstream's failure as retrieved, so that asyncio does not log it: the stream's ending has it."""
    error = None if opening.cancelled() else opening.exception()
    if error is not None and not isinstance(error, ProxyError):
        raise error
