"""Makes the parts of the proxy from its configuration, connects them, listens, and stops.

`route_table` makes the handlers of the data port, whose routes the README's "HTTP surface" lists; `admin` those of the
admin port.
"""

import asyncio
import socket
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import unquote

from aiohttp import web

from proxy.access.accounts import Accounts
from proxy.access.admission import Admission, Needs
from proxy.access.callers import Caller
from proxy.access.certificates import SUBJECT
from proxy.access.client_addresses import ClientAddresses
from proxy.access.operators import OperatorAccess
from proxy.access.pages import Pages
from proxy.access.response_ids import GivenIds
from proxy.access.sums import Sums
from proxy.dialects import table
from proxy.downstream.client_connections import ClientConnections, ClientTimeouts
from proxy.downstream.connection import ERROR_TO_SEND, Connection
from proxy.downstream.descriptors import Descriptors
from proxy.downstream.listener import Listener
from proxy.downstream.movable import MovableConnection
from proxy.server.admin.all_streams import AllStreams
from proxy.server.admin.feed import Feed
from proxy.server.admin.form_requests import FormRequests
from proxy.server.admin.paths import AdminRoutes, Handlers
from proxy.server.admin.probes import Probes
from proxy.server.callers.identification import access_of, identification, operators_of
from proxy.server.config import Config
from proxy.server.cors import Cors
from proxy.server.directory import Directory, connected
from proxy.server.generations.retries import LostCalls
from proxy.server.generations.shared_calls import Calls
from proxy.server.observers import observers
from proxy.server.placement import SUBJECT_HEADER, Member, Placement
from proxy.server.ports import Ports
from proxy.server.route_table import RouteTable
from proxy.server.routes import Handler, Routes
from proxy.server.upstreams import Upstreams
from proxy.store.counts import StoredCounts
from proxy.store.node import Node
from proxy.stream.cohort import Pacer
from proxy.stream.endings import DRAINED
from proxy.stream.hub import Hub
from proxy.stream.stream import Stream
from proxy.stream.subscription import Subscription
from proxy.telemetry.allocator import IdleTrim, malloc_trim
from proxy.telemetry.caller_metrics import CallerMetrics
from proxy.telemetry.live_feed import LiveFeed
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.metrics_page import MetricsPage
from proxy.telemetry.overview import Overview
from proxy.telemetry.prices import Prices
from proxy.telemetry.request_log import RequestLog, Serve
from proxy.timers import sleep
from proxy.upstream.settings import DEFAULT

if TYPE_CHECKING:
    from proxy.telemetry.tracing import Tracing

_TICK_S = 0.25
_INNER = "localhost:0"  # the address of a Unix socket, as far as its requests' Host is checked


class Proxy:
    """The running proxy: call `start`, then `drain` or `stop`. Port 0 takes a free port; `url` has its number."""

    def __init__(self, config: Config, tracing: "Tracing | None" = None, member: Member | None = None) -> None:
        """Call within a running loop. `tracing` is used instead of the configured one.

        `member`: what makes it one of several workers; None: it is the only process.
        """
        loop = asyncio.get_running_loop()
        limits = config.limits
        pacer = Pacer(loop.call_later, time.monotonic)
        self.config = config
        self.metrics = Metrics(limits.model_labels)
        if config.prices.models:
            self.metrics.prices = Prices(config.prices)
        self.descriptors = descriptors = Descriptors.of_process()
        self.upstreams = Upstreams(config, self.metrics, descriptors)
        self.feed = LiveFeed()
        self.calls = Calls()
        self.lost_calls = LostCalls(config.generations.attach_retries_s)
        self.tracing = tracing or _traced(config)
        self.identification = identification(
            config.auth,
            has_certificates=bool(config.tls.client_ca),
            new_account=None if member is None else member.new_account,
        )
        self.callers, self.grants = access_of(config, self.identification, b"" if member is None else member.secret)
        accounts = None if self.identification is None else self.identification.accounts
        self.given = self._new_given_ids()
        self.hub = self._new_hub(pacer, accounts, "" if member is None else member.id_ending)
        self.clients = ClientConnections(
            ClientTimeouts(**config.clients.model_dump()),
            descriptors,
            max_body_bytes=limits.total_body_bytes,
            max_pending_bytes=limits.total_pending_bytes,
        )
        if accounts is not None:
            accounts.waiting = self.hub.keys.waiting
        self.node = self._connected(accounts)
        self.directory = None if self.node is None else Directory(self.node, self.hub, config.store, self.given)
        self.trim = IdleTrim(lambda: self.hub.ledger.total_bytes, trim=malloc_trim())
        self.page = self._new_page(pacer)
        self.pages = Pages(config.cors.origins)
        self.admission = Admission(
            self.callers,
            self.grants,
            self.hub,
            shares_bodies=config.generations.share == "body",
            accounts=accounts,
            has_certificates=bool(config.tls.client_ca),
        )
        self.route_table = self._new_route_table(None if member is None else member.placement)
        self._member_is_busy = bool if member is None else member.placement.is_busy
        self.operators = operators_of(config) if member is None else OperatorAccess(member.secret.hex())
        self.overview = Overview(self.hub, self.upstreams.by_name, lambda: self.url, self._name_of)
        connection_class = Connection if member is None else MovableConnection
        self.ports = Ports(config, self.clients, self.hub.turns, connection_class)
        self._data_runner: web.BaseRunner | None = None  # of one of several workers
        self._data_site: web.BaseSite | None = None
        self._background: list[asyncio.Task[None]] = []
        self._hurried = False
        self.url = ""
        self.admin_url = ""

    def _new_given_ids(self) -> GivenIds | None:
        """Make what notes the ids of responses; None, if all callers use one upstream with keys of their own."""
        config = self.config
        restricts = any(map(self.upstreams.has_key, (DEFAULT, *(model.upstream or DEFAULT for model in config.models))))
        if not restricts and not config.upstreams:
            return None
        return GivenIds(lambda: self.hub.found(), time.monotonic, restricts=restricts)

    def _connected(self, accounts: Accounts | None) -> Node | None:
        """Connect to the store and have it add up what callers use on all machines; None, if there is no store."""
        node = connected(self.config.store, self.hub)
        if accounts is not None and node is not None:
            accounts.sums = Sums(StoredCounts(node.store, node.id, node.leases), accounts)
        return node

    def _new_hub(self, pacer: Pacer, accounts: Accounts | None, id_ending: str) -> Hub:
        """Make the registry of streams; `id_ending`: of their ids, by which other workers know whose they are."""
        limits = self.config.limits
        return Hub(
            max_streams=limits.streams,
            max_followers=limits.followers,
            max_followers_per_stream=limits.followers_per_stream,
            max_total_log_bytes=limits.total_log_bytes,
            max_pending_bytes=limits.total_pending_bytes,
            call_soon=asyncio.get_running_loop().call_soon,
            pacer=pacer,
            observers=observers(
                metrics=self.metrics,
                feed=self.feed,
                calls=self.calls,
                upstreams=self.upstreams,
                accounts=accounts,
                given=self.given,
                tracing=self.tracing,
                node=(lambda: self.node) if self.config.store.url.get_secret_value() else None,
                log_as_fields=self.config.log_format == "json",
            ),
            on_forgotten=self._forget,
            on_subscription_ended=self.metrics.subscription_ended if accounts is None else self._subscription_ended,
            on_attached=None if accounts is None else accounts.attached,
            id_ending=id_ending,
        )

    def _new_page(self, pacer: Pacer) -> MetricsPage:
        """Make the page of metrics, and have the background loops and the callers counted there."""
        loop_name = type(asyncio.get_running_loop()).__module__.partition(".")[0]
        publisher = None if self.node is None else self.node.publisher
        page = MetricsPage(self.metrics, self.hub, self.upstreams, self.clients, loop_name, publisher)
        self.metrics.background_loops += [self.hub.background, pacer.background, self.clients.background]
        if self.identification is not None:
            self.metrics.background_loops.append(self.identification.background)
            page.registry.register(
                CallerMetrics(self.identification.accounts, lambda: self.config.limits.caller_labels)
            )
        return page

    def _new_route_table(self, placement: Placement | None) -> RouteTable:
        """Make the handlers of the data port; `placement`: finds the worker that a request belongs to."""
        return RouteTable(
            lambda: self.config,
            self.hub,
            self.upstreams,
            self.metrics,
            self.admission,
            self.grants,
            self.pages,
            self.calls,
            self.lost_calls,
            self.given,
            self.tracing,
            placement,
            self.directory,
        )

    def _subscription_ended(self, subscription: Subscription) -> None:
        self.metrics.subscription_ended(subscription)
        if self.admission.accounts is not None:
            self.admission.accounts.left(subscription)

    async def _overview_text(self) -> str:
        return self.overview.text(time.monotonic())

    def _name_of(self, caller: bytes) -> str | None:
        """Return the name of the caller with this digest; None if it has none."""
        account = None if self.admission.accounts is None else self.admission.accounts.of(caller)
        return None if account is None else account.name

    def readiness(self) -> dict[str, object]:
        """Return what /readyz says: whether requests may come here, and the state of the store, if there is one."""
        if self.node is None:
            return {"ready": not self.hub.draining}
        is_down = self.node.publisher.is_down
        ready = not self.hub.draining and not (is_down and self.config.store.required)
        return {"ready": ready, "store": "down" if is_down else "up"}

    def _forget(self, stream: Stream) -> None:
        self.calls.forget(stream)
        self.lost_calls.forget(stream)

    async def start(self, sockets: Mapping[str, socket.socket] | None = None) -> None:
        """Listen. Raises: OSError, when an address is taken.

        `sockets`: those that listen already, for the keys `listen` and `admin`; the configuration has their addresses,
        since what is safe depends on them.
        """
        given = sockets or {}
        self._join_store()
        try:
            config = self.config
            data = self.route_table.routes()
            server = await self.ports.server(self._served(data), data, config.listen, is_admin=False)
            self.url, self._data_site = await self.ports.listen(server, given.get("listen"))
            if config.admin:
                admin = self._admin_routes(data, self.metrics)
                server = await self.ports.server(admin, admin.routes, config.admin, is_admin=True)
                self.admin_url = await self.ports.listen_as_admin(server, given.get("admin"))
        except OSError:
            await self.stop()
            raise
        self._begin_background()

    def _join_store(self) -> None:
        """Share streams from now on, if there is a store."""
        if self.node is not None:
            self.node.start()

    def _begin_background(self) -> None:
        self.descriptors.recount()
        self._background = [asyncio.create_task(self._tick()), asyncio.create_task(self.clients.watch())]
        if self.identification is not None:
            self._background.append(asyncio.create_task(self.identification.watch()))
            if self.identification.accounts.sums is not None:
                self._background.append(asyncio.create_task(self.identification.accounts.sums.watch()))

    async def open_as_worker(self, inner: Sequence[tuple[str, Handler]], inner_path: str) -> Listener:
        """Become ready as one of several workers; return the server of clients' connections, for those handed over.

        At a Unix socket, `inner_path`, are served for the other workers and the supervisor: what the admin port has,
        `inner`, and the streams of this worker that one of several others delivers.
        """
        self._join_store()
        data = self.route_table.routes()
        self._data_runner = await self.ports.server(self._served(data), data, self.config.listen, is_admin=False)
        # Not counted: what is asked here is part of a client's request, which is counted where that came.
        admin = self._admin_routes(data, Metrics(self.config.limits.model_labels))
        for path, handler in inner:
            admin.routes.add("GET", path, handler, "inner", table.OWN, Needs.NOTHING)
        admin.routes.add("GET", "/v1/follow", self._follow_for_another, "streams", table.OWN, Needs.NOTHING)
        asked = await self.ports.server(admin, admin.routes, _INNER, is_admin=True)
        await self.ports.listen_at(asked, inner_path)
        self._begin_background()
        return self.ports.listeners[0]

    async def _follow_for_another(self, request: web.BaseRequest, operator: Caller) -> web.StreamResponse:
        """GET /v1/follow, sent by another worker with the headers of its client, and what its certificate says."""
        request[SUBJECT] = unquote(request.headers.get(SUBJECT_HEADER, ""))
        serve: Serve = self._follow_many
        return await (serve if self.identification is None else self.identification.asking(serve))(request)

    async def _follow_many(self, request: web.BaseRequest) -> web.StreamResponse:
        if ERROR_TO_SEND in request:
            raise request[ERROR_TO_SEND]
        return await self.route_table.follow_many(request, self.admission.admit(request, Needs.CAPABILITY))

    async def accept(self, listening: socket.socket) -> None:
        """Accept connections at a listening socket from now on; after `open_as_worker`."""
        assert self._data_runner is not None
        _, self._data_site = await self.ports.listen(self._data_runner, listening)

    async def retire(self) -> None:
        """Accept no more, and end what has no end of its own; all else goes on until `drain`, or until it ends."""
        if self._data_site is not None:
            await self._data_site.stop()
            self._data_site = None
        self.hub.keys.dismiss_waiters()
        self.route_table.drain()

    @property
    def is_busy(self) -> bool:
        """Return whether any stream runs, or any client waits for a response."""
        return bool(self.hub.running) or self.clients.busy or self._member_is_busy()

    async def drain(self) -> None:
        """Stop accepting, let everything that was asked for finish for at most `drain_s`, end the rest, and stop.

        What is ended never looks complete: it is broken off, or says that it was drained.
        """
        self._refuse_new()
        if self._data_site is not None:
            await self._data_site.stop()
        until = time.monotonic() + self.config.drain_s
        while self.is_busy and time.monotonic() < until and not self._hurried:
            await asyncio.sleep(0.05)
        await self.stop()

    def _refuse_new(self) -> None:
        self.hub.drain()
        self.route_table.drain()

    @property
    def is_hurried(self) -> bool:
        """Return whether it is to end at once."""
        return self._hurried

    def hurry(self) -> None:
        """Have `drain` wait no longer."""
        self._hurried = True

    async def stop(self) -> None:
        """End everything now."""
        self._refuse_new()
        for stream in list(self.hub.found()):
            if stream.writer is not None and self.hub.replicas.get(stream.id) is not stream:
                stream.writer.stop(DRAINED)
            for subscription in list(stream.subscriptions):
                subscription.fail(DRAINED)
        await asyncio.gather(self.route_table.wait_closed(), self.clients.end_requests(DRAINED.as_error()))
        self.feed.close()
        await self.ports.close()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.upstreams.close()
        if self.admission.accounts is not None and self.admission.accounts.sums is not None:
            await self.admission.accounts.sums.flush()
        if self.node is not None:
            await self.node.close()
        if self.identification is not None:
            await self.identification.close()
        if self.tracing is not None:
            await self.tracing.close()

    @property
    def console_url(self) -> str:
        """The URL of the console, with the admin token if that was made here; "" if the console is not served."""
        return self.operators.console_url(self.admin_url)

    def _admin_routes(self, data: Routes, metrics: Metrics) -> AdminRoutes:
        """Return the routes of the admin port. `data`: those of the data port; `metrics` counts the requests."""
        serve: Serve = data if self.identification is None else self.identification.asking(data)
        probes, feed = Probes(self.page, self.readiness), Feed(self.feed, self._overview_text)
        streams = AllStreams(self.hub, self.route_table.follow, self.grants, self.overview)
        handlers = Handlers(
            metrics=probes.metrics,
            ready=probes.ready,
            listed=streams.listed,
            follow=streams.follow,
            head=streams.head,
            info=streams.info,
            cancel=streams.cancel,
            share=streams.share,
            events=feed.events,
            overview=feed.overview,
            form=FormRequests(serve, self.operators).send,
        )
        return AdminRoutes(self.operators, metrics, handlers)

    def refresh(self) -> None:
        """Read the files again that the configuration names: certificates, and callers' keys.

        Raises: OSError, ValueError, for a certificate that can't be used; the one before stays in use.
        """
        if self.identification is not None:
            self.identification.refresh()
        self.ports.reload_certificates()

    def _served(self, routes: Routes) -> Serve:
        """Return what serves the data port: its routes, with what is configured around them."""
        config = self.config
        served: Serve = routes
        if config.cors.origins:
            served = Cors(config.cors, routes, self.metrics, config.key_headers)
        if self.identification is not None:
            served = self.identification.asking(served)
        if config.access_log:
            client_address = ClientAddresses(config.trusted_proxies).of
            served = RequestLog(served, client_address, as_fields=config.log_format == "json")
        return served

    async def _tick(self) -> None:
        while True:
            await sleep(_TICK_S)
            with self.hub.background:
                self.hub.tick(time.monotonic())
                if self.node is not None:
                    self._block(self.node)
                self.trim.tick(time.monotonic())

    def _block(self, node: Node) -> None:
        """Refuse new streams while the store can't be reached, if it is required."""
        is_blocked = self.config.store.required and node.publisher.is_down
        self.hub.blocked = "the store, without which no stream may begin, can't be reached" if is_blocked else None


def _traced(config: Config) -> "Tracing | None":
    if not config.otel.enabled:
        return None
    from proxy.telemetry.tracing import exported  # needs the extra `otel`

    return exported()
