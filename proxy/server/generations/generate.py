"""The handler of generation requests: makes an upstream call, or joins one that other requests share.

Usually the call runs in the handler of its client, and is closed when the client disconnects (`unshared`). If the call
may outlive the client or have other followers (a key, a grace period, `Idempotency-Key`, `share`, `respond-async`,
`attach_retries_s`), it runs in a task of its own, and every client attaches to its stream. A response that is not an
event stream is then put into a log, too, each read as a frame, so that it can be shared, kept and replayed.

Requests on configured routes with `record = true` are served here, too, as if they were generations.
"""

import asyncio
from collections.abc import Awaitable
from typing import Final

from aiohttp import web

from proxy.access.callers import Caller
from proxy.dialects.route import Route
from proxy.downstream.request_body import release_body
from proxy.server.generations.call_finder import CallFinder
from proxy.server.generations.reader import GenerationReader
from proxy.server.generations.request import GenerationRequest
from proxy.server.generations.response import GenerationResponses
from proxy.server.generations.retries import LostCalls, Reading
from proxy.server.generations.shared_calls import Call, Joined
from proxy.server.generations.unshared import UnsharedCalls
from proxy.server.response_object import answer_object
from proxy.stream.hub import Hub
from proxy.wire.errors import ProxyError

_BACKGROUND_WAIT_S: Final = 2.0  # for the head of a response in the background: an error within this time is sent back


class Generations:
    """The handler of generation requests."""

    def __init__(
        self,
        hub: Hub,
        reader: GenerationReader,
        finder: CallFinder,
        unshared: UnsharedCalls,
        responses: GenerationResponses,
        lost: LostCalls,
    ) -> None:
        self._hub = hub
        self._reader = reader
        self._finder = finder
        self._unshared = unshared
        self._responses = responses
        self._lost = lost

    def generate(
        self, route: Route, request: web.BaseRequest, caller: Caller, **named: str
    ) -> Awaitable[web.StreamResponse]:
        """Deliver the response of an upstream call: a new one, or one that other requests share.

        Not a coroutine: most requests are read at once, and go on to `UnsharedCalls.deliver`, which would be resumed
        through it.
        """
        generation = self._reader.read(route, request, caller)
        if not isinstance(generation, GenerationRequest):
            return self._deliver_read(request, generation)
        if generation.is_unshared and not self._finder.hands_over:
            return self._unshared.deliver(request, generation)
        return self._deliver(request, generation)

    async def _deliver_read(
        self, request: web.BaseRequest, reading: Awaitable[GenerationRequest]
    ) -> web.StreamResponse:
        """Do the same with a request that has to be waited for."""
        return await self._deliver(request, await reading)

    async def _deliver(self, request: web.BaseRequest, generation: GenerationRequest) -> web.StreamResponse:
        """Do the same with a request that was read, and may share a call, perhaps that of another process."""
        if self._finder.hands_over:
            elsewhere = await self._finder.hand_over(request, generation)
            if elsewhere is not None:
                return elsewhere
        options = generation.options
        if generation.is_unshared:
            return await self._unshared.deliver(request, generation)
        call, joined = await self._finder.find(generation)
        release_body(request)
        if not isinstance(call, Call):
            return await self._responses.send_stored(request, call, generation)
        if options.respond_async:
            call.promised = True
            self._hub.retain(call.stream, options.retain_s)  # else a response without a follower would not be kept
            if generation.background:
                return await self._in_background(request, call, generation, joined)
            return self._responses.accept(call.stream, options, late=joined is not None)
        if generation.meaning is None:
            return await self._follow(call, request, generation, joined)
        return await self._follow_for_retries(call, request, generation, joined)

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
            view = generation.options.view
            return await self._responses.send(request, call.stream, head, view, joined, reading, begun)
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
        return await self._responses.send(request, call.stream, head, generation.options.view, joined)
