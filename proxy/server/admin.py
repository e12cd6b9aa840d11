"""The admin port, for operators: metrics, readiness, the streams of all callers, and a live feed of them."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any

from aiohttp import web
from aiohttp_sse import EventSourceResponse, sse_response
from prometheus_client.aiohttp import make_aiohttp_handler

from proxy.access.callers import Caller
from proxy.server.json_responses import answer
from proxy.server.routes import Handler
from proxy.stream.hub import Hub
from proxy.telemetry.live_feed import LiveFeed
from proxy.telemetry.metrics_page import MetricsPage
from proxy.telemetry.stream_object import describe_to_operators


class Admin:
    """The handlers of the admin port."""

    def __init__(self, hub: Hub, page: MetricsPage, feed: LiveFeed, readiness: Callable[[], dict[str, object]]) -> None:
        """`readiness` returns what /readyz says, `ready` among it."""
        self._hub = hub
        self._exposition: Callable[[Any], Awaitable[web.StreamResponse]] = make_aiohttp_handler(page.registry)
        self._feed = feed
        self._readiness = readiness

    def endpoints(self) -> Sequence[tuple[str, Handler]]:
        """Return the paths of the admin port, and what answers GET and HEAD there."""
        return (
            ("/metrics", self._metrics),
            ("/readyz", self._ready),
            ("/admin/streams", self._streams),
            ("/admin/events", self._events),
            ("/healthz", healthy),
        )

    async def _metrics(self, request: web.BaseRequest, caller: Caller) -> web.StreamResponse:
        return await self._exposition(request)

    async def _events(self, request: web.BaseRequest, caller: Caller) -> web.StreamResponse:
        """GET /admin/events"""
        asked: Any = request  # of web.Request nothing more is needed
        response: EventSourceResponse
        async with sse_response(asked) as response, aclosing(self._feed.listen()) as events:
            async for event, text in events:
                await response.send(text, event=event)
        return response

    async def _ready(self, request: web.BaseRequest, caller: Caller) -> web.Response:
        readiness = self._readiness()
        return answer(readiness, 200 if readiness["ready"] else 503)

    async def _streams(self, request: web.BaseRequest, caller: Caller) -> web.Response:
        """GET /admin/streams: the streams of all callers. Callers must not see this list; it is for operators."""
        return answer(
            {"object": "list", "data": [describe_to_operators(stream) for stream in self._hub], "has_more": False}
        )


async def healthy(request: web.BaseRequest, caller: Caller) -> web.Response:
    """GET /healthz, on both ports."""
    return answer({"status": "ok"})
