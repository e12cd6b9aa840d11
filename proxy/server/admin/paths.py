"""The paths of the admin port: makes their handlers, and adds each to `Routes` with its method and path.

A new path is added here. README.md and docs/console.md list them all.
"""

import time
from collections.abc import Callable
from typing import Any

from aiohttp import web

from proxy.access.admission import Needs
from proxy.access.grants import Grants
from proxy.access.operators import OperatorAccess
from proxy.access.pages import Pages
from proxy.dialects import table
from proxy.downstream.response import EXTRA
from proxy.server.admin.all_streams import AllStreams
from proxy.server.admin.console_files import ConsoleFiles
from proxy.server.admin.feed import Feed
from proxy.server.admin.form_requests import PREFIX, FormRequests
from proxy.server.admin.probes import Probes, described, healthy
from proxy.server.following.follow import Follow
from proxy.server.routes import Handler, Routes
from proxy.stream.hub import Hub
from proxy.telemetry.live_feed import LiveFeed
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.metrics_page import MetricsPage
from proxy.telemetry.overview import Overview

_OPEN, _TOKEN = Needs.NOTHING, Needs.IDENTITY
_STREAM = "/admin/streams/{ident}"
_HEADERS = (("X-Content-Type-Options", "nosniff"), ("Cross-Origin-Resource-Policy", "same-origin"))


class AdminPort:
    """Serves the admin port: its routes, with the headers that keep what they return from other pages."""

    def __init__(
        self,
        access: OperatorAccess,
        hub: Hub,
        follow: Follow,
        grants: Grants,
        metrics: Metrics,
        page: MetricsPage,
        feed: LiveFeed,
        overview: Overview,
        data: Routes,
        readiness: Callable[[], dict[str, object]],
    ) -> None:
        """`data`: the routes of the data port; `readiness` returns what /readyz says."""
        self.routes = Routes(access.admit, metrics, table.OWN)
        self._pages = Pages(())  # those of this port alone, whatever cors.origins says of the other
        probes, streams, console = Probes(page, readiness), AllStreams(hub, follow, grants), ConsoleFiles(access)
        self._get("/metrics", probes.metrics, _OPEN)
        self._get("/readyz", probes.ready, _OPEN)
        self._get("/healthz", healthy, _OPEN)
        self._get("/openapi.json", described, _OPEN)
        self._get("/admin/streams", streams.listed, _TOKEN)
        self._get(_STREAM, streams.follow, _TOKEN)
        self._get(f"{_STREAM}/info", streams.info, _TOKEN)
        self._get("/admin/events", Feed(feed, lambda: overview.text(time.monotonic())).events, _TOKEN)
        self._add("POST", f"{_STREAM}/cancel", streams.cancel, _TOKEN)
        self._add("POST", f"{_STREAM}/share", streams.share, _TOKEN)
        self._add("POST", f"{PREFIX}/", FormRequests(data, access).send, _TOKEN)
        self._add("POST", "/admin/sign-in", console.sign_in, _OPEN)
        self._add("POST", "/admin/sign-out", console.sign_out, _OPEN)
        for path, handler in (("/console", console.page), ("/console/{name}", console.file)):
            for method in ("GET", "HEAD"):  # not only for own pages: a link from a runbook may lead here
                self.routes.add(method, path, handler, "admin", table.OWN, _OPEN)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Have the routes respond, and add the headers."""
        request[EXTRA] = [(name.encode(), value.encode()) for name, value in _HEADERS]
        response = await self.routes(request)
        if isinstance(response, web.Response):  # any other has sent its head already
            response.headers.update(_HEADERS)
            response.headers.setdefault("Cache-Control", "no-store")
        return response

    def _get(self, path: str, handler: Handler, needs: Needs) -> None:
        for method in ("GET", "HEAD"):
            self._add(method, path, handler, needs)

    def _add(self, method: str, path: str, handler: Callable[..., Any], needs: Needs) -> None:
        self.routes.add(method, path, self._pages.only(handler), "admin", table.OWN, needs)
