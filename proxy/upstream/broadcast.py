"""The one writer of a stream that has no end: while somebody follows, it keeps an exchange open at one URL.

When the upstream breaks off or ends, nothing is sealed: followers notice silence and heartbeats, and the upstream is
asked again, as a browser's EventSource does it (WHATWG HTML, 9.2.3): after the reconnection time, with the last event
id, and ever later while it does not answer. Must not know who follows, nor what the events say.
Keeps law 4 (one writer); of law 1 it leaves out what an upstream had begun to say when it broke off.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable

from proxy.stream.background import BackgroundLoop
from proxy.stream.endings import COMPLETE, FRAME_LIMIT, UPSTREAM_ERROR
from proxy.stream.stream import Stream
from proxy.upstream.exchange import Exchange
from proxy.upstream.on_disconnect import OnDisconnect
from proxy.upstream.stream_writer import StreamWriter
from proxy.wire.errors import ProxyError, TooLarge, UpstreamError
from proxy.wire.reconnection import Reconnection
from proxy.wire.sse import BOM, Splitter

RECONNECTION_S = 1.0  # until the upstream states another by `retry:`
LEAST_S = 0.1  # whatever it states
_LONGEST_S = 30.0  # unless it states more
_JITTER = 0.25  # never earlier than the reconnection time, at most by this part of it later
_NO_CONTENT = 204  # "don't come back" (WHATWG HTML, 9.2.3)
_FOR_NOW = (408, 425, 429)  # client errors that say: later (RFC 9110 15.5.9, RFC 8470, RFC 6585)

_sleep = asyncio.sleep

Ask = Callable[[bytes], Awaitable[Exchange]]
"""Sends the request once more; the argument is the last event id, or empty. Raises: ProxyError."""


class Broadcast(StreamWriter):
    """The writer of one shared stream: a Receiver of one exchange after another."""

    __slots__ = (
        "_ask",
        "_background",
        "_fresh",
        "_max_frame_bytes",
        "_on_reopened",
        "_over",
        "_reconnection",
        "_splitter",
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

        `keep_s`: how long the exchange stays open when the last follower has left.
        """
        super().__init__(stream, OnDisconnect(keep_s))
        self._ask = ask
        self._background = background
        self._max_frame_bytes = max_frame_bytes
        self._on_reopened = on_reopened
        self._reconnection = Reconnection(RECONNECTION_S, last_event_id)
        self._splitter = Splitter(max_frame_bytes)
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._fresh = True  # no frame of the exchange has come

    def start(self, exchange: Exchange) -> None:
        """Take the first exchange's body from now on, and that of those after it."""
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
            # A byte order mark leads a body, not a stream: amid it, it would be part of a field's name.
            frames[0] = frames[0].removeprefix(BOM)
        self._reconnection.note(frames)
        stream.fed_at = at
        stream.extend(frames)
        if stream.log.end & 63 < len(frames):
            stream.take_stock()

    async def _keep_open(self, exchange: Exchange | None) -> None:
        while exchange is not None:
            with self._background:
                await self._listen(exchange)
            exchange.close()  # nothing, unless that failed
            exchange = await self._reopen()

    async def _listen(self, exchange: Exchange) -> None:
        """Take an exchange's body to its end."""
        self._exchange = exchange
        self._over = asyncio.get_running_loop().create_future()
        self._splitter = Splitter(self._max_frame_bytes)  # drops an incomplete frame of the last body
        self.count_unfinished(0)
        self._fresh = True
        exchange.endless = True
        exchange.attach(self)
        await self._over

    async def _reopen(self) -> Exchange | None:
        """Ask until there is an event stream again; None, when the upstream wants no more of this: it is sealed."""
        failures = 0
        while True:
            await _sleep(self._delay_s(failures))
            failures += 1
            self._on_reopened()
            exchange: Exchange | None = None
            with self._background, contextlib.suppress(ProxyError):  # of the upstream, or of the queue before it
                exchange = await self._ask(self._reconnection.last_event_id)
            if exchange is None:
                continue
            if exchange.is_readable_stream:
                return exchange
            exchange.close()
            status = exchange.status
            if status < 500 and status not in _FOR_NOW:
                refused = UPSTREAM_ERROR.saying(f"asked again, the upstream answered with status {status}")
                self.seal(COMPLETE if status == _NO_CONTENT else refused, [], b"")
                return None

    def _delay_s(self, failures: int) -> float:
        """Return how long to wait: the reconnection time, doubled with each failure in a row."""
        stated_s = max(self._reconnection.retry_s, LEAST_S)
        delay_s = min(stated_s * 2.0 ** min(failures, 16), max(stated_s, _LONGEST_S))
        return delay_s * random.uniform(1, 1 + _JITTER)
