"""The composition root: makes the parts, introduces them to each other, and listens.

The data port serves what the README's "HTTP surface" lists; the admin port metrics, readiness and a live feed.
"""

import asyncio
import functools
import logging
import time
import traceback
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client.aiohttp import make_aiohttp_handler

from proxy.access.callers import Auth
from proxy.access.pages import Hosts
from proxy.dialects.allowed_paths import AllowedPaths
from proxy.dialects.chat import CHAT
from proxy.dialects.dashscope import DASHSCOPE
from proxy.dialects.plain import PLAIN
from proxy.dialects.route import Route
from proxy.downstream.client_connections import ClientConnections, ClientTimeouts
from proxy.downstream.descriptors import Descriptors
from proxy.downstream.inline import server_loop
from proxy.server.config import Config, address
from proxy.server.cors import Cors
from proxy.server.follow import Follow
from proxy.server.generate import Generations
from proxy.server.generation_request import GenerationReader, model_of
from proxy.server.generation_response import GenerationResponses
from proxy.server.json_responses import answer
from proxy.server.keys import Keys
from proxy.server.listener import Listener
from proxy.server.pass_through import Forward
from proxy.server.routes import ANY, Handler, Routes
from proxy.server.share import Share
from proxy.server.shared_calls import Calls
from proxy.server.shared_routes import EventRoute
from proxy.server.upstreams import Upstreams
from proxy.stream.cohort import Pacer
from proxy.stream.endings import DRAINED
from proxy.stream.hub import Hub
from proxy.stream.observer import Observers
from proxy.telemetry import access_log
from proxy.telemetry.live_feed import LiveFeed
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.metrics_page import MetricsPage
from proxy.telemetry.stream_object import describe
from proxy.upstream.settings import DEFAULT

if TYPE_CHECKING:
    from proxy.telemetry.tracing import Tracing

_TICK_S = 0.25
_log = logging.getLogger("streamtee")

# Generations: read whole, so that they can be sent again, and answered with a stream. The rest passes through.
_GENERATIONS = {
    "chat": ("chat/completions",),
    "compatible": (),
    "dashscope": (
        "services/aigc/text-generation/generation",
        "services/aigc/multimodal-generation/generation",
        "apps/{app_id}/completion",
    ),
}


def prefixes(config: Config) -> list[Route]:
    """Return the prefixes served, the more special first, and the paths they stand for upstream."""
    base = config.upstream.compatible_base
    return [
        Route("chat", "/v1/", f"{base}/", CHAT),
        Route("chat", "/compatible-mode/v1/", f"{base}/", CHAT),
        Route("compatible", "/compatible-mode/", "/compatible-mode/", CHAT),
        Route("dashscope", "/api/v1/", "/api/v1/", DASHSCOPE),
    ]


class _WithoutMalformed(logging.Filter):
    """Drops aiohttp's tracebacks of malformed requests: they quote the header, which may hold a key."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


http_log = logging.getLogger("streamtee.http")
http_log.addFilter(_WithoutMalformed())


class Proxy:
    """The running proxy: `start`, then `drain` or `stop`. Ports 0 are free ones; `url` tells them."""

    def __init__(self, config: Config, tracing: "Tracing | None" = None) -> None:
        """Call within a running loop. `tracing` is used instead of the configured one."""
        loop = asyncio.get_running_loop()
        limits = config.limits
        pacer = Pacer(loop.call_later, time.monotonic)
        self.config = config
        self.auth = auth_of(config)
        self.metrics = Metrics(limits.model_labels)
        descriptors = Descriptors.of_process()
        self.upstreams = Upstreams(config, self.metrics, descriptors)
        self.feed = LiveFeed()
        self.calls = Calls()
        self.tracing = tracing or _traced(config)
        self.hub = Hub(
            max_streams=limits.streams,
            max_followers=limits.followers,
            max_followers_per_stream=limits.followers_per_stream,
            max_total_log_bytes=limits.total_log_bytes,
            max_pending_bytes=limits.total_pending_bytes,
            call_soon=loop.call_soon,
            pacer=pacer,
            observers=self._observers(),
            on_forgotten=self.calls.forget,
            on_subscription_ended=self.metrics.subscription_ended,
        )
        self.clients = ClientConnections(
            ClientTimeouts(**config.clients.model_dump()),
            descriptors,
            max_body_bytes=limits.total_body_bytes,
            max_pending_bytes=limits.total_pending_bytes,
        )
        loop_name = type(loop).__module__.partition(".")[0]
        self.page = MetricsPage(self.metrics, self.hub, self.upstreams, self.clients, loop_name)
        self.metrics.background_loops += [self.hub.background, pacer.background, self.clients.background]
        allowed = AllowedPaths(config.upstream.paths) if config.upstream.key.get_secret_value() else None
        opened = self.upstreams.group().open
        asked = opened if self.tracing is None else self.tracing.calls(opened, model_of)
        self.forward = Forward(asked, self.auth, self.metrics, allowed)
        self.generations = self._generations()
        self.follow = Follow(config, self.hub, self.auth, self.metrics)
        self.share = Share(config, self.hub, self.auth)
        self.keys = Keys(self.hub, self.auth)
        self.event_routes: list[EventRoute] = []
        self._runners: list[web.BaseRunner] = []
        self._data_site: web.BaseSite | None = None
        self._background: list[asyncio.Task[None]] = []
        self.url = ""
        self.admin_url = ""

    def _observers(self) -> Observers:
        tracing = self.tracing
        spans_begun, spans_ended = ([], []) if tracing is None else ([tracing.begun], [tracing.ended])
        return Observers(
            begun=[*spans_begun, self.feed.begun],  # in this order: spans name a stream's trace
            answered=[self.calls.answered],
            ended=[
                *spans_ended,
                self.metrics.ended,
                access_log.ended,
                self.upstreams.ended,
                self.calls.ended,
                self.feed.ended,
            ],
            on_fault=_log_fault,
        )

    def _generations(self) -> Generations:
        return Generations(
            self.hub,
            self.forward,
            self.calls,
            GenerationReader(self.config, self.hub, self.forward, self.auth),
            GenerationResponses(self.config, self.hub, self.auth, self.metrics),
            self.metrics,
            max_log_bytes=self.config.limits.log_bytes,
            max_frame_bytes=self.config.limits.frame_bytes,
        )

    async def start(self) -> None:
        """Listen. Raises: OSError, when an address is taken."""
        try:
            self.url, self._data_site = await self._listen(
                self._runner(self.routes(), self.config.listen, is_admin=False), self.config.listen
            )
            if self.config.admin:
                self.admin_url, _ = await self._listen(
                    self._runner(self.admin_routes(), self.config.admin, is_admin=True), self.config.admin
                )
        except OSError:
            await self.stop()
            raise
        self._background = [asyncio.create_task(self._tick()), asyncio.create_task(self.clients.watch())]

    async def drain(self) -> None:
        """Stop accepting, let streams finish for at most `drain_s`, end the rest, and stop.

        Followers in event modes are closed between two events, so that they resume elsewhere; raw ones are aborted.
        """
        self.hub.drain()
        for events in self.event_routes:
            events.drain()
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
        await self.follow.wait_closed()
        self.feed.close()
        for runner in self._runners:
            await runner.cleanup()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.upstreams.close()
        if self.tracing is not None:
            await self.tracing.close()

    def routes(self) -> Routes:
        """Return what the data port serves."""
        served = Routes(self.metrics, CHAT)
        follow, keys = self.follow, self.keys
        for method, path, handler in (
            ("GET", "/v1/streams", follow.listed),
            ("GET", "/v1/streams/{ident}", follow.by_id),
            ("HEAD", "/v1/streams/{ident}", follow.head),
            ("DELETE", "/v1/streams/{ident}", follow.delete),
            ("GET", "/v1/streams/{ident}/info", follow.info),
            ("POST", "/v1/streams/{ident}/cancel", follow.cancel),
            ("POST", "/v1/streams/{ident}/share", self.share.share),
            ("GET", "/v1/keys/{key}", keys.info),
            ("HEAD", "/v1/keys/{key}", keys.head),
            ("GET", "/v1/keys/{key}/stream", follow.by_key),
            ("POST", "/v1/keys/{key}/cancel", keys.cancel),
        ):
            served.add(method, path, handler, "streams", CHAT)
        for method in ("GET", "HEAD"):
            served.add(method, "/healthz", _healthy, "health", CHAT)
        generations: Handler = self.generations.generate
        if self.tracing is not None:
            generations = self.tracing.traced(generations)
        for route in prefixes(self.config):
            for path in _GENERATIONS[route.name]:
                generate = functools.partial(generations, route)
                served.add("POST", route.prefix + path, generate, route.name, route.dialect)
            pass_through = functools.partial(self.forward.pass_through, route)
            served.add(ANY, route.prefix, pass_through, route.name, route.dialect)
        self._add_own(served)
        return served

    def _add_own(self, served: Routes) -> None:
        """Serve the routes of the user's own, the more special first."""
        config = self.config
        for own in sorted(config.routes, key=lambda own: (own.path.endswith("/"), -len(own.path))):
            settings = config.upstreams[own.upstream] if own.upstream else config.upstream
            base = self.upstreams.base(own.upstream, compatible=False) if own.upstream else ""
            route = Route(own.path, own.path, base + own.path, PLAIN)
            auth = self.auth.towards(settings.key.get_secret_value())
            forward = Forward(self.upstreams.group(own.upstream or DEFAULT).open, auth, self.metrics)
            if own.share == "url":
                events = EventRoute(config, own, route, self.hub, auth, self.metrics, forward, self.calls)
                self.event_routes.append(events)
                for method in ("GET", "POST"):
                    served.add(method, own.path, events.serve, route.name, PLAIN)
            served.add(ANY, own.path, functools.partial(forward.pass_through, route), route.name, PLAIN)

    def admin_routes(self) -> Routes:
        """Return what the admin port serves; of web pages, to its own and those of `cors.origins` only."""
        served = Routes(self.metrics, CHAT)
        for path, handler in (
            ("/metrics", make_aiohttp_handler(self.page.registry)),
            ("/readyz", self._ready),
            ("/admin/streams", self._streams),
            ("/admin/events", self.feed.serve),
            ("/healthz", _healthy),
        ):
            for method in ("GET", "HEAD"):
                served.add(method, path, functools.partial(self._told, handler), "admin", CHAT)
        return served

    async def _told(self, handler: Handler, request: web.BaseRequest) -> web.StreamResponse:
        self.auth.pages.check(request)
        return await handler(request)

    async def _listen(self, runner: web.BaseRunner, where: str) -> tuple[str, web.BaseSite]:
        host, port = address(where)
        await runner.setup()
        self._runners.append(runner)
        site = web.TCPSite(runner, host, port, backlog=4096)
        await site.start()
        port = runner.addresses[0][1]
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{port}", site

    def _runner(self, routes: Routes, listen: str, *, is_admin: bool) -> web.ServerRunner:
        config = self.config
        server = Listener(
            Cors(config.cors, routes, self.metrics) if config.cors.origins else routes,
            routes,
            self.metrics,
            config.limits,
            clients=self.clients,
            hosts=Hosts(address(listen)[0], config.hosts),
            turns=self.hub.turns,
            is_admin=is_admin,
            access_log=None,
            handler_cancellation=True,  # a client that leaves ends its handler at once
            auto_decompress=False,  # a compressed request passes as it is
            logger=http_log,
            loop=server_loop(),
        )
        return web.ServerRunner(server, shutdown_timeout=1.0)

    async def _ready(self, request: web.BaseRequest) -> web.Response:
        draining = self.hub.draining
        return answer({"ready": not draining}, 503 if draining else 200)

    async def _streams(self, request: web.BaseRequest) -> web.Response:
        """Return every caller's streams; nobody else than the admin port's users may see that."""
        return answer({"object": "list", "data": [describe(stream) for stream in self.hub], "has_more": False})

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            with self.hub.background:
                self.hub.tick(time.monotonic())


def auth_of(config: Config) -> Auth:
    """Return what the configuration says of callers and their rights."""
    return Auth(
        digests=config.auth.keys if config.auth.mode == "keys" else None,
        upstream_key=config.upstream.key.get_secret_value(),
        secrets=[secret.get_secret_value() for secret in config.capabilities.secrets],
        ttl_s=config.capabilities.ttl_s,
        trusted_origins=config.cors.origins if config.cors.credentials else (),
        origins=config.cors.origins,
    )


def _traced(config: Config) -> "Tracing | None":
    if not config.otel.enabled:
        return None
    from proxy.telemetry.tracing import exported  # of an extra

    return exported()


def _log_fault(error: Exception) -> None:
    """Log that an observer of streams failed, and where; not its message, which may quote what is secret."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    _log.error("an observer of streams failed: %s in %s, line %s", type(error).__name__, where.name, where.lineno)


async def _healthy(request: web.BaseRequest) -> web.Response:
    return answer({"status": "ok"})
