"""The fast path of an event: forwarded to the clients at once, and appended to the log later, together with others.

If all followers of a stream have been sent everything so far, as it came, the log is needed only when somebody reads
it. So events go from connection to connection in one call, if there is a single follower, or one rank of them. The log,
the offset and the vitals are updated for up to 256 events at once, here called settling. Reading `Stream.log` settles
first, so nobody sees a log that lacks events which were sent.

So at most 64 KiB of a stream are sent before they are counted in the ledger; less if that much of every stream would be
a large part of the ledger's limit (`Stream.frames_ahead`).
"""

from collections.abc import Callable
from time import monotonic
from typing import Protocol

from proxy.machine import LONG_READ, MOST_FRAMES, Forward, Transport
from proxy.stream.interfaces import Bypassed
from proxy.stream.modes.projection import SPAN_BYTES
from proxy.stream.stream import Stream
from proxy.stream.subscription import Subscription
from proxy.upstream.exchange import Exchange


class Pump(Protocol):
    """The writer of the stream, as far as a Bypass uses it."""

    stream: Stream
    overhead: Callable[[float], object]
    is_ordinary: Callable[[bytes], bool]

    @property
    def surroundings(self) -> tuple[bytes, bytes] | None:
        """What precedes and follows the text of ordinary frames that differ in nothing else; None if not known."""

    def bypassed(self, piece: bytes, sizes: list[int], times: list[float], at: float) -> None:
        """Append frames, in one piece, that were forwarded; the last one came `at`, those with text at `times`."""

    def note(self, frames: list[bytes], at: float) -> None:
        """Read frames that are not ordinary, and note the times of those with text."""

    def take_events(self, frames: list[bytes], chunks: bytes, at: float) -> bool:
        """Append a read that consists of complete events to the log."""

    def reader_failed(self, fault: Exception) -> bool:
        """Stop reading frames, because the reader has raised; return False."""

    def failed(self, fault: Exception) -> None:
        """End the stream, because forwarded events could not be appended to the log."""


class Bypass:
    """Forwards events to the followers of a stream, from its creation until `end`."""

    __slots__ = ("_exchange", "_forward", "_head", "_is_ordinary", "_most", "_pump", "_tail", "_takes_long", "bypassed")

    def __init__(self, pump: Pump, exchange: Exchange, bypassed: Bypassed, transports: tuple[Transport, ...]) -> None:
        """`bypassed`: the one follower, or the rank that all are in. `transports`: what to write to."""
        self._pump = pump
        self._is_ordinary = pump.is_ordinary
        self._exchange = exchange
        self.bypassed = bypassed
        self._takes_long = isinstance(bypassed, Subscription)  # not a rank
        self._forward = Forward(transports)  # has the frames that are not in the log yet
        self._most = min(MOST_FRAMES, pump.stream.frames_ahead)  # the most frames that may be forwarded before settling
        self._forward.room = self._most - 1
        self._head: bytes | None = None  # what precedes the text of ordinary frames, and what follows it, if known
        self._tail: bytes | None = None
        self._redirect()

    @property
    def fed_at(self) -> float:
        """When the last event came, or reading began or resumed, in monotonic seconds."""
        forward, fed_at = self._forward, self._pump.stream.fed_at
        return max(forward.at, fed_at) if forward.waiting else fed_at  # not of the former alone: a pause may be over

    def unsettled(self, first: int) -> list[bytes]:
        """Return the frames that were forwarded and are not in the log yet, without the `first` ones."""
        return self._forward.frames(first)

    def take_events(self, frames: list[bytes], chunks: bytes, at: float) -> bool:
        """Forward a read that consists of complete events.

        It goes through the log instead while earlier bytes wait to be sent, because the log enforces the limits. So
        does a long one to a rank, whose members have turns then.
        """
        if not (self._takes_long or len(chunks) <= SPAN_BYTES) or not self._forward.send(chunks):
            return self._log(frames, chunks, at)
        try:
            ordinary = len(frames) == 1 and self._is_ordinary(frames[0])
        except Exception as fault:
            ordinary = self._pump.reader_failed(fault)
            self._is_ordinary = self._pump.is_ordinary
        if ordinary and self._forward.add(frames[0], at):
            return True
        piece, sizes, times = self._forward.drain(frames)
        if len(chunks) > LONG_READ or (ordinary and not self._forward.delay_s):  # as where `Forward` takes no event
            self._pump.overhead(monotonic() - at)
        if ordinary:
            times.append(at)
        self._append(piece, sizes, times, at)
        if not ordinary:
            self._pump.note(frames, at)
            if self._pump.stream.bypass is self:
                self._redirect()  # frames may have other surroundings now
        return True

    def settle(self) -> None:
        """Append the forwarded events to the log."""
        if self._forward.waiting:
            piece, sizes, times = self._forward.drain()
            self._append(piece, sizes, times, self._forward.at)

    def _append(self, piece: bytes, sizes: list[int], times: list[float], at: float) -> None:
        """Append forwarded frames to the log; the last one came `at`, those with text at `times`."""
        try:
            self._pump.bypassed(piece, sizes, times, at)
        except Exception as fault:
            self._pump.failed(fault)
        if self._forward.delay_s:
            self._pump.overhead(self._forward.delay_s)
            self._forward.delay_s = 0.0
        self._most = min(MOST_FRAMES, self._pump.stream.frames_ahead)
        self._forward.room = self._most - 1

    def end(self) -> None:
        """Settle, and stop forwarding."""
        self.settle()
        self._pump.stream.bypass = None
        self._exchange.redirect(self._pump.take_events)

    def _redirect(self) -> None:
        """Have reads come here: to `Forward` first, if it is known what surrounds the text of ordinary frames."""
        self._is_ordinary = self._pump.is_ordinary  # another one, once the reader has failed
        surroundings = self._pump.surroundings
        if surroundings is None or surroundings[0].startswith(b":"):  # a comment is left to the full parsers
            self._head = None
            self._exchange.redirect(self.take_events)
            return
        head, tail = surroundings
        if head is self._head and tail is self._tail:
            return  # it was done before, as for most frames that are not ordinary
        self._head, self._tail = head, tail
        self._forward.surround(head, tail + b"\r\n")
        self._exchange.redirect(self.take_events, self._forward.take)

    def _log(self, frames: list[bytes], chunks: bytes, at: float) -> bool:
        self.settle()
        taken = self._pump.take_events(frames, chunks, at)
        if self._pump.stream.bypass is self:
            self._redirect()  # as above
        return taken
