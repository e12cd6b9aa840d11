"""The one admin port of several workers, in their supervisor: what each worker tells, put together.

No worker holds it up: one that does not answer in time is left out, and `streamtee_worker_up` is 0 for it.
"""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.aiohttp import make_aiohttp_handler
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from yarl import URL

from proxy.access.callers import Caller
from proxy.access.operators import COOKIE, OperatorAccess
from proxy.downstream.client_connections import ClientConnections, ClientTimeouts
from proxy.downstream.descriptors import Descriptors
from proxy.downstream.listener import Listener
from proxy.downstream.response import Downstream
from proxy.downstream.tls import ServerTls
from proxy.server.admin.feed import Feed
from proxy.server.admin.form_requests import headers_of_form
from proxy.server.admin.paths import AdminRoutes, Handlers
from proxy.server.callers.identification import operators_of
from proxy.server.config import Config
from proxy.server.delivery import CACHING
from proxy.server.json_responses import answer
from proxy.server.ports import listen, new_listener, port_tls
from proxy.stream.modes.projection import EVENT_STREAM
from proxy.stream.turns import Turns
from proxy.telemetry.live_feed import LiveFeed
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.metrics_page import requests_of
from proxy.wire import json_text
from proxy.wire.errors import Overloaded, UnknownStream
from proxy.wire.http import HOP_BY_HOP, origin_form
from proxy.workers.ids import worker_of
from proxy.workers.merged_overview import merged
from proxy.workers.merged_page import families_of
from proxy.workers.supervisor import Supervisor

_OF_CONNECTIONS = {*HOP_BY_HOP, b"host", b"content-length"}
_FORWARDED = ("Accept", "Content-Type", "Last-Event-ID")
_log = logging.getLogger("streamtee.workers")
_CONNECTED_S = 2.0  # a live feed does not wait longer for workers that say nothing
_LOOKED_S = 0.2  # for new workers, whose events a live feed is to have, too


class _Collected(Collector):
    """Metrics that have been collected already."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        return self._metrics


class AdminPort:
    """The admin port of several workers."""

    def __init__(self, supervisor: Supervisor, listening: socket.socket | None = None) -> None:
        """Call within a running loop. `listening`: a socket that listens already."""
        config = supervisor.config
        loop = asyncio.get_running_loop()
        self._supervisor = supervisor
        self._config = config
        self._operators = operators_of(config)
        self._overviews = Feed(LiveFeed(), self._overview)
        self._listening = listening
        self._clients = ClientConnections(
            ClientTimeouts(**config.clients.model_dump()),
            Descriptors.of_process(),
            max_body_bytes=config.limits.total_body_bytes,
            max_pending_bytes=config.limits.total_pending_bytes,
        )
        self._counts = Metrics(config.limits.model_labels)  # of the requests that came to this port
        self._turns = Turns(loop.call_soon, time.monotonic)
        self._runner: web.ServerRunner | None = None
        self._tls: ServerTls | None = None
        self._watching: asyncio.Task[None] | None = None
        self._feeds: set[asyncio.Task[Any]] = set()
        self.url = ""

    def routes(self) -> AdminRoutes:
        """Return the paths of the admin port, and what answers there."""
        handlers = Handlers(
            metrics=self._metrics,
            ready=self._ready,
            listed=self._streams,
            follow=self._stream,
            head=self._stream,
            info=self._stream,
            cancel=self._stream,
            share=self._stream,
            events=self._events,
            overview=self._overviews.overview,
            form=self._form,
        )
        return AdminRoutes(self._operators, self._counts, handlers)

    @property
    def console_url(self) -> str:
        """The URL of the console, with the admin token if that was made here; "" if the console is not served."""
        return self._operators.console_url(self.url)

    async def start(self) -> None:
        """Listen. Raises: OSError, when the address is taken; ValueError, for a certificate that can't be used."""
        config = self._config
        self._runner = web.ServerRunner(self._listener(), shutdown_timeout=1.0)
        await self._runner.setup()
        self._tls = port_tls(config.admin_tls)
        self.url, _ = await listen(self._runner, config.admin, self._listening, self._tls, config.clients.head_s)
        self._watching = asyncio.create_task(self._clients.watch())

    def use(self, config: Config) -> None:
        """Take over what a configuration that was read again has for this port, as one process does (`server.reload`).

        A token replaces another, and the certificate's files are read again.
        """
        before, token = self._operators.token, config.admin_token.get_secret_value()
        if self._config.admin_token.get_secret_value() and token:
            if token != before:
                self._operators.use(token)
        elif token != self._config.admin_token.get_secret_value():
            _log.warning("SIGHUP: a restart is needed for: admin_token")
        self._clients.timeouts = ClientTimeouts(**config.clients.model_dump())
        logging.getLogger().setLevel(config.log_level.upper())
        try:
            if self._tls is not None:
                self._tls.reload()
        except (OSError, ValueError) as error:
            _log.error("SIGHUP: the certificate in use stays in use: %s", error)

    async def stop(self) -> None:
        """End all responses, and listen no more."""
        for task in self._feeds:
            task.cancel()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})

    def _listener(self) -> Listener:
        routes, config = self.routes(), self._config
        return new_listener(
            config, routes, routes.routes, config.admin, self._clients, self._turns, urgent=b"GET /", is_admin=True
        )

    async def _ask_all(self, target: str) -> dict[int, Any]:
        return await self._supervisor.peers.ask_all(self._supervisor.numbers, target)

    async def _metrics(self, request: web.BaseRequest, caller: Caller) -> web.StreamResponse:
        """GET /metrics: the sums of all workers."""
        registry = CollectorRegistry()
        answers = await self._ask_all("/inner/metrics")
        told = {number: answers.get(number) for number in self._supervisor.numbers}
        own = families_of([requests_of(self._counts)])
        registry.register(_Collected(self._supervisor.page.merged(told, own)))
        exposition: Any = make_aiohttp_handler(registry)
        response: web.StreamResponse = await exposition(request)
        return response

    async def _ready(self, request: web.BaseRequest, caller: Caller) -> web.StreamResponse:
        """GET /readyz: whether any worker takes what is new, and which; and the state of the store, if there is one."""
        answers = await self._ask_all("/readyz")
        workers = {
            str(number): is_current and (answers.get(number) or {}).get("ready", False)
            for number, is_current in self._supervisor.numbers.items()
        }
        ready = not self._supervisor.is_draining and any(workers.values())
        stores = {told["store"] for told in answers.values() if told is not None and "store" in told}
        store = {"store": "down" if "down" in stores else "up"} if stores else {}
        return answer({"ready": ready, "workers": workers, **store}, 200 if ready else 503)

    async def _streams(self, request: web.BaseRequest, caller: Caller) -> web.StreamResponse:
        """GET /admin/streams: those of all workers; `has_more`, if one of them hangs."""
        answers = await self._ask_all("/admin/streams")
        told = [one["data"] for one in answers.values() if one is not None]
        streams = [stream for data in told for stream in data]
        return answer({"object": "list", "data": streams, "has_more": len(told) < len(answers)})

    async def _stream(self, request: web.BaseRequest, caller: Caller, ident: str) -> web.StreamResponse:
        """Whatever is asked about one stream: pass it to its worker, and what that answers back."""
        number = worker_of(ident)
        if number not in self._supervisor.numbers:
            raise UnknownStream(f"no stream {ident!r} is running or kept")
        headers = {name: request.headers[name] for name in _FORWARDED if name in request.headers}
        return await self._pass_on(request, number, headers | self._supervisor.peers.headers)

    async def _form(self, request: web.BaseRequest, caller: Caller) -> web.StreamResponse:
        """POST /admin/try/...: pass a request of the console's form to a worker, which serves it as a client's.

        Authorization has the key that was typed in, so the worker knows the supervisor by a cookie.
        """
        number = next((number for number, is_current in self._supervisor.numbers.items() if is_current), None)
        if number is None:
            raise Overloaded("no worker begins what is new")
        headers = headers_of_form(request, self._operators)
        for name in [name for name in headers if name.lower().encode() in _OF_CONNECTIONS]:
            headers.popall(name, None)
        cookie = f"{COOKIE}={OperatorAccess(self._supervisor.peers.token).signed()}"
        return await self._pass_on(request, number, {**headers, "Cookie": cookie})

    async def _pass_on(self, request: web.BaseRequest, number: int, headers: Mapping[str, str]) -> web.StreamResponse:
        """Pass a request to a worker, and its response back as it comes."""
        asked = self._supervisor.peers.session(number).request(
            request.method,
            URL(f"http://localhost{origin_form(request.raw_path)}", encoded=True),
            headers=headers,
            data=await request.read(),
        )
        downstream: Downstream | None = None
        try:
            async with asked as answered:
                downstream = Downstream(request, answered.status)
                kept = [header for header in answered.raw_headers if header[0].lower() not in HOP_BY_HOP]
                framed = any(name.lower() == b"content-length" for name, _ in kept)
                downstream.start((answered.reason or "").encode(), kept, framed=framed)
                async for piece in answered.content.iter_any():
                    downstream.write_data(piece)
                    await request.writer.drain()
                downstream.close(b"")
        except aiohttp.ClientError:
            if downstream is None:
                raise Overloaded(f"worker {number}, which has the stream, does not answer") from None
            downstream.abort(b"")
        return downstream.response

    async def _overview(self) -> str:
        supervisor = self._supervisor
        told = await self._ask_all("/admin/overview")
        everyone = {number: told.get(number) for number in supervisor.numbers}
        return json_text.written(merged(everyone, data_url=supervisor.url, is_draining=supervisor.is_draining)).decode()

    async def _events(self, request: web.BaseRequest, caller: Caller) -> web.StreamResponse:
        """GET /admin/events: those of all workers, also of such that begin later; or overviews of all."""
        if "every" in request.query:
            return await self._overviews.events(request, caller)
        downstream = Downstream(request)
        downstream.start(b"OK", [(b"Content-Type", EVENT_STREAM), *CACHING])
        listens = asyncio.Event()
        feeding = asyncio.create_task(self._feed(downstream, listens))
        self._feeds.add(feeding)
        try:
            await listens.wait()  # the head is sent then: whoever has it misses no event
            await downstream.finished()
        finally:
            feeding.cancel()
            self._feeds.discard(feeding)
        return downstream.response

    async def _feed(self, downstream: Downstream, listens: asyncio.Event) -> None:
        """Send the events of all workers; set `listens` when those that are there now are listened to."""
        listening: dict[int, asyncio.Task[None]] = {}
        try:
            while True:
                connected = []
                for number in self._supervisor.numbers:
                    if number not in listening or listening[number].done():
                        connected.append(asyncio.Event())
                        listening[number] = asyncio.create_task(self._forward(number, downstream, connected[-1]))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_CONNECTED_S):
                        for event in connected:
                            await event.wait()
                listens.set()
                await asyncio.sleep(_LOOKED_S)
        finally:
            for task in listening.values():
                task.cancel()
            downstream.close(b"")

    async def _forward(self, number: int, downstream: Downstream, connected: asyncio.Event) -> None:
        """Send the events of one worker, until it ends or the client does not keep up."""
        peers = self._supervisor.peers
        try:
            async with peers.session(number).get("http://localhost/admin/events", headers=peers.headers) as events:
                connected.set()
                async for block in _blocks(events):
                    if not downstream.writable:
                        downstream.abort(b"")
                        return
                    downstream.write_data(block)
        except (aiohttp.ClientError, OSError):
            return
        finally:
            connected.set()


async def _blocks(events: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    held = b""
    async for piece in events.content.iter_any():
        held += piece.replace(b"\r\n", b"\n")
        *blocks, held = held.split(b"\n\n")
        for block in blocks:
            yield block + b"\n\n"
