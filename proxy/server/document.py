"""Responses in mode json: one JSON document for the complete stream, with the HTTP status of its ending.

The response begins when the stream has ended, so that a failed stream is an HTTP error (law 7).
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar

from aiohttp import web

from proxy.dialects.error_codes import Fault, trouble
from proxy.downstream.response import Downstream
from proxy.stream.endings import COMPLETE, ENDINGS, INTERNAL_ERROR, LOG_LIMIT, UPSTREAM_ERROR, Ending
from proxy.stream.hub import Hub
from proxy.stream.modes.projection import SPAN_BYTES, View
from proxy.stream.modes.projections import Json
from proxy.stream.stream import Stream
from proxy.stream.subscription import Subscription
from proxy.stream.turns import Turns
from proxy.timers import wait
from proxy.wire.errors import Reported
from proxy.wire.http import Headers

JSON = View("json")
_Result = TypeVar("_Result")
_HEADERS = {"Stream-Mode": "json", "Cache-Control": "no-store"}


class DocumentSink:
    """A Sink that keeps only what it is closed with: the document, or None if it is aborted."""

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
    """Follow a stream to its end and respond with its document. `first`: to the client that the stream was begun for.

    With `keepalive_s` the response begins after that many seconds, and a space is sent each time they have passed
    (RFC 8259 section 2 allows white space before a document). A failure then aborts the connection, since the status
    has been sent. Raises: a ProxyError for a stream that failed; OffsetGone, if its first frames are no longer held.
    """
    sink = DocumentSink()
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
    alone = stream.outcome is None or subscription.ended == INTERNAL_ERROR.reason
    if downstream is None and document is None and alone:  # it ended, and the stream did not, or not so
        raise ENDINGS.get(subscription.ended or "", INTERNAL_ERROR).as_error()
    if downstream is None:
        return _document_response(stream, document, headers)
    if document is None:
        downstream.abort(b"")
    else:
        downstream.close(document)
    return downstream.response


async def wait_for_document(stream: Stream, wait_s: float, headers: Headers) -> web.Response:
    """Respond with a stream's document, or after `wait_s` seconds with 202 and the document so far.

    The client does not count as a follower: one that polls would leave between two requests, and end the stream.
    Raises: as deliver_document.
    """
    projection = Json(stream)  # not the followers' one, which is kept, and has the document in it
    if stream.outcome is None and wait_s:
        ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        stream.when_answered(ended.set_result)
        await wait(ended, wait_s)
    await read_up(stream)
    return await in_turn(stream.turns, lambda: _response_now(stream, projection, headers))


def _response_now(stream: Stream, projection: Json, headers: Headers) -> web.Response:
    ending = stream.outcome
    if ending is None:
        return _answer(projection.so_far(), 202, headers)
    document, properly = projection.ending(ending, stream.log.end)
    return _document_response(stream, document if properly else None, headers)


async def read_up(stream: Stream) -> None:
    """Have all that a stream has said so far read for the modes that need that, in turns if it is long."""
    while stream.unread_bytes(stream.log.end) > SPAN_BYTES:
        await in_turn(stream.turns, lambda: stream.read_on(stream.log.end))


async def in_turn(turns: Turns, work: Callable[[], _Result]) -> _Result:
    """Do a piece of work when its turn comes, and return its result. Raises: what it raises."""
    result: asyncio.Future[_Result] = asyncio.get_running_loop().create_future()

    def do() -> None:
        if result.done():  # whoever waited for it has gone
            return
        try:
            result.set_result(work())
        except Exception as error:
            result.set_exception(error)

    turns.do(do)
    return await result


def _document_response(stream: Stream, document: bytes | None, headers: Headers) -> web.Response:
    if document is not None:
        return _answer(document, 200, headers)
    ending, failure = stream.outcome, stream.vitals.reader.failure
    if ending is None:  # this follower alone was ended
        raise LOG_LIMIT.saying("the document takes more memory than a stream's log may have").as_error()
    if ending.reason == COMPLETE.reason:
        return _answer(Json(stream).so_far(), 200, headers)  # the document can't be made; this one says why
    if failure is None or ending.reason != UPSTREAM_ERROR.reason:
        raise ending.as_error()
    status = failure.status or _status(failure.code)
    if failure.body is not None and failure.recognised:
        return _answer(failure.body, status, headers)
    raise Reported(failure.message, failure.code, status)


def _status(code: str | None) -> int:
    """Return the status that the upstream would have sent for this error before the start of its response."""
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
