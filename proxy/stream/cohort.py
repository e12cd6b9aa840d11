"""Which followers are advanced together, and when; and the description of a follower's states.

Two rules for this file. It knows who is to be advanced and when, not how: a Member's `advance` does that. And whatever
`stream`, `subscription`, `rank` and `cohort` do with a follower stands in the table below, which
tests/stream/test_follower_states.py reads and holds the code to: change both together.
Keeps law 6 (independence): a sweep over many members is cut into slices, and other streams have their turn in between.

Theory of operation
===================

A follower is a client that reads a stream: an offset in the stream's log, a view (the mode in which it is sent the
frames), and a sink (the response or WebSocket that takes the bytes). To *advance* it is to write to its sink what lies
between its offset and the log's end, and to move the offset.

Three things make a follower advance: a *sweep*, in which its cohort advances all its members because the log has grown
(or, if it is paced, because it has waited long enough); its own `resume`, after it had to wait; and attaching.
Followers differ only in who makes them advance next, and that is what their state says:

    live      the next sweep of its cohort: it is a member of `Cohort.live`
    ranked    the same, through its Rank, which is the member of `Cohort.live` and has the one offset of all in it; if
              all followers of the stream are in it, nobody, as the next
    bypassed  nobody: it is the only follower of its stream, and the Bypass writes events to its transport before they
              are in the log; offset and log are updated for up to 256 of them at once
    ahead     `Stream.end_ahead`, when the frame has ended of which it was sent the first lines; it is in mode raw
    parked    its own `resume`, which is called once: by its sink when it has drained, or when others have had their
              turn (`Stream.pause`, `Turns`; "paused" is not a separate state)
    closing   its own `resume`, as if parked, or a later slice of the last sweep: the log is sealed, and the follower
              ends when it has been sent the last frame
    ended     nobody: it has been sent its end, or has left

An advance by itself (of a live follower, or of one that resumes or attaches) leads to one of four states:

    a follower advances | the sink took all | the sink did not, or there is more than one turn allows
    --------------------|-------------------|-------------------------------------------------------
    the log is open     | live              | parked
    the log is sealed   | ended             | closing

The table. A cell is the state after the event, or the letter of the reason why the event can't happen to that state.

    event           | live    | ranked  | bypassed | ahead    | parked  | closing | ended
    ----------------|---------|---------|----------|----------|---------|---------|------
    read            | live    | ranked  | bypassed | live     | parked  | a       | ended
    read, clogged   | parked  | parked  | parked   | parked   | parked  | a       | ended
    read, long      | parked  | parked  | bypassed | parked   | parked  | a       | ended
    part            | ahead   | ahead   | ahead    | ahead    | parked  | closing | ended
    resume          | live    | ranked  | bypassed | ahead    | live    | ended   | ended
    resume, clogged | live    | ranked  | bypassed | ahead    | parked  | closing | ended
    outrun          | ended   | ended   | b        | d        | ended   | ended   | ended
    another comes   | live    | ranked  | live     | ahead    | parked  | closing | ended
    company         | ranked  | ranked  | c        | live     | parked  | a       | ended
    alone           | bypassed| ranked  | bypassed | bypassed | parked  | a       | ended
    leave           | ended   | ended   | ended    | ended    | ended   | ended   | ended
    fail            | ended   | ended   | ended    | ended    | ended   | ended   | ended
    seal            | ended   | ended   | ended    | ended    | closing | closing | ended
    seal, long      | closing | closing | closing  | closing  | closing | closing | ended

What the events are, and what the code does:

* read: frames are appended (`Stream.extend`), and the sweep writes them. A bypassed follower, and a rank that is
  bypassed, had them already (`Stream.bypassed`). Members of a rank are written to by it, and move with its offset.
* read, clogged: the sink refuses the write, because earlier ones are waiting or its connection was just lost.
  `Stream.park` ends the bypass, takes the follower out of its rank with the offset it has reached, sets `parked` and
  asks the sink to call `resume`. The other members of the rank stay.
* read, long: more than a follower is given in one turn. `Stream.pause` is `park`, with `Turns` to call `go_on`. A
  rank that is due more than one span dissolves first: its members are live, and grouped again after the sweep. A
  bypass forwards every read to a single follower, however long, and none to a rank that is longer than a span.
* part: lines of a frame come, but not its blank line, which some upstreams send with the next event.
  `Stream.send_ahead` sends them to followers in mode raw that have been sent everything before, and they are parked
  until the rest has come; then `Subscription.go_on` sends it. Other modes need complete frames. A sealed stream sends
  nothing more.
* resume: of a follower that is far behind, by more than a span, `Turns` calls `go_on` when it is its turn; it is no
  member of `Cohort.live` before it has caught up. Else `Stream.unpark` makes it live again, unless the log is sealed,
  and it advances by itself: see the four states above. Called when the follower is not parked, it does nothing.
* resume, clogged: it advanced, but the sink accepted only a part, or there was again more than one turn allows.
* outrun: the log's window has moved past the offset, and the follower is advanced: it ends with the error `too_slow`.
  Frames are never skipped. Until it is advanced, nothing happens to it.
* another comes: `Stream.attach`, of another follower. A bypass ends; everybody is served from the log.
  A follower that is far behind when it attaches, by more than a span, is parked until it has caught up; and if its mode
  needs the texts of what comes before its offset, until so much has been read.
* company: a sweep ends, and the cohort has another member. Each follower whose sink has a transport goes into the rank
  of its view, framing and offset (`Cohort._regroup`), and may be the first in it, or the only one.
* alone: there is no other follower, it has been sent everything, and its sink takes the upstream's chunks unchanged.
  The writer looks for that when a follower has come (`followed`), and at every 64th frame: it asks
  `Stream.bypassable`, and starts a Bypass to it. It does the same for a rank that all followers are in, be it a single
  one, and they stay in it.
* leave: the client has gone. Nothing is written to the sink. `Stream.detach` parks it for good and removes it.
* fail: the follower alone is ended, for example because its token has expired. The sink is sent the ending as its mode
  writes it.
* answer (not in the table, since mode raw does not react to it): the frame that ends the answer has come, or an error.
  `Stream.conclude` makes one more sweep, which ends live followers whose mode `ends_with_answer`; parked ones end in
  `resume`.
* seal: the log has its ending. The last sweep has each live follower send its last frames with its end; a rank
  dissolves for that. Only the first seal counts.
* seal, long: as seal, with more frames due than the sink or one turn takes. `resume` sends the rest.

Why an event can't happen:

* a: the log is sealed. It does not grow, nothing writes to it, and `Cohort.live` is empty.
* b: a bypassed follower has been sent everything, and its events are added to the log before a frame is dropped.
* c: `attach` ends a bypass before the other follower is there to be grouped with.
* d: one that has been sent lines of a frame is the first to be sent the rest; paced followers are sent whole frames.

The flag `parked` is also set on followers that are ahead, closing or ended (except on closing ones that a later slice
of the last sweep will visit): this one flag tells a sweep whom to skip, whatever the state is.

The circle of imports
=====================

These four modules depend on each other: Stream has Cohorts and Subscriptions, a Subscription has its Stream and its
Rank, a Rank has Subscriptions, and a Cohort groups its members into Ranks. Imports at run time go one way, stream >
subscription > rank and stream > cohort > rank; those back are for the type checker only. It is the only import circle
of the project (`KNOT` in tests/test_floors.py).

What is ugly
============

* No attribute holds the state: it follows from `ended`, `parked`, the log's ending, `_rank` and `Stream.bypass`. An
  attribute would have to be updated in sweeps and writes, which must be fast.
* Parked members stay in `live` until the next sweep (`has_parked`): removing one from a list of thousands is slow.
* A Subscription reaches into its cohort (`has_parked`) and Stream into Subscription (`parked`) and Cohort (`live`,
  `ungrouped`). With all states in Cohort, each event would cross one object more.
* Ending a bypass settles it, which may exceed a limit and so seal the stream in the middle of another operation:
  `attach`, `detach`, `park`, `pause` and everything that reads `Stream.log` must allow for that.
"""

import heapq
from collections.abc import Callable
from itertools import count
from typing import Any, Final, Protocol

from proxy.machine import Transport
from proxy.stream.faults import BackgroundLoop
from proxy.stream.modes.projection import Projection
from proxy.stream.rank import Ranks

# Followers advanced in one turn of the event loop (a rank may exceed it): at about 10 us each, other streams wait for
# 3 ms at most.
SLICE: Final = 256


class Member(Protocol):
    """What a sweep advances: a subscription, or a rank of several."""

    parked: bool  # sweeps skip it

    @property
    def size(self) -> int:
        """Return how many followers it advances."""

    def advance(self) -> None:
        """Write everything up to the log's end, or as much of it as the sink takes."""

    def transports(self, projection: Projection | None) -> tuple[Transport, ...]:
        """Return what to write to, if all are sent chunks in this projection, and have been sent everything."""

    def note_sent(self, end: int, size_bytes: int) -> None:
        """Note that a bypass has sent all everything up to offset `end`, so many bytes more."""

    def regroup(self, ranks: Ranks) -> "Member":
        """Join a rank, if it can; return what sweeps visit from now on, itself or that rank."""


class Cohort:
    """Followers of one stream that are advanced together, here with every read of the upstream."""

    __slots__ = ("_call_soon", "_concluded", "_sweep", "_sweep_again", "has_parked", "live", "ungrouped")

    def __init__(self, call_soon: Callable[..., Any]) -> None:
        self.live: list[Member] = []  # members that are not parked, and those that parked since the last sweep
        self.has_parked = False  # some of `live` are parked
        self.ungrouped = False  # some of `live` could join a rank, and are in none
        self._call_soon = call_soon
        self._sweep: list[Member] | None = None  # members that the current sweep has yet to visit, in reverse
        self._sweep_again = False  # the log grew during a sweep
        self._concluded = False  # the next sweep is the last one

    def advance(self) -> None:
        """Sweep: advance every live member, in this turn of the event loop, or in slices if they are many."""
        if self.has_parked:
            self.drop_parked()
        if self._sweep is not None:
            self._sweep_again = True
            return
        self._sweep = self.live[::-1]
        if self._concluded:
            self.live = []  # so that a stream which is kept does not hold its followers' connections
        self._advance_slice()

    def conclude(self) -> None:
        """Sweep for the last time, because the log is sealed. Those who are parked end when they resume."""
        self._concluded = True
        if len(self.live) == 1 and not self.has_parked and self._sweep is None:  # the common case: saves two calls
            (member,) = self.live
            self.live = []
            member.advance()
        else:
            self.advance()

    def drop_parked(self) -> None:
        """Remove those who are parked from `live`."""
        self.live = [member for member in self.live if not member.parked]
        self.has_parked = False

    def _advance_slice(self) -> None:
        sweep, visited = self._sweep, 0
        assert sweep is not None
        try:
            while sweep and visited < SLICE:
                member = sweep.pop()
                if not member.parked:
                    visited += member.size
                    member.advance()
        except BaseException:
            self._sweep = None  # give this sweep up: the next one visits everybody
            raise
        if sweep:
            self._call_soon(self._advance_slice)
            return
        self._sweep = None
        if self.ungrouped:
            self._regroup()
        if self._sweep_again:
            self._sweep_again = False
            self.advance()

    def _regroup(self) -> None:
        """Put followers that are due the same bytes into ranks. After a sweep: then most are at the log's end."""
        if self.has_parked:
            self.drop_parked()  # first: a follower that remains alone must not be put into a rank
        ranks: Ranks = {}
        if len(self.live) > 1:
            self.live = list(dict.fromkeys([member.regroup(ranks) for member in self.live]))
        self.ungrouped = False


class Paced(Protocol):
    """What the pacer calls after a delay: a paced cohort, or a call of `Stream.conclude` that was put off."""

    def due(self) -> None:
        """Do what was put off: the delay is over."""


class Pacer:
    """One timer for all paced cohorts: calls the `due` of each when its time has come."""

    __slots__ = ("_call_later", "_due", "_number", "background", "time")

    def __init__(self, call_later: Callable[..., Any], time: Callable[[], float]) -> None:
        """`time` returns monotonic seconds; `call_later` takes seconds and a function, as asyncio's does."""
        self._call_later = call_later
        self.time = time
        self.background = BackgroundLoop("pace", time)
        self._due: list[tuple[float, int, Paced]] = []  # a heap
        self._number = count()

    def wake(self, paced: Paced, after_s: float) -> None:
        """Call `due` once, after `after_s` seconds."""
        at = self.time() + after_s
        first = not self._due or at < self._due[0][0]
        heapq.heappush(self._due, (at, next(self._number), paced))
        if first:
            self._call_later(after_s, self._call_due)

    def _call_due(self) -> None:
        now = self.time()
        while self._due and self._due[0][0] <= now:
            paced = heapq.heappop(self._due)[2]
            with self.background:  # an exception must stop neither this loop nor the timer
                paced.due()
        if self._due:
            self._call_later(self._due[0][0] - now, self._call_due)


class PacedCohort(Cohort):
    """A cohort that waits for `flush_ms`, or for `flush_bytes` of frames, so that they can be merged into fewer."""

    __slots__ = ("_flush_bytes", "_flush_s", "_held_bytes", "_pacer", "_waiting")

    def __init__(self, call_soon: Callable[..., Any], pacer: Pacer, flush_ms: int, flush_bytes: int) -> None:
        super().__init__(call_soon)
        self._pacer = pacer
        self._flush_s = flush_ms / 1000
        self._flush_bytes = flush_bytes
        self._held_bytes = 0
        self._waiting = False

    def hold(self, size_bytes: int) -> None:
        """Note that the log has grown by so many bytes; advance now if enough have gathered, else when time is up."""
        self._held_bytes += size_bytes
        if self._held_bytes >= self._flush_bytes:
            self.flush()
        elif not self._waiting:
            self._waiting = True
            self._pacer.wake(self, self._flush_s)

    def due(self) -> None:
        """Advance if frames have gathered: the pacer calls this when the time is up."""
        self._waiting = False
        if self._held_bytes:
            self.flush()

    def flush(self) -> None:
        """Advance now, whatever has gathered."""
        self._held_bytes = 0
        self.advance()
