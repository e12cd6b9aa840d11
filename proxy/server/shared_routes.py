"""Routes of the user's own with `share = "url"`: all who ask for a URL follow one upstream event stream.

A URL's stream is found in a table, not by its caller: it is everybody's. So the request that goes upstream is made
here, and nothing that a client says of itself is in it; only route, method, target and body tell URLs apart.
"""

import asyncio
import functools
import hashlib
import time
from collections.abc import Callable
from typing import NamedTuple

from aiohttp import web

from proxy.access.callers import Auth
from proxy.dialects.route import Route
from proxy.downstream.request_body import read_body
from proxy.downstream.response import Downstream
from proxy.server import follow_request, whole
from proxy.server.config import Config, RouteConfig
from proxy.server.delivery import CACHING, deliver
from proxy.server.follow import check_held
from proxy.server.pass_through import Forward
from proxy.server.whole import Whole
from proxy.stream.background import BackgroundLoop
from proxy.stream.endings import DRAINED
from proxy.stream.event_id import EventId, read_event_id
from proxy.stream.hub import ANYONE, Hub
from proxy.stream.projections import View
from proxy.stream.stream import Stream
from proxy.stream.subscription import Subscription
from proxy.stream.vitals import Vitals
from proxy.telemetry import access_log
from proxy.telemetry.metrics import Metrics
from proxy.upstream.broadcast import Ask, Broadcast
from proxy.upstream.exchange import Exchange
from proxy.upstream.upstream import UpstreamRequest
from proxy.wire.errors import Overloaded, UnknownMode, UnknownStream
from proxy.wire.http import EndToEnd, Headers
from proxy.wire.reconnection import Reconnection

MODES = ("events", "raw")
_ASKED: Headers = [
    (b"Accept", b"text/event-stream"),
    (b"Accept-Encoding", b"identity"),
    (b"Cache-Control", b"no-cache"),
]
# Response headers that are ours to set, that were true at one moment only, or that make two clients one.
_SHARED = EndToEnd(
    (
        b"age",
        b"cache-control",
        b"content-length",
        b"content-location",
        b"date",
        b"location",
        b"set-cookie",
        b"stream-id",
        b"x-accel-buffering",
    )
)


class Place(NamedTuple):
    """What makes two requests at a route the same."""

    method: str
    target: bytes
    content_type: str
    digest: bytes  # of the body


class _Opening:
    """A URL's first answer, until it is there: one call upstream for all who ask meanwhile."""

    __slots__ = ("askers", "broadcast", "task")

    def __init__(self) -> None:
        self.askers = 0
        self.broadcast: Broadcast | None = None
        self.task: asyncio.Task[Broadcast | Whole]


class EventRoute:
    """The handler of one such route: one Broadcast for each URL that is followed."""

    def __init__(
        self,
        config: Config,
        settings: RouteConfig,
        route: Route,
        hub: Hub,
        auth: Auth,
        metrics: Metrics,
        forward: Forward,
        tell: Callable[[str, Stream], None],
    ) -> None:
        """`forward` leads to the route's upstream; `tell` hears of every stream that begins, and that has ended."""
        self._config = config
        self._settings = settings
        self._route = route
        self._hub = hub
        self._auth = auth
        self._metrics = metrics
        self._forward = forward
        self._tell = tell
        self._background = BackgroundLoop(f"reopening:{route.name}", time.monotonic)
        metrics.background_loops.append(self._background)
        self._openings: dict[Place, _Opening] = {}
        self._broadcasts: dict[Place, Broadcast] = {}
        self._ended: dict[Place, str] = {}  # the ids of streams that are kept, to resume after

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Follow the stream of a URL; it is begun if nobody follows it."""
        self._auth.caller(request.headers.get("Authorization", ""))
        mode = request.headers.get("Stream-Mode", "events")
        if mode not in MODES:
            raise UnknownMode(f"Stream-Mode {mode!r} is not one of: {', '.join(MODES)}")
        self._hub.check_room_to_follow()
        target = self._route.target(follow_request.without_last_event_id(request.raw_path))
        body = await read_body(request, self._config.limits.body_bytes)
        content_type = request.headers.get("Content-Type", "") if body else ""
        place = Place(request.method, target, content_type, hashlib.sha256(body).digest())
        last_event_id = follow_request.last_event_id(request)
        broadcast = self._broadcasts.get(place)
        if broadcast is None:
            return await self._begin(request, place, body, mode, last_event_id)
        log = broadcast.stream.log
        offset = self._offset(broadcast.stream, last_event_id)
        self._metrics.replayed[mode] += log.end_bytes - log.position(offset)
        return await self._follow(request, broadcast, mode, offset)

    def drain(self) -> None:
        """End every stream: they would never finish by themselves."""
        for broadcast in list(self._broadcasts.values()):
            broadcast.stop(DRAINED)

    # The first who ask

    async def _begin(
        self, request: web.BaseRequest, place: Place, body: bytes, mode: str, last_event_id: str
    ) -> web.StreamResponse:
        """Wait for a URL's first answer, with all who ask for it meanwhile, and follow from its start."""
        opening = self._openings.get(place)
        if opening is None:
            self._hub.check_room()
            opening = self._openings[place] = _Opening()
            opening.task = asyncio.create_task(self._open(opening, place, body, self._before(place, last_event_id)))
            opening.task.add_done_callback(_retrieve)
        opening.askers += 1
        try:
            answer = await asyncio.shield(opening.task)
        finally:
            # One turn later, when this client follows, if it does.
            asyncio.get_running_loop().call_soon(self._arrived, place, opening)
        if isinstance(answer, Whole):
            return whole.send(request, answer)
        return await self._follow(request, answer, mode, answer.stream.log.start)

    def _arrived(self, place: Place, opening: _Opening) -> None:
        """Wait for one asker less: it follows now, or it will not."""
        opening.askers -= 1
        broadcast = opening.broadcast
        if broadcast is not None:
            broadcast.awaited = opening.askers
            if not opening.askers and not broadcast.stream.subscriptions:
                broadcast.last_left()
        elif not opening.askers and not opening.task.done():
            self._forget(place, opening)
            opening.task.cancel()

    async def _open(self, opening: _Opening, place: Place, body: bytes, last_event_id: bytes) -> Broadcast | Whole:
        started_at = time.monotonic()
        ask = functools.partial(self._ask, place, body)
        try:
            exchange = await ask(last_event_id)
            if not exchange.is_readable_stream:
                return await whole.read(exchange, self._config.limits.frame_bytes)
            try:
                broadcast = self._broadcast(place, ask, last_event_id, started_at)
            except Overloaded:
                exchange.close()
                raise
            opening.broadcast = broadcast
            access_log.answered(broadcast.stream, exchange)
            broadcast.awaited = opening.askers
            broadcast.headers = _SHARED.of(exchange.headers)
            broadcast.stream.upstream = exchange.upstream_name
            broadcast.start(exchange)
            return broadcast
        finally:
            self._forget(place, opening)

    def _forget(self, place: Place, opening: _Opening) -> None:
        if self._openings.get(place) is opening:
            del self._openings[place]

    async def _ask(self, place: Place, body: bytes, last_event_id: bytes) -> Exchange:
        headers = list(_ASKED)
        if last_event_id:
            headers.append((b"Last-Event-ID", last_event_id))
        if body or place.method == "POST":
            headers.append((b"Content-Length", b"%d" % len(body)))
        if place.content_type:
            headers.append((b"Content-Type", place.content_type.encode("utf-8", "surrogateescape")))
        if self._auth.upstream_authorization:
            headers.append((b"Authorization", self._auth.upstream_authorization))
        upstream_request = UpstreamRequest(place.method.encode(), place.target, headers, body, ANYONE)
        return await self._forward.open(self._route, upstream_request)

    def _before(self, place: Place, last_event_id: str) -> bytes:
        """Return the upstream's id of the last event that a client had, when it had it of a stream that has ended.

        An id that can't be ours is the upstream's own: the client had it without us.
        """
        last = read_event_id(last_event_id)
        if last is None:
            return last_event_id.encode("utf-8", "surrogateescape")
        try:
            stream = self._hub.find(self._ended.get(place, ""), ANYONE)
        except UnknownStream:
            return b""
        if last.epoch != stream.epoch:
            return b""
        log = stream.log
        had = Reconnection(0)
        had.note(log.span(log.start, max(log.start, min(last.seq, log.end))))
        return had.last_event_id

    def _broadcast(self, place: Place, ask: Ask, last_event_id: bytes, started_at: float) -> Broadcast:
        """Make a stream and its writer. Raises: Overloaded."""
        vitals = Vitals(self._route.dialect, started_at)
        retain_s = self._config.streams.retain_s
        stream = self._hub.create(vitals, route=self._route.name, caller=ANYONE, key=None, retain_s=retain_s)
        stream.created_at = int(time.time())
        stream.trace_id = stream.id
        stream.max_log_bytes = self._settings.window_bytes
        self._tell("begun", stream)
        broadcast = self._broadcasts[place] = Broadcast(
            stream,
            ask,
            background=self._background,
            last_event_id=last_event_id,
            keep_s=self._settings.keep_s,
            max_frame_bytes=self._config.limits.frame_bytes,
            on_reopened=functools.partial(self._metrics.reopened.update, (self._route.name,)),
            on_sealed=functools.partial(self._sealed, place),
        )
        return broadcast

    def _sealed(self, place: Place, broadcast: Broadcast) -> None:
        now = time.monotonic()
        stream = broadcast.stream
        del self._broadcasts[place]
        self._ended[place] = stream.id
        asyncio.get_running_loop().call_later(stream.retain_s, self._outlived, place, stream.id)
        self._metrics.stream_ended(stream, now)
        access_log.ended(stream, now)
        self._tell("ended", stream)
        self._hub.retire(stream, now)

    def _outlived(self, place: Place, ident: str) -> None:
        if self._ended.get(place) == ident:
            del self._ended[place]

    # All who follow

    def _offset(self, stream: Stream, last_event_id: str) -> int:
        """Return the offset that a client begins at; with an id of another stream it begins like a new one.

        Raises: OffsetGone below what is held, OffsetBeyond above it.
        """
        log = stream.log
        last = read_event_id(last_event_id)
        if last is None or last.epoch != stream.epoch:
            return log.end if self._settings.join == "live" else log.start
        check_held(log, last.seq)
        return last.seq

    async def _follow(
        self, request: web.BaseRequest, broadcast: Broadcast, mode: str, offset: int
    ) -> web.StreamResponse:
        stream = broadcast.stream
        self._hub.check_room_to_follow(stream)
        ident = stream.id.encode()
        headers = [*broadcast.headers, *CACHING, (b"Stream-Id", ident), (b"Stream-Mode", mode.encode())]
        headers.append((b"Content-Location", b"/v1/streams/" + ident))
        if follow_request.last_event_id(request):
            headers.append((b"Stream-Resumed-From", bytes(EventId(stream.epoch, offset))))
        downstream = Downstream(request)
        downstream.start(b"OK", headers)
        subscription = Subscription(stream, View(mode), downstream, offset, self._config.streams.heartbeat_s)
        return await deliver(self._hub, downstream, subscription)


def _retrieve(task: "asyncio.Task[Broadcast | Whole]") -> None:
    """Mark the exception as retrieved, so that asyncio does not log it."""
    if not task.cancelled():
        task.exception()
