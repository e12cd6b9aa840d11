"""One response to one client, whose head and body the proxy writes directly to aiohttp's transport.

aiohttp's server parses the request and owns the connection. After the handler it calls the response's `prepare` and
`write_eof`, which have nothing left to do. So headers are forwarded byte for byte (values that are not UTF-8, too), a
span is framed once for all followers, and the last span is sent in one write with the last chunk. Not
`StreamResponse.write`, because it takes 1.9 us a write where the transport takes 0.1.
"""

import asyncio
import functools
import socket
import struct
from collections.abc import Callable
from typing import Any, Final, Protocol

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from proxy.machine import Transport, head
from proxy.wire.http import LAST_CHUNK, Headers, chunk

EXTRA: Final = web.RequestKey("extra", list[tuple[bytes, bytes]])  # on a request: headers of its response, for CORS
ALLOWANCE: Final = web.RequestKey(
    "allowance", list[tuple[bytes, bytes]]
)  # on a request: what its caller's limits leave
SENT: Final = web.RequestKey(
    "sent", list[tuple[bytes, bytes]]
)  # on a request: takes the headers of its response, for a log
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close by RST


class Framed(Protocol):
    """Bytes for the body of a response, unframed and as one chunk."""

    plain: bytes
    chunked: bytes


class Written(web.StreamResponse):
    """The response that a handler returns after a Downstream has written it. Nobody changes it, so it can be shared."""

    # In place of aiohttp's properties, each of which is a call.
    keep_alive: Any = None
    status: Any = 0

    def __init__(self, status: int, *, keep_alive: bool) -> None:
        super().__init__(status=status)
        self.status = status
        self.keep_alive = keep_alive

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Do nothing: `start` wrote the head."""
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: `close` or `abort` ended the body."""


@functools.lru_cache(maxsize=256)
def _written(status: int, keep_alive: bool) -> Written:
    return Written(status, keep_alive=keep_alive)


class Downstream:
    """One response to one client: a Sink.

    `start` makes the head; the subscription calls `write`, then `close` or `abort`; the handler waits in `finished`,
    which also waits for the client to read whenever the subscription has to pause.
    """

    # Without __slots__, so that what a response begins with need not be set on each.
    ended = False
    has_length = False
    """Whether its headers tell where its body ends."""
    _head = b""  # until it is sent, with the first bytes of the body if possible
    _resume: Callable[[], None] | None = None
    _woken: asyncio.Future[None] | None = None  # while `finished` waits

    def __init__(self, request: web.BaseRequest, status: int = 200) -> None:
        """Raises: ConnectionResetError, if the client has disconnected."""
        # By aiohttp's attributes, not its properties, each of which is a call: 1 us in all.
        protocol = request._protocol
        transport = protocol.transport
        if transport is None:
            raise ConnectionResetError("the client has disconnected")
        self.status = status
        # Until `start`: the request refers to this then, and a cycle of them leaves its heap to the garbage collector,
        # with all that aiohttp made for a request: 35 us of CPU time a request instead of none.
        self._request: web.BaseRequest | None = request
        self._transport = transport
        self._writer: Transport = getattr(protocol, "writer", transport)  # aiohttp's own connections have none
        self._protocol = protocol
        self._chunked_body = request._version >= HttpVersion11
        self._keep = request.keep_alive and self._chunked_body

    @property
    def response(self) -> web.StreamResponse:
        """The response for the handler to return after this one has ended."""
        return _written(self.status, self._keep and self.status != 101)  # after 101 the protocol is not HTTP

    # Head

    def start(self, reason: bytes, headers: Headers, *, framed: bool = False) -> None:
        """Make the head, which is sent with the first write, or when `finished` or `flush` is called.

        Takes over the list of headers. `framed`: they tell where the body ends, so it is not chunked.
        """
        request, self._request = self._request, None
        assert request is not None
        persists = self._chunked_body  # by default, as connections of HTTP/1.1 do
        if framed:
            self.has_length = True
            self._chunked_body = False
            if not persists:
                self._keep = request.keep_alive
        lines = headers
        if request._state:  # most requests store nothing, and get() takes 0.8 us
            extra = request.get(EXTRA)
            if extra is not None:  # replaces the upstream's: browsers refuse a second Access-Control-Allow-Origin
                lines = [line for line in lines if not line[0].lower().startswith(b"access-control-")] + extra
            allowance = request.get(ALLOWANCE)
            if allowance:
                lines = in_place_of(lines, allowance)
            sent = request.get(SENT)
            if sent is not None:
                sent += headers
        if self._chunked_body:
            # Never `Connection: close`, because then undici (Node's fetch) takes a chunked body that breaks off for a
            # complete one. RFC 9112 section 9.6 only says that it should be sent.
            lines.append((b"Transfer-Encoding", b"chunked"))
        elif not self._keep:
            lines.append((b"Connection", b"close"))
        elif not persists:
            lines.append((b"Connection", b"keep-alive"))
        request[RESPONSE] = self
        self._head = head(b"HTTP/1.1 %d %b" % (self.status, reason), lines)

    def flush(self) -> None:
        """Send the head if it has not been sent."""
        if self._head:
            self._put(b"")

    def probe(self) -> None:
        """Write a byte without a meaning, if there is one, so that a client that has closed responds with a reset.

        The byte is a leading zero of the next chunk's size (RFC 9112 section 7.1).
        """
        if not (self._head or self.ended) and self._chunked_body:
            self._put(b"0")

    # Sink

    @property
    def writable(self) -> bool:
        return not self._protocol.writing_paused

    @property
    def unsent_bytes(self) -> int:
        try:
            return self._writer.get_write_buffer_size()
        except RuntimeError:  # as in write
            return 0

    def write(self, span: Framed) -> bool:
        writer = self._writer
        try:
            # Checking the writer first avoids two Python properties if nothing waits to be sent: 0.2 us.
            if writer.get_write_buffer_size() and self._protocol.writing_paused:
                return False
            data = span.chunked if self._chunked_body else span.plain
            if self._head:
                data = self._head + data
                self._head = b""
            writer.write(data)
        except RuntimeError:  # uvloop, on a connection that was just lost; the handler is about to be cancelled
            return False
        return True

    def transport(self) -> tuple[Transport, bool] | None:
        if self._head or self.ended:
            return None
        return self._writer, self._chunked_body

    def write_data(self, data: bytes) -> None:
        """Write bytes for this client only."""
        if data:
            self._put(chunk(data) if self._chunked_body else data)

    def on_writable(self, resume: Callable[[], None]) -> None:
        self._resume = resume
        self._wake()

    def close(self, last: bytes) -> None:
        if self._chunked_body:  # copies the data once
            last = b"%x\r\n%b\r\n0\r\n\r\n" % (len(last), last) if last else LAST_CHUNK
        self._put(last)
        self._end()

    def abort(self, last: bytes) -> None:
        """End the response so that the client sees that it is incomplete: without the last chunk, or by a reset.

        A body that ends with the connection (HTTP/1.0) needs a reset.
        """
        self._keep = False
        try:
            self.flush()
            self.write_data(last)
            if self._chunked_body and self.writable:
                self._transport.close()
            else:
                reset(self._transport)
        finally:
            self._end()  # whatever happened: nobody waits for a response that was given up

    async def finished(self) -> bool:
        """Wait until the response has ended; return False if the client disconnected before.

        Raises: CancelledError, if aiohttp notices first that the client has disconnected.
        """
        self.flush()
        try:
            while not self.ended:
                if self._resume is None:
                    self._woken = asyncio.get_running_loop().create_future()
                    await self._woken
                    continue
                try:
                    if self._protocol.transport is not None and self._protocol.writing_paused:
                        await self._protocol._drain_helper()
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
            self._writer.write(self._head + data)
        except RuntimeError:  # as in write
            pass
        self._head = b""

    def _end(self) -> None:
        self.ended = True
        self._resume = None
        if self._woken is not None:
            self._wake()

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)


def in_place_of(lines: Headers, ours: Headers) -> Headers:
    """Return headers with some added, in place of any that have the same names."""
    names = {name for name, _ in ours}
    return [line for line in lines if line[0].lower() not in names] + ours


def reset(transport: asyncio.Transport) -> None:
    """End a connection by a reset: waiting bytes are not sent, and no response looks complete."""
    sock = transport.get_extra_info("socket")
    if sock is not None and not transport.is_closing():  # the socket of a lost connection is closed
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()


RESPONSE: Final = web.RequestKey("response", Downstream)  # on a request: its response, once that has begun
