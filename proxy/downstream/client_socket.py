"""The client's side of a WebSocket that passes through: receives the client's messages, and sends it frames.

Unlike `websocket.WebSocket`, which ignores messages, it passes them on, and leaves the response to a close frame to the
session. Source: RFC 6455.
"""

from typing import Protocol

from aiohttp import web

from proxy.downstream.switched import Response, Switched
from proxy.stream.turns import Turns
from proxy.wire.errors import BadRequest, RequestError
from proxy.wire.http import Headers
from proxy.wire.websocket import BINARY, CLOSE, PING, TEXT, Message, MessageReader, stated_code


class Hearer(Protocol):
    """What receives the client's messages: the session."""

    def client_sent(self, messages: list[Message]) -> None:
        """Take text and binary messages."""

    def client_closed(self, payload: bytes) -> None:
        """Take the payload of the client's close frame; respond by calling `close`."""

    def client_holds(self, size_bytes: int) -> None:
        """Note how many bytes are held of a message that is not complete."""

    def client_erred(self, error: RequestError) -> None:
        """Take the error of a client that violated the protocol; nothing more is read from it."""


class ClientSocket(Switched):
    """One WebSocket to one client, in both directions.

    Pings are answered here. If the client sends many frames at once, they are read a few in each turn of the event
    loop. `finished` also waits for the client's response to a close frame, so that nothing sent before is lost.
    """

    __slots__ = ("_hearer", "_is_paused", "_reader", "_turns")

    _hearer: Hearer

    def __init__(self, request: web.BaseRequest, response: Response, turns: Turns, max_message_bytes: int) -> None:
        super().__init__(request, response)
        self._turns = turns
        self._reader: MessageReader | None = MessageReader(max_message_bytes, masked=True)  # None: nothing more is read
        self._is_paused = False  # the upstream takes no more for now

    def start(self, accepted: bytes, headers: Headers) -> None:
        """Send the head that switches protocols."""
        self.switch(accepted, headers)
        self._response.flush()

    def hear(self, hearer: Hearer) -> None:
        """Read the client's frames from now on."""
        self._hearer = hearer
        self.read_frames()

    # The session's Client

    @property
    def writable(self) -> bool:
        return self._response.writable

    def write(self, frames: bytes) -> None:
        if not self._closed:
            self._response.write_data(frames)

    def pause(self) -> None:
        self._is_paused = True
        self._stop_reading()

    def resume(self) -> None:
        self._is_paused = False
        self._read_on()

    def close(self, last: bytes) -> None:
        if not self._closed:
            self._closed = True
            self._response.close(last)
            self.resume()  # to read the client's close frame

    # What aiohttp expects of a parser

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Read the client's bytes; return, as aiohttp expects, that this is not the end and that none are left."""
        self._read(data)
        return False, b""

    def _read(self, data: bytes) -> None:
        """Read some messages; the rest waits for its turn."""
        reader = self._reader
        if reader is None:
            return
        try:
            messages = reader.feed(data)
            self._hearer.client_holds(reader.held_bytes)
            self._tell(messages)
        except RequestError as error:
            self._stop_hearing()
            self._hearer.client_erred(error)
            return
        if self._reader is not None and reader.behind:
            self._stop_reading()
            if not self._is_paused:
                self._turns.wait(self._read_on)

    def _read_on(self) -> None:
        if self._is_paused:
            return
        if self._reader is not None and self._reader.behind:
            self._read(b"")
        if not self._is_paused and (self._reader is None or not self._reader.behind):
            transport = self._request.transport
            if transport is not None:
                transport.resume_reading()

    def _stop_reading(self) -> None:
        transport = self._request.transport
        if transport is not None:
            transport.pause_reading()

    def _tell(self, messages: list[Message]) -> None:
        """Pass on what the client sent. Raises: BadRequest, if it closes with a code that may not be sent."""
        data = [message for message in messages if message.opcode in (TEXT, BINARY)]
        if data:
            self._hearer.client_sent(data)
        pings = [message.payload for message in messages if message.opcode == PING]
        if pings:
            self.pong(pings[-1])
        if messages and messages[-1].opcode == CLOSE:
            payload = messages[-1].payload
            if payload and stated_code(payload) is None:
                raise BadRequest("a WebSocket is closed with a code that may not be sent")
            self._stop_hearing()
            self._hearer.client_closed(payload)

    def _stop_hearing(self) -> None:
        self._reader = None
        self.note_answered()
