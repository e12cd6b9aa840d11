"""One stream, its followers, and how a frame reaches each of them. Start reading here.

    Stream.extend(frames)     by the one writer: append to the log, then advance every live follower
    Subscription.advance()    while the sink takes it: render a span from the offset on, write it, move the offset
    Stream.seal(ending)       once: each follower ends when it has been sent the last frame

Followers that are to be sent the same bytes are advanced together, by their Rank. While a stream has a single follower,
or one rank, a Bypass may send events before they are in the log; reading `Stream.log` first puts these into the log.
`cohort` describes the states of a follower, and what each event does to it.
Keeps laws 4 (one writer) and 7 (one ending).
Must not know: HTTP responses, upstreams, time.
"""

from collections.abc import Callable
from typing import Any, Final

from proxy.machine import Transport
from proxy.stream.bounded import BoundedStream
from proxy.stream.cohort import SLICE, Cohort, Member, PacedCohort, Pacer
from proxy.stream.endings import CANCELLED, Ending
from proxy.stream.faults import notify, notify_all
from proxy.stream.info import StreamInfo
from proxy.stream.interfaces import Bypass
from proxy.stream.ledger import UNFINISHED, Ledger
from proxy.stream.modes.projection import SPAN_BYTES, View
from proxy.stream.subscription import Subscription
from proxy.stream.turns import Turns
from proxy.stream.vitals import Vitals
from proxy.wire.http import Head

_IDENT_CHARS: Final = 128  # of an upstream's request id; a longer one, or not of visible ASCII, is not shown or logged
_DISMISSAL: Final = "dismissal"


class Stream(BoundedStream):
    """One upstream response: its StreamInfo, log, vitals and subscriptions. It has exactly one writer."""

    __slots__ = (
        "_ahead",
        "_lines",
        "_on_answered",
        "_on_sealed",
        "_on_subscription_ended",
        "_paced",
        "_pacer",
        "_unpaced",
        "_upstream_request_id",
        "_when_sealed",
        "ended_at",
        "fed_at",
        "followers_elsewhere",
        "kept_head",
        "turns",
        "upstream",
    )

    def __init__(
        self,
        info: StreamInfo,
        vitals: Vitals,
        ledger: Ledger,
        call_soon: Callable[..., Any],
        pacer: Pacer,
        turns: Turns,
        on_subscription_ended: Callable[[Subscription], object],
        on_sealed: Callable[["Stream"], object],
    ) -> None:
        BoundedStream.__init__(self, info, vitals, ledger, call_soon)  # not super(): a lookup less
        self.upstream = ""  # the name of the upstream that responded
        self._upstream_request_id: str | None = None  # that of its response's headers
        self.kept_head: Head | None = None  # of a response that is not an event stream: each frame is one read of it
        self.followers_elsewhere = 0  # at other processes that share a store, as far as is known here
        self.fed_at = 0.0  # monotonic seconds of the last read that brought more than comments; the writer sets it
        self.ended_at = 0.0  # monotonic seconds; the hub sets it
        self._on_subscription_ended = on_subscription_ended
        self._unpaced = Cohort(call_soon)
        self._paced: dict[tuple[int, int], PacedCohort] | None = None  # by pace; None: few streams have any
        self._lines = b""  # of a frame that has not ended
        self._ahead: tuple[Subscription, ...] = ()  # they were sent the first lines of a frame that has not ended
        self._on_sealed = on_sealed
        self._when_sealed: tuple[Callable[[Ending], object], ...] = ()
        self._on_answered: tuple[Callable[[Ending], object], ...] = ()
        self._pacer = pacer
        self.turns = turns

    @property
    def heard_at(self) -> float:
        """When the last read came that brought more than comments, in monotonic seconds, in the log or not yet."""
        return self.fed_at if self.bypass is None else self.bypass.fed_at

    @property
    def upstream_request_id(self) -> str | None:
        """The upstream's id of the request, from the response's headers or its frames; None if it has an odd form."""
        ident = self._upstream_request_id or self.vitals.reader.request_id
        if not ident or len(ident) > _IDENT_CHARS or not ident.isascii() or not ident.isprintable() or " " in ident:
            return None
        return ident

    @property
    def wanted(self) -> bool:
        """Whether the stream has followers or holds."""
        return bool(self.subscriptions or self.holds)

    def cohort(self, view: View) -> Cohort:
        """Return the cohort that followers of a view belong to."""
        if not view.flush_ms:
            return self._unpaced
        if self._paced is None:
            self._paced = {}
        pace = view.flush_ms, view.flush_bytes
        cohort = self._paced.get(pace)
        if cohort is None:
            cohort = self._paced[pace] = PacedCohort(self._call_soon, self._pacer, *pace)
        return cohort

    def attach(self, subscription: Subscription) -> None:
        """Add a follower and advance it: at once, or, if it is far behind, when its turn comes."""
        if self.bypass is not None:
            self.bypass.end()
        self.subscriptions[subscription] = None
        if subscription.ahead_bytes and subscription.is_ahead:
            subscription.parked = True
            self._ahead += (subscription,)
        elif self._log.size_bytes > SPAN_BYTES and subscription.is_far_behind:
            subscription.parked = subscription.awaits_turn = True
            self.turns.do(subscription.go_on)
        else:
            self.make_live(subscription)
            subscription.advance()
            if self._lines:
                self.send_ahead(self._lines)
            if self.writer is not None:
                self.writer.followed()

    def detach(self, subscription: Subscription) -> None:
        """Remove a follower; notify the writer if it was the last one of an open stream."""
        if subscription not in self.subscriptions:
            return
        if self.bypass is not None:
            # Park it first: ending the bypass may exceed a limit and so seal the stream, which ends live followers. But
            # it leaves its rank later, as that is told what the bypass has sent.
            subscription.parked = subscription.cohort.has_parked = True
            self.bypass.end()
        subscription.mark_parked()
        del self.subscriptions[subscription]
        notify(self._on_subscription_ended, subscription)
        if subscription is self.originator:
            self.originator = None
            if self.full:
                self.resume_writer()
        if not self.subscriptions:
            if self._log.ending is not None:
                self._drop_projections()
            else:
                self.left()

    def hold(self, name: str) -> None:
        """Keep the upstream open, as a follower does, for the reason `name`.

        Meanwhile no frames are dropped from the log, since a client that is to follow will read all of them.
        """
        self.holds[name] = self.holds.get(name, 0) + 1

    def note_elsewhere(self, count: int, hold: str = "") -> None:
        """Note how many follow the stream at other processes; with the name of a `hold`, they keep its writer going.

        If none of them is left, and no follower and hold here, notify the writer.
        """
        self.followers_elsewhere = count
        if hold and count:
            self.holds[hold] = count
        elif hold and self.holds.pop(hold, 0):
            self.resume_writer()
            self.left()

    def release(self, name: str) -> None:
        """Remove a hold; notify the writer if the stream is left without followers and holds."""
        self._remove_hold(name)
        self.resume_writer()
        self.left()

    def left(self) -> None:
        """Notify the writer if the stream has neither followers nor holds."""
        if self.writer is not None and not self.wanted and self._log.ending is None:
            self.writer.last_left()

    def dismiss(self, ending: Ending) -> None:
        """End all current followers while the stream goes on; the writer is not notified."""
        self.hold(_DISMISSAL)
        for subscription in list(self.subscriptions):
            subscription.fail(ending)
        self._remove_hold(_DISMISSAL)

    def answered(self, upstream: str, request_id: bytes | None, kept_head: Head | None) -> None:
        """Note which upstream responded, its request id, and its head if the response is no event stream."""
        self.upstream = upstream
        self._upstream_request_id = None if request_id is None else request_id.decode("latin-1")
        self.kept_head = kept_head

    def extend(self, frames: list[bytes], chunks: bytes = b"") -> int:
        """Append frames and advance every live follower, a paced one when its time has come; return the log's end.

        `chunks`: the bytes of the frames as HTTP/1.1 chunks, if the upstream sent them as just these chunks.
        """
        log, ledger, cohort = self._log, self._ledger, self._unpaced
        size_bytes = log.extend(frames)
        if chunks and self._raw is not None:
            self._raw.reuse_chunks(frames, chunks)
        ledger.bytes += size_bytes
        if ledger.bytes > ledger.room_bytes:
            ledger.on_over_limit(self)
        live = cohort.live
        if len(live) == 1 and not cohort.has_parked:  # the common case: saves a call and a loop
            live[0].advance()
        else:
            cohort.advance()
        if self._paced:
            self._pace(self._paced, size_bytes)
        if log.size_bytes > self.max_log_bytes:
            if self._ahead:
                self.end_ahead()  # first: they are to be sent the rest of a frame that the limit may drop
            self._limit_log()
        return log.end

    def send_ahead(self, lines: bytes) -> None:
        """Send the first lines of an incomplete frame to followers in mode raw, which need not know where it ends.

        Does nothing if there are more followers than are advanced in one turn of the event loop.
        """
        self._lines = lines
        raw, log = self._raw, self._log
        if raw is None or log.ending is not None or len(self.subscriptions) > SLICE:
            return
        ahead = self._ahead
        caught_up = [one for one in self.subscriptions if one.cohort is self._unpaced and one.is_caught_up_in(raw)]
        self._ahead = tuple([one for one in (*ahead, *caught_up) if one.ended is None and one.send_ahead(lines)])
        if self._ahead:
            log.tail = lines

    @property
    def ahead_bytes(self) -> int:
        """How many bytes of lines are kept of a frame that has not ended."""
        return len(self._lines)

    def end_ahead(self) -> None:
        """Resume followers that were sent lines of a frame, because this frame or the stream has ended."""
        self._lines = b""
        if self._ahead:
            ahead, self._ahead = self._ahead, ()
            for follower in ahead:
                follower.resume()
            if self._log.ending is None:
                self._ahead = tuple([one for one in ahead if one.ended is None and one.is_ahead])
                left = max([one.ahead_bytes for one in self._ahead], default=0)
                self._log.tail = self._log.tail[-left:] if left else b""

    def bypassable(self) -> tuple[Member, tuple[Transport, ...]] | None:
        """Return the only follower, or the rank that all are in, if a bypass can serve it, and what to write to.

        A bypass can serve followers in mode raw that are not paced, have been sent everything, and take it in chunks.
        """
        live = self._unpaced.live
        if len(live) != 1 or live[0].size != len(self.subscriptions):
            return None
        transports = live[0].transports(self._raw)
        return (live[0], transports) if transports else None

    def begin_bypass(self, bypass: Bypass) -> None:
        """Have a bypass send events to the followers; the span that they were sent last is of no use any more."""
        self.bypass = bypass
        if self._raw is not None:
            self._raw.put(0, 0, b"")

    def bypassed(self, piece: bytes, sizes: list[int]) -> None:
        """Append frames, in one piece, that the bypass has sent to the followers already."""
        assert self.bypass is not None
        size_bytes = self._log.append(piece, sizes)
        self.take_stock()
        self.bypass.bypassed.note_sent(self._log.end, size_bytes)
        self._ledger.bytes += size_bytes
        if self._ledger.over:
            self._ledger.on_over_limit(self)
        if self._log.size_bytes > self.max_log_bytes:
            self._limit_log()

    @property
    def frames_ahead(self) -> int:
        """Return how many frames a bypass may send before they are counted, going by their average size so far."""
        log = self._log
        return max(1, self._ledger.ahead_bytes * log.end // max(1, log.end_bytes))

    def end_bypass(self) -> None:
        """End the bypass, if there is one: the follower is served from the log again."""
        if self.bypass is not None:
            self.bypass.end()

    @property
    def outcome(self) -> Ending | None:
        """How the answer ended, if it has; the frames may show that before the response ends."""
        return self._log.ending or self._log.outcome

    def conclude_after(self, outcome: Ending, after_s: float, fed_at: float | None = None) -> None:
        """Call `conclude` after so many seconds, unless the outcome is known by then.

        Neither if there has been progress since `fed_at`, when the last was made.
        """
        self._pacer.wake(_Conclusion(self, outcome, fed_at), after_s)

    def conclude(self, outcome: Ending) -> None:
        """Note how the answer ended, and end followers whose mode sends only the answer; the log stays open."""
        self._log.outcome = outcome
        for projection in self._projections.values():
            if projection.ends_with_answer:
                self._unpaced.advance()
                break
        self._notify_answered(outcome)

    def seal(self, ending: Ending, frames: list[bytes] | None = None, tail: bytes = b"") -> None:
        """Append the last frames, if there are any, and end the stream. Only the first call counts."""
        if self.bypass is not None:
            self.bypass.settle()
        log = self._log
        if log.ending is not None:
            return
        if frames:
            self._ledger.bytes += log.extend(frames)
        log.seal(ending, tail)
        self.sealed = True
        self.take_stock()
        if tail or UNFINISHED in self._counted:
            self.count(UNFINISHED, len(tail))
        self.full = self.throttled = False
        self._unpaced.conclude()
        for cohort in self._paced.values() if self._paced else ():
            cohort.conclude()
        if self._lines or self._ahead:
            self.end_ahead()
        if not self.subscriptions:
            self._drop_projections()
        self.writer = None
        notify(self._on_sealed, self)
        if self._on_answered:
            self._notify_answered(ending)
        if self._when_sealed:
            callbacks, self._when_sealed = self._when_sealed, ()
            notify_all(callbacks, ending)

    def cancel(self) -> None:
        """End the stream, if it runs; one whose answer has ended keeps that ending, which documents told already."""
        if self.writer is not None:
            self.writer.stop(self.outcome or CANCELLED)

    def when_sealed(self, callback: Callable[[Ending], object]) -> None:
        """Call back once, when the stream has been sealed and its followers have been sent what their sinks accept."""
        self._when_sealed += (callback,)

    def when_answered(self, callback: Callable[[Ending], object]) -> None:
        """Call back once, when it is known how the answer ended: at the latest when the stream has been sealed."""
        self._on_answered += (callback,)

    def _notify_answered(self, outcome: Ending) -> None:
        if self._on_answered:
            callbacks, self._on_answered = self._on_answered, ()
            notify_all(callbacks, outcome)

    def park(self, subscription: Subscription) -> None:
        """Have sweeps skip a follower until its sink has drained."""
        self.end_bypass()
        if not subscription.parked:
            subscription.mark_parked()
            subscription.sink.on_writable(subscription.resume)

    def pause(self, subscription: Subscription) -> None:
        """Park a follower that is far behind until others have had their turn."""
        self.end_bypass()
        if not subscription.parked:
            subscription.mark_parked()
            subscription.awaits_turn = True
            self.turns.wait(subscription.go_on)

    def unpark(self, subscription: Subscription) -> None:
        """Make a parked follower live again."""
        subscription.cohort.drop_parked()
        if subscription.parked:
            subscription.parked = False
            self.make_live(subscription)

    def make_live(self, subscription: Subscription) -> None:
        """Have sweeps visit a follower. After the seal there are no sweeps: then its own `advance` ends it."""
        if self._log.ending is None:
            subscription.cohort.live.append(subscription)
            subscription.cohort.ungrouped = True

    def _remove_hold(self, name: str) -> None:
        count = self.holds.pop(name) - 1
        if count:
            self.holds[name] = count

    def _pace(self, paced: dict[tuple[int, int], PacedCohort], size_bytes: int) -> None:
        """Have paced cohorts wait for more frames; until the first token has come, advance them at once."""
        for cohort in paced.values():
            if self.vitals.first_token_at:
                cohort.hold(size_bytes)
            else:
                cohort.flush()


class _Conclusion:
    """A call of `Stream.conclude` that is put off for a moment, because another frame may follow."""

    __slots__ = ("_fed_at", "_outcome", "_stream")

    def __init__(self, stream: Stream, outcome: Ending, fed_at: float | None) -> None:
        self._stream = stream
        self._outcome = outcome
        self._fed_at = fed_at

    def due(self) -> None:
        stream = self._stream
        fed_at = stream.fed_at if stream.bypass is None else stream.bypass.fed_at
        if stream.outcome is None and (self._fed_at is None or self._fed_at == fed_at):
            stream.conclude(self._outcome)
