"""The one writer of a stream: it cuts what its exchange receives into frames and appends them to the log.

It also has each frame read by the dialect's reader, notes the times of tokens, and decides how the stream ended (law 7,
`_judge`). Time-outs are checked by the exchange, which asks the pump for its progress. Hot paths: `take_events`,
`received`.
"""

from collections.abc import Callable
from time import monotonic
from typing import Final

from proxy.stream.endings import (
    CLIENT_GONE,
    COMPLETE,
    FRAME_LIMIT,
    INTERNAL_ERROR,
    UPSTREAM_ERROR,
    UPSTREAM_RESET,
    Ending,
    ending_of,
)
from proxy.stream.faults import log_fault
from proxy.stream.stream import Stream
from proxy.upstream.bypass import Bypass
from proxy.upstream.connection import LONG_READ
from proxy.upstream.exchange import NOT_ENDED, Exchange
from proxy.upstream.on_disconnect import OnDisconnect
from proxy.upstream.stream_writer import StreamWriter
from proxy.wire.errors import TooLarge, UpstreamError
from proxy.wire.sse import Splitter

_ENDS_WITHIN_S: Final = 0.75  # after all of the last frame but its blank line
_LOOKED_AT_BYTES: Final = 256 * 1024  # of an incomplete frame, at every read
_MAY_END: Final = b"\n\r}]"  # the last byte of a read that may have all of a frame but its blank line
_USAGE_S: Final = 0.05  # how long followers that wait for the answer alone wait for a usage after the final event
_LAST_WORDS_S: Final = 1.0  # how long frames such as a usage are read after the answer, though nobody follows any more


class Pump(StreamWriter):
    """The writer of one stream: a Receiver of its exchange."""

    __slots__ = (
        "_at_frame",
        "_has_reader_failed",
        "_hides",
        "_lacks_only_end",
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
        self.ended_at = 0.0  # when the dialect's final event came
        self._lacks_only_end = False  # the incomplete frame that is held is the last one that the stream needs
        self._at_frame = False  # the next read begins a frame
        self._has_reader_failed = False  # the reader has raised, so it is not known any more how the stream ends
        self._reader = stream.vitals.reader
        self.is_ordinary: Callable[[bytes], bool] = self._reader.ordinary
        self._hides = stream.dialect.frames.only_counts if hides_usage else None  # whether to hide a frame

    def start(self, exchange: Exchange) -> None:
        """Receive the exchange's body from now on."""
        self._exchange = exchange
        self.stream.fed_at = monotonic()
        exchange.progress = self
        exchange.attach(self, self.take_events)

    # Receiver

    def take_events(self, frames: list[bytes], chunks: bytes, at: float) -> bool:
        """Append a read that consists of complete frames without comments, as almost all do: the fast path."""
        if not self._at_frame or len(chunks) > self._max_frame_bytes:
            return False
        stream = self.stream
        end = stream.extend(frames, chunks)
        try:
            ordinary = len(frames) == 1 and self.is_ordinary(frames[0])
        except Exception as fault:
            ordinary = self.reader_failed(fault)
        if ordinary:
            stream.fed_at = at
            self._vitals.times.append(at)
        else:
            self.note(frames, at)
            self._try_bypass()  # if it was the first token
        if end & 63 < len(frames):
            self._every_64_frames(at)
        return True

    def bypassed(self, piece: bytes, sizes: list[int], times: list[float], at: float) -> None:
        """Append frames, in one piece, that a Bypass forwarded; the last one came `at`, those with text at `times`."""
        stream = self.stream
        stream.fed_at = max(stream.fed_at, at)  # they may have come before a pause that is over
        self._vitals.times += times
        self._vitals.fold()
        stream.bypassed(piece, sizes)

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
            self._note_unfinished()
            self._look_ahead(data, at)
            return
        self._lacks_only_end = False
        shown = frames if self._hides is None else self._shown(frames)
        end = self.stream.extend(shown) if shown else 0
        self.stream.end_ahead()
        holds = self._splitter.holds
        if holds or self.holds_unfinished:
            self._note_unfinished()
        self.note(frames, at)
        if holds:
            self._look_ahead(data, at)
        self._at_frame = not (holds or self._hides)
        self._try_bypass()
        if shown and end & 63 < len(shown):
            self._every_64_frames(at)

    def _note_unfinished(self) -> None:
        """Count the incomplete frame that is held, if any, and send its lines.

        They go to followers that need not wait for its end, which some upstreams delay.
        """
        splitter = self._splitter
        if splitter.holds_lines and self._hides is None:
            self.stream.send_ahead(splitter.tail)
        self.count_unfinished(splitter.held_bytes + self.stream.ahead_bytes)

    def _look_ahead(self, data: bytes, at: float) -> None:
        """Look for the end of the answer in an incomplete frame: some upstreams leave its blank line out, and wait."""
        self._look_soon()
        held_bytes = self._splitter.held_bytes
        if not 0 < held_bytes <= _LOOKED_AT_BYTES or data[-1] not in _MAY_END:
            return
        if self.ended_at or self._has_reader_failed:
            return
        try:
            self._lacks_only_end = self._reader.lacks_only_end(self._splitter.tail)
        except Exception as fault:
            self.reader_failed(fault)
            return
        if self._reader.ended:
            self._conclude(at)

    def ended(self, data: bytes, at: float, error: UpstreamError | None) -> None:
        if error is NOT_ENDED:
            error = None  # nothing was missing
        self.stream.end_bypass()
        try:
            frames = self._splitter.feed(data) if data else []
        except TooLarge as exc:
            self.stop(FRAME_LIMIT.saying(exc.message))
            return
        tail = self._splitter.tail
        self._read(frames, at)
        if error is None and tail.strip() and self._is_whole(tail, at):
            frames.append(tail)  # only its blank line is missing
            tail = b""
        if self._hides is not None:
            frames = self._shown(frames)
        self.seal(self._judge(error, tail), frames, tail)

    @property
    def surroundings(self) -> tuple[bytes, bytes] | None:
        """What precedes and follows the text of ordinary frames that differ in nothing else; None if not known."""
        return None if self._has_reader_failed else self._reader.surroundings

    # Progress

    @property
    def fed_at(self) -> float:
        bypass = self.stream.bypass
        return self.stream.fed_at if bypass is None else bypass.fed_at

    @property
    def enough_after_s(self) -> float:
        if self._has_reader_failed:
            return 0.0
        if self._lacks_only_end:
            return _ENDS_WITHIN_S
        return 0.0 if self._is_within_frame else self._reader.enough_after_s

    @property
    def _is_within_frame(self) -> bool:
        """Whether an incomplete frame is held that has data: one of a few line ends or comments does not count."""
        splitter = self._splitter
        return splitter.held_bytes > 0 and not splitter.in_comment and bool(splitter.tail.strip())

    def _look_soon(self) -> None:
        """Have the exchange look soon whether its response ends: silence may tell that it has, from now on."""
        if self._exchange is not None:
            self._exchange.look_soon()

    @property
    def awaits_token(self) -> bool:
        return not (self._vitals.first_token_at or self._has_reader_failed) and self.stream.dialect.frames.has_text

    # Writer

    def resume(self) -> None:
        self.stream.fed_at = monotonic()  # the pause was not the upstream's
        super().resume()

    def followed(self) -> None:
        """Forward what comes at once, if all followers can be sent it as it comes."""
        self._try_bypass()

    def stop(self, ending: Ending) -> None:
        """Close the upstream connection and seal the stream.

        After an error of the upstream, its response may have gone on: without a final event, bytes do not end properly.
        """
        if ending.clean and ending.reason != COMPLETE.reason and not self._reader.ended:
            ending = ending._replace(clean=False)
        super().stop(ending)

    def last_left(self) -> None:
        """Close the upstream connection at once, after the grace period, or not at all."""
        # openai-python 3.x disconnects right after [DONE]: the stream is complete then, and the exchange ends in a
        # moment.
        if self._reader.ended and not self._has_reader_failed:
            return
        grace_s = self.on_disconnect.grace_s
        if grace_s is not None and self.stream.outcome is COMPLETE:  # what follows counts in metrics, such as a usage
            grace_s = max(grace_s, _LAST_WORDS_S)
        self.stop_after(grace_s)

    def given_up(self) -> Ending:
        """Return how the stream ends when nobody wants it any more: as the answer did, if that is known already."""
        is_known = self._has_reader_failed or self._reader.failure is not None or self.stream.outcome is not None
        return self._judge(None, b"") if is_known else CLIENT_GONE

    def _shown(self, frames: list[bytes]) -> list[bytes]:
        """Return frames without the usage that only the proxy requested: the one exception to law 1, off by default."""
        hides = self._hides
        return frames if hides is None else [frame for frame in frames if not hides(frame)]

    def _every_64_frames(self, at: float) -> None:
        """Do what is not needed for every read."""
        self.overhead(monotonic() - at)
        self._vitals.fold()
        self.stream.take_stock()
        self._try_bypass()

    def _try_bypass(self) -> None:
        """Start a bypass of the log if the stream has just one follower, or one rank of them."""
        stream, exchange = self.stream, self._exchange
        if stream.bypass is not None or exchange is None or not self._at_frame or self._max_frame_bytes < LONG_READ:
            return
        if self._has_reader_failed or not self._vitals.first_token_at:
            return
        found = stream.bypassable()
        if found is not None:
            bypassed, transports = found
            stream.begin_bypass(Bypass(self, exchange, bypassed, transports))

    def note(self, frames: list[bytes], at: float) -> None:
        """Read frames that are not ordinary, and note the times of those with text."""
        self._look_soon()
        if self._read(frames, at):
            self.stream.fed_at = at
        reader = self._reader
        if self._has_reader_failed:
            return
        if reader.ended or reader.failure is not None:
            self._conclude(at)
        elif reader.finish_reason is not None and (after_s := reader.answered_after_s) and not self._is_within_frame:
            self.stream.conclude_after(self._judge(None, b""), after_s, fed_at=self.stream.fed_at)

    def _read(self, frames: list[bytes], at: float) -> bool:
        """Have the reader read frames, as in `note`; return whether any has data, or that is not known."""
        if not self._has_reader_failed:
            try:
                return self._vitals.note(frames, at, self._vitals.times)
            except Exception as fault:
                self.reader_failed(fault)
        return True

    def reader_failed(self, fault: Exception) -> bool:
        """Stop reading frames, because the reader has raised; return False.

        Followers are still sent the rest of the stream, which then ends with `internal_error`.
        """
        log_fault(f"the reader of dialect {self.stream.dialect.name}", fault)
        self._has_reader_failed = True
        self.is_ordinary = _never
        return False

    def _conclude(self, at: float) -> None:
        """End the responses to followers that want only the answer, after the final event or a failure.

        The upstream's response may continue: it has a moment to end by itself, so that its connection can be reused.
        """
        reader, first = self._reader, not self.ended_at
        if reader.ended:
            self.ended_at = self.ended_at or at
        if self.stream.outcome is not None:
            return
        if reader.failure is not None or reader.usage is not None:
            self.stream.conclude(self._judge(None, b""))
        elif first:  # some upstreams send the usage after the final event
            self.stream.conclude_after(self._judge(None, b""), _USAGE_S)

    def _is_whole(self, tail: bytes, at: float) -> bool:
        """Read an unterminated tail; return whether it is a frame of which only the blank line is missing.

        That is so if its last line is terminated, or if it is a final event or an error.
        """
        reader = self._reader
        known = reader.ended, reader.failure
        self._read([tail], at)
        is_whole = tail.endswith((b"\n", b"\r")) or self._lacks_only_end
        return is_whole or known != (reader.ended, reader.failure)

    def _judge(self, error: UpstreamError | None, tail: bytes) -> Ending:
        """Decide how the stream ended, from its frames and from how its response ended."""
        reader, failure = self._reader, self._reader.failure
        if self._has_reader_failed:
            return INTERNAL_ERROR._replace(clean=error is None and not tail.strip(), unrecognised=True)
        if failure is not None:
            # Mode raw ends as the response did; other modes send an error if clients would not recognise this one.
            clean = reader.ended or (error is None and not tail.strip())
            message = f"the upstream reported an error: {failure.reason}"
            return UPSTREAM_ERROR.saying(message)._replace(clean=clean, unrecognised=not failure.recognised)
        if reader.ended and reader.has_content:
            return COMPLETE
        if error is not None and not reader.ended:
            return ending_of(error)
        if tail.strip() and not reader.ended:
            return UPSTREAM_RESET.saying(f"the upstream ended within a frame, of which {len(tail)} bytes came")
        if reader.has_content and reader.finished:
            return COMPLETE
        # A response of known length was complete, so mode raw ends cleanly. A close-delimited one may have been cut
        # off: only a final event shows that it is complete.
        clean = reader.ended or self._exchange is None or self._exchange.framed
        what = "finished" if reader.has_content else "begun"
        message = f"the upstream ended its response before the answer had {what}"
        return UPSTREAM_RESET.saying(message)._replace(clean=clean, unrecognised=True)

    @property
    def tail(self) -> bytes:
        return self._splitter.tail

    def seal(self, ending: Ending, frames: list[bytes], tail: bytes) -> None:
        """End the stream with its last frames; only the first call counts."""
        self._vitals.fold()
        super().seal(ending, frames, tail)


def _never(frame: bytes) -> bool:
    """Return False: stands for `Reader.ordinary` after the reader has failed."""
    return False
