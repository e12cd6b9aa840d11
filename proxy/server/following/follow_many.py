"""Following several streams on one connection: browsers have six connections to a server, and people have more tabs.

Each stream is followed as if it had a connection of its own: with its own rights, cursor and ending. Whatever is to be
refused for one of them is refused before anything is sent.
"""

import math
import time
from typing import Final, NamedTuple

from aiohttp import web

from proxy.access.admission import Admission
from proxy.access.callers import Caller
from proxy.access.capabilities import READ
from proxy.downstream.shared_connection import Lane, SharedConnection
from proxy.downstream.websocket import WebSocket
from proxy.server.configuration.settings import StreamsConfig
from proxy.server.delivery import refusal
from proxy.server.following.follow import Follow
from proxy.server.following.place import find_place, offset_after
from proxy.server.following.request import FollowRequest, cursors_by_epoch, read_follow_request
from proxy.stream.endings import COMPLETE, ENDINGS, INTERNAL_ERROR, OF_FOLLOWERS, Ending
from proxy.stream.hub import Hub
from proxy.stream.modes.envelopes import closing
from proxy.stream.modes.projection import EVENT_STREAM, View
from proxy.stream.modes.projections import MODES
from proxy.stream.stream import Stream
from proxy.stream.subscription import Subscription
from proxy.telemetry.metrics import Metrics
from proxy.wire.errors import BadRequest, OffsetBeyond, OffsetGone, OtherEpoch, UnknownStream

MOST_STREAMS: Final = 32  # on one connection: the id of each event has the cursors of all
_NOWHERE: Final = -1  # the cursor of a stream of which the client has had nothing
_FOLLOWERS_OWN: Final = {ending.reason for ending in OF_FOLLOWERS}


class Followed(NamedTuple):
    """A stream that a request names, the seq of the last event that its client has had, and when the access ends."""

    stream: Stream
    seq: int  # or _NOWHERE
    until: float  # monotonic seconds

    @property
    def is_over(self) -> bool:
        """Whether the client has had the event that ends it."""
        log = self.stream.log
        if self.stream.kept_head is not None:
            return self.seq != _NOWHERE
        return log.ending is not None and self.seq == log.ending_seq


class FollowMany:
    """The handler of `/v1/follow`."""

    def __init__(self, config: StreamsConfig, hub: Hub, admission: Admission, follow: Follow, metrics: Metrics) -> None:
        self._config = config
        self._hub = hub
        self._admission = admission
        self._follow = follow
        self._metrics = metrics

    async def serve(self, request: web.BaseRequest, caller: Caller) -> web.StreamResponse:
        """GET /v1/follow?stream=ID&stream=ID&key=KEY"""
        follow = read_follow_request(request, self._config, takes_cursor=False)
        follow = follow._replace(view=_labelled(follow.view))
        followed = self._find(request, caller)
        await self._admission.admit_follower(followers=len(followed))
        await self._admission.admit_view([one.stream for one in followed], follow.view.mode)
        for one in followed:
            await self._check(one, follow.view)
        if all(one.is_over for one in followed) and not follow.accept:
            return web.Response(status=204)
        return await self._deliver(request, follow, followed)

    def _find(self, request: web.BaseRequest, caller: Caller) -> list[Followed]:
        """Return the streams that a request names, each once. Raises: BadRequest, OtherEpoch, and as Admission.find."""
        idents, keys = request.query.getall("stream", ()), request.query.getall("key", ())
        if not idents and not keys:
            raise BadRequest("stream=ID or key=KEY, which may be repeated, say which streams to follow")
        if len(idents) + len(keys) > MOST_STREAMS:
            raise BadRequest(
                f"{len(idents) + len(keys)} streams are named; {MOST_STREAMS} are allowed on one connection"
            )
        found = {ident: self._admission.find(request, caller, ident, READ) for ident in idents}
        for key in keys:
            stream = self._find_key(caller, key)
            found.setdefault(stream.id, (stream, math.inf))
        cursors = cursors_by_epoch(request)
        epochs = {stream.epoch for stream, _ in found.values()}
        if len(epochs) < len(found):
            raise BadRequest("the event ids of two of these streams begin alike; follow one of them on its own")
        if isinstance(cursors, dict) and cursors and not keys and not epochs & cursors.keys():
            raise OtherEpoch(f"the cursor is of epochs {', '.join(cursors)}; these streams' are {', '.join(epochs)}")
        return [Followed(stream, _seq(stream, cursors), until) for stream, until in found.values()]

    def _find_key(self, caller: Caller, key: str) -> Stream:
        caller.check_owns_streams()
        stream = self._hub.keys.find(key, caller.digest)
        if stream is None:
            raise UnknownStream(f"no stream of yours is running or kept under the key {key!r}")
        return stream

    async def _check(self, one: Followed, view: View) -> None:
        """Check that a stream can be followed so. Raises: OffsetGone, OffsetBeyond, BadRequest, Overloaded."""
        stream = one.stream
        if stream.kept_head is not None or one.is_over:
            return
        try:
            await find_place(stream, lambda: offset_after(stream.log, max(0, one.seq)))
            stream.projection(view)
        except OffsetGone as error:
            raise OffsetGone(f"stream {stream.id}: {error.message}", error.earliest) from None
        except (OffsetBeyond, BadRequest) as error:
            raise type(error)(f"stream {stream.id}: {error.message}") from None
        await self._admission.admit_follower(stream)

    async def _deliver(
        self, request: web.BaseRequest, follow: FollowRequest, followed: list[Followed]
    ) -> web.StreamResponse:
        subscriptions: list[Subscription] = []

        def last() -> bytes:
            return closing(_worst(followed, subscriptions)) if isinstance(sink, WebSocket) else b""

        sink = self._follow.begin(request, follow, [])
        had = {one.stream.epoch: one.seq for one in followed if one.seq != _NOWHERE}
        connection = SharedConnection(sink, had, last)
        lanes = [(one, connection.open_lane(one.stream.epoch)) for one in followed if not one.is_over]
        if not lanes:  # of a WebSocket, which is opened to be closed with the code for it
            sink.close(last())
        try:
            for one, lane in lanes:
                self._attach(one, lane, follow, subscriptions)
            await sink.finished()
        finally:
            for subscription in subscriptions:
                subscription.leave("left")
        return sink.response

    def _attach(self, one: Followed, lane: Lane, follow: FollowRequest, subscriptions: list[Subscription]) -> None:
        stream, view = one.stream, follow.view
        offset = min(max(0, one.seq), stream.log.end)
        if stream.kept_head is not None:
            lane.close(stream.projection(view).ending(refusal(stream.kept_head), 0)[0])
            return
        if offset < stream.log.end:
            self._metrics.replayed[view.mode] += stream.log.end_bytes - stream.log.position(offset)
        subscription = Subscription(stream, view, lane, offset, follow.heartbeat_s)
        subscriptions.append(subscription)
        self._hub.attach(subscription, time.monotonic(), one.until)


def _labelled(view: View) -> View:
    """Return the view of a mode on a connection that streams share. Raises: BadRequest, if it has no events."""
    if view.mode == "raw" or MODES[view.mode].content_type != EVENT_STREAM:
        listed = [name for name, mode in MODES.items() if name != "raw" and mode.content_type == EVENT_STREAM]
        raise BadRequest(
            f"streams that share a connection are in a mode of events: {', '.join(listed)}; not {view.mode}"
        )
    return view._replace(websocket=False, labelled=True)


def _seq(stream: Stream, cursors: dict[str, int] | str) -> int:
    if isinstance(cursors, dict):
        return cursors.get(stream.epoch, _NOWHERE)
    return stream.log.end if cursors == "now" else _NOWHERE


def _worst(followed: list[Followed], subscriptions: list[Subscription]) -> Ending:
    """Return how the first stream ended that did not end complete; else complete."""
    own = {
        subscription.stream: ENDINGS[reason]
        for subscription in subscriptions
        if (reason := subscription.ended) in _FOLLOWERS_OWN
    }
    for one in followed:
        stream = one.stream
        ending = own.get(stream) or (refusal(stream.kept_head) if stream.kept_head else stream.log.ending)
        if ending is None or ending.reason != COMPLETE.reason:
            return ending or INTERNAL_ERROR
    return COMPLETE
