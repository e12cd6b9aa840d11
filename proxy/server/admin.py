"""The admin port, for operators: metrics, readiness, the streams of all callers, and a live feed of them."""

from aiohttp import web
from prometheus_client.aiohttp import make_aiohttp_handler

from proxy.server.json_responses import answer
from proxy.stream.hub import Hub
from proxy.telemetry.live_feed import LiveFeed
from proxy.telemetry.metrics_page import MetricsPage
from proxy.telemetry.stream_object import describe


class Admin:
    """The handlers of the admin port."""

    def __init__(self, hub: Hub, page: MetricsPage, feed: LiveFeed) -> None:
        self._hub = hub
        self._page = page
        self._feed = feed

    def application(self) -> web.Application:
        """Return the application that the admin port serves."""
        app = web.Application()
        app.router.add_get("/metrics", make_aiohttp_handler(self._page.registry))
        app.router.add_get("/readyz", self._ready)
        app.router.add_get("/admin/streams", self._streams)
        app.router.add_get("/admin/events", self._feed.serve)
        app.router.add_get("/healthz", healthy)
        return app

    async def _ready(self, request: web.Request) -> web.Response:
        draining = self._hub.draining
        return answer({"ready": not draining}, 503 if draining else 200)

    async def _streams(self, request: web.Request) -> web.Response:
        """GET /admin/streams: the streams of all callers. Callers must not see this list; it is for operators."""
        return answer({"object": "list", "data": [describe(stream) for stream in self._hub], "has_more": False})


async def healthy(request: web.BaseRequest, *admitted: object) -> web.Response:
    """GET /healthz, on both ports; the data port passes a caller, too."""
    return answer({"status": "ok"})
