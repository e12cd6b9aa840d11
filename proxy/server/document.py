"""Answers in mode json: one document for the whole stream, with the status that its ending has.

A response of this mode begins when the stream has ended, so a failed stream is an HTTP error (law 7).
"""

import asyncio
import time
from typing import Any

from aiohttp import web

from proxy.dialects.error_codes import Fault, trouble
from proxy.downstream.response import Downstream
from proxy.stream.endings import COMPLETE, LOG_LIMIT, UPSTREAM_ERROR, Ending
from proxy.stream.hub import Hub
from proxy.stream.projections import Json, View
from proxy.stream.stream import Stream
from proxy.stream.subscription import Subscription
from proxy.wire.errors import Reported
from proxy.wire.http import Headers

JSON = View("json")
_HEADERS = {"Stream-Mode": "json", "Cache-Control": "no-store"}


class LastWords:
    """A Sink that takes no notice of anything but how it ends: with a document, or without."""

    __slots__ = ("document",)

    def __init__(self) -> None:
        self.document: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()

    @property
    def unsent_bytes(self) -> int:
        """0: there is no connection."""
        return 0

    def write(self, span: Any) -> bool:
        return True

    def transport(self) -> None:
        """None: there is no connection."""

    def on_writable(self, resume: Any) -> None:
        """Never called: it is always writable."""

    def close(self, last: bytes) -> None:
        self._end(last)

    def abort(self, last: bytes) -> None:
        self._end(None)

    def _end(self, document: bytes | None) -> None:
        if not self.document.done():
            self.document.set_result(document)


async def deliver_document(
    request: web.BaseRequest, hub: Hub, stream: Stream, headers: Headers, *, first: bool, keepalive_s: float = 0
) -> web.StreamResponse:
    """Follow a stream to its end, and answer with its document. `first`: for the client that it was begun for.

    With `keepalive_s` the response begins after so many seconds of silence, with a space (RFC 8259 section 2 allows
    it before a document), and goes on so; a failure then breaks it off, since its status has left.
    Raises: a ProxyError that says how the stream failed; OffsetGone, when its beginning is not held any more.
    """
    sink = LastWords()
    subscription = Subscription(stream, JSON, sink, stream.log.end)
    if first:
        stream.originator = subscription
    downstream: Downstream | None = None
    try:
        hub.attach(subscription, time.monotonic())
        while not (await asyncio.wait([sink.document], timeout=keepalive_s or None))[0]:
            downstream = downstream or _begin(request, headers)
            downstream.write_data(b" ")
    finally:
        subscription.leave("left")
    document = sink.document.result()
    if downstream is None:
        return _whole(stream, document, headers)
    if document is None:
        downstream.abort(b"")
    else:
        downstream.close(document)
    return downstream.response


async def wait_for_document(stream: Stream, wait_s: float, headers: Headers) -> web.Response:
    """Answer with a stream's document, or after `wait_s` seconds with 202 and the document that there is so far.

    Not a follower: one that asks again and again does not leave in between, so the stream does not end for it.
    Raises: as deliver_document.
    """
    projection = _json(stream)
    if stream.outcome is None and wait_s:
        ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        stream.when_answered(ended.set_result)
        await asyncio.wait([ended], timeout=wait_s)
    ending = stream.outcome
    if ending is None:
        return _answer(projection.so_far(), 202, headers)
    document, properly = projection.ending(ending, stream.log.end)
    return _whole(stream, document if properly else None, headers)


def _json(stream: Stream) -> Json:
    projection = stream.projection(JSON)
    assert isinstance(projection, Json)
    return projection


def _whole(stream: Stream, document: bytes | None, headers: Headers) -> web.Response:
    if document is not None:
        return _answer(document, 200, headers)
    ending, told = stream.outcome, stream.vitals.reader.failure
    if ending is None:  # this follower alone was ended
        raise LOG_LIMIT.saying("the document takes more memory than a stream's log may have").as_error()
    if ending.reason == COMPLETE.reason:
        return _answer(_json(stream).so_far(), 200, headers)  # it could not be made, and says why
    if told is None or ending.reason != UPSTREAM_ERROR.reason:
        raise ending.as_error()
    status = told.status or _status(told.code)
    if told.body is not None and told.recognised:
        return _answer(told.body, status, headers)
    raise Reported(told.message, told.code, status)


def _status(code: str | None) -> int:
    """Return the status with which the upstream would have refused, had it not begun to answer."""
    meant = trouble(200, code)
    if meant.fault is Fault.ACCOUNT:
        return 429 if meant.transient else 403
    return 400 if meant.fault is Fault.CALLER else 502


def _answer(document: bytes, status: int, headers: Headers) -> web.Response:
    return web.Response(
        body=document,
        status=status,
        headers=_HEADERS | {name.decode(): value.decode() for name, value in headers},
        content_type="application/json",
        charset="utf-8",
    )


def _begin(request: web.BaseRequest, headers: Headers) -> Downstream:
    downstream = Downstream(request)
    kind = [(b"Content-Type", b"application/json; charset=utf-8")]
    downstream.start(b"OK", [*kind, *((n.encode(), v.encode()) for n, v in _HEADERS.items()), *headers])
    return downstream
