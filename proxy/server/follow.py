"""Following a stream: by its id or by a key, in any mode and from any cursor, before it begins or after its end."""

import asyncio
import time
from typing import Any

from aiohttp import web

from proxy.access.admission import Admission
from proxy.access.callers import Caller
from proxy.access.capabilities import READ
from proxy.downstream.response import Downstream
from proxy.downstream.websocket import CLOSING_S, WebSocket
from proxy.server.config import StreamsConfig
from proxy.server.delivery import CACHING, begin_answer, deliver, refusal
from proxy.server.document import JSON, LastWords, wait_for_document
from proxy.server.follow_request import Cursor, FollowRequest, read_follow_request
from proxy.server.generation_options import check_key
from proxy.stream.endings import COMPLETE, DRAINED, Ending, ending_of
from proxy.stream.event_id import EventId
from proxy.stream.hub import Hub, Waiter
from proxy.stream.interfaces import Sink
from proxy.stream.log import FrameLog
from proxy.stream.projections import MODES, View
from proxy.stream.stream import Stream
from proxy.stream.subscription import Subscription
from proxy.stream.websocket import closing
from proxy.telemetry.metrics import Metrics
from proxy.wire.errors import (
    OffsetBeyond,
    OffsetGone,
    OtherEpoch,
    Overloaded,
    UnknownStream,
)
from proxy.wire.http import Head, Headers


class Follow:
    """The handlers of `/v1/streams/{ident}` and `/v1/keys/{key}/stream`."""

    def __init__(self, config: StreamsConfig, hub: Hub, admission: Admission, metrics: Metrics) -> None:
        self._config = config
        self._hub = hub
        self._admission = admission
        self._metrics = metrics
        self._websockets: set[asyncio.Task[Any]] = set()  # the handlers of those that are open

    async def wait_closed(self) -> None:
        """Wait until the WebSockets that were told so have closed. A server that shuts down hears no answers."""
        if self._websockets:
            await asyncio.wait(self._websockets, timeout=2 * CLOSING_S)

    async def by_id(self, request: web.BaseRequest, caller: Caller, ident: str) -> web.StreamResponse:
        """GET /v1/streams/{ident}"""
        stream, until = self._admission.find(request, caller, ident, READ)
        wanted = read_follow_request(request, self._config)._replace(until=until)
        if wanted.cursor.epoch not in (None, stream.epoch):
            raise OtherEpoch(f"the cursor is of epoch {wanted.cursor.epoch!r}, this stream's is {stream.epoch!r}")
        return await self._attach(request, stream, wanted)

    async def by_key(self, request: web.BaseRequest, caller: Caller, key: str) -> web.StreamResponse:
        """GET /v1/keys/{key}/stream: the newest stream under the key, or the next one, if the follower waits."""
        wanted = read_follow_request(request, self._config)
        stream = self._hub.find_key(key, caller.digest)
        if stream is not None:
            if wanted.cursor.epoch not in (None, stream.epoch):
                wanted = wanted._replace(cursor=Cursor())  # a newer stream: from its start
            return await self._attach(request, stream, wanted)
        check_key(key)  # it would be remembered as long as its follower waits
        if not wanted.wait_s:
            raise UnknownStream(f"no stream of yours is running or kept under the key {key!r}; wait=SECONDS waits")
        if wanted.view == JSON:
            return await self._wait_for_document(request, caller.digest, key, wanted)
        return await self._wait(request, caller.digest, key, wanted)

    async def _attach(self, request: web.BaseRequest, stream: Stream, wanted: FollowRequest) -> web.StreamResponse:
        """Answer with the stream from the cursor on: 204 when it has ended and nothing is left to say."""
        if stream.kept_head is not None:
            return await self._replay(request, stream, stream.kept_head, wanted)
        if wanted.view == JSON:
            return await wait_for_document(stream, wanted.wait_s, [(b"Stream-Id", stream.id.encode())])
        stream.projection(wanted.view)  # raises OffsetGone, when it tells of more than is held
        offset, skip = _place(stream, wanted)
        log = stream.log
        over = wanted.cursor.given and log.ending is not None and _nothing_after(stream, wanted.view, offset, skip)
        if over and not wanted.view.websocket:  # which says it by its close code
            return web.Response(status=204, headers={"Stream-Id": stream.id})
        self._admission.admit_follower(stream)
        headers = [(b"Stream-Id", stream.id.encode())]
        if wanted.view.mode == "raw":
            headers.append((b"Stream-Offset", b"%d" % (stream.log.position(offset) + skip)))
        elif wanted.cursor.offset_bytes is not None:
            headers.append((b"Stream-Offset", b"%d" % wanted.cursor.offset_bytes))
        if wanted.cursor.given:
            headers.append((b"Stream-Resumed-From", bytes(EventId(stream.epoch, offset))))
        downstream = self._begin(request, wanted, headers)
        return await self._deliver(downstream, stream, wanted, offset, skip)

    def _begin(self, request: web.BaseRequest, wanted: FollowRequest, headers: Headers) -> Downstream | WebSocket:
        mode = wanted.view.mode
        named = [(b"Stream-Mode", mode.encode()), *headers]
        if not wanted.view.websocket:
            downstream = Downstream(request)
            downstream.start(b"OK", [(b"Content-Type", MODES[mode].content_type), *CACHING, *named])
            return downstream
        websocket = WebSocket(request, Downstream(request, 101), self._hub.turns)
        websocket.start(wanted.accept, named)
        task = asyncio.current_task()
        assert task is not None
        self._websockets.add(task)
        task.add_done_callback(self._websockets.discard)
        return websocket

    async def _deliver(
        self, downstream: Downstream | WebSocket, stream: Stream, wanted: FollowRequest, offset: int, skip: int
    ) -> web.StreamResponse:
        if offset < stream.log.end:
            self._metrics.replayed[wanted.view.mode] += stream.log.end_bytes - stream.log.position(offset) - skip
        ending = stream.log.ending
        if skip and offset == stream.log.end and ending is not None:  # raw, from within the tail
            last, properly = stream.projection(wanted.view).ending(ending, offset)
            (downstream.close if properly else downstream.abort)(last[skip:])
            return downstream.response
        if skip:  # raw or text, from within a frame
            assert isinstance(downstream, Downstream)  # a message is not begun within
            downstream.write_data(stream.projection(wanted.view).render(offset, offset + 1)[skip:])
            offset += 1
        subscription = Subscription(stream, wanted.view, downstream, offset, wanted.heartbeat_s)
        return await deliver(self._hub, downstream, subscription, wanted.until)

    async def _replay(
        self, request: web.BaseRequest, stream: Stream, head: Head, wanted: FollowRequest
    ) -> web.StreamResponse:
        """Answer as the upstream did: with its status and its body, from the start and as it is, in whatever mode."""
        _place(stream, wanted._replace(cursor=Cursor()))
        self._admission.admit_follower(stream)
        self._metrics.replayed["raw"] += stream.log.end_bytes
        downstream = begin_answer(request, head, [(b"Stream-Id", stream.id.encode())])
        return await deliver(self._hub, downstream, Subscription(stream, View("raw"), downstream, 0), wanted.until)

    async def _wait(
        self, request: web.BaseRequest, caller: bytes, key: str, wanted: FollowRequest
    ) -> web.StreamResponse:
        """Answer at once, and follow the stream when it begins; end properly if none does in time."""
        self._admission.admit_follower()
        downstream = self._begin(request, wanted, [])
        downstream.flush()
        heartbeat_s = wanted.heartbeat_s if wanted.view.websocket or MODES[wanted.view.mode].heartbeat else 0
        stream = await self._begun(caller, key, downstream, wanted.wait_s, heartbeat_s)
        if stream is None:
            downstream.close(closing(DRAINED if self._hub.draining else COMPLETE) if wanted.view.websocket else b"")
            await downstream.finished()
            return downstream.response
        try:
            self._admission.admit_follower(stream)
        except Overloaded as error:
            return await _end(downstream, stream, wanted.view, ending_of(error))
        if stream.kept_head is not None:
            return await _end(downstream, stream, wanted.view, refusal(stream.kept_head))
        return await self._deliver(downstream, stream, wanted, 0, 0)

    async def _wait_for_document(
        self, request: web.BaseRequest, caller: bytes, key: str, wanted: FollowRequest
    ) -> web.StreamResponse:
        """Answer when the stream has begun and ended, or with what there is when the time is up."""
        began_at = time.monotonic()
        stream = await self._begun(caller, key, LastWords(), wanted.wait_s, 0)
        if stream is None:
            raise UnknownStream(f"no stream of yours began under the key {key!r} within {wanted.wait_s:g} s")
        left_s = max(0.0, wanted.wait_s - (time.monotonic() - began_at))
        return await self._attach(request, stream, wanted._replace(wait_s=left_s))

    async def _begun(self, caller: bytes, key: str, sink: Sink, wait_s: float, heartbeat_s: float) -> Stream | None:
        """Wait for the next stream under a key; None when the time is up."""
        begun: asyncio.Future[Stream | None] = asyncio.get_running_loop().create_future()
        waiter = Waiter(caller, key, begun, sink, now=time.monotonic(), wait_s=wait_s, heartbeat_s=heartbeat_s)
        self._hub.wait(waiter)
        try:
            return await begun
        finally:
            self._hub.give_up(waiter)


async def _end(downstream: Downstream | WebSocket, stream: Stream, view: View, ending: Ending) -> web.StreamResponse:
    """End a response whose head has left: a refusal is then an ending."""
    last, properly = stream.projection(view).ending(ending, 0)
    (downstream.close if properly else downstream.abort)(last)
    await downstream.finished()
    return downstream.response


def _place(stream: Stream, wanted: FollowRequest) -> tuple[int, int]:
    """Return the offset of the first frame a follower is due, and how many bytes of it it has.

    Raises: OffsetGone below the log's start, OffsetBeyond above its end.
    """
    log, cursor = stream.log, wanted.cursor
    if cursor.offset_bytes is not None:
        return stream.projection(wanted.view).locate(cursor.offset_bytes)
    seq = cursor.seq
    if seq is None:
        seq = 0
    elif seq < 0:
        return log.end, 0
    check_held(log, seq)
    return seq, 0


def check_held(log: FrameLog, seq: int) -> None:
    """Raises: OffsetGone, when frames after number `seq` are gone, OffsetBeyond, when there is no such frame."""
    if seq < log.start:
        raise OffsetGone(f"frame {seq + 1} is gone, the earliest held is {log.start + 1}", log.start + 1)
    # The error event that ends a failed stream is numbered too.
    if seq > log.end + (log.ending is not None):
        raise OffsetBeyond(f"cursor {seq} is beyond the {log.end} events there are")


def _nothing_after(stream: Stream, view: View, offset: int, skip: int) -> bool:
    """Tell whether a follower at `offset` of an ended stream has had everything, its ending included."""
    log = stream.log
    assert log.ending is not None
    if offset > log.end:
        return True
    if offset < log.end or log.ending.reason == DRAINED.reason:
        return False
    last, properly = stream.projection(view._replace(websocket=False)).ending(log.ending, offset)
    return properly and not last[skip:]
