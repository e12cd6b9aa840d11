"""The way down: a response whose head and body are bytes made by us, written to aiohttp's transport.

aiohttp's server parses the request and owns the connection; after the handler it asks the response to `prepare`
itself and to `write_eof`: both have been done by then. So headers cross as the bytes they came as (a value that is
not UTF-8 too), a span that was framed once is written to every follower, and the last span leaves in one write
with the end chunk. Not `StreamResponse.write`: 1.9 us a write where the transport takes 0.1.
"""

import asyncio
import functools
import socket
import struct
from collections.abc import Callable
from typing import Protocol

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from proxy.wire.http import LAST_CHUNK, Headers, chunk, head

EXTRA = web.RequestKey("extra", list[tuple[bytes, bytes]])  # on a request: header lines its answer gets, for CORS
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close by RST


class Framed(Protocol):
    """Bytes, plain and as one chunk."""

    plain: bytes
    chunked: bytes


class Written(web.StreamResponse):
    """What a handler returns for a response that a Downstream has written already. Immutable, so shared."""

    def __init__(self, status: int, *, keep_alive: bool) -> None:
        super().__init__(status=status)
        self._keep = keep_alive

    @property
    def keep_alive(self) -> bool | None:
        return self._keep

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Nothing: `start` wrote the head."""
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing: `close` or `abort` ended the body."""


@functools.lru_cache(maxsize=256)
def _written(status: int, keep_alive: bool) -> Written:
    return Written(status, keep_alive=keep_alive)


class Downstream:
    """One response to one client: a Sink.

    `start` writes the head; whoever feeds it calls write, then close or abort; the handler waits in `finished`,
    which also waits for the client to take what was written whenever the feeder has to pause.
    """

    __slots__ = (
        "_chunked_body",
        "_head",
        "_keep",
        "_protocol",
        "_request",
        "_resume",
        "_transport",
        "_woken",
        "ended",
        "status",
    )

    def __init__(self, request: web.BaseRequest, status: int = 200) -> None:
        """Raises: ConnectionResetError, when the client has gone."""
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client has gone")
        self.status = status
        self._request = request
        self._transport = transport
        self._protocol = request.protocol
        self._chunked_body = request.version >= (1, 1)
        self._keep = request.keep_alive and self._chunked_body
        self.ended = False
        self._head = b""  # until it leaves, with the first bytes of the body if they are there in time
        self._resume: Callable[[], None] | None = None
        self._woken: asyncio.Future[None] | None = None  # while `finished` waits

    @property
    def response(self) -> web.StreamResponse:
        """What the handler returns, once the response has ended."""
        return _written(self.status, self._keep and self.status != 101)  # then it is another protocol's connection

    # Its head

    def start(self, reason: bytes, headers: Headers, *, framed: bool = False) -> None:
        """Make the head, which leaves with the first write, or when `finished` or `flush` is called.

        The list of headers is the response's from now on. `framed`: they say where the body ends, so it is not chunked.
        """
        persists = self._chunked_body  # by itself, as connections of HTTP/1.1 do
        if framed:
            self._chunked_body = False
            if not persists:
                self._keep = self._request.keep_alive
        lines = headers
        if len(self._request):  # not get() at once: 0.8 us where nothing is noted on the request
            extra = self._request.get(EXTRA)
            if extra is not None:  # then nobody else has a say: browsers refuse a second Access-Control-Allow-Origin
                lines = [line for line in lines if not line[0].lower().startswith(b"access-control-")] + extra
        if self._chunked_body:
            # No `Connection: close`, also where it is closed: after it, undici (Node's fetch) takes a chunked body that
            # breaks off for a whole one. RFC 9112 section 9.6 says only that it should be sent.
            lines.append((b"Transfer-Encoding", b"chunked"))
        elif not self._keep:
            lines.append((b"Connection", b"close"))
        elif not persists:
            lines.append((b"Connection", b"keep-alive"))
        self._request[RESPONSE] = self
        self._head = head(b"HTTP/1.1 %d %b" % (self.status, reason), lines)

    def flush(self) -> None:
        """Send the head, if it has not left."""
        if self._head:
            self._put(b"")

    def probe(self) -> bool:
        """Write what says nothing, so that a client that has closed answers with a reset; False where nothing is so.

        A zero before the size of the chunk to come (RFC 9112 section 7.1).
        """
        if self._head or self.ended or not self._chunked_body:
            return False
        self._put(b"0")
        return True

    # Sink

    @property
    def writable(self) -> bool:
        return not self._protocol.writing_paused

    @property
    def unsent_bytes(self) -> int:
        try:
            return self._transport.get_write_buffer_size()
        except RuntimeError:  # as in write
            return 0

    def write(self, span: Framed) -> bool:
        transport = self._transport
        try:
            # Asking the transport first spares two properties written in Python when nothing waits: 0.2 us.
            if transport.get_write_buffer_size() and self._protocol.writing_paused:
                return False
            data = span.chunked if self._chunked_body else span.plain
            if self._head:
                data = self._head + data
                self._head = b""
            transport.write(data)
        except RuntimeError:  # uvloop, of a connection that was lost a moment ago: the handler is about to hear of it
            return False
        return True

    def transport(self) -> tuple[asyncio.Transport, bool] | None:
        return None if self._head or self.ended else (self._transport, self._chunked_body)

    def write_data(self, data: bytes) -> None:
        """Write bytes that go to this client only."""
        if data:
            self._put(chunk(data) if self._chunked_body else data)

    def on_writable(self, resume: Callable[[], None]) -> None:
        self._resume = resume
        self._wake()

    def close(self, last: bytes) -> None:
        if self._chunked_body:  # in one copy
            last = b"%x\r\n%b\r\n0\r\n\r\n" % (len(last), last) if last else LAST_CHUNK
        self._put(last)
        self._end()

    def abort(self, last: bytes) -> None:
        """End so that the client sees a broken response: without the end chunk, or by a reset.

        A body that ends with the connection (HTTP/1.0) can only be broken by a reset.
        """
        self.flush()
        self.write_data(last)
        self._keep = False
        if self._chunked_body and self.writable:
            self._transport.close()
        else:
            reset(self._transport)
        self._end()

    async def finished(self) -> bool:
        """Wait until the response has ended; False when the client has left before.

        Raises: CancelledError, when aiohttp notices first that the client has left.
        """
        self.flush()
        try:
            while not self.ended:
                if self._resume is None:
                    self._woken = asyncio.get_running_loop().create_future()
                    await self._woken
                    continue
                try:
                    await self._request.writer.drain()
                except ConnectionError:
                    break
                resume, self._resume = self._resume, None
                if resume is not None:
                    resume()
        finally:
            self._resume = self._woken = None  # it belongs to a follower, which refers to this
        return self.ended

    def _put(self, data: bytes) -> None:
        try:  # noqa: SIM105  (suppress takes 1 us)
            self._transport.write(self._head + data)
        except RuntimeError:  # as in write
            pass
        self._head = b""

    def _end(self) -> None:
        self.ended = True
        self._resume = None
        self._wake()

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)


def reset(transport: asyncio.Transport) -> None:
    """End a connection by a reset: what waits is not sent, and nothing looks complete."""
    sock = transport.get_extra_info("socket")
    if sock is not None and not transport.is_closing():  # that of a connection that was lost is closed
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()


RESPONSE = web.RequestKey("response", Downstream)  # on a request: its answer, once that has begun
