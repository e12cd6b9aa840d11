"""The one writer of a stream that has no end: it keeps a request to one URL open while somebody follows the stream.

When the upstream's response ends or breaks off, the stream is not sealed: followers receive only heartbeats, and the
writer reconnects as a browser's EventSource does (WHATWG HTML, 9.2.3): after the reconnection time, with the last
event id, and with growing delays while the upstream fails. Must not know who follows, nor what the events mean.
Keeps law 4 (one writer), and law 1 except for an incomplete frame at the end of a response, which is dropped.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Final

from proxy.stream.endings import COMPLETE, FRAME_LIMIT, UPSTREAM_ERROR
from proxy.stream.faults import BackgroundLoop
from proxy.stream.stream import Stream
from proxy.upstream.exchange import Exchange
from proxy.upstream.on_disconnect import OnDisconnect
from proxy.upstream.stream_writer import StreamWriter
from proxy.wire.errors import ProxyError, TooLarge, UpstreamError
from proxy.wire.reconnection import Reconnection
from proxy.wire.sse import BOM, Splitter

RECONNECTION_S = 1.0  # until the upstream sends another time in `retry:`
LEAST_S = 0.1  # also if the upstream sends less
_LONGEST_S: Final = 30.0  # unless the upstream sends more
_JITTER: Final = 0.25  # the largest random addition to a delay, as a fraction of it
_NO_CONTENT: Final = 204  # tells clients to stop reconnecting (WHATWG HTML, 9.2.3)
# Client errors that are transient (RFC 9110 15.5.9, RFC 8470, RFC 6585).
_FOR_NOW: Final[tuple[int, ...]] = (408, 425, 429)

_sleep = asyncio.sleep

Ask = Callable[[bytes], Awaitable[Exchange]]
"""Sends the request again; the argument is the last event id, or empty. Raises: ProxyError."""


class Broadcast(StreamWriter):
    """The writer of one stream without end: a Receiver of one exchange after another."""

    __slots__ = (
        "_ask",
        "_background",
        "_fresh",
        "_max_frame_bytes",
        "_on_reopened",
        "_over",
        "_reconnection",
        "_splitter",
        "resumed_from",
    )

    def __init__(
        self,
        stream: Stream,
        ask: Ask,
        *,
        background: BackgroundLoop,
        last_event_id: bytes,
        keep_s: float,
        max_frame_bytes: int,
        on_reopened: Callable[[], object],
    ) -> None:
        """`last_event_id` was sent with the first request.

        `keep_s`: how many seconds the exchange stays open after the last follower has left.
        """
        super().__init__(stream, OnDisconnect(keep_s))
        self._ask = ask
        self._background = background
        self._max_frame_bytes = max_frame_bytes
        self._on_reopened = on_reopened
        self.resumed_from = last_event_id
        self._reconnection = Reconnection(RECONNECTION_S, last_event_id)
        self._splitter = Splitter(max_frame_bytes)
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._fresh = True  # no frame of the current exchange has come

    def start(self, exchange: Exchange) -> None:
        """Receive the first exchange's body from now on, and then those of the exchanges after it."""
        self._exchange = exchange
        self.opening = asyncio.create_task(self._keep_open(exchange))

    # Receiver

    def received(self, data: bytes, at: float) -> None:
        try:
            frames = self._splitter.feed(data)
        except TooLarge as exc:
            self.stop(FRAME_LIMIT.saying(exc.message))
            return
        if self._splitter.holds or self.holds_unfinished:
            self.count_unfinished(self._splitter.held_bytes)
        if frames:
            self._extend(frames, at)

    def ended(self, data: bytes, at: float, error: UpstreamError | None) -> None:
        self._exchange = None
        if data:
            self.received(data, at)
        if not self._over.done():
            self._over.set_result(None)

    # Writer

    def pause(self) -> None:
        """Stop reading a response that is not a stream, or any response while too much memory is held.

        Otherwise the log of a stream drops its oldest frames instead of waiting for clients.
        """
        if self.stream.kept_head is not None or self.stream.throttled:
            super().pause()

    def _extend(self, frames: list[bytes], at: float) -> None:
        stream = self.stream
        if self._fresh:
            self._fresh = False
            stream.vitals.first_byte_at = stream.vitals.first_byte_at or at
            # A byte order mark may begin a body; within the stream it would be a part of a field's name.
            frames[0] = frames[0].removeprefix(BOM)
        self._reconnection.note(frames)
        stream.fed_at = at
        stream.extend(frames)
        if stream.log.end & 63 < len(frames):
            stream.take_stock()

    async def _keep_open(self, exchange: Exchange | None) -> None:
        try:
            while exchange is not None:
                with self._background:
                    await self._listen(exchange)
                exchange.close()  # has no effect unless that failed
                exchange = await self._reopen()
        except Exception as fault:
            self.opening = None  # not to be cancelled by itself
            self.failed(fault)

    async def _listen(self, exchange: Exchange) -> None:
        """Receive an exchange's body until it ends."""
        self._exchange = exchange
        self._over = asyncio.get_running_loop().create_future()
        self._splitter = Splitter(self._max_frame_bytes)  # drops an incomplete frame of the last body
        self.count_unfinished(0)
        self._fresh = True
        exchange.endless = True
        exchange.attach(self)
        await self._over

    async def _reopen(self) -> Exchange | None:
        """Send requests until the response is an event stream; None, if the upstream ended it and it was sealed."""
        failures = 0
        while True:
            await _sleep(self._delay_s(failures))
            failures += 1
            self._on_reopened()
            exchange: Exchange | None = None
            with self._background, contextlib.suppress(ProxyError):  # of the upstream or of its queue
                exchange = await self._ask(self._reconnection.last_event_id)
            if exchange is None:
                continue
            if exchange.is_readable_stream:
                return exchange
            exchange.close()
            status = exchange.status
            if status < 500 and status not in _FOR_NOW:
                refused = UPSTREAM_ERROR.saying(f"on reconnecting, the upstream responded with status {status}")
                self.seal(COMPLETE if status == _NO_CONTENT else refused, [], b"")
                return None

    def _delay_s(self, failures: int) -> float:
        """Return how long to wait in seconds: the reconnection time, doubled with each failure in a row."""
        stated_s = max(self._reconnection.retry_s, LEAST_S)
        delay_s = min(stated_s * 2.0 ** min(failures, 16), max(stated_s, _LONGEST_S))
        return delay_s * random.uniform(1, 1 + _JITTER)
