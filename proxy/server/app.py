"""The composition root: makes the parts, introduces them to each other, and listens.

The data port serves what api.md of the README's "HTTP surface" lists; the admin port metrics and readiness.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client.aiohttp import make_aiohttp_handler

from proxy.edge.upstream import Timeouts, Upstream
from proxy.server.answers import Handler, answer, endpoint
from proxy.server.auth import Auth
from proxy.server.config import Config, address
from proxy.server.follow import Follow
from proxy.server.forward import Forward, Route
from proxy.server.metrics import Metrics
from proxy.stream.hub import Hub
from proxy.stream.log import Ending
from proxy.wire.chat import ChatCompletions
from proxy.wire.dashscope import DashScope
from proxy.wire.errors import UnknownRoute

log = logging.getLogger("streamtee")

OPENAI = ChatCompletions()
DASHSCOPE = DashScope()
_TICK_S = 0.25
DRAINED = Ending("drained", "this server is shutting down")

# Generations: read whole, so that they can be sent again, and answered with a stream. The rest passes through.
_GENERATIONS = {
    "openai": ("{prefix}chat/completions",),
    "dashscope": (
        "{prefix}services/aigc/text-generation/generation",
        "{prefix}services/aigc/multimodal-generation/generation",
        "{prefix}apps/{{app_id}}/completion",
    ),
}


def routes(config: Config) -> list[Route]:
    """Return the prefixes served, the more special first, and the paths they stand for upstream."""
    base = config.upstream.compatible_base
    return [
        Route("chat", "/v1/", f"{base}/", OPENAI),
        Route("chat", "/compatible-mode/v1/", f"{base}/", OPENAI),
        Route("compatible", "/compatible-mode/", "/compatible-mode/", OPENAI),
        Route("dashscope", "/api/v1/", "/api/v1/", DASHSCOPE),
    ]


class Proxy:
    """The running proxy: `start`, then `drain` or `stop`. Ports 0 are free ones; `url` tells them."""

    def __init__(self, config: Config) -> None:
        """Call within a running loop."""
        loop = asyncio.get_running_loop()
        limits, timeouts = config.limits, config.timeouts
        self.config = config
        self.hub = Hub(
            max_streams=limits.streams,
            max_followers=limits.followers,
            max_followers_per_stream=limits.followers_per_stream,
            max_log_bytes=limits.log_bytes,
            max_total_log_bytes=limits.total_log_bytes,
            call_soon=loop.call_soon,
        )
        self.metrics = Metrics(self.hub, limits.model_labels, type(loop).__module__.partition(".")[0])
        self.hub.on_subscription_ended = self.metrics.subscription_ended
        self.auth = Auth(config)
        self.upstream = Upstream(
            config.upstream.url,
            Timeouts(timeouts.connect_s, timeouts.first_byte_s, timeouts.idle_s, timeouts.total_s),
            max_connections=config.upstream.max_connections,
            keepalive_s=config.upstream.keepalive_s,
            outbound_proxy=config.upstream.outbound_proxy or None,
        )
        self.forward = Forward(config, self.hub, self.upstream, self.auth, self.metrics)
        self.follow = Follow(config, self.hub, self.auth, self.metrics)
        self._runners: list[web.AppRunner] = []
        self._data_site: web.BaseSite | None = None
        self._ticking: asyncio.Task[None] | None = None
        self.url = ""
        self.admin_url = ""

    async def start(self) -> None:
        """Listen. Raises: OSError, when an address is taken."""
        try:
            self.url, self._data_site = await self._listen(self.data_app(), self.config.listen)
            if self.config.admin:
                self.admin_url, _ = await self._listen(self.admin_app(), self.config.admin)
        except OSError:
            await self.stop()
            raise
        self._ticking = asyncio.create_task(self._tick())

    async def drain(self) -> None:
        """Stop accepting, let streams finish for at most `drain_s`, end the rest, and stop.

        Followers in event modes are closed between two events, so that they resume elsewhere; raw ones are aborted.
        """
        self.hub.drain()
        if self._data_site is not None:
            await self._data_site.stop()
        deadline = time.monotonic() + self.config.drain_s
        while self.hub.running and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        await self.stop()

    async def stop(self) -> None:
        """End everything now."""
        self.hub.drain()
        for stream in list(self.hub):
            if stream.writer is not None:
                stream.writer.stop(DRAINED)
            for subscription in list(stream.subscriptions):
                subscription.fail(DRAINED)
        if self._ticking is not None:
            self._ticking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticking
        for runner in self._runners:
            await runner.cleanup()
        await self.upstream.close()

    def data_app(self) -> web.Application:
        """Return the application of the data port."""
        app = web.Application(client_max_size=self.config.limits.body_bytes)
        add = app.router.add_route
        follow = self.follow
        for method, path, handler in (
            ("GET", "/v1/streams", follow.listed),
            ("GET", "/v1/streams/{id}", follow.by_id),
            ("HEAD", "/v1/streams/{id}", follow.head),
            ("DELETE", "/v1/streams/{id}", follow.delete),
            ("GET", "/v1/streams/{id}/info", follow.info),
            ("POST", "/v1/streams/{id}/cancel", follow.cancel),
            ("GET", "/v1/keys/{key}/stream", follow.by_key),
        ):
            add(method, path, endpoint(handler, "streams", OPENAI, self.metrics))
        add("GET", "/healthz", _healthy)
        for route in routes(self.config):
            for path in _GENERATIONS[route.dialect.name] if route.name != "compatible" else ():
                add("POST", path.format(prefix=route.prefix), self._bind(self.forward.generate, route))
            add("*", route.prefix + "{tail:.*}", self._bind(self.forward.pass_through, route))
        add("*", "/{tail:.*}", endpoint(_unknown, "none", OPENAI, self.metrics))
        return app

    def admin_app(self) -> web.Application:
        """Return the application of the admin port."""
        app = web.Application()
        app.router.add_get("/metrics", make_aiohttp_handler(self.metrics.registry))
        app.router.add_get("/readyz", self._ready)
        app.router.add_get("/healthz", _healthy)
        return app

    def _bind(self, handler: Callable[[web.Request, Route], Awaitable[web.StreamResponse]], route: Route) -> Handler:
        async def bound(request: web.Request) -> web.StreamResponse:
            return await handler(request, route)

        return endpoint(bound, route.name, route.dialect, self.metrics)

    async def _listen(self, app: web.Application, where: str) -> tuple[str, web.BaseSite]:
        host, port = address(where)
        runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,  # a client that leaves ends its handler at once
            auto_decompress=False,  # a compressed request passes as it is
            shutdown_timeout=1.0,
        )
        await runner.setup()
        self._runners.append(runner)
        site = web.TCPSite(runner, host, port, backlog=4096)
        await site.start()
        port = runner.addresses[0][1]
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{port}", site

    async def _ready(self, request: web.Request) -> web.Response:
        draining = self.hub.draining
        return answer({"ready": not draining}, 503 if draining else 200)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            self.hub.tick(time.monotonic())


async def _healthy(request: web.Request) -> web.Response:
    return answer({"status": "ok"})


async def _unknown(request: web.Request) -> web.StreamResponse:
    raise UnknownRoute(f"nothing is served at {request.method} {request.path[:100]}")
