"""Routes of the user's own with `share = "url"`: all who ask for a URL follow one upstream event stream.

A URL's stream is found in a table, not by its caller: it is everybody's. So the request that goes upstream is made
here, and nothing that a client says of itself is in it; only route, method, target and body tell URLs apart.
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
from proxy.server import follow_request
from proxy.server.config import Config, RouteConfig
from proxy.server.delivery import CACHING, begin_answer, deliver
from proxy.server.follow import check_held
from proxy.server.headers import NOT_SHARED
from proxy.server.shared_calls import Call, Calls, Identity, by_url
from proxy.stream.background import BackgroundLoop
from proxy.stream.endings import DRAINED
from proxy.stream.event_id import EventId, read_event_id
from proxy.stream.hub import ANYONE, Hub
from proxy.stream.info import StreamInfo
from proxy.stream.ledger import NAMES
from proxy.stream.projections import View
from proxy.stream.stream import Stream
from proxy.stream.subscription import Subscription
from proxy.stream.vitals import Vitals
from proxy.telemetry.metrics import Metrics
from proxy.upstream.broadcast import Broadcast
from proxy.upstream.exchange import Exchange
from proxy.upstream.group import OpenExchange
from proxy.upstream.upstream import UpstreamRequest
from proxy.wire.errors import Garbled, UnknownMode
from proxy.wire.http import EndToEnd, Head, Headers
from proxy.wire.reconnection import Reconnection

MODES = ("events", "raw")
_NAME_BYTES = 1000  # of memory that a URL takes beside its own length: in two tables, by its digest
_ASKED: Headers = [
    (b"Accept", b"text/event-stream"),
    (b"Accept-Encoding", b"identity"),
    (b"Cache-Control", b"no-cache"),
]
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
    ) -> None:
        """`open_exchange` leads to the route's upstream."""
        self._config = config
        self._settings = settings
        self._route = route
        self._hub = hub
        self._admission = admission
        self._metrics = metrics
        self._open_exchange = open_exchange
        self._calls = calls
        self._background = BackgroundLoop(f"reopening:{route.name}", time.monotonic)
        metrics.background_loops.append(self._background)

    async def serve(self, request: web.BaseRequest, caller: Caller) -> web.StreamResponse:
        """Follow the stream of a URL; it is begun if nobody follows it."""
        mode = request.headers.get("Stream-Mode", "events")
        if mode not in MODES:
            raise UnknownMode(f"Stream-Mode {mode!r} is not one of: {', '.join(MODES)}")
        self._admission.admit_follower()
        target = self._route.target(follow_request.without_last_event_id(request.raw_path))
        body = await read_body(request, self._config.limits.body_bytes)
        content_type = request.headers.get("Content-Type", "") if body else ""
        identity = by_url(self._route.name, request.method, target, body, content_type)
        call = self._calls.find(identity)
        last_event_id = follow_request.last_event_id(request)
        if call is None:
            question = _Question(request.method, target, content_type, body)
            call = self._call(identity, question, self._before(identity, last_event_id))
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
            offset = self._offset(stream, last_event_id)
            self._metrics.replayed[mode] += stream.log.end_bytes - stream.log.position(offset)
        return await self._follow(request, stream, _SHARED.of(head.headers), mode, offset)

    def drain(self) -> None:
        """End every stream: they would never finish by themselves."""
        for stream in list(self._hub):
            if stream.info.route == self._route.name and stream.writer is not None and stream.kept_head is None:
                stream.writer.stop(DRAINED)

    # The first who ask

    def _call(self, identity: Identity, question: "_Question", last_event_id: bytes) -> Call:
        """Begin the call of a URL. Raises: Overloaded."""
        ask = functools.partial(self._ask, question)
        writer = Broadcast(
            self._hub.begin(self._info(), Vitals(self._route.dialect, time.monotonic())),
            ask,
            background=self._background,
            last_event_id=last_event_id,
            keep_s=self._settings.keep_s,
            max_frame_bytes=self._config.limits.frame_bytes,
            on_reopened=functools.partial(self._metrics.reopened.update, (self._route.name,)),
        )
        size_bytes = len(question.target) + len(question.content_type) + len(question.body)
        writer.stream.count(NAMES, size_bytes + _NAME_BYTES)
        call = Call(self._hub, writer, identity)
        call.begin(functools.partial(ask, last_event_id), _is_stream)
        self._calls.add(call)
        return call

    def _info(self) -> StreamInfo:
        retain_s, window_bytes = self._config.streams.retain_s, self._settings.window_bytes
        return StreamInfo(self._hub.new_id(), self._route.name, ANYONE, int(time.time()), retain_s, window_bytes)

    async def _ask(self, question: "_Question", last_event_id: bytes) -> Exchange:
        headers = list(_ASKED)
        if last_event_id:
            headers.append((b"Last-Event-ID", last_event_id))
        if question.body or question.method == "POST":
            headers.append((b"Content-Length", b"%d" % len(question.body)))
        if question.content_type:
            headers.append((b"Content-Type", question.content_type.encode("utf-8", "surrogateescape")))
        upstream_request = UpstreamRequest(
            self._route, question.method.encode(), question.target, headers, question.body, ANYONE
        )
        return await self._open_exchange(upstream_request)

    def _before(self, identity: Identity, last_event_id: str) -> bytes:
        """Return the upstream's id of the last event that a client had, when it had it of a stream that has ended.

        An id that can't be ours is the upstream's own: the client had it without us.
        """
        last = read_event_id(last_event_id)
        if last is None:
            return last_event_id.encode("utf-8", "surrogateescape")
        stream = self._calls.before(identity)
        if stream is None or last.epoch != stream.epoch:
            return b""
        log = stream.log
        had = Reconnection(0)
        had.note(log.span(log.start, max(log.start, min(last.seq, log.end))))
        return had.last_event_id

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
        self, request: web.BaseRequest, stream: Stream, upstream: Headers, mode: str, offset: int
    ) -> web.StreamResponse:
        self._admission.admit_follower(stream)
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
        """Answer with what is no event stream, as it comes; upstream waits for the first client that takes it.

        Raises: OffsetGone, when its start is not held any more.
        """
        check_held(stream.log, 0)
        downstream = begin_answer(request, head._replace(headers=_SHARED_ANSWER.of(head.headers)), [])
        subscription = Subscription(stream, View("raw"), downstream, 0)
        if stream.originator is None:
            stream.originator = subscription
        return await deliver(self._hub, downstream, subscription)


async def _is_stream(exchange: Exchange) -> bool:
    """Return whether an answer is an event stream. Raises: Garbled, if it is one that can't be read."""
    if exchange.is_event_stream and exchange.status == 200 and not exchange.is_readable_stream:
        exchange.close()
        raise Garbled("the upstream compresses its event stream, though it was asked not to")
    return exchange.is_readable_stream


class _Question(NamedTuple):
    """What is asked upstream for all clients of a URL."""

    method: str
    target: bytes
    content_type: str
    body: bytes
