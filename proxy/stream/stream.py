"""One stream, its cursors, and how a frame reaches every follower. Start reading here.

    Stream.extend(frames)     the one writer: append to the log, then advance every live cursor
    Subscription.advance()    while the sink is writable: render the span from my offset, write it, move my offset
    Stream.seal(ending)       once; every subscription ends when it has had the last frame it is due

A subscription is an offset; there is no queue per subscriber. A slow one stops advancing and is parked:
it costs nothing until its sink drains, and then asks for one longer span.
Keeps laws 4 (one writer), 5 (prefix), 6 (independence), 7 (one ending) and 8 (resume).
Knows nothing of HTTP responses, of upstreams, of time.
"""

from collections.abc import Callable
from typing import Any

from proxy.stream.cohort import Cohort, PacedCohort, Pacer
from proxy.stream.ends import Relay, Sink, Writer
from proxy.stream.log import Ending, FrameLog, Ledger
from proxy.stream.projections import MODES, Projection, Raw, Span, View
from proxy.stream.vitals import Vitals
from proxy.stream.websocket import Messages
from proxy.wire.http import Head
from proxy.wire.transcript import Transcript


class Subscription:
    """A cursor with a mode and a sink: an offset in a stream, with `advance()`."""

    __slots__ = (
        "_log",
        "_projection",
        "cohort",
        "ended",
        "heartbeat_s",
        "mode",
        "offset",
        "parked",
        "sent_bytes",
        "sink",
        "stream",
    )

    def __init__(self, stream: "Stream", view: View, sink: Sink, offset: int, heartbeat_s: float = 0) -> None:
        self.stream = stream
        self.mode = view.mode
        self.sink = sink
        self.offset = offset
        self.sent_bytes = 0
        self.ended: str | None = None  # the reason, once it has
        self.parked = False  # its sink is clogged, or it has ended: sweeps pass over it
        self.cohort = stream.cohort(view)
        self._log = stream.log
        self._projection = stream.projection(view)
        self.heartbeat_s = heartbeat_s if self._projection.heartbeat else 0  # seconds of silence; 0 is none

    @property
    def lag_bytes(self) -> int:
        """How much of the log has not been handed to the sink."""
        log = self.stream.log
        return 0 if self.offset >= log.end else log.end_bytes - log.position(max(self.offset, log.start))

    def advance(self) -> None:
        """Bring the sink to the log's end, as far as it takes it."""
        log, span = self._log, self._projection
        if log.start <= self.offset == span.start and span.end == log.end and log.ending is None and span.size:
            # All but the first of a mode's followers find their span made: 0.2 us less.
            if self.sink.write(span):
                self.offset = span.end
                self.sent_bytes += span.size
            else:
                self.stream.park(self)
            return
        for _ in range(span.spans_a_turn):
            if self.offset >= log.end:
                if log.ending is not None:
                    self._end(b"", log.ending)
                return
            if self.offset < log.start:
                self._fall_behind()
                return
            span.reach(self.offset)
            if span.end == log.end and log.ending is not None:
                self.offset = span.end
                self.sent_bytes += span.size
                self._end(span.plain, log.ending)  # the last span and the end of the response leave in one write
                return
            if span.size and not self.sink.write(span):
                self.stream.park(self)
                return
            self.offset = span.end
            self.sent_bytes += span.size
            if span.end == log.end:
                return
        self.stream.pause(self)

    def resume(self) -> None:
        """Go on after the sink has drained."""
        if self.ended is None:
            self.stream.unpark(self)
            self.advance()
            self.stream.relieve()

    def beat(self) -> None:
        """Send a heartbeat: a comment of one line, between two frames. Followers that lag need none."""
        if self.offset == self._log.end:
            self.sink.write(HEARTBEAT)

    def gets(self, projection: Projection) -> bool:
        """Tell whether this is what it is sent."""
        return self._projection is projection

    def leave(self, reason: str) -> None:
        """End without a word to the sink: the client has gone."""
        if self.ended is None:
            self.ended = reason
            self.stream.detach(self)

    def fail(self, ending: Ending) -> None:
        """End now, in mid-stream, with what the mode says of `ending`."""
        if self.ended is None:
            self._end(b"", ending)

    def _fall_behind(self) -> None:
        """End with an error: frames this follower is due are no longer held. Never skip them silently."""
        message = f"fell behind: frame {self.offset + 1} is gone, the earliest held is {self._log.start + 1}"
        self._end(b"", Ending("too_slow", message))

    def _end(self, last: bytes, ending: Ending) -> None:
        failed = "failed" if ending is self._log.ending and ending.reason != "drained" else ending.reason
        self.ended = "complete" if ending.clean else failed
        words, properly = self._projection.ending(ending, self.offset)
        self.sent_bytes += len(words)
        (self.sink.close if properly else self.sink.abort)(last + words)
        self.stream.detach(self)


# One newline: openai-python raises on a comment followed by a blank line once it has seen an id.
HEARTBEAT = Span(0, 0, b":\n")


class Stream:
    """One upstream answer: its id, log and cursors. Exactly one writer."""

    __slots__ = (
        "_at_once",
        "_call_soon",
        "_ledger",
        "_log",
        "_on_sealed",
        "_paced",
        "_pacer",
        "_projections",
        "_raw",
        "_transcript",
        "answer",
        "caller",
        "created_at",
        "cumulative",
        "dialect",
        "fed_at",
        "full",
        "generation",
        "id",
        "keys",
        "max_log_bytes",
        "on_ended",
        "originator",
        "relay",
        "retain_s",
        "route",
        "subscriptions",
        "trace_id",
        "upstream",
        "upstream_request_id",
        "vitals",
        "writer",
    )

    def __init__(
        self,
        ident: str,
        vitals: Vitals,
        *,
        route: str,
        caller: bytes,
        ledger: Ledger,
        max_log_bytes: int,
        call_soon: Callable[..., Any],
        pacer: Pacer,
    ) -> None:
        self.id = ident
        self.generation = ident[3:9]
        self.vitals = vitals
        self.dialect = vitals.dialect
        self.route = route  # the name of the route it was asked for at, for metrics
        self.caller = caller
        self.created_at = 0  # Unix seconds
        self.cumulative: bool | None = None  # all so far was asked for, or increments, if either was
        self.trace_id = ident  # or that of a W3C traceparent
        self.upstream = ""  # the name of the one that answered
        self.upstream_request_id: str | None = None  # under which it knows the request
        self.keys: tuple[str, ...] = ()  # those it was given, each once, the last one last
        self.answer: Head | None = None  # of an answer that is no event stream: then frames are its reads
        self._log = FrameLog()
        self.relay: Relay | None = None  # while the one follower gets its events past the log
        self.max_log_bytes = max_log_bytes
        self.subscriptions: dict[Subscription, None] = {}
        self.originator: Subscription | None = None
        self.writer: Writer | None = None
        self.full = False  # the log may not grow until the originator has read more of it
        self.fed_at = 0.0  # monotonic seconds of the last read that brought more than comments; the writer sets it
        self.retain_s = 0.0
        self.on_ended: Callable[[Subscription], None] = _nobody
        self._at_once = Cohort(call_soon)
        self._paced: dict[tuple[int, int], PacedCohort] = {}
        self._projections: dict[View, Projection] = {}
        self._raw: Raw | None = None  # the one of mode raw: it can be shown what came
        self._on_sealed: list[Callable[[Ending], object]] = []
        self._transcript: Transcript | None = None
        self._ledger = ledger
        self._call_soon = call_soon
        self._pacer = pacer

    @property
    def log(self) -> FrameLog:
        """What has come. Whoever looks at it finds all there is: what was sent on before is in it by then."""
        if self.relay is not None:
            self.relay.settle()
        return self._log

    @property
    def key(self) -> str | None:
        """The key it was given last."""
        return self.keys[-1] if self.keys else None

    @property
    def w3c_trace_id(self) -> str | None:
        """The trace that it is part of, if it is of one."""
        return None if self.trace_id == self.id else self.trace_id

    def projection(self, view: View) -> Projection:
        """Return the one projection of a view: all its followers share what it rendered last."""
        projection = self._projections.get(view)
        if projection is None:
            if view.websocket:
                projection = Messages(self.log, self.projection(view._replace(websocket=False)))
            else:
                projection = MODES[view.mode](self)
            self._projections[view] = projection
            if isinstance(projection, Raw):
                self._raw = projection
        return projection

    def cohort(self, view: View) -> Cohort:
        """Return the cohort that followers of a view belong to."""
        if not view.flush_ms:
            return self._at_once
        pace = view.flush_ms, view.flush_bytes
        cohort = self._paced.get(pace)
        if cohort is None:
            cohort = self._paced[pace] = PacedCohort(self._call_soon, self._pacer, *pace)
        return cohort

    def transcript(self, end: int) -> Transcript:
        """Return what was said; made when a mode first needs it, and caught up with the log as far as one does."""
        transcript, log = self._transcript, self.log
        if transcript is None:
            transcript = self._transcript = Transcript(self.dialect, log.start, cumulative=self.cumulative)
        if transcript.end < end:
            transcript.feed(log.span(transcript.end, end))
        return transcript

    def attach(self, subscription: Subscription) -> None:
        """Add a follower and bring it up to date, as far as its sink takes it."""
        self.end_relay()
        self.subscriptions[subscription] = None
        self._enliven(subscription)
        subscription.advance()

    def detach(self, subscription: Subscription) -> None:
        """Remove a follower; when it was the last of an open stream, the writer is told."""
        if subscription not in self.subscriptions:
            return
        self.end_relay()
        del self.subscriptions[subscription]
        subscription.parked = True
        subscription.cohort.stale = True
        self.on_ended(subscription)
        if subscription is self.originator:
            self.originator = None
            self.relieve()
        if not self.subscriptions and self._log.ending is None and self.writer is not None:
            self.writer.last_left()

    def extend(self, frames: list[bytes], chunks: bytes = b"") -> int:
        """Append frames and advance every live cursor that is not paced; return the log's end.

        `chunks`: the chunks of HTTP/1.1 that they came as, if they came as nothing else.
        """
        log, ledger, cohort = self._log, self._ledger, self._at_once
        size_bytes = log.extend(frames)
        if chunks and self._raw is not None:
            self._raw.show(frames, chunks)
        ledger.bytes += size_bytes
        if ledger.bytes > ledger.max_bytes:
            ledger.relieve()
        live = cohort.live
        if len(live) == 1 and not cohort.stale:  # the common case, without a call or a loop
            live[0].advance()
        else:
            cohort.advance()
        if self._paced:
            self._pace(size_bytes)
        if log.size_bytes > self.max_log_bytes:
            self._bound()
        return log.end

    def lone_follower(self) -> Subscription | None:
        """Return the one follower, if it has had everything, and gets everything at once and as it came."""
        if len(self.subscriptions) != 1 or self._raw is None:
            return None
        (follower,) = self.subscriptions
        caught_up = not follower.parked and follower.offset == self._log.end
        return follower if caught_up and follower.cohort is self._at_once and follower.gets(self._raw) else None

    def relayed(self, frames: list[bytes]) -> None:
        """Append frames that the one follower has had already."""
        (follower,) = self.subscriptions
        size_bytes = self._log.extend(frames)
        self._log.mark()
        follower.offset = self._log.end
        follower.sent_bytes += size_bytes
        self._ledger.bytes += size_bytes
        if self._ledger.bytes > self._ledger.max_bytes:
            self._ledger.relieve()
        if self._log.size_bytes > self.max_log_bytes:
            self._bound()

    def end_relay(self) -> None:
        """Have every follower served from the log again."""
        if self.relay is not None:
            self.relay.end()

    def seal(self, ending: Ending, frames: list[bytes] | None = None, tail: bytes = b"") -> None:
        """End the stream, with its last frames if there are any. Only the first call counts."""
        log = self.log
        if log.ending is not None:
            return
        if frames:
            self._ledger.bytes += log.extend(frames)
        log.seal(ending, tail)
        self.full = False
        for cohort in (self._at_once, *self._paced.values()):
            cohort.conclude()
        self.writer = None
        for tell in self._on_sealed:
            tell(ending)
        self._on_sealed.clear()

    def when_sealed(self, tell: Callable[[Ending], object]) -> None:
        """Call `tell` once the stream has ended and its followers have been told."""
        self._on_sealed.append(tell)

    def park(self, subscription: Subscription) -> None:
        """Pass over a follower until its sink has drained."""
        self.end_relay()
        if not subscription.parked:
            subscription.parked = True
            subscription.cohort.stale = True
            subscription.sink.on_writable(subscription.resume)

    def pause(self, subscription: Subscription) -> None:
        """Let others have their turn before a follower that is far behind goes on."""
        self.end_relay()
        if not subscription.parked:
            subscription.parked = True
            subscription.cohort.stale = True
            self._call_soon(subscription.resume)

    def unpark(self, subscription: Subscription) -> None:
        """Count a follower among the live ones again."""
        subscription.cohort.drop_parked()
        if subscription.parked:
            subscription.parked = False
            self._enliven(subscription)

    def relieve(self) -> None:
        """Let the writer go on if it waited for the originator and need not any more."""
        if self.full:
            self._bound()

    def _enliven(self, subscription: Subscription) -> None:
        """Have sweeps visit a subscription. No sweep comes after the seal: then it ends by its own advance."""
        if self._log.ending is None:
            subscription.cohort.live.append(subscription)

    def _pace(self, size_bytes: int) -> None:
        """Let the paced cohorts wait for more; not before the first token, which waits for nothing."""
        for cohort in self._paced.values():
            if self.vitals.first_token_at:
                cohort.hold(size_bytes)
            else:
                cohort.flush()

    def _bound(self) -> None:
        """Keep the log within its limit: drop its oldest quarter, but nothing the originator has yet to read.

        A mere follower that is so far behind is ended when it gets there. While the originator itself is the
        slow one, the writer waits: that is flow control, as without a proxy.
        """
        below = self._log.end if self.originator is None else self.originator.offset
        if self._log.size_bytes > self.max_log_bytes:
            transcript = self._transcript and self.transcript(self._log.end)  # it keeps the text of what goes
            self._ledger.bytes -= self._log.trim(self.max_log_bytes * 3 // 4, below)
            if transcript is not None:
                transcript.forget(self._log.start)
        full = self._log.size_bytes > self.max_log_bytes and self._log.ending is None
        if full != self.full and self.writer is not None:
            self.full = full
            (self.writer.pause if full else self.writer.resume)()


def _nobody(subscription: Subscription) -> None:
    """Nobody wants to know."""
