"""Configured routes with `share = "url"`: all clients that request a URL follow one upstream event stream.

The stream of a URL is open to everybody, whoever requested it first. So the upstream request is made here, without any
header by which a client identifies itself; requests differ only by route, method, target and body.
"""

import functools
import time
from typing import NamedTuple

from aiohttp import web

from proxy.access.admission import Admission
from proxy.access.callers import Caller
from proxy.dialects.route import Route
from proxy.downstream.request_body import read_body
from proxy.downstream.response import Downstream
from proxy.server.config import Config
from proxy.server.configuration.settings import LimitsConfig, RouteConfig
from proxy.server.delivery import CACHING, begin_answer, deliver
from proxy.server.following import request as follow_request
from proxy.server.following.place import offset_after
from proxy.server.generations.shared_calls import Call, Calls, Identity, by_url
from proxy.server.headers import NOT_SHARED
from proxy.server.placement import Placement, call_name
from proxy.stream.endings import DRAINED
from proxy.stream.faults import BackgroundLoop
from proxy.stream.hub import ANYONE, Hub
from proxy.stream.info import StreamInfo
from proxy.stream.ledger import NAMES
from proxy.stream.modes.projection import View
from proxy.stream.stream import Stream
from proxy.stream.subscription import Subscription
from proxy.stream.vitals import Vitals
from proxy.telemetry.metrics import Metrics
from proxy.upstream.broadcast import Broadcast
from proxy.upstream.exchange import Exchange
from proxy.upstream.group import OpenExchange
from proxy.upstream.upstream import UpstreamRequest
from proxy.wire.errors import Garbled, UnknownMode
from proxy.wire.event_id import EventId, read_event_id
from proxy.wire.http import EndToEnd, Head, Headers
from proxy.wire.reconnection import Reconnection, sets_id
from proxy.wire.sse import fields

MODES = ("events", "raw")
_NAME_BYTES = 1000  # of memory that a URL takes beside its own length: in two tables, by its digest
_REQUEST_HEADERS: Headers = [
    (b"Accept", b"text/event-stream"),
    (b"Accept-Encoding", b"identity"),
    (b"Cache-Control", b"no-cache"),
]
_LIVES_ON = DRAINED._replace(clean=True)
_SHARED_ANSWER = EndToEnd((b"set-cookie",))  # a shared response must not log anyone in
_SHARED = EndToEnd(NOT_SHARED)


class EventRoute:
    """The handler of one such route: one call for each URL that is followed."""

    def __init__(
        self,
        config: Config,
        settings: RouteConfig,
        route: Route,
        hub: Hub,
        admission: Admission,
        metrics: Metrics,
        open_exchange: OpenExchange,
        calls: Calls,
        placement: Placement | None = None,
    ) -> None:
        """`open_exchange` leads to the route's upstream. `placement`: finds a URL's worker, if there are several."""
        self._config = config
        self._limits = config.limits
        self._settings = settings
        self._route = route
        self._hub = hub
        self._admission = admission
        self._metrics = metrics
        self._open_exchange = open_exchange
        self._calls = calls
        self._placement = placement
        self._background = BackgroundLoop(f"reopening:{route.name}", time.monotonic)
        metrics.background_loops.append(self._background)

    async def serve(self, request: web.BaseRequest, caller: Caller) -> web.StreamResponse:
        """Follow the stream of a URL; begin it if it does not run."""
        mode = request.headers.get("Stream-Mode", "events")
        if mode not in MODES:
            raise UnknownMode(f"Stream-Mode {mode!r} is not one of: {', '.join(MODES)}")
        await self._admission.admit_follower()
        target = self._route.target(follow_request.without_last_event_id(request.raw_path))
        body = await read_body(request, self._limits.body_bytes)
        content_type = request.headers.get("Content-Type", "") if body else ""
        identity = by_url(self._route.name, request.method, target, body, content_type)
        if self._placement is not None:
            name, held = call_name(*identity.name), self._calls.holds(identity)
            elsewhere = await self._placement.of_generation(request, ANYONE, None, name, held=held)
            if elsewhere is not None:
                return elsewhere
        last_event_id = follow_request.last_event_id(request)
        had = await self._had(identity, last_event_id)
        call = self._calls.find(identity)
        if call is None:
            call = self._call(identity, _SharedRequest(request.method, target, content_type, body), had)
        joins = call.opening.done()
        place = self._hub.reserve(followers=1)
        try:
            head = await call.answered()
        finally:
            place.give_back()
        stream = call.stream
        if stream.kept_head is not None:
            return await self._send_kept(request, stream, stream.kept_head)
        offset = stream.log.start
        if joins:
            offset = self._offset(call, last_event_id, had)
            self._metrics.replayed[mode] += stream.log.end_bytes - stream.log.position(offset)
        return await self._follow(request, stream, _SHARED.of(head.headers), mode, offset)

    def limit(self, limits: LimitsConfig) -> None:
        """Keep these limits from now on."""
        self._limits = limits

    def drain(self) -> None:
        """End all streams of the route: event sources have no end of their own.

        Their followers are closed between two events, without an error: the source goes on, and can be followed by
        another server. Nobody takes what has no end for whole.
        """
        for stream in list(self._hub):
            if stream.info.route == self._route.name and stream.writer is not None and stream.kept_head is None:
                stream.writer.stop(_LIVES_ON)

    # For the first client of a URL

    def _call(self, identity: Identity, shared: "_SharedRequest", last_event_id: bytes) -> Call:
        """Begin the call of a URL. Raises: Overloaded."""
        ask = functools.partial(self._ask, shared)
        writer = Broadcast(
            self._hub.begin(self._info(), Vitals(self._route.dialect, time.monotonic())),
            ask,
            background=self._background,
            last_event_id=last_event_id,
            keep_s=self._settings.keep_s,
            max_frame_bytes=self._limits.frame_bytes,
            on_reopened=functools.partial(self._metrics.reopened.update, (self._route.name,)),
        )
        size_bytes = len(shared.target) + len(shared.content_type) + len(shared.body)
        writer.stream.count(NAMES, size_bytes + _NAME_BYTES)
        call = Call(self._hub, writer, identity)
        call.begin(functools.partial(ask, last_event_id), _is_stream)
        self._calls.add(call)
        return call

    def _info(self) -> StreamInfo:
        retain_s, window_bytes = self._config.streams.retain_s, self._settings.window_bytes
        return StreamInfo(self._hub.new_id(), self._route.name, ANYONE, int(time.time()), retain_s, window_bytes)

    async def _ask(self, shared: "_SharedRequest", last_event_id: bytes) -> Exchange:
        headers = list(_REQUEST_HEADERS)
        if last_event_id:
            headers.append((b"Last-Event-ID", last_event_id))
        if shared.body or shared.method == "POST":
            headers.append((b"Content-Length", b"%d" % len(shared.body)))
        if shared.content_type:
            headers.append((b"Content-Type", shared.content_type.encode("utf-8", "surrogateescape")))
        upstream_request = UpstreamRequest(
            self._route, shared.method.encode(), shared.target, headers, shared.body, ANYONE
        )
        return await self._open_exchange(upstream_request)

    # For all clients

    async def _had(self, identity: Identity, last_event_id: str) -> bytes:
        """Return the upstream's id of the last event that a client received; b"" if it is not known, or not needed.

        The client sends our event id, of a stream that has ended by now, perhaps in another worker; an id in another
        form is the upstream's own, received before this proxy was there.
        """
        last = read_event_id(last_event_id)
        if last is None:
            return last_event_id.encode("utf-8", "surrogateescape")
        call = self._calls.find(identity)
        if call is not None and last.epoch == call.stream.epoch:
            return b""
        had = last_id_before(self._calls, identity, last)
        if had is None and self._placement is not None:
            had = await self._placement.last_id_before(identity.name, last)
        return had or b""

    def _offset(self, call: Call, last_event_id: str, had: bytes) -> int:
        """Return the offset at which a client begins; an event id of another stream counts if that was of this URL.

        Raises: OffsetGone below the frames that are held, OffsetBeyond above them.
        """
        log = call.stream.log
        last = read_event_id(last_event_id)
        if last is None or last.epoch != call.stream.epoch:
            offset = None if last is None else _offset_after(call, had)
            usual = log.end if self._settings.join == "live" else log.start
            return usual if offset is None else offset
        return offset_after(log, last.seq)

    async def _follow(
        self, request: web.BaseRequest, stream: Stream, upstream: Headers, mode: str, offset: int
    ) -> web.StreamResponse:
        await self._admission.admit_follower(stream)
        ident = stream.id.encode()
        headers = [*upstream, *CACHING, (b"Stream-Id", ident), (b"Stream-Mode", mode.encode())]
        headers.append((b"Content-Location", b"/v1/streams/" + ident))
        if follow_request.last_event_id(request):
            headers.append((b"Stream-Resumed-From", bytes(EventId(stream.epoch, offset))))
        downstream = Downstream(request)
        downstream.start(b"OK", headers)
        subscription = Subscription(stream, View(mode), downstream, offset, self._config.streams.heartbeat_s)
        return await deliver(self._hub, downstream, subscription)

    async def _send_kept(self, request: web.BaseRequest, stream: Stream, head: Head) -> web.StreamResponse:
        """Deliver a response that is no event stream as it comes, no faster than the first client reads it.

        Raises: OffsetGone, if its start is no longer held.
        """
        offset_after(stream.log, 0)
        downstream = begin_answer(request, Head(head.status, head.reason, _SHARED_ANSWER.of(head.headers)), [])
        subscription = Subscription(stream, View("raw"), downstream, 0)
        if stream.originator is None:
            stream.originator = subscription
        return await deliver(self._hub, downstream, subscription)


def last_id_before(calls: Calls, identity: Identity, last: EventId) -> bytes | None:
    """Return the upstream's id of the last event up to `last`; None, if that is not of this URL's last stream here."""
    stream = calls.before(identity)
    if stream is None or last.epoch != stream.epoch:
        return None
    log = stream.log
    had = Reconnection(0)
    had.note(log.span(log.start, max(log.start, min(last.seq, log.end))))
    return had.last_event_id


def _offset_after(call: Call, had: bytes) -> int | None:
    """Return the offset after the event with an id of the upstream's; None, if it is not held."""
    log, writer = call.stream.log, call.writer
    if not had:
        return None
    for offset in range(log.end, log.start, -1):
        (frame,) = log.span(offset - 1, offset)
        if sets_id(frame) and fields(frame).id == had:
            return offset
    return 0 if log.start == 0 and isinstance(writer, Broadcast) and writer.resumed_from == had else None


async def _is_stream(exchange: Exchange) -> bool:
    """Return whether a response is an event stream. Raises: Garbled, if it is a compressed one."""
    if exchange.is_event_stream and exchange.status == 200 and not exchange.is_readable_stream:
        exchange.close()
        raise Garbled("the upstream compresses its event stream, though it was asked not to")
    return exchange.is_readable_stream


class _SharedRequest(NamedTuple):
    """What the upstream request of a URL consists of, for all its clients."""

    method: str
    target: bytes
    content_type: str
    body: bytes
