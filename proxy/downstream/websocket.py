"""One WebSocket to one client: the handshake, and a Sink that also reads the client's control frames.

The response that switches protocols is written like any other; its body consists of frames that are made once for all
followers. Not web.WebSocketResponse, because it frames each message again for each client, needs a task a client for
reading, and closes the transport by itself while the proxy writes to it. Source: RFC 6455.
"""

import binascii
from base64 import b64decode
from typing import Final

from aiohttp import web

from proxy.dialects.route import PROTOCOL, without_keys
from proxy.downstream.switched import Response, Switched
from proxy.stream.modes.projection import Heartbeat, Span
from proxy.stream.turns import Turns
from proxy.wire.errors import BadRequest, UpgradeRequired
from proxy.wire.http import Headers
from proxy.wire.websocket import CLOSE, PING, PROTOCOL_ERROR, FrameReader, accept, close_frame, frame

_PINGED: Final = Span(0, 0, frame(PING, b""))


def handshake(request: web.BaseRequest) -> bytes:
    """Return the Sec-WebSocket-Accept for a request for a WebSocket; b"" for other requests (section 4.2.1).

    Raises: UpgradeRequired, for another version of WebSocket; BadRequest, for an invalid key.
    """
    headers = request.headers
    options = [option.strip().lower() for option in ",".join(headers.getall("Connection", ())).split(",")]
    if headers.get("Upgrade", "").strip().lower() != "websocket" or "upgrade" not in options:
        return b""
    if headers.get("Sec-WebSocket-Version") != "13":
        raise UpgradeRequired("the requested version of WebSocket is not supported; only version 13 is")
    key = headers.get("Sec-WebSocket-Key", "")
    try:
        size = len(b64decode(key, validate=True))
    except (binascii.Error, ValueError):
        size = 0
    if size != 16:
        raise BadRequest("Sec-WebSocket-Key is not 16 bytes in base64")
    return accept(key)


def chosen_protocol(request: web.BaseRequest) -> Headers:
    """Return the header that chooses the first protocol offered that is no key: browsers expect that one is chosen."""
    offers = without_keys(", ".join(request.headers.getall(PROTOCOL, ())))
    return [(PROTOCOL.encode(), offers[0].encode("latin-1", "replace"))] if offers else []


class WebSocket(Switched):
    """One WebSocket to one client: a Sink of frames, which responds to the client's pings and closes at once.

    Messages from the client are ignored. If it sends many frames at once, they are read a few in each turn of the event
    loop, and only the latest of their pings is answered (RFC 6455 section 5.5.3). A client that has sent nothing since
    the last ping is disconnected when the next ping is due. `finished` also waits for the client's response to a close
    frame, so that nothing sent before is lost.
    """

    __slots__ = ("_pinged", "_receiver", "_turns")

    def __init__(self, request: web.BaseRequest, response: Response, turns: Turns) -> None:
        super().__init__(request, response)
        self._turns = turns
        self._receiver: FrameReader | None = FrameReader()  # None when nothing more is read from the client
        self._pinged = False  # a ping was sent, and nothing has been received since

    def start(self, accepted: bytes, headers: Headers) -> None:
        """Make the head that switches protocols, and read the client's frames from now on."""
        self.switch(accepted, headers)
        self.read_frames()

    def flush(self) -> None:
        """Send the head if it has not been sent."""
        self._response.flush()

    # Sink

    @property
    def unsent_bytes(self) -> int:
        return self._response.unsent_bytes

    def write(self, span: Span) -> bool:
        if isinstance(span, Heartbeat):
            return self._ping()
        return not self._closed and self._response.write(span)

    def write_data(self, data: bytes) -> None:
        """Write frames for this client only, even if it reads none at the moment."""
        if not self._closed:
            self._response.write_data(data)

    def transport(self) -> None:
        """Return None: whoever wrote to the transport directly could write after a close frame."""

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

    # Frames of the client

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Read the client's bytes; return, as aiohttp expects, that this is not the end and that none are left."""
        self._pinged = False
        if self._read_frames(data):
            transport = self._request.transport
            if transport is not None:
                transport.pause_reading()
            self._turns.wait(self._read_on)
        return False, b""

    def _read_frames(self, data: bytes) -> bool:
        """Read some frames; return whether there may be more."""
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
            self.pong(pings[-1].payload)
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

    def _answer_close(self, last: bytes) -> None:
        """End the connection after the client's close frame; respond with `last` unless one was sent already."""
        self._receiver = None
        if not self._closed:
            self.close(last)
            if self._request.transport is not None:
                self._request.transport.close()
        self.note_answered()
