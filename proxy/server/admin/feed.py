"""The live feed: server-sent events of streams that begin and end, or overviews of everything, again and again."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

from aiohttp import web
from aiohttp_sse import EventSourceResponse, sse_response

from proxy.access.callers import Caller
from proxy.server.following.request import seconds
from proxy.telemetry.live_feed import LiveFeed

_EVERY_MIN_S = 0.2


class Feed:
    """The handlers of `/admin/events` and `/admin/overview`."""

    def __init__(self, feed: LiveFeed, overview: Callable[[], Awaitable[str]]) -> None:
        """Awaiting `overview()` returns the JSON of an overview."""
        self._feed = feed
        self._overview = overview

    async def overview(self, request: web.BaseRequest, caller: Caller) -> web.Response:
        """GET /admin/overview: all that the console shows in its lists."""
        return web.Response(text=await self._overview(), content_type="application/json")

    async def events(self, request: web.BaseRequest, caller: Caller) -> web.StreamResponse:
        """GET /admin/events: what begins and ends; with `every=SECONDS` an event `overview` each time instead."""
        every_s = seconds(request.query.get("every"), "every", 0)
        source = self._overviews(every_s) if every_s else self._feed.listen()
        asked: Any = request  # of web.Request nothing more is needed
        response: EventSourceResponse
        async with sse_response(asked) as response, aclosing(source) as events:
            async for event, text in events:
                await response.send(text, event=event)
        return response

    async def _overviews(self, every_s: float) -> AsyncGenerator[tuple[str, str], None]:
        while True:
            yield "overview", await self._overview()
            if await self._feed.closed_within(max(_EVERY_MIN_S, every_s)):
                return
