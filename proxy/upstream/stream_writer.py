"""What the writers of streams have in common: closing an upstream connection that nobody needs, and ending the stream.

A writer belongs to its stream, not to the handler of the request that began it. While the upstream has not responded
yet, `opening` is the task that waits for it. Then `start` is called if the response is an event stream, otherwise
`keep`.
"""

import asyncio
from typing import Any

from proxy.stream.endings import CLIENT_GONE, INTERNAL_ERROR, Ending, ending_of
from proxy.stream.faults import log_fault
from proxy.stream.ledger import UNFINISHED
from proxy.stream.stream import Stream
from proxy.timers import Timer
from proxy.upstream.exchange import Exchange
from proxy.upstream.on_disconnect import OnDisconnect
from proxy.wire.errors import UpstreamError


class StreamWriter:
    """The one writer of a stream: it seals the stream once, and stops when nobody follows or holds it."""

    # Without __slots__, so that what few writers have need not be set on each.
    opening: asyncio.Task[Any] | None = None
    """Set while an exchange is being opened or may be reopened."""
    holds_unfinished = False
    """Whether the ledger counts an incomplete frame of this stream."""
    _grace: Timer | None = None

    def __init__(self, stream: Stream, on_disconnect: OnDisconnect) -> None:
        self.stream = stream
        self.on_disconnect = on_disconnect
        self._exchange: Exchange | None = None
        self._stopped = False
        stream.writer = self

    def start(self, exchange: Exchange) -> None:
        """Receive the exchange's body, which is an event stream, from now on."""
        raise NotImplementedError

    def keep(self, exchange: Exchange, complete: Ending) -> None:
        """Receive a body that is not an event stream: each read becomes a frame. `complete`: how it ends regularly."""
        self._exchange = exchange
        exchange.attach(_Verbatim(self, complete))

    # Writer

    def pause(self) -> None:
        if self._exchange is not None:
            self._exchange.pause()

    def resume(self) -> None:
        if self._exchange is not None:
            self._exchange.resume()

    def followed(self) -> None:
        """Do nothing: all followers are served from the log."""

    def last_left(self) -> None:
        """Close the upstream connection at once, after the grace period, or not at all."""
        self.stop_after(self.on_disconnect.grace_s)

    def stop_after(self, grace_s: float | None) -> None:
        """Close the upstream connection after a grace period, unless the stream is wanted by then; None: don't."""
        if grace_s == 0:
            self.stop(self.given_up())
        elif grace_s is not None:
            if self._grace is not None:
                self._grace.cancel()
            self._grace = Timer(grace_s, self._grace_over)

    def stop(self, ending: Ending) -> None:
        """Close the upstream connection and seal the stream."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.close()
        opening, self.opening = self.opening, None  # a cancelled task refers to its frames, and so to this
        if opening is not None:
            opening.cancel()
        self.seal(ending, [], self.tail)

    def failed(self, fault: Exception) -> None:
        """Close upstream and seal the stream, because its writer has raised an error."""
        log_fault("the writer of a stream", fault)
        self.stop(INTERNAL_ERROR)

    @property
    def tail(self) -> bytes:
        """The bytes after the last complete frame."""
        return b""

    def count_unfinished(self, size_bytes: int) -> None:
        """Set in the ledger the size of the incomplete frame that is held; 0 for none."""
        self.holds_unfinished = size_bytes > 0
        self.stream.count(UNFINISHED, size_bytes)

    def seal(self, ending: Ending, frames: list[bytes], tail: bytes) -> None:
        """End the stream with its last frames; only the first call counts."""
        if self._stopped:
            return
        self._stopped = True
        if self._grace is not None:
            self._grace.cancel()
        self.stream.seal(ending, frames, tail)
        self._exchange = None

    def given_up(self) -> Ending:
        """Return how the stream ends when nobody wants it any more."""
        return CLIENT_GONE

    def _grace_over(self) -> None:
        if not self.stream.wanted:
            self.stop(self.given_up())


class _Verbatim:
    """A Receiver that appends what it receives unchanged."""

    __slots__ = ("_complete", "_writer")

    def __init__(self, writer: StreamWriter, complete: Ending) -> None:
        self._writer = writer
        self._complete = complete

    def received(self, data: bytes, at: float) -> None:
        stream = self._writer.stream
        stream.fed_at = at
        stream.extend([data])

    def ended(self, data: bytes, at: float, error: UpstreamError | None) -> None:
        ending = self._complete if error is None else ending_of(error)
        self._writer.seal(ending, [data] if data else [], b"")

    def failed(self, fault: Exception) -> None:
        self._writer.failed(fault)
