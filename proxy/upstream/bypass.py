"""The shortest way of an event: sent on as it came, and into the log later, together with others.

A stream that one client follows, which has had everything and takes it as it comes, needs its log only when somebody
looks. So its events cross from connection to connection in one call; log, cursor and vitals are told of up to 64 of
them at once, which is when the caches are warm for it: 4 us less of 30 (C of the load harness). `Stream.log` settles
first, so nobody sees a log that lacks what was sent.
"""

from collections.abc import Callable
from time import monotonic
from typing import Protocol

from proxy.stream.interfaces import Transport
from proxy.stream.stream import Stream
from proxy.upstream.exchange import Exchange

# With these two, no more than 64 KiB of a stream are sent that the log, and the ledger of all logs, have not counted.
_FRAMES = 64
_LONG_READ = 1024  # bytes; one with more costs more than settling does


class Pump(Protocol):
    """The writer of the stream, as far as it is asked here."""

    stream: Stream
    overhead: Callable[[float], object]
    is_ordinary: Callable[[bytes], bool]

    def bypassed(self, frames: list[bytes], times: list[float], at: float) -> None:
        """Take frames that were sent on, the last one at a time, those with text among them at these."""

    def note(self, frames: list[bytes], at: float, times: list[float]) -> None:
        """Take in what frames say that are not just ordinary; append to `times` when those with text came."""

    def take_events(self, frames: list[bytes], chunks: bytes, at: float) -> bool:
        """Take a read that is whole events into the log."""

    def lose(self, fault: Exception) -> bool:
        """Know no more what the stream says, since its reader has raised an error; return False."""

    def failed(self, fault: Exception) -> None:
        """End, because what was sent on can't be taken into the log."""


class Bypass:
    """Sends events on to the one follower of a stream, from when it is made until `end`."""

    __slots__ = ("_at", "_exchange", "_frames", "_is_ordinary", "_pump", "_times", "_transport")

    def __init__(self, pump: Pump, exchange: Exchange, transport: Transport) -> None:
        self._pump = pump
        self._is_ordinary = pump.is_ordinary
        self._exchange = exchange
        self._transport = transport
        self._frames: list[bytes] = []  # sent on, and not in the log yet
        self._times: list[float] = []  # when each of them with text came
        self._at = 0.0  # when the last one came
        exchange.redirect(self.take_events)

    @property
    def fed_at(self) -> float:
        """When the last event came, in monotonic seconds."""
        return self._at if self._frames else self._pump.stream.fed_at

    def take_events(self, frames: list[bytes], chunks: bytes, at: float) -> bool:
        """Send a read that is whole events on; but by the log while earlier ones wait, for it has the limits."""
        transport = self._transport
        try:
            if transport.get_write_buffer_size():
                return self._log(frames, chunks, at)
            transport.write(chunks)
        except Exception:  # uvloop's RuntimeError, of a connection that was lost a moment ago; the sink deals with any
            return self._log(frames, chunks, at)
        self._frames += frames
        self._at = at
        try:
            ordinary = len(frames) == 1 and self._is_ordinary(frames[0])
        except Exception as fault:
            ordinary = self._pump.lose(fault)
            self._is_ordinary = self._pump.is_ordinary
        if ordinary:
            self._times.append(at)
        else:
            self._pump.note(frames, at, self._times)
        if len(self._frames) >= _FRAMES or len(chunks) > _LONG_READ:
            self._pump.overhead(monotonic() - at)
            self.settle()
        return True

    def settle(self) -> None:
        """Have the log take what was sent on."""
        frames, times = self._frames, self._times
        if frames:
            self._frames, self._times = [], []
            try:
                self._pump.bypassed(frames, times, self._at)
            except Exception as fault:
                self._pump.failed(fault)

    def end(self) -> None:
        """Settle, and send nothing on any more."""
        self.settle()
        self._pump.stream.bypass = None
        self._exchange.redirect(self._pump.take_events)

    def _log(self, frames: list[bytes], chunks: bytes, at: float) -> bool:
        self.settle()
        return self._pump.take_events(frames, chunks, at)
