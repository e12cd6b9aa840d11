"""What a stream holds in memory, and how it is kept within limits: its log, its modes, and what followers lack of them.

The oldest frames are dropped when the log has reached its limit, but none that the originator has yet to be sent: while
that is too slow, the writer is paused. Memory is counted in the ledger of all streams, which may ask for some back.
Must not know: how frames reach followers, HTTP responses, upstreams, time.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

from proxy.dialects.dialect import Reader
from proxy.stream.endings import LOG_LIMIT
from proxy.stream.faults import Faults
from proxy.stream.info import StreamInfo
from proxy.stream.interfaces import Bypass, Writer
from proxy.stream.ledger import LOGS, SPANS, TRANSCRIPTS, UNSENT, Ledger
from proxy.stream.log import FrameLog
from proxy.stream.modes.envelopes import Labelled, Messages
from proxy.stream.modes.projection import SPAN_BYTES, Projection, View
from proxy.stream.modes.projections import MODES, Raw
from proxy.stream.modes.transcript import Transcript
from proxy.stream.subscription import Subscription
from proxy.stream.vitals import Vitals

REMOTE_FOLLOWERS: Final = "remote_followers"
"""The hold of followers at other processes, which read the stream from a store: they need no frames of this log."""
_TRANSCRIPT_BYTES: Final = 64 * 1024  # of memory that a transcript may take however small the log's limit is
_RAW: Final = View("raw")
_UNLIMITED: Final = Ledger(1 << 62)  # replaces the ledger of a stream that is forgotten: what it counts then is ignored


class BoundedStream:
    """A stream as far as memory is concerned: its log, the modes made of it, and which of its frames are needed.

    A base class of Stream, and not a part of it, so that an event takes no longer and a stream is one object.
    """

    __slots__ = (
        "_call_soon",
        "_counted",
        "_faults",
        "_ledger",
        "_log",
        "_projections",
        "_raw",
        "_transcript",
        "bypass",
        "dialect",
        "epoch",
        "full",
        "holds",
        "id",
        "info",
        "max_log_bytes",
        "originator",
        "sealed",
        "subscriptions",
        "throttled",
        "vitals",
        "writer",
    )

    def __init__(self, info: StreamInfo, vitals: Vitals, ledger: Ledger, call_soon: Callable[..., Any]) -> None:
        self.info = info
        self.id = info.id
        self.epoch = info.id[3:9]
        self.vitals = vitals
        self.dialect = vitals.dialect
        self._log = FrameLog()
        self.bypass: Bypass | None = None  # while followers are sent events before the log has them
        self.max_log_bytes = info.max_log_bytes
        self.subscriptions: dict[Subscription, None] = {}
        self.holds: dict[str, int] = {}  # named reasons to keep the upstream open, with counts
        self.originator: Subscription | None = None
        self.writer: Writer | None = None
        self.sealed = False  # it has ended; unlike reading `log`, this does not settle a bypass
        self.full = False  # the writer is paused until the originator has been sent more of the log
        self.throttled = False  # it is paused until less memory is held, of this stream or of all
        self._raw: Raw | None = None  # the projection of mode raw, once it is made
        self._projections: dict[View, Projection] = {}  # those of other views
        self._transcript: Transcript | None = None
        self._faults: Faults | None = None  # of its followers; None: there were none
        self._ledger = ledger
        self._counted: dict[str, int] = {}  # by kind: its bytes in the ledger, besides those of its frames
        self._call_soon = call_soon

    @property
    def log(self) -> FrameLog:
        """Return the log; events that the bypass has sent are appended first."""
        if self.bypass is not None:
            self.bypass.settle()
        return self._log

    def frames_after(self, offset: int, most: int) -> list[bytes] | None:
        """Return up to `most` frames after an offset, without settling the bypass as reading `log` does.

        None, if the first of them is no longer held.
        """
        log, bypass = self._log, self.bypass
        if offset < log.start:
            return None
        if bypass is None:
            return log.span(offset, min(log.end, offset + most)) if offset < log.end else []
        first = offset - log.end
        if first >= 0:
            return bypass.unsettled(first)[:most]
        return [*log.span(offset, min(log.end, offset + most)), *bypass.unsettled(0)[: max(0, first + most)]]

    @property
    def reader(self) -> Reader:
        """The dialect's reader, which knows the stream's state so far."""
        return self.vitals.reader

    def projection(self, view: View) -> Projection:
        """Return the projection of a view: all followers of the view share it, and the span it rendered last."""
        if view == _RAW:
            raw = self._raw or Raw(self)
            if self._ledger is not _UNLIMITED:  # else it is not dropped any more
                self._raw = raw
            return raw
        projection = self._projections.get(view)
        if projection is None:
            if view.websocket:
                projection = Messages(self.log, self.projection(view._replace(websocket=False)))
            elif view.labelled:
                mode = self.projection(view._replace(labelled=False))
                projection = Labelled(self.id, self.epoch, self.log, mode)
            else:
                projection = MODES[view.mode](self)
            if self._ledger is not _UNLIMITED:  # as above
                self._projections[view] = projection
        return projection

    def transcript(self, end: int) -> Transcript:
        """Return the transcript, fed up to offset `end` at least. It is created when a mode first needs it."""
        transcript, log = self._transcript, self.log
        if transcript is None:
            transcript = self._transcript = Transcript(self.dialect, log.start, cumulative=self.info.cumulative)
        if transcript.end < end:
            transcript.feed(log.span(transcript.end, end))
            self.count(TRANSCRIPTS, transcript.size_bytes)
            if transcript.size_bytes > max(self.max_log_bytes, _TRANSCRIPT_BYTES):
                self._call_soon(self._limit_transcript)  # not here: a follower is being advanced
        return transcript

    def unread_bytes(self, end: int) -> int:
        """Return how many bytes of the frames before an offset the transcript, if there is one, has yet to read."""
        log, transcript = self.log, self._transcript
        if transcript is None or transcript.end >= end:
            return 0
        return log.position(end) - log.position(transcript.end)

    def read_on(self, end: int) -> bool:
        """Have the transcript read more of the frames before an offset; return whether it has yet to read some.

        It reads no more than a span at once, which takes some milliseconds: long logs are read in turns.
        """
        log = self.log
        at = self.transcript(log.start).end
        if at < end:
            at = log.reach(at, end, SPAN_BYTES)
            self.transcript(at)
        return at < end

    def _drop_projections(self) -> None:
        """Drop all projections: each keeps its last span (all of a short answer), and refers back to this stream."""
        if self._faults is not None:
            self._faults.report()
        if self._projections or self._raw is not None:
            self._projections.clear()
            self._raw = None
            for kind in (SPANS, UNSENT):
                if kind in self._counted:
                    self.count(kind, 0)

    def note_fault(self, what: str, error: Exception) -> None:
        """Log an exception that concerns a follower; of many of the same kind only the first and their number."""
        if self._faults is None:
            self._faults = Faults()
        self._faults.note(what, error)

    def resume_writer(self) -> None:
        """Let a paused writer go on, if the originator has been sent enough of the log."""
        if self.full:
            self._limit_log()

    def _limit_log(self) -> None:
        """Keep the log within its limit: drop its oldest quarter, but no frames that the originator has yet to be sent.

        Any other follower that lacks dropped frames is ended when it is next advanced. While the originator itself is
        too slow, the writer is paused: that is the flow control that it would have without a proxy.
        """
        if self._log.size_bytes > self.max_log_bytes:
            self._trim(self.max_log_bytes * 3 // 4, self._needed_from(()))
        full = self._log.size_bytes > self.max_log_bytes and self._log.ending is None
        if full != self.full and self.writer is not None:
            self.full = full
            self._pause_or_resume_writer()

    @property
    def waits_for_client(self) -> bool:
        """Return whether the client that the stream was begun for is slower than its upstream."""
        return self.full or (self.originator is not None and self.originator.clogged)

    def throttle(self, throttled: bool) -> None:
        """Pause the writer to save memory, or end this pause."""
        if throttled != self.throttled and self.writer is not None:
            self.throttled = throttled
            self._pause_or_resume_writer()

    def _pause_or_resume_writer(self) -> None:
        assert self.writer is not None
        (self.writer.pause if self.full or self.throttled else self.writer.resume)()

    @property
    def held_bytes(self) -> int:
        """Return how many bytes of memory it holds, of those that are counted."""
        return self._log.size_bytes + sum(self._counted.values())

    def count(self, kind: str, size_bytes: int) -> None:
        """Set in the ledger how many bytes of a kind the stream holds now."""
        more = size_bytes - self._counted.get(kind, 0)
        if more:
            self._counted[kind] = size_bytes
            self._ledger.count(kind, more, self)

    def take_stock(self) -> None:
        """Count what appending frames leaves out, the memory that each takes besides its bytes."""
        self.count(LOGS, self._log.overhead_bytes())

    def pack(self) -> None:
        """Take less memory, since it has ended, and nobody follows it."""
        self._drop_projections()
        self.subscriptions, self._projections = {}, {}  # a dict that has been emptied takes more than a new one
        self.vitals.pack()

    def survey(self) -> int:
        """Count rendered spans and unsent bytes, which change too often to be counted at each change.

        Followers with the same offset and mode share the bytes that were written to them, so these are counted once.
        Return the number of followers.
        """
        held_bytes = 0 if self._raw is None else len(self._raw.plain) + len(self._raw.chunked)
        for span in self._projections.values():
            held_bytes += len(span.plain) + len(span.chunked)
        if held_bytes or SPANS in self._counted:
            self.count(SPANS, held_bytes)
        unsent: dict[tuple[str, int], int] = {}
        for follower in self.subscriptions:
            size_bytes = follower.sink.unsent_bytes
            if size_bytes:
                place = follower.mode, follower.offset
                unsent[place] = max(size_bytes, unsent.get(place, 0))
        if unsent or UNSENT in self._counted:
            self.count(UNSENT, sum(unsent.values()))
        return len(self.subscriptions)

    def uncount(self) -> None:
        """Remove everything that it holds from the ledger, because it is forgotten and nobody follows it."""
        self._drop_projections()
        self._ledger.bytes -= self._log.size_bytes
        for kind in list(self._counted):
            self.count(kind, 0)
        self._ledger = _UNLIMITED

    def drop_past(self, *, spare_slow: bool) -> None:
        """Drop frames that all followers have been sent, and the texts that are kept for modes that nobody uses.

        Without `spare_slow`, frames that only clogged followers have yet to be sent are dropped, too, as when the log
        has reached its limit.
        """
        if not any(MODES[follower.mode].rewrites for follower in self.subscriptions):
            self._transcript = None
            self.count(TRANSCRIPTS, 0)
            self._projections = {view: one for view, one in self._projections.items() if not MODES[view.mode].rewrites}
        self._trim(0, self._needed_from([one for one in self.subscriptions if spare_slow or not one.clogged]))

    def _needed_from(self, followers: Iterable[Subscription]) -> int:
        """Return the offset from which frames are needed: by these followers, the originator, or a hold."""
        if any(name != REMOTE_FOLLOWERS for name in self.holds):
            return self._log.start  # a client that is to follow will read all of it
        needed = self._log.end if self.originator is None else self.originator.offset
        return min([needed, *(follower.offset for follower in followers)])

    def _trim(self, to_bytes: int, below: int) -> None:
        transcript = self._transcript and self.transcript(self._log.end)  # keeps the text of dropped frames
        self._ledger.bytes -= self._log.trim(to_bytes, below)
        self.take_stock()
        if transcript is not None:
            transcript.forget(self._log.start)

    def _limit_transcript(self) -> None:
        """Keep the transcript within the log's limit: drop the texts that all followers have been sent.

        A follower whose mode needs the whole text can't be served any more, and is ended with `log_limit`.
        """
        transcript, allowed = self._transcript, max(self.max_log_bytes, _TRANSCRIPT_BYTES)
        if transcript is None or transcript.size_bytes <= allowed:
            return
        held = transcript.size_bytes
        for follower in [one for one in self.subscriptions if MODES[one.mode].tells_all]:
            why = f"mode {follower.mode} needs the whole text, which takes {held} bytes, {allowed} are allowed"
            follower.fail(LOG_LIMIT.saying(why))
        self._projections = {view: one for view, one in self._projections.items() if not MODES[view.mode].tells_all}
        transcript.drop_texts(min(self._needed_from(self.subscriptions), transcript.end))
        self.count(TRANSCRIPTS, transcript.size_bytes)
