"""The usual way of a generation request: its upstream call is made in the handler's task, for its client alone.

When the client disconnects before the response has begun, both are cancelled.
"""

import asyncio
from time import monotonic

from aiohttp import web

from proxy.access.response_ids import GivenIds
from proxy.downstream.connection import ERROR_TO_SEND
from proxy.downstream.request_body import release_body
from proxy.server.generations.pumps import Pumps
from proxy.server.generations.reader import GenerationReader
from proxy.server.generations.request import GenerationRequest, ask, is_known_stream, is_stream
from proxy.server.generations.response import GenerationResponses
from proxy.server.pass_through import send_back
from proxy.stream.endings import CLIENT_GONE, DRAINED
from proxy.stream.hub import Hub, Places
from proxy.telemetry.metrics import Metrics
from proxy.upstream.exchange import Exchange
from proxy.upstream.group import OpenExchange
from proxy.wire.errors import UpstreamError


class UnsharedCalls:
    """Makes the upstream calls that no other request shares, and delivers their responses."""

    def __init__(
        self,
        hub: Hub,
        open_exchange: OpenExchange,
        reader: GenerationReader,
        pumps: Pumps,
        responses: GenerationResponses,
        metrics: Metrics,
        given: GivenIds | None = None,
    ) -> None:
        """`given`: notes the ids of responses, if it matters who was given them by which upstream; else None."""
        self._hub = hub
        self._open_exchange = open_exchange
        self._reader = reader
        self._pumps = pumps
        self._responses = responses
        self._metrics = metrics
        self._given = given

    async def deliver(self, request: web.BaseRequest, generation: GenerationRequest) -> web.StreamResponse:
        """Make the upstream call of a request, and deliver the response."""
        places: Places | None = self._hub.reserve(streams=1, followers=1)
        try:
            exchange = await ask(self._open_exchange, generation)
            try:
                streamed = is_known_stream(generation, exchange)  # usually known: saves a coroutine
                if streamed is None:
                    streamed = await is_stream(generation, exchange)
                pump = self._pumps.begin(generation, places) if streamed else None
            except BaseException:
                exchange.close()
                raise
        except (UpstreamError, asyncio.CancelledError) as error:
            ended = DRAINED if ERROR_TO_SEND in request else CLIENT_GONE
            reason = error.ending if isinstance(error, UpstreamError) else ended.reason
            self._metrics.never_began(generation.route.name, reason)
            raise
        finally:
            if places is not None:
                places.give_back()
                places = None  # an object less while the stream goes on
            if generation.upgraded:
                self._metrics.count_upgraded(generation.route.name)
            generation.drop_message()
            release_body(request)
        if pump is None:
            if self._given is not None:
                await self._note_id(exchange, generation, self._given)
            return await send_back(request, exchange, self._reader.account(generation))
        stream, view = pump.stream, generation.options.view
        self._hub.answered(stream, exchange.upstream_name, exchange.request_id)
        pump.start(exchange)
        try:
            if not self._responses.sends_events(view):
                return await self._responses.send(request, stream, exchange.head, view)
            downstream, subscription = self._responses.begin(request, stream, exchange.head, view)
            exchange.drop_headers()
            try:  # as `deliver` does: a coroutine less
                self._hub.attach(subscription, monotonic())
                await downstream.finished()
            finally:
                subscription.leave("left")
            return downstream.response
        except Exception:  # the client disconnected before it could follow, or the response failed
            stream.left()
            raise

    async def _note_id(self, exchange: Exchange, generation: GenerationRequest, given: GivenIds) -> None:
        """Note the ids of a response that is not a stream, and of its items, as given to its caller."""
        objects = generation.route.dialect.objects
        if objects is None or not 200 <= exchange.status < 300:
            return
        try:
            document = await exchange.peek(lambda body: len(body) > self._pumps.max_frame_bytes)
            ident = objects.ident_of(document)
            idents = () if ident is None else (*objects.items_of(document), ident)
        except BaseException:
            exchange.close()
            raise
        for one in idents:
            given.give(generation.caller, one, exchange.upstream_name)
