"""The handler of generation requests: makes an upstream call, or joins one that other requests share.

Usually the call runs in the handler of its client, and is closed when the client disconnects. If the call may outlive
the client or have other followers (a key, a grace period, `Idempotency-Key`, `share`, `respond-async`,
`attach_retries_s`), it runs in a task of its own, and every client attaches to its stream. A response that is not an
event stream is then put into a log, too, each read as a frame, so that it can be shared, kept and replayed.

Requests on configured routes with `record = true` are served here, too, as if they were generations.
"""

import asyncio
import functools

from aiohttp import web

from proxy.access.callers import Caller
from proxy.access.response_ids import GivenIds
from proxy.dialects.route import Route
from proxy.downstream.connection import ERROR_TO_SEND
from proxy.downstream.request_body import release_body
from proxy.server.configuration.settings import LimitsConfig
from proxy.server.directory import Directory
from proxy.server.generations.request import GenerationReader, GenerationRequest, ask, is_known_stream, is_stream
from proxy.server.generations.response import GenerationResponses, Joined
from proxy.server.generations.retries import LostCalls, Reading
from proxy.server.generations.shared_calls import Call, Calls
from proxy.server.pass_through import send_back
from proxy.server.placement import Placement, call_name, retry_name
from proxy.server.response_object import answer_object
from proxy.stream.endings import CLIENT_GONE, DRAINED
from proxy.stream.hub import Hub, Places
from proxy.stream.ledger import BODIES
from proxy.stream.projection import EVENT_STREAM
from proxy.stream.stream import Stream
from proxy.telemetry.metrics import Metrics
from proxy.upstream.exchange import Exchange
from proxy.upstream.group import OpenExchange
from proxy.upstream.on_disconnect import OnDisconnect
from proxy.upstream.pump import Pump
from proxy.wire.errors import ProxyError, UpstreamError
from proxy.wire.http import Head

_NEVER_CLOSE = OnDisconnect(None)
_HEAD = Head(200, b"OK", [(b"Content-Type", EVENT_STREAM)])  # of a stream that another process reads
_BACKGROUND_WAIT_S = 2.0  # for the head of a response in the background: an error within this time is sent back


class Generations:
    """The handler of generation requests."""

    def __init__(
        self,
        hub: Hub,
        open_exchange: OpenExchange,
        calls: Calls,
        reader: GenerationReader,
        responses: GenerationResponses,
        metrics: Metrics,
        limits: LimitsConfig,
        lost: LostCalls,
        given: GivenIds | None = None,
        placement: Placement | None = None,
        *,
        cumulative: bool | None = None,
        empty_events: bool = False,
        directory: Directory | None = None,
    ) -> None:
        """`given`: notes the ids of responses, if it matters who was given them by which upstream; else None.

        `placement`: finds the worker that a request belongs to, if there are several.
        `empty_events`: heartbeats are empty events where the API has them.
        `cumulative`: whether each event of the upstreams repeats the text so far; None: requests and events show it.
        `directory` finds calls of other processes; None: there are no others.
        """
        self._lost = lost
        self._hub = hub
        self._open_exchange = open_exchange
        self._calls = calls
        self._reader = reader
        self._responses = responses
        self._metrics = metrics
        self._given = given
        self._placement = placement
        self._cumulative = cumulative
        self._empty_events = empty_events
        self._directory = directory
        self.limit(limits)

    def limit(self, limits: LimitsConfig) -> None:
        """Keep these limits from now on."""
        self._max_log_bytes = limits.log_bytes
        self._max_frame_bytes = limits.frame_bytes
        self._reader.limit(limits)

    async def generate(
        self, route: Route, request: web.BaseRequest, caller: Caller, **named: str
    ) -> web.StreamResponse:
        """Deliver the response of an upstream call: a new one, or one that other requests share."""
        generation = await self._reader.read(route, request, caller)
        if self._placement is not None:
            elsewhere = await self._hand_over(self._placement, request, generation)
            if elsewhere is not None:
                return elsewhere
        options = generation.options
        is_unshared = generation.identity is None and generation.meaning is None and not options.detached
        if is_unshared and not generation.keepalive_s:
            return await self._unshared(request, generation)
        call, how = await self._shared_call(generation)
        late = call is not None
        if call is None and self._directory is not None and generation.options.idempotency_key is not None:
            found = await self._claimed(self._directory, generation)
            if isinstance(found, Stream):
                return await self._follow_elsewhere(request, found, generation)
            call, late = found
        elif call is None:
            call = self._begin_call(generation)
        if late:
            self._metrics.shared(how, call.stream)
            self._join(call, generation)
            if self._placement is not None and options.key is not None:
                await self._placement.named(generation.caller, options.key, call.stream.id)
        release_body(request)
        joined = how if late else None
        if options.respond_async:
            call.promised = True
            self._hub.retain(call.stream, options.retain_s)  # else a response without a follower would not be kept
            if generation.background:
                return await self._in_background(request, call, generation, joined)
            return self._responses.accept(call.stream, options, late=late)
        if generation.meaning is None:
            return await self._follow(call, request, generation, joined)
        return await self._follow_for_retries(call, request, generation, joined)

    async def _hand_over(
        self, placement: Placement, request: web.BaseRequest, generation: GenerationRequest
    ) -> web.StreamResponse | None:
        """Hand a request over to the worker that it belongs to; return None if it is to be served here."""
        identity, meaning, held = generation.identity, generation.meaning, False
        shared: tuple[bytes, ...] | None = None
        if meaning is not None:
            shared, held = retry_name(meaning), meaning in self._lost.meanings()
        elif identity is not None:
            shared, held = call_name(*identity.name), self._calls.holds(identity)
        elsewhere = await placement.of_generation(request, generation.caller, generation.options.key, shared, held=held)
        if elsewhere is not None:
            generation.drop_body()
            release_body(request)
        return elsewhere

    async def _claimed(self, directory: Directory, generation: GenerationRequest) -> tuple[Call, bool] | Stream:
        """Return the call of a request with an Idempotency-Key, and whether it was there already.

        If another process makes the call, return its stream. Raises: KeyReused, StoreUnavailable, Overloaded.
        """
        identity = generation.identity
        assert identity is not None
        name = repr(identity.name).encode()
        async with directory.claims.alone(name):
            call = self._calls.find(identity)
            if call is not None:
                return call, True
            ident = self._hub.new_id()
            stream = await directory.claim(name, identity.asked, ident)
            return (self._begin_call(generation, ident), False) if stream is None else stream

    async def _follow_elsewhere(
        self, request: web.BaseRequest, stream: Stream, generation: GenerationRequest
    ) -> web.StreamResponse:
        """Deliver the stream of another process, which this request shares."""
        generation.drop_body()
        release_body(request)
        self._metrics.shared("key", stream)
        options = generation.options
        if options.respond_async:
            return (
                answer_object(stream) if generation.background else self._responses.accept(stream, options, late=True)
            )
        return await self._responses.send(request, stream, stream.kept_head or _HEAD, options, "key")

    async def _shared_call(self, generation: GenerationRequest) -> tuple[Call | None, Joined]:
        """Return the call of an earlier request that this one shares, if any, and how it was found.

        Raises: KeyReused.
        """
        if generation.meaning is not None:
            call = await self._lost.take(generation.meaning)
            if call is not None:
                return call, "retry"
        how: Joined = "body" if generation.options.idempotency_key is None else "key"
        return None if generation.identity is None else self._calls.find(generation.identity), how

    async def _follow(
        self,
        call: Call,
        request: web.BaseRequest,
        generation: GenerationRequest,
        joined: Joined | None,
        reading: Reading | None = None,
    ) -> web.StreamResponse:
        """Wait for the head of a call's response, and deliver its stream."""
        early = self._responses.early(request, call, generation, joined) if generation.keepalive_s else None
        place = self._hub.reserve(followers=1)
        try:
            if early is not None:
                await early.wait()
            head = await call.answered()
        except ProxyError as error:
            if early is None or early.downstream is None:
                raise
            return early.fail(error)
        finally:
            place.give_back()
        begun = None if early is None else early.downstream
        if early is not None and begun is not None and call.stream.kept_head is not None:
            return await early.refuse()
        try:
            return await self._responses.send(request, call.stream, head, generation.options, joined, reading, begun)
        except ProxyError as error:
            if early is None or begun is None or begun.ended:
                raise
            return early.fail(error)

    async def _follow_for_retries(
        self, call: Call, request: web.BaseRequest, generation: GenerationRequest, joined: Joined | None
    ) -> web.StreamResponse:
        """Do as `_follow`, and have a retry find the call if the client's connection closes before the end."""
        assert generation.meaning is not None
        reading, over = Reading(request), joined != "retry"  # a retry that is refused for lack of room may retry again
        self._lost.begin(generation.meaning)
        try:
            response = await self._follow(call, request, generation, joined, reading)
            over = reading.subscription is None or reading.had_all(call.stream)
            return response
        except (asyncio.CancelledError, ConnectionError):
            over = reading.had_all(call.stream)
            raise
        finally:
            self._lost.end(generation.meaning, call, lost=not over and self._hub.keeps(call.stream))

    async def _unshared(self, request: web.BaseRequest, generation: GenerationRequest) -> web.StreamResponse:
        """Make the upstream call in the handler's task: when the client disconnects, both are cancelled."""
        places = self._hub.reserve(streams=1, followers=1)
        try:
            exchange = await ask(self._open_exchange, generation)
            try:
                streamed = is_known_stream(generation, exchange)  # usually known: saves a coroutine
                if streamed is None:
                    streamed = await is_stream(generation, exchange)
                pump = self._pump(generation, places) if streamed else None
            except BaseException:
                exchange.close()
                raise
        except (UpstreamError, asyncio.CancelledError) as error:
            ended = DRAINED if ERROR_TO_SEND in request else CLIENT_GONE
            reason = error.ending if isinstance(error, UpstreamError) else ended.reason
            self._metrics.never_began(generation.route.name, reason)
            raise
        finally:
            places.give_back()
            if generation.upgraded:
                self._metrics.count_upgraded(generation.route.name)
            generation.drop_body()
            release_body(request)
        if pump is None:
            if self._given is not None:
                await self._note_id(exchange, generation, self._given)
            return await send_back(request, exchange, self._reader.account(generation))
        stream = pump.stream
        self._hub.answered(stream, exchange.upstream_name, exchange.request_id)
        pump.start(exchange)
        try:
            return await self._responses.send(request, stream, exchange.head, generation.options)
        except Exception:  # the client disconnected before it could follow, or the response failed
            stream.left()
            raise

    async def _note_id(self, exchange: Exchange, generation: GenerationRequest, given: GivenIds) -> None:
        """Note the ids of a response that is not a stream, and of its items, as given to its caller."""
        objects = generation.route.dialect.objects
        if objects is None or not 200 <= exchange.status < 300:
            return
        try:
            document = await exchange.peek(lambda body: len(body) > self._max_frame_bytes)
            ident = objects.ident_of(document)
            idents = () if ident is None else (*objects.items_of(document), ident)
        except BaseException:
            exchange.close()
            raise
        for one in idents:
            given.give(generation.caller, one, exchange.upstream_name)

    async def _in_background(
        self, request: web.BaseRequest, call: Call, generation: GenerationRequest, joined: Joined | None
    ) -> web.StreamResponse:
        """Respond with the object of a response, or with the upstream's error if it comes in `_BACKGROUND_WAIT_S`."""
        try:
            async with asyncio.timeout(_BACKGROUND_WAIT_S):
                head = await call.answered()
        except TimeoutError:
            return answer_object(call.stream)
        if 200 <= head.status < 300:
            return answer_object(call.stream)
        self._hub.discard(call.stream)
        return await self._responses.send(request, call.stream, head, generation.options, joined)

    def _begin_call(self, generation: GenerationRequest, ident: str = "") -> Call:
        """Begin an upstream call in a separate task; `ident`: the id of its stream, if it has one.

        Raises: Overloaded.
        """
        call = Call(self._hub, self._pump(generation, ident=ident), generation.identity)
        if generation.meaning is not None:
            call.attachable = True
            call.writer.on_disconnect = call.writer.on_disconnect.or_longer(self._lost.policy)
        call.begin(functools.partial(self._ask, generation), functools.partial(is_stream, generation))
        self._calls.add(call)
        return call

    async def _ask(self, generation: GenerationRequest) -> Exchange:
        """Send the request of a call in a task of its own.

        The hub's ledger counts its body, since the client's connection, which counts it otherwise, may close before.
        """
        ledger, size_bytes = self._hub.ledger, len(generation.whole_body)
        ledger.count(BODIES, size_bytes)
        try:
            return await ask(self._open_exchange, generation)
        finally:
            ledger.count(BODIES, -size_bytes)
            if generation.upgraded:
                self._metrics.count_upgraded(generation.route.name)
            generation.drop_body()

    def _join(self, call: Call, generation: GenerationRequest) -> None:
        """Add a request to a call: the longer `OnDisconnect` applies, and the request's key names the stream, too."""
        generation.drop_body()
        options = generation.options
        policy = _NEVER_CLOSE if options.respond_async else options.on_disconnect
        call.writer.on_disconnect = call.writer.on_disconnect.or_longer(policy)
        if options.key is not None:
            self._hub.add_key(call.stream, options.key)

    def _pump(self, generation: GenerationRequest, places: Places | None = None, ident: str = "") -> Pump:
        """Begin a stream and make its writer. Raises: Overloaded."""
        info = generation.info(ident or self._hub.new_id(), self._max_log_bytes, self._cumulative, self._empty_events)
        stream = self._hub.begin(info, generation.vitals(), places)
        overhead = self._metrics.distribution("proxy_overhead", generation.route.name).observe
        policy = generation.options.on_disconnect
        # Positional arguments: keywords make a dict, 0.5 us a constructor.
        return Pump(stream, policy, self._max_frame_bytes, overhead, generation.hides_usage)
