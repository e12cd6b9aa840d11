"""The live feed: server-sent events of streams that begin and end, or of the state of everything, again and again."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from aiohttp import web
from aiohttp_sse import EventSourceResponse, sse_response

from proxy.access.callers import Caller
from proxy.server.following.request import seconds
from proxy.telemetry.live_feed import LiveFeed

_EVERY_MIN_S = 0.2


class Feed:
    """The handler of `/admin/events`."""

    def __init__(self, feed: LiveFeed, overview: Callable[[], str]) -> None:
        """`overview` returns the JSON of the event `overview`."""
        self._feed = feed
        self._overview = overview

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
            yield "overview", self._overview()
            if await self._feed.closed_within(max(_EVERY_MIN_S, every_s)):
                return
