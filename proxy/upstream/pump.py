"""The one writer of a stream: what its exchange receives, it cuts into frames and appends.

It also decides how the stream ended (law 7), and measures it. Hot path: `received`.
"""

from collections.abc import Callable, Sequence
from time import monotonic

from proxy.dialects.dialect import Dialect
from proxy.stream.endings import (
    COMPLETE,
    FRAME_LIMIT,
    UPSTREAM_ERROR,
    UPSTREAM_RESET,
    Ending,
    ending_of,
)
from proxy.stream.on_disconnect import OnDisconnect
from proxy.stream.stream import Stream
from proxy.upstream.bypass import Bypass
from proxy.upstream.connection import LONG_READ
from proxy.upstream.exchange import Exchange
from proxy.upstream.stream_writer import StreamWriter
from proxy.wire.errors import TooLarge, UpstreamError
from proxy.wire.sse import Splitter

_COLON = 58  # begins a comment


class Pump(StreamWriter):
    """The writer of one stream: a Receiver of its exchange."""

    __slots__ = (
        "_at_frame",
        "_early",
        "_hidden",
        "_hides",
        "_max_frame_bytes",
        "_note",
        "_splitter",
        "_vitals",
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
        self._early = True  # the first answer text has not come
        self._at_frame = False  # the next read begins a frame, and no first token is sought in it
        self._note = stream.vitals.times.append
        self._hides = stream.dialect.frames.only_counts if hides_usage else None  # tells of a frame nobody asked for
        self._hidden: Sequence[bytes] = ()

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
        if self._early and not all(map(stream.dialect.frames.thinking, frames)):
            return False
        end = stream.extend(frames, chunks)
        stream.fed_at = at
        if len(frames) == 1:
            self._note(at)
        else:
            self._vitals.times += [at] * len(frames)
        if end & 63 < len(frames):
            self._now_and_then(at)
        return True

    def bypassed(self, frames: list[bytes], times: list[float]) -> None:
        """Take frames that were sent on at these times."""
        stream = self.stream
        stream.fed_at = times[-1]
        if self._early and not all(map(stream.dialect.frames.thinking, frames)):
            for frame, at in zip(frames, times, strict=True):
                self._look([frame], at)
        else:
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
        if not frames:
            self._vitals.first_byte_at = self._vitals.first_byte_at or at
            if not self._splitter.in_comment:
                self.stream.fed_at = at
            self._at_frame = False
            return
        if self._hides is not None and not (frames := self._shown(frames)):
            return
        stream = self.stream
        end = stream.extend(frames)
        if self._early:
            self._look(frames, at)
        elif len(frames) == 1 and frames[0][0] != _COLON:
            stream.fed_at = at
            self._note(at)
        elif self._vitals.note(frames, at):
            stream.fed_at = at
        sought = self._early and not self._vitals.first_token_at
        self._at_frame = not (sought or self._splitter.holds or self._hides)
        self._try_bypass()
        if end & 63 < len(frames):
            self._now_and_then(at)

    def ended(self, data: bytes, at: float, error: UpstreamError | None) -> None:
        self.stream.end_bypass()
        try:
            frames = self._splitter.feed(data) if data else []
        except TooLarge as exc:
            self.stop(FRAME_LIMIT.saying(exc.message))
            return
        tail = self._splitter.tail
        if error is None and tail and _is_whole(tail, self.stream.dialect):
            frames.append(tail)  # it lacks only its blank line
            tail = b""
        if self._hides is not None:
            frames = self._shown(frames)
        if frames:
            self._look(frames, at)
        self.seal(self._judge(error, tail, frames), frames, tail)

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
        if self._terminal_seen(()):  # openai-python 3.x leaves straight after [DONE]: that is an end, not an abort
            self.stop(COMPLETE)
        else:
            super().last_left()

    def _shown(self, frames: list[bytes]) -> list[bytes]:
        """Keep back the usage that was asked for by the proxy alone: the one exception to law 1, off by default."""
        assert self._hides is not None
        hidden = [frame for frame in frames if self._hides(frame)]
        if not hidden:
            return frames
        self._hidden = hidden
        return [frame for frame in frames if frame not in hidden]

    def _now_and_then(self, at: float) -> None:
        """Do what need not be done with every read: when another 64 frames are in the log."""
        self.overhead(monotonic() - at)
        self._vitals.fold()
        self.stream.log.mark()
        self._try_bypass()

    def _try_bypass(self) -> None:
        """Have the one follower, if there is just one, get events past the log."""
        stream, exchange = self.stream, self._exchange
        if stream.bypass is not None or exchange is None or not self._at_frame or self._max_frame_bytes < LONG_READ:
            return
        follower = stream.lone_follower()
        found = None if follower is None else follower.sink.transport()
        if found is not None and found[1]:
            stream.bypass = Bypass(self, exchange, found[0])

    def _look(self, frames: list[bytes], at: float) -> None:
        vitals = self._vitals
        vitals.first_byte_at = vitals.first_byte_at or at
        if vitals.early(frames, at):
            self.stream.fed_at = at
        self._early = not vitals.first_content_at

    def _terminal_seen(self, frames: Sequence[bytes]) -> bool:
        """Tell whether the dialect's last word is in the log, or in the frames that come last."""
        terminal = self.stream.dialect.frames.terminal
        return any(map(terminal, reversed(frames[-4:]))) or any(map(terminal, reversed(self.stream.log.frames[-4:])))

    def _judge(self, error: UpstreamError | None, tail: bytes, frames: list[bytes]) -> Ending:
        """Decide how the stream ended, from how its response did."""
        if self._terminal_seen(frames):
            return COMPLETE
        if error is not None:
            return ending_of(error)
        if tail.strip():
            return UPSTREAM_RESET.saying(f"the upstream ended within a frame, {len(tail)} bytes of it came")
        if self._exchange is not None and not self._exchange.framed and not self._finished(frames):
            # Nothing tells a close-delimited body that is whole from one that broke off, but its own last word.
            return UPSTREAM_RESET.saying("the upstream closed the connection before the stream was finished")
        return COMPLETE

    def _finished(self, frames: list[bytes]) -> bool:
        last = (self.stream.log.frames[-3:] + frames)[-3:]
        return self.stream.dialect.frames.summary(last).finish_reason is not None

    @property
    def tail(self) -> bytes:
        return self._splitter.tail

    def conclude(self, ending: Ending, frames: list[bytes]) -> Ending:
        """Read the vitals off the last frames; an error event among them is what ended the stream."""
        frames_of = self.stream.dialect.frames
        last = self.stream.log.frames[-6:] + frames
        self._vitals.conclude(last, self._hidden)
        if ending is not COMPLETE or not self._vitals.summary.failed:
            return ending
        unrecognised = not any(map(frames_of.reports, last))
        message = "the upstream reported an error"
        return UPSTREAM_ERROR._replace(message=message, clean=True, unrecognised=unrecognised)


def _is_whole(tail: bytes, dialect: Dialect) -> bool:
    """Tell whether an unterminated tail lacks only its blank line: it ends a line, or is the dialect's last word."""
    return bool(tail.strip()) and (tail.endswith((b"\n", b"\r")) or dialect.frames.terminal(tail))
