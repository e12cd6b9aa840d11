"""Finds the upstream call that a request shares with earlier ones, or begins one.

A call is shared by requests with the same Idempotency-Key or content (`shared_calls`), and by a request and its retry
(`retries`). It may be another worker's, to which the request is then handed over, or another process's, whose stream
is read from the store.

Knows nothing of responses to clients.
"""

import functools
from typing import Final

from aiohttp import web

from proxy.downstream.request_body import release_body
from proxy.server.directory import Directory
from proxy.server.generations.pumps import Pumps
from proxy.server.generations.request import GenerationRequest, ask, is_stream
from proxy.server.generations.retries import LostCalls
from proxy.server.generations.shared_calls import Call, Calls, Joined
from proxy.server.placement import Placement, call_name, retry_name
from proxy.stream.hub import Hub
from proxy.stream.ledger import BODIES
from proxy.stream.stream import Stream
from proxy.telemetry.metrics import Metrics
from proxy.upstream.exchange import Exchange
from proxy.upstream.group import OpenExchange
from proxy.upstream.on_disconnect import OnDisconnect

_NEVER_CLOSE: Final = OnDisconnect(None)


class CallFinder:
    """Finds the calls that requests share, and begins those that are not there yet, each in a task of its own."""

    def __init__(
        self,
        hub: Hub,
        open_exchange: OpenExchange,
        calls: Calls,
        lost: LostCalls,
        pumps: Pumps,
        metrics: Metrics,
        placement: Placement | None = None,
        directory: Directory | None = None,
    ) -> None:
        """`placement`: finds the worker that a request belongs to; None: there is only one.

        `directory` finds calls of other processes; None: there are no others.
        """
        self._hub = hub
        self._open_exchange = open_exchange
        self._calls = calls
        self._lost = lost
        self._pumps = pumps
        self._metrics = metrics
        self._placement = placement
        self._directory = directory
        self.hands_over = placement is not None  # so that with one worker no request waits for `hand_over`

    async def hand_over(self, request: web.BaseRequest, generation: GenerationRequest) -> web.StreamResponse | None:
        """Hand a request over to the worker that it belongs to; return None if it is to be served here.

        Raises: Overloaded, if the other worker does not take it.
        """
        assert self._placement is not None
        identity, meaning, held = generation.identity, generation.meaning, False
        shared: tuple[bytes, ...] | None = None
        if meaning is not None:
            shared, held = retry_name(meaning), meaning in self._lost.meanings()
        elif identity is not None:
            shared, held = call_name(*identity.name), self._calls.holds(identity)
        elsewhere = await self._placement.of_generation(
            request, generation.caller, generation.options.key, shared, held=held
        )
        if elsewhere is not None:
            generation.drop_message()
            release_body(request)
        return elsewhere

    async def find(self, generation: GenerationRequest) -> tuple[Call | Stream, Joined | None]:
        """Return the call of a request, and how it was found; None if it is begun for this request.

        In place of a call of another process, its stream. Raises: KeyReused, Overloaded, StoreUnavailable.
        """
        found, joined = await self._of_earlier_request(generation)
        if found is None:
            return self._begin(generation), None
        if joined is None:
            return found, None
        stream = found if isinstance(found, Stream) else found.stream
        self._metrics.shared(joined, stream)
        generation.drop_message()
        if isinstance(found, Call):
            await self._join(found, generation)
        return found, joined

    async def _of_earlier_request(self, generation: GenerationRequest) -> tuple[Call | Stream | None, Joined | None]:
        """Return the call of an earlier request that this one shares, if any, and how it was found."""
        if generation.meaning is not None:
            call = await self._lost.take(generation.meaning)
            if call is not None:
                return call, "retry"
        if generation.identity is None:
            return None, None
        call = self._calls.find(generation.identity)
        if generation.options.idempotency_key is None:
            return call, "body"
        if call is None and self._directory is not None:
            return await self._claimed(self._directory, generation)
        return call, "key"

    async def _claimed(
        self, directory: Directory, generation: GenerationRequest
    ) -> tuple[Call | Stream, Joined | None]:
        """Return the call of a request with an Idempotency-Key, begun here unless another process has made it."""
        identity = generation.identity
        assert identity is not None
        name = repr(identity.name).encode()
        async with directory.claims.alone(name):
            call = self._calls.find(identity)
            if call is not None:
                return call, "key"
            ident = self._hub.new_id()
            stream = await directory.claim(name, identity.asked, ident)
            return (self._begin(generation, ident), None) if stream is None else (stream, "key")

    def _begin(self, generation: GenerationRequest, ident: str = "") -> Call:
        """Begin a call in a separate task; `ident`: the id of its stream, if it has one. Raises: Overloaded."""
        call = Call(self._hub, self._pumps.begin(generation, ident=ident), generation.identity)
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
            generation.drop_message()

    async def _join(self, call: Call, generation: GenerationRequest) -> None:
        """Add a request to a call: the longer `OnDisconnect` applies, and the request's key names the stream, too."""
        options = generation.options
        policy = _NEVER_CLOSE if options.respond_async else options.on_disconnect
        call.writer.on_disconnect = call.writer.on_disconnect.or_longer(policy)
        if options.key is None:
            return
        self._hub.keys.add(options.key, call.stream)
        if self._placement is not None:
            await self._placement.named(generation.caller, options.key, call.stream.id)
