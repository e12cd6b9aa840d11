"""A connection to a client that has switched to WebSocket: what followers' and sessions' sockets have in common.

Source: RFC 6455.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol

from aiohttp import web

from proxy.stream.interfaces import Sink
from proxy.wire.http import Headers
from proxy.wire.websocket import PONG, frame

CLOSING_S = 1.0  # for the client to respond to a close frame
PONG_ROOM_BYTES: Final = 128 * 1024  # no pongs while more is unsent, for clients that send pings but do not read


class Response(Sink, Protocol):
    """The response that switches protocols."""

    @property
    def response(self) -> web.StreamResponse: ...

    @property
    def writable(self) -> bool: ...

    def start(self, reason: bytes, headers: Headers, *, framed: bool = False) -> None: ...

    def flush(self) -> None: ...

    def write_data(self, data: bytes) -> None: ...

    async def finished(self) -> bool: ...


class Switched:
    """A connection to a client that has switched to WebSocket: its head, its pongs, and the end of its frames."""

    __slots__ = ("_answered", "_closed", "_request", "_response")

    def __init__(self, request: web.BaseRequest, response: Response) -> None:
        self._request = request
        self._response = response
        self._closed = False  # a close frame was sent: nothing may follow it
        self._answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def response(self) -> web.StreamResponse:
        return self._response.response

    def on_writable(self, resume: Callable[[], None]) -> None:
        self._response.on_writable(resume)

    async def finished(self) -> bool:
        """Wait until the client has received everything; return False if it disconnected before.

        Raises: CancelledError, if aiohttp notices first that it has disconnected.
        """
        ended = await self._response.finished()
        if ended:
            await asyncio.wait((self._answered,), timeout=CLOSING_S)
        return ended

    def switch(self, accepted: bytes, headers: Headers) -> None:
        """Make the head that switches protocols."""
        switching = [(b"Upgrade", b"websocket"), (b"Connection", b"Upgrade"), (b"Sec-WebSocket-Accept", accepted)]
        self._response.start(b"Switching Protocols", [*switching, *headers], framed=True)

    def read_frames(self) -> None:
        """Have `feed_data` called with what the client sends."""
        reader: Any = self  # aiohttp calls it a parser: it is fed the connection's bytes
        self._request.protocol.set_parser(reader)

    def feed_eof(self) -> None:
        """Do nothing: the handler is about to be cancelled."""

    def pong(self, payload: bytes) -> None:
        """Answer the latest of some pings, the only one that need be (section 5.5.3)."""
        transport = self._request.transport
        if not self._closed and transport is not None and transport.get_write_buffer_size() < PONG_ROOM_BYTES:
            self._response.write_data(frame(PONG, payload))

    def note_answered(self) -> None:
        """Note that the client has sent its last frame."""
        if not self._answered.done():
            self._answered.set_result(None)
