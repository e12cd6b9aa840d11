"""The composition root: makes all parts, connects them, and listens.

The data port serves what the README's "HTTP surface" lists; the admin port metrics, readiness and a live feed.
"""

import asyncio
import functools
import logging
import time
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from proxy.access.admission import Admission, Needs
from proxy.access.callers import Callers
from proxy.access.capabilities import Capabilities
from proxy.access.grants import Grants
from proxy.access.pages import Hosts, Pages
from proxy.access.response_ids import GivenIds
from proxy.dialects import table
from proxy.dialects.allowed_paths import AllowedPaths
from proxy.dialects.route import Route
from proxy.downstream.client_connections import ClientConnections, ClientTimeouts
from proxy.downstream.descriptors import Descriptors
from proxy.downstream.inline import server_loop
from proxy.downstream.listener import Listener
from proxy.server.admin import Admin, healthy
from proxy.server.config import Config, address
from proxy.server.cors import Cors
from proxy.server.following.control import Control
from proxy.server.following.follow import Follow
from proxy.server.following.follow_many import FollowMany
from proxy.server.following.objects import ObjectRequests
from proxy.server.following.shared_routes import EventRoute
from proxy.server.generations.generate import Generations
from proxy.server.generations.request import GenerationReader
from proxy.server.generations.response import GenerationResponses
from proxy.server.generations.retries import LostCalls
from proxy.server.generations.shared_calls import Calls
from proxy.server.models import ModelList, Models
from proxy.server.pass_through import Forward, PassThrough
from proxy.server.routes import ANY, Handler, Routes
from proxy.server.sockets import Sockets
from proxy.server.upstreams import Upstreams
from proxy.stream.cohort import Pacer
from proxy.stream.endings import DRAINED
from proxy.stream.hub import Hub
from proxy.stream.observer import Observers
from proxy.stream.stream import Stream
from proxy.telemetry import access_log
from proxy.telemetry.allocator import IdleTrim, malloc_trim
from proxy.telemetry.live_feed import LiveFeed
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.metrics_page import MetricsPage
from proxy.timers import sleep
from proxy.upstream.group import OpenExchange
from proxy.upstream.settings import DEFAULT

if TYPE_CHECKING:
    from proxy.telemetry.tracing import Tracing

_TICK_S = 0.25
_STREAM, _KEY = "/v1/streams/{ident}", "/v1/keys/{key}/stream"  # where followers follow


class _WithoutMalformed(logging.Filter):
    """Drops aiohttp's tracebacks of malformed requests: they quote the headers, which may hold a key."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


http_log = logging.getLogger("streamtee.http")
http_log.addFilter(_WithoutMalformed())


class Proxy:
    """The running proxy: call `start`, then `drain` or `stop`. Port 0 takes a free port; `url` has its number."""

    def __init__(self, config: Config, tracing: "Tracing | None" = None) -> None:
        """Call within a running loop. `tracing` is used instead of the configured one."""
        loop = asyncio.get_running_loop()
        limits = config.limits
        pacer = Pacer(loop.call_later, time.monotonic)
        self.config = config
        self.metrics = Metrics(limits.model_labels)
        descriptors = Descriptors.of_process()
        self.upstreams = Upstreams(config, self.metrics, descriptors)
        self.feed = LiveFeed()
        self.calls = Calls()
        self.lost_calls = LostCalls(config.generations.attach_retries_s)
        self.tracing = tracing or _traced(config)
        lends = bool(config.upstream.key.get_secret_value())
        self.given = GivenIds(lambda: self.hub, time.monotonic) if lends else None
        self.hub = Hub(
            max_streams=limits.streams,
            max_followers=limits.followers,
            max_followers_per_stream=limits.followers_per_stream,
            max_total_log_bytes=limits.total_log_bytes,
            max_pending_bytes=limits.total_pending_bytes,
            call_soon=loop.call_soon,
            pacer=pacer,
            observers=self._observers(),
            on_forgotten=self._forget,
            on_subscription_ended=self.metrics.subscription_ended,
        )
        self.clients = ClientConnections(
            ClientTimeouts(**config.clients.model_dump()),
            descriptors,
            max_body_bytes=limits.total_body_bytes,
            max_pending_bytes=limits.total_pending_bytes,
        )
        self.trim = IdleTrim(lambda: self.hub.ledger.total_bytes, trim=malloc_trim())
        loop_name = type(loop).__module__.partition(".")[0]
        self.page = MetricsPage(self.metrics, self.hub, self.upstreams, self.clients, loop_name)
        self.metrics.background_loops += [self.hub.background, pacer.background, self.clients.background]
        self.callers, self.grants = access_of(config)
        self.pages = Pages(config.cors.origins)
        self.admission = Admission(
            self.callers, self.grants, self.hub, shares_bodies=config.generations.share == "body"
        )
        allowed = AllowedPaths(config.upstream.paths) if lends else None
        self.models = Models(config.models)
        self.forward = Forward(allowed, hides_tokens=bool(self.grants))
        self.generations = self._generations(self._open_exchange(), self.forward)
        self.follow = Follow(config.streams, self.hub, self.admission, self.metrics)
        self.follow_many = FollowMany(config.streams, self.hub, self.admission, self.follow, self.metrics)
        self.control = Control(self.hub, self.admission, self.grants)
        self.admin = Admin(self.hub, self.page, self.feed)
        self.event_routes: list[EventRoute] = []
        self.recorded_routes: list[Generations] = []
        self.listeners: list[Listener] = []
        self.sockets: list[Sockets] = []
        self._runners: list[web.BaseRunner] = []
        self._data_site: web.BaseSite | None = None
        self._background: list[asyncio.Task[None]] = []
        self._hurried = False
        self.url = ""
        self.admin_url = ""

    def _observers(self) -> Observers:
        tracing = self.tracing
        spans_begun, spans_ended = ([], []) if tracing is None else ([tracing.begun], [tracing.ended])
        return Observers(
            begun=[*spans_begun, self.feed.begun],  # spans first: they set the trace id, which the feed shows
            answered=[self.calls.answered],
            ended=[
                *([] if self.given is None else [self.given.ended]),
                *spans_ended,
                self.metrics.ended,
                access_log.ended,
                self.upstreams.ended,
                self.calls.ended,
                self.feed.ended,
            ],
        )

    def _forget(self, stream: Stream) -> None:
        self.calls.forget(stream)
        self.lost_calls.forget(stream)

    def _generations(self, open_exchange: OpenExchange, forward: Forward, *, recorded: bool = False) -> Generations:
        """Return the handler of generation requests, or of all requests on a `recorded` route."""
        traced = open_exchange if recorded or self.tracing is None else self.tracing.calls(open_exchange)
        return Generations(
            self.hub,
            traced,
            self.calls,
            GenerationReader(self.config, self.admission, forward, self.models, self.given, recorded=recorded),
            GenerationResponses(self.config, self.hub, self.admission, self.grants, self.metrics),
            self.metrics,
            self.config.limits,
            self.lost_calls,
            self.given,
            cumulative=self.config.generations.cumulative or None,
        )

    def _open_exchange(self, upstream: str = DEFAULT) -> OpenExchange:
        """Return the function that sends a request to an upstream or its spares."""
        return self.metrics.calls(self.upstreams.opener(upstream))

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
        """Stop accepting, let everything that was asked for finish for at most `drain_s`, end the rest, and stop.

        What is ended never looks complete: it is broken off, or says that it was drained.
        """
        self._refuse_new()
        if self._data_site is not None:
            await self._data_site.stop()
        until = time.monotonic() + self.config.drain_s
        while (self.hub.running or self.clients.busy) and time.monotonic() < until and not self._hurried:
            await asyncio.sleep(0.05)
        await self.stop()

    def _refuse_new(self) -> None:
        self.hub.drain()
        for events in self.event_routes:
            events.drain()

    def hurry(self) -> None:
        """Have `drain` wait no longer."""
        self._hurried = True

    async def stop(self) -> None:
        """End everything now."""
        self._refuse_new()
        for stream in list(self.hub):
            if stream.writer is not None:
                stream.writer.stop(DRAINED)
            for subscription in list(stream.subscriptions):
                subscription.fail(DRAINED)
        sessions = [sockets.wait_closed() for sockets in self.sockets]
        await asyncio.gather(self.follow.wait_closed(), *sessions, self.clients.end_requests(DRAINED.as_error()))
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
        """Return the routes of the data port."""
        served = Routes(self.admission.admit, self.metrics, table.OWN)
        follow, control = self.follow, self.control
        by_id, by_key = self._followed(follow.by_id, _STREAM), self._followed(follow.by_key, _KEY)
        for method, path, handler, needs in (
            ("GET", "/v1/streams", control.listed, Needs.OWNING),
            ("GET", _STREAM, by_id, Needs.CAPABILITY),
            ("GET", "/v1/follow", self.follow_many.serve, Needs.CAPABILITY),
            ("HEAD", "/v1/streams/{ident}", control.head, Needs.CAPABILITY),
            ("DELETE", "/v1/streams/{ident}", control.delete, Needs.CAPABILITY),
            ("GET", "/v1/streams/{ident}/info", control.info, Needs.CAPABILITY),
            ("POST", "/v1/streams/{ident}/cancel", control.cancel, Needs.CAPABILITY),
            ("POST", "/v1/streams/{ident}/share", control.share, Needs.CAPABILITY),
            ("GET", "/v1/keys/{key}", control.info_by_key, Needs.OWNING),
            ("HEAD", "/v1/keys/{key}", control.head_by_key, Needs.OWNING),
            ("GET", _KEY, by_key, Needs.OWNING),
            ("POST", "/v1/keys/{key}/cancel", control.cancel_by_key, Needs.OWNING),
        ):
            served.add(method, path, handler, "streams", table.OWN, needs)
        for method in ("GET", "HEAD"):
            served.add(method, "/healthz", healthy, "health", table.OWN, Needs.NOTHING)
        generations: Handler = self.generations.generate
        if self.tracing is not None:
            generations = self.tracing.traced(generations)
        listing = ModelList(self.config.upstream.models)
        for path, row in table.model_lists() if self.config.upstream.models else ():
            served.add("GET", path, listing.listed, row.name, row.dialect)
            served.add("GET", path + "/{model}", listing.described, row.name, row.dialect)
        opens = self._open_exchange()
        passing = PassThrough(
            self.forward, opens, self._sockets(opens), self.models, lambda: self.config.limits.body_bytes
        )
        objects = self._objects()
        for route, paths in table.routes(self.config.upstream.prefixes):
            for path in paths:
                generate = self._lending(functools.partial(generations, route))
                served.add("POST", route.prefix + path, generate, route.name, route.dialect)
            pass_through = self._lending(functools.partial(passing.serve, route))
            if route.dialect.objects is not None:
                self._add_objects(served, route, objects)
            for prefix in dict.fromkeys((route.prefix, route.prefix.rstrip("/") + "/")):
                served.add(ANY, prefix, pass_through, route.name, route.dialect)
        self._add_own(served)
        return served

    def _sockets(self, opens: OpenExchange) -> Sockets:
        # As it is then: its limits may be changed while the proxy runs.
        config = lambda: self.config  # noqa: E731
        sockets = Sockets(config, self.hub, self.admission, self.grants, self.metrics, self.models, opens)
        self.sockets.append(sockets)
        return sockets

    def _objects(self) -> ObjectRequests:
        """Return the handlers of responses that have ids: what a caller was given, it may name, with any key."""
        opens = self._open_exchange()
        passing = PassThrough(Forward(hides_tokens=bool(self.grants)), opens, self._sockets(opens))
        return ObjectRequests(self.hub, self.follow, passing, self.given)

    def _add_objects(self, served: Routes, route: Route, objects: ObjectRequests) -> None:
        """Add the paths of responses below a prefix of their API; one that is deleted at one is gone at all."""
        for method, path, handler in (
            ("GET", "", objects.fetch),
            ("POST", "/cancel", objects.cancel),
            ("DELETE", "", objects.delete),
            (ANY, "", objects.other),
            (ANY, "/{more}", objects.other),
        ):
            asked = self._lending(functools.partial(handler, route))
            served.add(method, f"{route.prefix}/{{ident}}{path}", asked, route.name, route.dialect)

    def _followed(self, handler: Handler, path: str) -> Handler:
        """Return the handler of followers at a path, with spans if they are enabled."""
        return handler if self.tracing is None else self.tracing.follows(handler, path, self.hub.find_key)

    def _add_own(self, served: Routes) -> None:
        """Add the configured routes, more specific paths first."""
        config = self.config
        for own in sorted(config.routes, key=lambda own: (own.path.endswith("/"), -len(own.path))):
            base = self.upstreams.base(own.upstream) if own.upstream else ""
            route = Route(own.path, own.path, base + own.path, table.UNKNOWN, key_header=own.key_header)
            upstream = own.upstream or DEFAULT
            opens = self._open_exchange(upstream)
            forward = Forward(hides_tokens=bool(self.grants))
            passing = PassThrough(forward, opens, self._sockets(opens))
            if own.share == "url":
                events = EventRoute(config, own, route, self.hub, self.admission, self.metrics, opens, self.calls)
                self.event_routes.append(events)
                for method in ("GET", "POST"):
                    served.add(method, own.path, self._lending(events.serve, upstream), route.name, table.UNKNOWN)
            if own.record:
                self.recorded_routes.append(self._generations(opens, forward, recorded=True))
                recorded = functools.partial(self.recorded_routes[-1].generate, route)
                for method in ("GET", "POST"):
                    served.add(method, own.path, self._lending(recorded, upstream), route.name, table.UNKNOWN)
            pass_through = self._lending(functools.partial(passing.serve, route), upstream)
            served.add(ANY, own.path, pass_through, route.name, table.UNKNOWN)

    def _lending(self, handler: Handler, upstream: str = DEFAULT) -> Handler:
        """Return a handler for the pages only that may use a key of ours, if requests go up with one."""
        return self.pages.only(handler) if self.upstreams.has_key(upstream) else handler

    def admin_routes(self) -> Routes:
        """Return what the admin port serves."""
        served = Routes(self.admission.admit, self.metrics, table.OWN)
        for path, handler in self.admin.endpoints():
            for method in ("GET", "HEAD"):
                served.add(method, path, self.pages.only(handler), "admin", table.OWN, Needs.NOTHING)
        return served

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
            Cors(config.cors, routes, self.metrics, config.key_headers) if config.cors.origins else routes,
            routes.refuse_unread,
            header_bytes=config.limits.header_bytes,
            max_headers=config.limits.headers,
            clients=self.clients,
            host_objection=Hosts(address(listen)[0], config.hosts).objection,
            turns=self.hub.turns,
            urgent=b"GET /healthz",  # it tells of the process, not of those who wait
            is_admin=is_admin,
            access_log=None,
            handler_cancellation=True,  # a handler is cancelled as soon as its client disconnects
            auto_decompress=False,  # a compressed request is passed on as it is
            logger=http_log,
            loop=server_loop(),
        )
        self.listeners.append(server)
        return web.ServerRunner(server, shutdown_timeout=1.0)

    async def _tick(self) -> None:
        while True:
            await sleep(_TICK_S)
            with self.hub.background:
                self.hub.tick(time.monotonic())
                self.trim.tick(time.monotonic())


def access_of(config: Config) -> tuple[Callers, Grants]:
    """Make the configured Callers and Grants."""
    capabilities = Capabilities([secret.get_secret_value() for secret in config.capabilities.secrets])
    callers = Callers(
        capabilities,
        digests=config.auth.accepted,
        shares_anonymous=config.shares_anonymous,
        key_headers=config.key_headers,
    )
    return callers, Grants(
        capabilities,
        callers,
        ttl_s=config.capabilities.ttl_s,
        ttl_max_s=config.capabilities.ttl_max_s,
        trusted_origins=config.cors.origins if config.cors.credentials else (),
    )


def _traced(config: Config) -> "Tracing | None":
    if not config.otel.enabled:
        return None
    from proxy.telemetry.tracing import exported  # needs the extra `otel`

    return exported()
