"""What monitoring asks for: health, readiness and metrics; and the OpenAPI document."""

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from prometheus_client.aiohttp import make_aiohttp_handler

from proxy.access.callers import Caller
from proxy.server.json_responses import answer
from proxy.server.openapi import document
from proxy.stream.hub import Hub
from proxy.telemetry.metrics_page import MetricsPage


class Probes:
    """The handlers of `/readyz` and `/metrics`."""

    def __init__(self, hub: Hub, page: MetricsPage) -> None:
        self._hub = hub
        self._exposition: Callable[[Any], Awaitable[web.StreamResponse]] = make_aiohttp_handler(page.registry)

    async def metrics(self, request: web.BaseRequest, caller: Caller) -> web.StreamResponse:
        """GET /metrics"""
        return await self._exposition(request)

    async def ready(self, request: web.BaseRequest, caller: Caller) -> web.Response:
        """GET /readyz"""
        draining = self._hub.draining
        return answer({"ready": not draining}, 503 if draining else 200)


async def described(request: web.BaseRequest, caller: Caller) -> web.Response:
    """GET /openapi.json"""
    return answer(document())


async def healthy(request: web.BaseRequest, caller: Caller) -> web.Response:
    """GET /healthz, on both ports."""
    return answer({"status": "ok"})
