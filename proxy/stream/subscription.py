"""One follower of a stream: an offset in the log, with a mode and a sink.

A follower has no queue. If its sink accepts no more data, it is parked: it costs nothing until the sink has drained,
and is then sent one longer span. `cohort` describes the states of a follower.
Keeps laws 5 (prefix), 6 (independence) and 8 (resume).
"""

from typing import TYPE_CHECKING

from proxy.machine import Transport
from proxy.stream.endings import COMPLETE, DRAINED, INTERNAL_ERROR, TOO_SLOW, Ending
from proxy.stream.interfaces import Sink
from proxy.stream.modes.projection import EVENT_STREAM, SPAN_BYTES, Heartbeat, Projection, Span, View
from proxy.stream.rank import Rank, Ranks

if TYPE_CHECKING:
    from proxy.stream.stream import Stream


class Subscription:
    """A follower of a stream: an offset in its log, a mode, and a sink."""

    __slots__ = (
        "_log",
        "_offset",
        "_projection",
        "_rank",
        "_sent_bytes",
        "ahead_bytes",
        "awaits_turn",
        "cohort",
        "ended",
        "heartbeat_s",
        "mode",
        "parked",
        "sink",
        "stream",
    )

    def __init__(
        self,
        stream: "Stream",
        view: View,
        sink: Sink,
        offset: int,
        heartbeat_s: float = 0,
        ahead_bytes: int = 0,
        keepalive_s: float = 0,
    ) -> None:
        """`heartbeat_s`: seconds of silence after which it is sent a heartbeat, if its mode has any; 0: never.

        `keepalive_s`: the same for a client that asked for the stream, which has them in mode raw, too.
        """
        self.stream = stream
        self.mode = view.mode
        self.sink = sink
        self._offset = offset
        self._sent_bytes = 0
        self.ahead_bytes = ahead_bytes  # how much of the frame at its offset it was sent before that frame had ended
        self._rank: Rank | None = None  # while it is in one, the rank's offset counts, not its own
        self.ended: str | None = None  # why, once it has ended
        self.parked = False  # sweeps skip it: it waits for its `resume`, or has ended
        self.awaits_turn = False  # parked, but not for its sink: it waits for its turn in `stream.turns`
        self.cohort = stream.cohort(view)
        self._log = stream.log
        self._projection = stream.projection(view)
        if self._projection.heartbeat:
            self.heartbeat_s = keepalive_s or heartbeat_s
        else:
            self.heartbeat_s = keepalive_s if self._projection.content_type == EVENT_STREAM else 0

    @property
    def offset(self) -> int:
        """Return how many frames it has been sent."""
        return self._offset if self._rank is None else self._rank.offset

    @property
    def sent_bytes(self) -> int:
        """Return how many bytes it has been sent."""
        return self._sent_bytes if self._rank is None else self._sent_bytes + self._rank.sent_bytes

    @property
    def lag_bytes(self) -> int:
        """Return how many bytes of the log it has not been sent yet."""
        log, offset = self.stream.log, self.offset
        return 0 if offset >= log.end else log.end_bytes - log.position(max(offset, log.start))

    @property
    def clogged(self) -> bool:
        """Return whether it is parked because its sink accepts no more data."""
        return self.parked and not self.awaits_turn and not self.is_ahead

    @property
    def is_ahead(self) -> bool:
        """Return whether it has been sent lines of a frame that has not ended."""
        return self.ahead_bytes > 0 and self.offset == self._log.end

    @property
    def is_far_behind(self) -> bool:
        """Return whether it has to be sent more than a span, or more than that has to be read for its mode before.

        Then it waits for its turn.
        """
        if self.stream.log.size_bytes <= SPAN_BYTES:
            return False
        return self.lag_bytes > SPAN_BYTES or self._lacks_reading

    @property
    def _lacks_reading(self) -> bool:
        return self._projection.rewrites and self.stream.unread_bytes(self.offset) > SPAN_BYTES

    def advance(self) -> None:
        """Write everything up to the log's end, or as much of it as the sink takes, and end if the log is sealed."""
        log, span = self._log, self._projection
        try:
            if log.start <= self._offset == span.start and span.end == log.end and log.ending is None and span.size:
                # The first follower of a view has rendered this span already: 0.2 us less for each of the others.
                if self.sink.write(span):
                    self._offset = span.end
                    self._sent_bytes += span.size
                else:
                    self.stream.park(self)
                return
            for _ in range(span.spans_a_turn):
                if self._offset >= log.end:
                    self._end_if_due()
                    return
                if self._offset < log.start:
                    self._fall_behind()
                    return
                span.reach(self._offset)
                if span.end == log.end and log.ending is not None:
                    self._offset = span.end
                    self._sent_bytes += span.size
                    self._end(span.plain, log.ending)  # the last span and the end of the response leave in one write
                    return
                if span.size and not self.sink.write(span):
                    self.stream.park(self)
                    return
                self._offset = span.end
                self._sent_bytes += span.size
                if span.end == log.end:
                    if log.outcome is not None:
                        self._end_if_due()
                    return
            self.stream.pause(self)
        except Exception as error:
            self.break_off(error)

    def _end_if_due(self) -> None:
        """End, if the log is sealed or the mode needs no more frames; called when every frame has been sent."""
        ending = self._log.ending
        if ending is None and self._projection.ends_with_answer:
            ending = self._log.outcome
        if ending is not None:
            self._end(b"", ending)

    def resume(self) -> None:
        """Continue after the sink has drained; if it is far behind, when its turn comes. No effect unless parked."""
        if self.parked and self.ended is None:
            if self.is_far_behind:
                self.awaits_turn = True
                self.stream.turns.do(self.go_on)
            else:
                self.go_on()

    def go_on(self) -> None:
        """Advance by as much as one turn allows. No effect unless it is parked."""
        self.awaits_turn = False
        if not self.parked or self.ended is not None or (self.ahead_bytes and not self._finish_frame()):
            return
        if self.is_far_behind:
            self._catch_up()
        else:
            self.stream.unpark(self)
            self.advance()
        self.stream.resume_writer()

    def send_ahead(self, lines: bytes) -> bool:
        """Send those of the first lines of an incomplete frame that are new; return whether any have been sent so far.

        The follower is parked until the frame has ended. Lines that the sink does not accept are sent with the rest of
        the frame.
        """
        more = lines[self.ahead_bytes :]
        try:
            if more and self.sink.write(Span(self._offset, self._offset, more)):
                if not self.parked:
                    self.mark_parked()
                self.ahead_bytes += len(more)
                self._sent_bytes += len(more)
        except Exception as error:
            self.break_off(error)
        return self.ahead_bytes > 0

    def _finish_frame(self) -> bool:
        """Send the rest of the frame whose first lines it has been sent; return whether it may continue.

        The lines may turn out to belong to several frames, the last of which has not ended.
        """
        log, sink = self._log, self.sink
        while self.ahead_bytes and log.start <= self._offset < log.end:
            frame = log.frame(self._offset)
            rest = frame[self.ahead_bytes :]
            try:
                if rest and not sink.write(Span(self._offset, self._offset + 1, rest)):
                    sink.on_writable(self.resume)
                    return False
            except Exception as error:
                self.break_off(error)
                return False
            self._offset += 1
            self._sent_bytes += len(rest)
            self.ahead_bytes = max(0, self.ahead_bytes - len(frame))
        return not self.ahead_bytes or self._offset < log.start or log.ending is not None

    def beat(self) -> None:
        """Send a heartbeat in the dialect's form, unless frames wait to be sent, or it has a part of the next one."""
        if self.offset == self._log.end and not self.ahead_bytes:
            try:
                self.sink.write(Heartbeat(self._projection.sign_of_life()))
            except Exception as error:
                self.break_off(error)

    def write_or_park(self, span: Span) -> None:
        """Write a span that its rank could not write directly; park if the sink does not accept it."""
        try:
            if not self.sink.write(span):
                self.stream.park(self)
        except Exception as error:
            self.break_off(error)

    def transport(self) -> tuple[Transport, bool] | None:
        """Return the transport to write to directly, as Sink.transport does; None also if that raises."""
        try:
            return self.sink.transport()
        except Exception as error:
            self.break_off(error)
            return None

    def is_caught_up_in(self, projection: Projection | None) -> bool:
        """Return whether it uses this projection and has been sent everything."""
        caught_up = not self.parked and self.offset == self._log.end
        return caught_up and self._projection is projection

    def transports(self, projection: Projection | None) -> tuple[Transport, ...]:
        """Return what to write to, if it is sent chunks in this projection, and has been sent everything."""
        found = self.transport() if self.is_caught_up_in(projection) else None
        return found[:1] if found is not None and found[1] else ()

    def note_sent(self, end: int, size_bytes: int) -> None:
        """Note that the bypass has sent it everything up to offset `end`, so many bytes more."""
        self._offset = end
        self._sent_bytes += size_bytes

    def leave(self, reason: str) -> None:
        """End without writing to the sink, because the client has gone."""
        if self.ended is None:
            self.ended = reason
            self.stream.detach(self)

    def fail(self, ending: Ending) -> None:
        """End this follower alone, before the end of the stream, with the bytes that its mode sends for `ending`."""
        if self.ended is None:
            self._end(b"", ending)

    def break_off(self, error: Exception) -> None:
        """End this follower alone, because rendering for it or writing to its sink has raised; the stream goes on."""
        self.stream.note_fault("rendering for a follower or writing to it", error)
        self.fail(INTERNAL_ERROR)

    # A Member of its cohort, by itself or in a rank

    size = 1

    def regroup(self, ranks: Ranks) -> "Subscription | Rank":
        """Join or begin the rank of its view, framing and offset, if its transport may be written to directly."""
        found = None if self.parked else self.transport()
        if found is None:
            return self
        transport, chunked = found
        group = self._projection, chunked, self._offset
        rank = ranks.get(group)
        if rank is None or rank.full:
            rank = ranks[group] = Rank(self._log, self._projection, self._offset, chunked=chunked)
        rank.add(self, transport)
        self._rank = rank
        self._sent_bytes -= rank.sent_bytes
        return rank

    def mark_parked(self) -> None:
        """Set `parked`, so that sweeps skip it, and leave its rank."""
        self.parked = True
        self.cohort.has_parked = True
        if self._rank is not None:
            self.leave_rank()

    def leave_rank(self) -> None:
        """Leave the rank, if it is in one, with the offset it has reached."""
        rank = self._rank
        if rank is None:
            return
        self._offset, self._sent_bytes, self._rank = self.offset, self.sent_bytes, None
        rank.remove(self)
        self.cohort.has_parked = True

    def _catch_up(self) -> None:
        """Advance, and join `live` only when caught up: adding and removing thousands at each span would be slow."""
        try:
            if self._lacks_reading and self.stream.read_on(self.offset):
                self.awaits_turn = True
                self.stream.turns.wait(self.go_on)
                return
        except Exception as error:
            self.break_off(error)
            return
        cohort = self.cohort
        if cohort.has_parked:
            cohort.drop_parked()
        self.parked = False
        self.advance()
        if self.parked:
            cohort.has_parked = False  # parking has set it, but this follower is not in `live`
        else:
            self.stream.make_live(self)

    def _fall_behind(self) -> None:
        """End with an error: the log has dropped frames that it lacks, and frames are never skipped silently."""
        message = f"fell behind: frame {self.offset + 1} is gone, the earliest held is {self._log.start + 1}"
        self._end(b"", TOO_SLOW.saying(message))

    def _end(self, last: bytes, ending: Ending) -> None:
        """End the response with `last`, the last span, and the bytes that the mode sends for `ending`."""
        is_own = ending is not self._log.ending or ending.reason == DRAINED.reason  # it ends alone
        is_complete = ending.clean and ending.reason != DRAINED.reason
        self.ended = COMPLETE.reason if is_complete else ending.reason if is_own else "failed"
        try:
            offset = self._offset if self._rank is None else self._rank.offset  # `offset`, a call less
            final, properly = self._projection.ending(ending, offset)
            if final:
                final = final[self.ahead_bytes :]
                self._sent_bytes += len(final)
            (self.sink.close if properly else self.sink.abort)(last + final)
        except Exception as error:
            self._abort(error)
        self.stream.detach(self)

    def _abort(self, error: Exception) -> None:
        """Abort the response without sending more, because ending it has raised an error."""
        self.stream.note_fault("ending a follower", error)
        self.ended = INTERNAL_ERROR.reason
        try:
            self.sink.abort(b"")
        except Exception as again:
            self.stream.note_fault("ending a follower", again)
