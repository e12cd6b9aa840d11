"""Following a stream: by its id or by a key, in any mode and from any cursor, before it begins or after its end."""

import asyncio
import math
import time
from typing import Any

from aiohttp import web

from proxy.access.admission import Admission
from proxy.access.callers import Caller
from proxy.access.capabilities import READ
from proxy.downstream.connection import Connection
from proxy.downstream.response import Downstream
from proxy.downstream.switched import CLOSING_S
from proxy.downstream.websocket import WebSocket, chosen_protocol
from proxy.server.configuration.settings import StreamsConfig
from proxy.server.delivery import CACHING, begin_answer, deliver, refusal
from proxy.server.document import JSON, DocumentSink, read_up, wait_for_document
from proxy.server.following.place import find_place, nothing_after, offset_after, offset_at
from proxy.server.following.request import Cursor, FollowRequest, read_follow_request
from proxy.server.generations.options import check_key
from proxy.stream.endings import COMPLETE, DRAINED, REFUSED, Ending, ending_of
from proxy.stream.hub import Hub
from proxy.stream.interfaces import Sink
from proxy.stream.keys import Waiter
from proxy.stream.modes.envelopes import closing
from proxy.stream.modes.projection import EVENT_STREAM, View
from proxy.stream.modes.projections import MODES, check_view
from proxy.stream.stream import Stream
from proxy.stream.subscription import Subscription
from proxy.telemetry.metrics import Metrics
from proxy.wire.errors import (
    BadRequest,
    OtherEpoch,
    Overloaded,
    RateLimited,
    UnknownStream,
)
from proxy.wire.event_id import EventId
from proxy.wire.http import Head, Headers


class Follow:
    """The handlers of `/v1/streams/{ident}` and `/v1/keys/{key}/stream`, which follow a stream."""

    def __init__(self, config: StreamsConfig, hub: Hub, admission: Admission, metrics: Metrics) -> None:
        self._config = config
        self._hub = hub
        self._admission = admission
        self._metrics = metrics
        self._websockets: set[asyncio.Task[Any]] = set()  # the handlers of open WebSockets

    async def wait_closed(self) -> None:
        """Wait until all WebSockets have closed: aiohttp's shutdown does not wait for the client's close frame."""
        if self._websockets:
            await asyncio.wait(self._websockets, timeout=2 * CLOSING_S)

    async def by_id(self, request: web.BaseRequest, caller: Caller, ident: str) -> web.StreamResponse:
        """GET /v1/streams/{ident}"""
        stream, until = self._admission.find(request, caller, ident, READ)
        return await self.stream(request, stream, until)

    async def stream(self, request: web.BaseRequest, stream: Stream, until: float = math.inf) -> web.StreamResponse:
        """Deliver a stream that the client may read, at most until a time in monotonic seconds."""
        follow = read_follow_request(request, self._config)._replace(until=until)
        await self._admission.admit_view((stream,), follow.view.mode)
        if follow.cursor.epoch not in (None, stream.epoch):
            raise OtherEpoch(f"the cursor is of epoch {follow.cursor.epoch!r}, this stream's is {stream.epoch!r}")
        return await self._attach(request, stream, follow)

    async def events_after(self, request: web.BaseRequest, stream: Stream, offset: int) -> web.StreamResponse:
        """Deliver the events after an offset, which is within the log, to a request at a path of the API."""
        follow = FollowRequest(View("events"), Cursor(seq=offset), self._config.heartbeat_s, wait_s=0)
        return await self._attach(request, stream, follow)

    async def by_key(self, request: web.BaseRequest, caller: Caller, key: str) -> web.StreamResponse:
        """GET /v1/keys/{key}/stream: the newest stream under the key; with `wait`, the next one if there is none."""
        follow = read_follow_request(request, self._config)
        await self._admission.admit_caller(caller, follow.view.mode)
        stream = self._hub.keys.find(key, caller.digest)
        if stream is not None:
            if follow.cursor.epoch not in (None, stream.epoch):
                follow = follow._replace(cursor=Cursor())  # the cursor is of an older stream: begin at the start
            return await self._attach(request, stream, follow)
        check_key(key)  # the hub keeps it for as long as the follower waits
        if not follow.wait_s:
            raise UnknownStream(f"no stream of yours is running or kept under the key {key!r}; wait=SECONDS waits")
        if follow.view.websocket or MODES[follow.view.mode].content_type == EVENT_STREAM:
            return await self._wait(request, caller.digest, key, follow)
        return await self._wait_unheard(request, caller.digest, key, follow)

    async def _attach(self, request: web.BaseRequest, stream: Stream, follow: FollowRequest) -> web.StreamResponse:
        """Deliver the stream from the cursor on; respond with 204 if it has ended and nothing is left to send."""
        if stream.kept_head is not None:
            return await self._replay(request, stream, stream.kept_head, follow)
        if follow.view == JSON:
            return await wait_for_document(stream, follow.wait_s, [(b"Stream-Id", stream.id.encode())])
        stream.projection(follow.view)  # raises OffsetGone, if the mode needs frames that are no longer held
        if follow.cursor.given and MODES[follow.view.mode].rewrites:
            await read_up(stream)  # to find the cursor, and whether anything comes after it
        offset, skip = await find_place(stream, lambda: _start(stream, follow))
        log = stream.log
        over = follow.cursor.given and log.ending is not None and nothing_after(stream, follow.view, offset, skip)
        if over and not follow.view.websocket:  # a WebSocket is opened, and closed with the code of the ending
            return web.Response(status=204, headers={"Stream-Id": stream.id})
        await self._admission.admit_follower(stream)
        headers = [(b"Stream-Id", stream.id.encode())]
        if follow.view.mode == "raw":
            headers.append((b"Stream-Offset", b"%d" % (stream.log.position(offset) + skip)))
        elif follow.cursor.offset_bytes is not None:
            headers.append((b"Stream-Offset", b"%d" % follow.cursor.offset_bytes))
        if follow.cursor.given:
            headers.append((b"Stream-Resumed-From", bytes(EventId(stream.epoch, offset))))
        downstream = self.begin(request, follow, headers)
        return await self._deliver(downstream, stream, follow, offset, skip)

    def begin(self, request: web.BaseRequest, follow: FollowRequest, headers: Headers) -> Downstream | WebSocket:
        """Begin the response to a follower, or its WebSocket."""
        mode = follow.view.mode
        named = [(b"Stream-Mode", mode.encode()), *headers]
        if not follow.accept:
            downstream = Downstream(request)
            downstream.start(b"OK", [(b"Content-Type", MODES[mode].content_type), *CACHING, *named])
            if isinstance(request.protocol, Connection):  # at once, as followers may come by the thousand
                request.protocol.drop_parsed(request)
            return downstream
        websocket = WebSocket(request, Downstream(request, 101), self._hub.turns)
        websocket.start(follow.accept, [*named, *chosen_protocol(request)])
        task = asyncio.current_task()
        assert task is not None
        self._websockets.add(task)
        task.add_done_callback(self._websockets.discard)
        return websocket

    async def _deliver(
        self, downstream: Downstream | WebSocket, stream: Stream, follow: FollowRequest, offset: int, skip: int
    ) -> web.StreamResponse:
        if offset < stream.log.end:
            self._metrics.replayed[follow.view.mode] += stream.log.end_bytes - stream.log.position(offset) - skip
        ending = stream.log.ending
        if skip and offset == stream.log.end and ending is not None:  # mode raw, from within the tail
            last, properly = stream.projection(follow.view).ending(ending, offset)
            (downstream.close if properly else downstream.abort)(last[skip:])
            return downstream.response
        if skip and offset < stream.log.end:  # mode raw or text, from within a frame
            assert isinstance(downstream, Downstream)  # WebSockets take no offset in bytes
            downstream.write_data(stream.projection(follow.view).render(offset, offset + 1)[skip:])
            offset, skip = offset + 1, 0
        subscription = Subscription(stream, follow.view, downstream, offset, follow.heartbeat_s, skip)
        return await deliver(self._hub, downstream, subscription, follow.until)

    async def _replay(
        self, request: web.BaseRequest, stream: Stream, head: Head, follow: FollowRequest
    ) -> web.StreamResponse:
        """Send a kept response that is not an event stream, unchanged and from its start, whatever the mode."""
        _start(stream, follow._replace(cursor=Cursor()))
        await self._admission.admit_follower(stream)
        self._metrics.replayed["raw"] += stream.log.end_bytes
        downstream = begin_answer(request, head, [(b"Stream-Id", stream.id.encode())])
        return await deliver(self._hub, downstream, Subscription(stream, View("raw"), downstream, 0), follow.until)

    async def _wait(
        self, request: web.BaseRequest, caller: bytes, key: str, follow: FollowRequest
    ) -> web.StreamResponse:
        """Begin the response at once, and follow the stream once it begins.

        If none does, the response ends properly, so that an EventSource asks again; in mode raw it breaks off.
        """
        await self._admission.admit_follower()
        downstream = self.begin(request, follow, [])
        downstream.flush()
        heartbeat_s = follow.heartbeat_s if follow.view.websocket or MODES[follow.view.mode].heartbeat else 0
        stream = await self._wait_begun(caller, key, downstream, follow.wait_s, heartbeat_s)
        if stream is None:
            nothing = closing(DRAINED if self._hub.draining else COMPLETE) if follow.view.websocket else b""
            (downstream.abort if follow.view.mode == "raw" else downstream.close)(nothing)
            await downstream.finished()
            return downstream.response
        try:
            await self._admission.admit_follower(stream)
            check_view(follow.view, stream.dialect)
        except (Overloaded, RateLimited) as error:
            return await _end(downstream, stream, follow.view, ending_of(error))
        except BadRequest as error:  # a stream of this API does not have the mode
            view = View("events", websocket=follow.view.websocket)
            return await _end(downstream, stream, view, REFUSED.saying(error.message))
        if stream.kept_head is not None:
            return await _end(downstream, stream, follow.view, refusal(stream.kept_head))
        return await self._deliver(downstream, stream, follow, 0, 0)

    async def _wait_unheard(
        self, request: web.BaseRequest, caller: bytes, key: str, follow: FollowRequest
    ) -> web.StreamResponse:
        """Wait for a stream to begin, and then follow it; the response does not begin before.

        For modes that send only the answer, in which a response that begins and ends without a stream would be an empty
        one. Raises: UnknownStream, when the time is up.
        """
        await self._admission.admit_follower()
        began_at = time.monotonic()
        stream = await self._wait_begun(caller, key, DocumentSink(), follow.wait_s, 0)
        if stream is None:
            self._hub.check_draining()
            raise UnknownStream(f"no stream of yours began under the key {key!r} within {follow.wait_s:g} s")
        left_s = max(0.0, follow.wait_s - (time.monotonic() - began_at))
        return await self._attach(request, stream, follow._replace(wait_s=left_s, cursor=Cursor()))

    async def _wait_begun(
        self, caller: bytes, key: str, sink: Sink, wait_s: float, heartbeat_s: float
    ) -> Stream | None:
        """Wait for the next stream under a key and return it; None when the time is up."""
        begun: asyncio.Future[Stream | None] = asyncio.get_running_loop().create_future()
        waiter = Waiter(caller, key, begun, sink, now=time.monotonic(), wait_s=wait_s, heartbeat_s=heartbeat_s)
        self._hub.wait(waiter)
        try:
            return await begun
        finally:
            self._hub.give_up(waiter)


async def _end(downstream: Downstream | WebSocket, stream: Stream, view: View, ending: Ending) -> web.StreamResponse:
    """End a response whose head has been sent, so that an error can only be sent as the ending."""
    last, properly = stream.projection(view).ending(ending, 0)
    (downstream.close if properly else downstream.abort)(last)
    await downstream.finished()
    return downstream.response


def _start(stream: Stream, follow: FollowRequest) -> tuple[int, int]:
    """Return the offset of the first frame to send, and how many bytes of that frame the follower has already.

    Raises: OffsetGone below the log's start, OffsetBeyond above its end.
    """
    log, cursor = stream.log, follow.cursor
    if cursor.offset_bytes is not None:
        return offset_at(stream, follow.view, cursor.offset_bytes)
    seq = cursor.seq
    if seq is None:
        seq = 0
    elif seq < 0:
        return log.end, 0
    return offset_after(log, seq), 0
