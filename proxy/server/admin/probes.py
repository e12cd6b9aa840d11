"""What monitoring asks for: health, readiness and metrics; and the OpenAPI document."""

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from prometheus_client.aiohttp import make_aiohttp_handler

from proxy.access.callers import Caller
from proxy.server.admin.openapi import document
from proxy.server.json_responses import answer
from proxy.telemetry.metrics_page import MetricsPage


class Probes:
    """The handlers of `/readyz` and `/metrics`."""

    def __init__(self, page: MetricsPage, readiness: Callable[[], dict[str, object]]) -> None:
        """`readiness` returns what /readyz says, `ready` among it."""
        self._readiness = readiness
        self._exposition: Callable[[Any], Awaitable[web.StreamResponse]] = make_aiohttp_handler(page.registry)

    async def metrics(self, request: web.BaseRequest, caller: Caller) -> web.StreamResponse:
        """GET /metrics"""
        return await self._exposition(request)

    async def ready(self, request: web.BaseRequest, caller: Caller) -> web.Response:
        """GET /readyz"""
        readiness = self._readiness()
        return answer(readiness, 200 if readiness["ready"] else 503)


async def described(request: web.BaseRequest, caller: Caller) -> web.Response:
    """GET /openapi.json"""
    return answer(document())


async def healthy(request: web.BaseRequest, caller: Caller) -> web.Response:
    """GET /healthz, on both ports."""
    return answer({"status": "ok"})
