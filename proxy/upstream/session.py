"""The writer of a stream that is a WebSocket session: it carries the messages of both sides, each unchanged.

    the client  ── client_sent ──▶  Session  ── masked frames ──▶  the upstream's connection
    the client  ◀── frames ───────  Session  ◀── received ───────  the same
                                       └── text messages, a frame each ──▶  the log, and whoever follows

Pings are answered on each side. A close frame is passed on with its code and reason, and the session ends when both
sides have sent one. If a side does not read, the other one is not read from: nothing is queued here. Binary messages
are not text, so followers do not get them. Must not know who the client is, nor what the messages mean.
Source: RFC 6455.
"""

import asyncio
import os
from collections.abc import Callable
from time import monotonic
from typing import Final, Protocol

from proxy.stream.endings import CLIENT_GONE, FRAME_LIMIT, GARBLED, UPSTREAM_RESET, Ending, ending_of
from proxy.stream.ledger import UNFINISHED
from proxy.stream.modes.envelopes import closing
from proxy.stream.stream import Stream
from proxy.stream.turns import Turns
from proxy.upstream.connection import Connection
from proxy.upstream.exchange import Exchange
from proxy.upstream.on_disconnect import OnDisconnect
from proxy.upstream.session_log import SessionLog
from proxy.upstream.stream_writer import StreamWriter
from proxy.wire.errors import BadRequest, PathNotAllowed, RequestError, TooLarge, UpstreamError
from proxy.wire.sse import block
from proxy.wire.websocket import (
    BINARY,
    CLOSE,
    GOING_AWAY,
    MESSAGE_TOO_BIG,
    PING,
    POLICY_VIOLATION,
    PONG,
    PROTOCOL_ERROR,
    TEXT,
    Message,
    MessageReader,
    close_frame,
    frame,
    masked_frame,
    stated_code,
)

_CODES_OF_STATUSES: Final = {TooLarge.status: MESSAGE_TOO_BIG, PathNotAllowed.status: POLICY_VIOLATION}
CLOSING_S: Final = 2.0  # for the upstream to answer a close, and to close the connection

Count = Callable[[str, int, int], object]
"""Takes the side that has sent messages ("client" or "upstream"), their number and their bytes."""


class Client(Protocol):
    """The socket of the client."""

    @property
    def writable(self) -> bool:
        """Whether it takes writes."""

    def write(self, frames: bytes) -> None:
        """Send frames."""

    def on_writable(self, resume: Callable[[], None]) -> None:
        """Call `resume` once, when it takes writes again."""

    def pause(self) -> None:
        """Stop reading."""

    def resume(self) -> None:
        """Go on reading."""

    def close(self, last: bytes) -> None:
        """Send a close frame, and nothing after it. Only the first call counts."""


class Session(StreamWriter):
    """The writer of one session: a Receiver of what its upstream sends, and told of what its client sends."""

    __slots__ = (
        "_check",
        "_client",
        "_client_held_bytes",
        "_clients_close",
        "_connection",
        "_count",
        "_is_behind",
        "_is_client_full",
        "_is_throttled",
        "_is_upstream_closed",
        "_log",
        "_reader",
        "_turns",
        "ended_at",
        "enough_after_s",
        "fed_at",
    )

    def __init__(
        self,
        stream: Stream,
        client: Client,
        max_message_bytes: int,
        turns: Turns,
        *,
        count: Count,
        on_first_token: Callable[[float], object],
        check: Callable[[bytes], None] | None = None,
    ) -> None:
        """`on_first_token` is called with the seconds from the beginning of each answer to its first token.

        `check` raises a RequestError for a text message that the client may not send; None: it may send any.
        """
        super().__init__(stream, OnDisconnect(0))
        self._client = client
        self._count = count
        self._log = SessionLog(stream, on_first_token)
        self._check = check
        self._reader = MessageReader(max_message_bytes, masked=False)
        self._connection: Connection | None = None
        self._clients_close: bytes | None = None  # the payload of the client's close frame, once it has come
        self._is_upstream_closed = False  # a close frame was sent upstream: nothing may follow it
        self._client_held_bytes = 0
        self._turns = turns
        self._is_behind = False  # the upstream has sent more than is read at once: the rest waits for its turn
        self._is_client_full = False
        self._is_throttled = False
        self.fed_at = monotonic()  # when the last message came, of either side
        self.ended_at = self.enough_after_s = 0.0  # Progress: no message is the last one

    def start(self, exchange: Exchange) -> None:
        """Receive what the upstream sends from now on."""
        self._exchange = exchange
        self._connection = exchange.connection
        exchange.endless = True
        exchange.progress = self
        exchange.attach(self)

    @property
    def awaits_token(self) -> bool:
        """False: an answer is due only when the client has asked for one."""
        return False

    # Receiver of what the upstream sends

    def received(self, data: bytes, at: float) -> None:
        self._read(data, at)
        if self._reader.behind and not self._is_behind and not self._stopped:
            self._is_behind = True
            super().pause()
            self._turns.wait(self._read_on)
        self._count_held()

    def ended(self, data: bytes, at: float, error: UpstreamError | None) -> None:
        self._read(data, at)
        while self._reader.behind and not self._stopped:
            self._read(b"", at)
        if self._stopped:
            return
        if self._clients_close is not None:
            self._end(self._clients_close, by_client=True)
            return
        reset = UPSTREAM_RESET.saying("the upstream closed the connection without a close frame")
        self.stop(reset if error is None else ending_of(error))

    # What the client does

    def client_sent(self, messages: list[Message]) -> None:
        """Send text and binary messages upstream. Raises: RequestError, if one of them is not allowed."""
        connection = self._connection
        if self._stopped or self._is_upstream_closed or connection is None:
            return
        for opcode, payload in messages if self._check is not None else ():
            if opcode == TEXT and self._check is not None:
                self._check(payload)
        self.fed_at = monotonic()
        self._count("client", len(messages), sum([len(payload) for _, payload in messages]))
        frames = [masked_frame(opcode, payload, os.urandom(4)) for opcode, payload in messages]
        if not connection.write(b"".join(frames)):
            self._client.pause()
            connection.on_writable(self._client.resume)

    def client_closed(self, payload: bytes) -> None:
        """Send the client's close frame upstream and wait for the answer; messages before the answer are passed on."""
        if self._stopped:
            return
        self._clients_close = payload
        self._close_upstream(payload)
        asyncio.get_running_loop().call_later(CLOSING_S, self._upstream_is_late)

    def client_holds(self, size_bytes: int) -> None:
        """Count the bytes that are held of an incomplete message of the client."""
        if size_bytes != self._client_held_bytes:
            self._client_held_bytes = size_bytes
            self._count_held()

    def client_erred(self, error: RequestError) -> None:
        """End the session because the client sent what it may not."""
        if not self._stopped:
            code = _CODES_OF_STATUSES.get(error.status, PROTOCOL_ERROR)
            self._client.close(close_frame(code, error.code))
            self.stop(CLIENT_GONE.saying(error.message))

    def client_left(self) -> None:
        """End the session, because the client's connection is gone. No effect once the session has ended."""
        if not self._stopped:
            exchange, self._exchange = self._exchange, None
            self._seal(CLIENT_GONE)
            if exchange is not None:
                exchange.close()

    # Writer

    def pause(self) -> None:
        self._is_throttled = True
        super().pause()

    def resume(self) -> None:
        self._is_throttled = False
        self._receive_on()

    def last_left(self) -> None:
        """Do nothing: the session ends with its client, not with the followers."""

    def stop(self, ending: Ending) -> None:
        """Close both sides, and seal the stream."""
        if self._stopped:
            return
        self._close_upstream(GOING_AWAY.to_bytes(2, "big"))
        self._client.close(closing(ending))
        self._release(ending)

    def _read(self, data: bytes, at: float) -> None:
        """Take some messages of the upstream, and pass them on."""
        if self._stopped:
            return
        try:
            messages = self._reader.feed(data)
        except TooLarge as error:
            self._break_off(MESSAGE_TOO_BIG, FRAME_LIMIT.saying(error.message))
        except BadRequest as error:
            self._break_off(PROTOCOL_ERROR, GARBLED.saying(f"of the upstream: {error.message}"))
        else:
            self._pass_on(messages, at)

    def _read_on(self) -> None:
        """Take what waited for its turn."""
        self._is_behind = False
        if not self._stopped:
            self.received(b"", monotonic())
            self._receive_on()

    def _receive_on(self) -> None:
        """Receive more of the upstream, unless something holds it back."""
        if not (self._is_behind or self._is_client_full or self._is_throttled):
            super().resume()

    def _pass_on(self, messages: list[Message], at: float) -> None:
        """Send the upstream's messages to the client, and text messages to the log."""
        frames, blocks, size_bytes = [], [], 0
        for opcode, payload in messages:
            if opcode in (TEXT, BINARY):
                frames.append(frame(opcode, payload))
                size_bytes += len(payload)
                if opcode == TEXT:
                    blocks.append(block(payload))
            elif opcode == PING:
                self._pong(payload)
        if frames:
            self.fed_at = self.stream.fed_at = at
            self._count("upstream", len(frames), size_bytes)
            self._client.write(b"".join(frames))
        if blocks:
            self._log.append(blocks, at)
        if messages and messages[-1].opcode == CLOSE:
            self._end(messages[-1].payload, by_client=self._clients_close is not None)
        elif not self._client.writable and not self._is_client_full:
            self._is_client_full = True
            super().pause()
            self._client.on_writable(self._client_drained)

    def _pong(self, payload: bytes) -> None:
        """Answer a ping, unless the upstream does not read what it is sent."""
        connection = self._connection
        if connection is not None and connection.writable and not self._is_upstream_closed:
            connection.write(masked_frame(PONG, payload, os.urandom(4)))

    def _client_drained(self) -> None:
        self._is_client_full = False
        self._receive_on()

    def _count_held(self) -> None:
        if not self._stopped:
            self.stream.count(UNFINISHED, self._reader.held_bytes + self._client_held_bytes)

    # The end

    def _close_upstream(self, payload: bytes) -> None:
        if self._connection is not None and not self._is_upstream_closed:
            self._is_upstream_closed = True
            self._connection.write(masked_frame(CLOSE, payload, os.urandom(4)))

    def _break_off(self, code: int, ending: Ending) -> None:
        """End the session because the upstream sent what it may not."""
        self._close_upstream(code.to_bytes(2, "big"))
        self.stop(ending)

    def _end(self, payload: bytes, *, by_client: bool) -> None:
        """End the session, because a side has sent a close frame with this payload; send it to the client, too."""
        if payload and stated_code(payload) is None:
            self._break_off(PROTOCOL_ERROR, GARBLED.saying("the upstream closed with a code that may not be sent"))
            return
        self._close_upstream(payload)
        self._client.close(frame(CLOSE, payload))
        self._release(self._log.ending(stated_code(payload), by_client=by_client))

    def _upstream_is_late(self) -> None:
        if not self._stopped and self._clients_close is not None:
            self._end(self._clients_close, by_client=True)

    def _release(self, ending: Ending) -> None:
        """Seal the stream, and leave the upstream some time to close the connection after the close frames."""
        exchange, self._exchange = self._exchange, None
        self._seal(ending)
        if exchange is not None:
            exchange.resume()
            asyncio.get_running_loop().call_later(CLOSING_S, exchange.close)

    def _seal(self, ending: Ending) -> None:
        self.stream.count(UNFINISHED, 0)
        self.seal(ending, [], b"")
