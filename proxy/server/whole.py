"""An answer of an upstream read to its end, to be given to everybody who asked for it.

Bounded in size. It answers a request without credentials, and whoever gets it must not become somebody by it.
"""

import asyncio
from typing import NamedTuple

from aiohttp import web

from proxy.downstream.response import Downstream
from proxy.upstream.exchange import Exchange
from proxy.wire.errors import Garbled, UpstreamError
from proxy.wire.http import EndToEnd, Headers

_SHARED = EndToEnd((b"content-length", b"set-cookie"))
_NO_LENGTH = (204, 304)  # RFC 9110 section 8.6


class Whole(NamedTuple):
    """Status, headers and body of an answer."""

    status: int
    reason: bytes
    headers: Headers
    body: bytes


async def read(exchange: Exchange, max_bytes: int) -> Whole:
    """Read the answer; the exchange is over then. Raises: UpstreamError, also for what is larger, or has no end."""
    reader = _Reader(max_bytes)
    try:
        if exchange.is_event_stream and exchange.status == 200:
            raise Garbled("the upstream compresses its event stream, though it was asked not to")
        exchange.attach(reader)
        body = await reader.body
    finally:
        exchange.close()
    return Whole(exchange.status, exchange.reason, _SHARED.of(exchange.headers), body)


def send(request: web.BaseRequest, whole: Whole) -> web.StreamResponse:
    """Answer a request with it. Raises: ConnectionResetError, when the client has gone."""
    downstream = Downstream(request, whole.status)
    length = [] if whole.status in _NO_LENGTH else [(b"Content-Length", b"%d" % len(whole.body))]
    downstream.start(whole.reason, [*whole.headers, *length], framed=True)
    downstream.close(whole.body)
    return downstream.response


class _Reader:
    """A receiver that keeps a body, if it is not larger than is allowed."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._data = bytearray()
        self.body: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def received(self, data: bytes, at: float) -> None:
        self._data += data
        if len(self._data) > self._max_bytes and not self.body.done():
            message = f"the upstream's answer is no event stream, and larger than {self._max_bytes} bytes"
            self.body.set_exception(Garbled(message))

    def ended(self, data: bytes, at: float, error: UpstreamError | None) -> None:
        self.received(data, at)
        if self.body.done():
            return
        if error is None:
            self.body.set_result(bytes(self._data))
        else:
            self.body.set_exception(error)
