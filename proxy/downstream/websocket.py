"""The way down to a WebSocket client: the handshake, and a Sink that also hears what the client says.

The response that switched protocols is written as any other; what is written to it are frames, made once for all
followers. Not web.WebSocketResponse: it frames a message for each client anew, its reader takes a task of each, and
it closes behind the back of whoever writes to the transport. Source: RFC 6455.
"""

import asyncio
import binascii
from base64 import b64decode
from collections.abc import Callable
from typing import Any, Protocol

from aiohttp import web

from proxy.stream.interfaces import Sink
from proxy.stream.projections import Span
from proxy.stream.subscription import HEARTBEAT
from proxy.stream.turns import Turns
from proxy.wire.errors import BadRequest, UpgradeRequired
from proxy.wire.websocket import CLOSE, PING, PONG, PROTOCOL_ERROR, Control, FrameReader, accept, close_frame, frame

_PINGED = Span(0, 0, frame(PING, b""))
CLOSING_S = 1.0  # for the client to answer a close
_PONG_ROOM_BYTES = 128 * 1024  # with more unsent, a client that pings but does not read gets no pongs


def handshake(request: web.BaseRequest) -> bytes:
    """Return the Sec-WebSocket-Accept of a client that asks for a WebSocket; b"" if it does not (section 4.2.1).

    Raises: UpgradeRequired for another version, BadRequest for a key that is none.
    """
    headers = request.headers
    options = [option.strip().lower() for option in ",".join(headers.getall("Connection", ())).split(",")]
    if headers.get("Upgrade", "").strip().lower() != "websocket" or "upgrade" not in options:
        return b""
    if headers.get("Sec-WebSocket-Version") != "13":
        raise UpgradeRequired("only version 13 of WebSocket is spoken here")
    key = headers.get("Sec-WebSocket-Key", "")
    try:
        size = len(b64decode(key, validate=True))
    except (binascii.Error, ValueError):
        size = 0
    if size != 16:
        raise BadRequest("Sec-WebSocket-Key is not 16 bytes in base64")
    return accept(key)


class Response(Sink, Protocol):
    """The response on which protocols are switched."""

    @property
    def response(self) -> web.StreamResponse: ...

    def start(self, reason: bytes, headers: list[tuple[bytes, bytes]], *, framed: bool = False) -> None: ...

    def flush(self) -> None: ...

    def write_data(self, data: bytes) -> None: ...

    async def finished(self) -> bool: ...


class WebSocket:
    """One WebSocket to one client: a Sink of frames. Pings and closes of the client's are answered.

    The client's own messages are passed over. One that sends many frames at once has them read in turns, and of their
    pings the latest is answered (section 5.5.3). It is taken for dead when a ping has not been answered by the time of
    the next one. `finished` also waits for its answer to a close, so that nothing sent before is lost.
    """

    __slots__ = ("_answered", "_closed", "_pinged", "_receiver", "_request", "_response", "_turns")

    def __init__(self, request: web.BaseRequest, response: Response, turns: Turns) -> None:
        self._turns = turns
        self._request = request
        self._response = response
        self._receiver: FrameReader | None = FrameReader()  # None when the client is not heard any more
        self._closed = False  # a close was sent: nothing may follow it
        self._pinged = False  # and no word since
        self._answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def response(self) -> web.StreamResponse:
        return self._response.response

    def start(self, accepted: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        """Make the head that switches protocols, and hear the client from now on."""
        switching = [(b"Upgrade", b"websocket"), (b"Connection", b"Upgrade"), (b"Sec-WebSocket-Accept", accepted)]
        self._response.start(b"Switching Protocols", [*switching, *headers], framed=True)
        reader: Any = self  # a parser, as the protocol calls what is fed the connection's bytes
        self._request.protocol.set_parser(reader)

    def flush(self) -> None:
        """Send the head, if it has not left."""
        self._response.flush()

    async def finished(self) -> bool:
        """Wait until the client has had everything; False when it has left before.

        Raises: CancelledError, when aiohttp notices first that it has left.
        """
        ended = await self._response.finished()
        if ended:
            await asyncio.wait((self._answered,), timeout=CLOSING_S)
        return ended

    # Sink

    @property
    def unsent_bytes(self) -> int:
        return self._response.unsent_bytes

    def write(self, span: Span) -> bool:
        if span is HEARTBEAT:
            return self._ping()
        return not self._closed and self._response.write(span)

    def transport(self) -> None:
        """None: nothing may follow a close, and the client's may come at any time."""

    def on_writable(self, resume: Callable[[], None]) -> None:
        self._response.on_writable(resume)

    def close(self, last: bytes) -> None:
        self._closed = True
        self._response.close(last)

    def abort(self, last: bytes) -> None:
        self._closed = True
        self._response.abort(last)

    def _ping(self) -> bool:
        transport = self._request.transport
        if self._pinged and transport is not None:
            transport.abort()
            return False
        self._pinged = not self._closed and self._response.write(_PINGED)
        return self._pinged

    # What the client says

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Hear the client; return, as the protocol wants it, that this is not the end and that nothing is left."""
        self._pinged = False
        if self._read_frames(data):
            transport = self._request.transport
            if transport is not None:
                transport.pause_reading()
            self._turns.wait(self._read_on)
        return False, b""

    def feed_eof(self) -> None:
        """Nothing: the handler is about to be cancelled."""

    def _read_frames(self, data: bytes) -> bool:
        """Hear some frames; return whether there may be more."""
        receiver = self._receiver
        if receiver is None:
            return False
        try:
            controls = receiver.feed(data)
        except BadRequest as error:
            self._answer_close(close_frame(PROTOCOL_ERROR, error.code))
            return False
        pings = [control for control in controls if control.opcode == PING]
        if pings:
            self._pong(pings[-1])
        if controls and controls[-1].opcode == CLOSE:
            self._answer_close(close_frame(controls[-1].code))
        return self._receiver is not None and receiver.behind

    def _read_on(self) -> None:
        if self._read_frames(b""):
            self._turns.wait(self._read_on)
            return
        transport = self._request.transport
        if transport is not None:
            transport.resume_reading()

    def _pong(self, ping: Control) -> None:
        transport = self._request.transport
        if not self._closed and transport is not None and transport.get_write_buffer_size() < _PONG_ROOM_BYTES:
            self._response.write_data(frame(PONG, ping.payload))

    def _answer_close(self, last: bytes) -> None:
        """Take the client's close; answer it, unless it is an answer, and end the connection."""
        self._receiver = None
        if not self._closed:
            self.close(last)
            if self._request.transport is not None:
                self._request.transport.close()
        if not self._answered.done():
            self._answered.set_result(None)
