"""The one writer of a stream: what its exchange receives, it cuts into frames and appends.

It also decides how the stream ended (law 7), and measures it. Hot path: `received`.
"""

from collections.abc import Callable
from time import monotonic

from proxy.stream.endings import CLIENT_GONE, COMPLETE, FRAME_LIMIT, UPSTREAM_ERROR, UPSTREAM_RESET, Ending, ending_of
from proxy.stream.stream import Stream
from proxy.upstream.bypass import Bypass
from proxy.upstream.connection import LONG_READ
from proxy.upstream.exchange import Exchange
from proxy.upstream.on_disconnect import OnDisconnect
from proxy.upstream.stream_writer import StreamWriter
from proxy.wire.errors import TooLarge, UpstreamError
from proxy.wire.sse import Splitter

_USAGE_S = 0.05  # for a usage that comes after the last word, before those who wait for the answer alone are answered


class Pump(StreamWriter):
    """The writer of one stream: a Receiver of its exchange."""

    __slots__ = (
        "_at_frame",
        "_count",
        "_hides",
        "_max_frame_bytes",
        "_reader",
        "_splitter",
        "_vitals",
        "ended_at",
        "is_ordinary",
        "overhead",
    )

    def __init__(
        self,
        stream: Stream,
        on_disconnect: OnDisconnect,
        max_frame_bytes: int,
        overhead: Callable[[float], object],
        hides_usage: bool = False,
    ) -> None:
        super().__init__(stream, on_disconnect)
        self._vitals = stream.vitals
        self.overhead = overhead
        self._splitter = Splitter(max_frame_bytes)
        self._max_frame_bytes = max_frame_bytes
        self.ended_at = 0.0  # when the dialect's last word came
        self._at_frame = False  # the next read begins a frame
        self._count = stream.vitals.times.append
        self._reader = stream.vitals.reader
        self.is_ordinary: Callable[[bytes], bool] = self._reader.ordinary
        self._hides = stream.dialect.frames.only_counts if hides_usage else None  # tells of a frame nobody asked for

    def start(self, exchange: Exchange) -> None:
        """Take the exchange's body from now on."""
        self._exchange = exchange
        self.stream.fed_at = monotonic()
        exchange.progress = self
        exchange.attach(self, self.take_events)

    # Receiver

    def take_events(self, frames: list[bytes], chunks: bytes, at: float) -> bool:
        """Take a read that is whole frames, none of them a comment, as almost all are: the short way."""
        if not self._at_frame or len(chunks) > self._max_frame_bytes:
            return False
        stream = self.stream
        end = stream.extend(frames, chunks)
        if len(frames) == 1 and self.is_ordinary(frames[0]):
            stream.fed_at = at
            self._count(at)
        else:
            self.note(frames, at, self._vitals.times)
            self._try_bypass()  # if it was the first token
        if end & 63 < len(frames):
            self._now_and_then(at)
        return True

    def bypassed(self, frames: list[bytes], times: list[float], at: float) -> None:
        """Take frames that were sent on, the last one at a time, those with text among them at these."""
        stream = self.stream
        stream.fed_at = at
        self._vitals.times += times
        self._vitals.fold()
        stream.bypassed(frames)

    def received(self, data: bytes, at: float) -> None:
        self.stream.end_bypass()
        try:
            frames = self._splitter.feed(data)
        except TooLarge as exc:
            self.stop(FRAME_LIMIT.saying(exc.message))
            return
        if self._splitter.holds or self.holds_unfinished:
            self.count_unfinished(self._splitter.held_bytes)
        if not frames:
            self._vitals.first_byte_at = self._vitals.first_byte_at or at
            if not self._splitter.in_comment:
                self.stream.fed_at = at
            self._at_frame = False
            return
        shown = frames if self._hides is None else self._shown(frames)
        end = self.stream.extend(shown) if shown else 0
        self.note(frames, at, self._vitals.times)
        self._at_frame = not (self._splitter.holds or self._hides)
        self._try_bypass()
        if shown and end & 63 < len(shown):
            self._now_and_then(at)

    def ended(self, data: bytes, at: float, error: UpstreamError | None) -> None:
        self.stream.end_bypass()
        try:
            frames = self._splitter.feed(data) if data else []
        except TooLarge as exc:
            self.stop(FRAME_LIMIT.saying(exc.message))
            return
        tail = self._splitter.tail
        self._vitals.note(frames, at, self._vitals.times)
        if error is None and tail.strip() and self._is_whole(tail, at):
            frames.append(tail)  # it lacks only its blank line
            tail = b""
        if self._hides is not None:
            frames = self._shown(frames)
        self.seal(self._judge(error, tail), frames, tail)

    # Progress

    @property
    def fed_at(self) -> float:
        bypass = self.stream.bypass
        return self.stream.fed_at if bypass is None else bypass.fed_at

    @property
    def awaits_token(self) -> bool:
        return not self._vitals.first_token_at

    # Writer

    def resume(self) -> None:
        self.stream.fed_at = monotonic()  # the silence was ours
        super().resume()

    def last_left(self) -> None:
        """Close upstream at once, after the grace, or not at all."""
        if not self._reader.ended:  # openai-python 3.x leaves straight after [DONE]: that is an end, not an abort,
            super().last_left()  # and the exchange is over in a moment

    def given_up(self) -> Ending:
        """A stream that has failed by then has failed."""
        return CLIENT_GONE if self._reader.failure is None else self._judge(None, b"")

    def _shown(self, frames: list[bytes]) -> list[bytes]:
        """Keep back the usage that was asked for by the proxy alone: the one exception to law 1, off by default."""
        hides = self._hides
        return frames if hides is None else [frame for frame in frames if not hides(frame)]

    def _now_and_then(self, at: float) -> None:
        """Do what need not be done with every read: when another 64 frames are in the log."""
        self.overhead(monotonic() - at)
        self._vitals.fold()
        self.stream.take_stock()
        self._try_bypass()

    def _try_bypass(self) -> None:
        """Have the one follower, if there is just one, get events past the log."""
        stream, exchange = self.stream, self._exchange
        if stream.bypass is not None or exchange is None or not self._at_frame or self._max_frame_bytes < LONG_READ:
            return
        if not self._vitals.first_token_at:
            return
        follower = stream.lone_follower()
        found = None if follower is None else follower.sink.transport()
        if found is not None and found[1]:
            stream.bypass = Bypass(self, exchange, found[0])

    def note(self, frames: list[bytes], at: float, times: list[float]) -> None:
        """Take in what frames say that are not just ordinary; append to `times` when those with text came."""
        if self._vitals.note(frames, at, times):
            self.stream.fed_at = at
        if self._reader.ended or self._reader.failure is not None:
            self._conclude(at)

    def _conclude(self, at: float) -> None:
        """Keep nobody waiting who has all of the answer, or what failed of it; the response itself may go on.

        After the last word the upstream is left a moment to end it, so that its connection serves the next request.
        """
        said, first = self._reader, not self.ended_at
        if said.ended:
            self.ended_at = self.ended_at or at
        if self.stream.outcome is not None:
            return
        if said.failure is not None or said.usage is not None:
            self.stream.conclude(self._judge(None, b""))
        elif first:  # some say the usage behind the last word
            self.stream.conclude_after(self._judge(None, b""), _USAGE_S)

    def _is_whole(self, tail: bytes, at: float) -> bool:
        """Take note of an unterminated tail; tell whether it lacks only its blank line.

        So it is if it ends a line, or says that all is over.
        """
        known = self._reader.ended, self._reader.failure
        self._vitals.note([tail], at, self._vitals.times)
        return tail.endswith((b"\n", b"\r")) or known != (self._reader.ended, self._reader.failure)

    def _judge(self, error: UpstreamError | None, tail: bytes) -> Ending:
        """Decide how the stream ended, from what it said and from how its response ended."""
        said, failure = self._reader, self._reader.failure
        if failure is not None:
            # Mode raw ends as the response did; modes of events say what its clients would not take for an error.
            clean = said.ended or (error is None and not tail.strip())
            message = f"the upstream reported an error: {failure.reason}"
            return UPSTREAM_ERROR.saying(message)._replace(clean=clean, unrecognised=not failure.recognised)
        if said.ended and said.brought:
            return COMPLETE
        if error is not None and not said.ended:
            return ending_of(error)
        if tail.strip() and not said.ended:
            return UPSTREAM_RESET.saying(f"the upstream ended within a frame, {len(tail)} bytes of it came")
        if said.brought and said.finished:
            return COMPLETE
        # A response of a known length ended as it should, and so does mode raw. Nothing tells a close-delimited one
        # that is whole from one that broke off, but its own last word.
        clean = said.ended or self._exchange is None or self._exchange.framed
        what = "finished" if said.brought else "begun"
        message = f"the upstream ended its response before the answer had {what}"
        return UPSTREAM_RESET.saying(message)._replace(clean=clean, unrecognised=True)

    @property
    def tail(self) -> bytes:
        return self._splitter.tail

    def seal(self, ending: Ending, frames: list[bytes], tail: bytes) -> None:
        """End the stream with its last frames; only the first call counts."""
        self._vitals.fold()
        super().seal(ending, frames, tail)
