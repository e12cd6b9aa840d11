"""Delivery of a stream to the client of one request: the head of the response, then frames, until one of them ends."""

import math
import time
from typing import Final

from aiohttp import web

from proxy.downstream.response import Downstream
from proxy.downstream.websocket import WebSocket
from proxy.server.headers import SET, SET_OF_STREAMS
from proxy.stream.endings import REFUSED, Ending
from proxy.stream.hub import Hub
from proxy.stream.modes.projection import EVENT_STREAM, View
from proxy.stream.modes.projections import MODES
from proxy.stream.subscription import Subscription
from proxy.wire.http import EndToEnd, Head, Headers

CACHING: Final[Headers] = [
    (b"Cache-Control", b"no-cache, no-transform"),
    (b"X-Accel-Buffering", b"no"),
]
_ANSWER: Final = EndToEnd(SET)
_STREAM: Final = EndToEnd(SET_OF_STREAMS)


def begin_stream(request: web.BaseRequest, head: Head, ours: Headers, view: View) -> Downstream:
    """Begin the response that delivers a stream in a view: with the upstream's head and our own headers, `ours`.

    For the client that asked; a follower is sent a head of the proxy's own (follow.py).

    Raises: ConnectionResetError, when the client has gone.
    """
    downstream = Downstream(request, head.status)
    headers = _STREAM.of(head.headers, head.names)
    kind = MODES[view.mode].content_type
    if view.mode != "raw" and not (kind == EVENT_STREAM and head.is_event_stream):
        headers = [(b"Content-Type", kind), *(one for one in headers if one[0].lower() != b"content-type")]
    if view.mode != "raw":  # mode raw is the upstream's response unchanged
        headers.append((b"Stream-Mode", view.mode.encode()))
    headers += CACHING
    headers += ours
    downstream.start(head.reason, headers)
    return downstream


def begin_answer(request: web.BaseRequest, head: Head, ours: Headers) -> Downstream:
    """Begin a response that is no event stream, with the upstream's head and our own headers, `ours`.

    Raises: ConnectionResetError, when the client has gone.
    """
    downstream = Downstream(request, head.status)
    downstream.start(head.reason, [*_ANSWER.of(head.headers, head.names), *ours], framed=head.framed)
    return downstream


def refusal(head: Head) -> Ending:
    """Return the ending for followers of a stream when the upstream's response is no event stream."""
    return REFUSED.saying(f"the upstream answered with status {head.status} and no stream")


async def deliver(
    hub: Hub, downstream: Downstream | WebSocket, subscription: Subscription, until: float = math.inf
) -> web.StreamResponse:
    """Attach a subscription and wait until it has ended or its client has left; at most `until` (monotonic s)."""
    try:
        hub.attach(subscription, time.monotonic(), until)
        await downstream.finished()
    finally:
        subscription.leave("left")
    return downstream.response
