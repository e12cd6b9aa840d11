"""Which followers are advanced together, and when: with every read, or at a pace. And the page of their states.

Two rules for this file. It knows who is to be advanced and when, not how: a Member's `advance` does that. And whatever
`stream`, `subscription`, `rank` and `cohort` do with a follower stands in the table below, which
tests/stream/test_follower_states.py reads and holds the code to: change both together.
Keeps law 6 (independence): a sweep over many members is cut into slices, and other streams have their turn in between.

Theory of operation
===================

A follower is an offset in a log and a sink. To *advance* it is to write to its sink what lies between its offset and
the log's end, and to move the offset. Three things make it advance: a *sweep*, in which its cohort advances all its
members because the log has grown (or because the pace says so); its own `resume`, after it had to wait; and attaching.
Followers differ in nothing but who makes them advance next, and that is what their state says:

    live      the next sweep of its cohort: it is a member of `Cohort.live`
    ranked    the same, through its Rank, which is the member of `Cohort.live` and has the one offset of all in it
    bypassed  nobody: a live follower, the only one of its stream, to whose transport the Bypass sends events before
              they are in the log; offset and log are told of up to 64 of them at once
    parked    its own `resume`, which is called once: by its sink when it has drained, or by the event loop when others
              have had their turn. The second was called "paused": it is no state of its own
    closing   as parked, or the last slice of the last sweep; but the log is sealed, so that it ends at its last frame
    ended     nobody: it has been sent its end, or has left

An advance by itself (of a live follower, or of one that resumes or attaches) leads to one of four states:

    a follower advances | the sink took all | the sink clogged, or there is more than a turn's worth
    --------------------|-------------------|-------------------------------------------------------
    the log is open     | live              | parked
    the log is sealed   | ended             | closing

The table. A cell is the state after the event, or the letter of the reason why the event can't happen to that state.

    event           | live    | ranked  | bypassed | parked  | closing | ended
    ----------------|---------|---------|----------|---------|---------|------
    read            | live    | ranked  | bypassed | parked  | a       | ended
    read, clogged   | parked  | parked  | parked   | parked  | a       | ended
    read, long      | parked  | parked  | bypassed | parked  | a       | ended
    resume          | live    | ranked  | bypassed | live    | ended   | ended
    resume, clogged | live    | ranked  | bypassed | parked  | closing | ended
    outrun          | ended   | ended   | b        | ended   | ended   | ended
    another comes   | live    | ranked  | live     | parked  | closing | ended
    company         | ranked  | ranked  | c        | parked  | a       | ended
    alone           | bypassed| bypassed| bypassed | parked  | a       | ended
    leave           | ended   | ended   | ended    | ended   | ended   | ended
    fail            | ended   | ended   | ended    | ended   | ended   | ended
    seal            | ended   | ended   | ended    | closing | closing | ended
    seal, long      | closing | closing | closing  | closing | closing | ended

What the events are, and what the code does:

* read: frames are appended (`Stream.extend`), and the sweep writes them. A bypassed follower had them already
  (`Stream.bypassed`). Members of a rank are written to by it, and move with its offset.
* read, clogged: the sink refuses the write, since earlier ones are waiting, or its connection was just lost.
  `Stream.park` ends the bypass, takes the follower out of its rank with the offset it has reached, sets `parked` and
  asks the sink to call `resume`. The other members of the rank stay.
* read, long: more than a follower is given in one turn. `Stream.pause` is `park`, with the loop to call `resume`. A
  rank that is due more than one span dissolves first: its members are live, and grouped again after the sweep. A
  bypass sends on what came, however much.
* resume: `Stream.unpark` makes it live again, unless the log is sealed, and it advances by itself: see the four states
  above. Called when the follower is not parked, it does nothing.
* resume, clogged: it advanced, and the sink took some of what was due. Or it has had its turn's worth once more.
* outrun: the log's window has moved past the offset, and the follower is advanced: it ends with the error `too_slow`.
  Frames are never skipped. Until it is advanced, nothing happens to it.
* another comes: `Stream.attach`, of another follower. A bypass ends; everybody is served from the log.
* company: a sweep ends, and the cohort has another member. Each follower whose sink has a transport goes into the rank
  of its view, framing and offset (`Cohort._regroup`), and may be the first in it, or the only one.
* alone: no other follower is left, it has had everything, and its sink takes the upstream's chunks as they come: the
  writer asks for `lone_follower`, which leaves its rank, and puts a Bypass before it.
* leave: the client has gone. The sink is told nothing. `Stream.detach` parks it for good and forgets it.
* fail: the follower alone is ended, because its token has expired, say. The sink is told what its mode makes of it.
* seal: the log has its ending. The last sweep has each live follower send its last frames with its end; a rank
  dissolves for that. Only the first seal counts.
* seal, long: as seal, with more frames due than the sink, or a turn, takes. It goes on by `resume`.

Why an event can't happen:

* a: the log is sealed. It does not grow, nothing writes to it, and `Cohort.live` is empty.
* b: a bypassed follower lacks nothing; the log takes what it was sent before it drops a frame.
* c: `attach` ends a bypass before the other follower is there to be grouped with.

The flag `parked` is also set on closing and ended followers (but for those whom a slice of the last sweep is still to
visit): a sweep asks this one flag, whatever the state is.

The circle of imports
=====================

These four modules are one machine, and name each other: Stream has Cohorts and Subscriptions, a Subscription has its
Stream and its Rank, a Rank has Subscriptions, and a Cohort groups its members into Ranks. Imports that run go one way,
stream > subscription > rank and stream > cohort > rank; those back are for the type checker only. It is the one circle
of the house (`KNOT` in tests/test_floors.py).

What is ugly
============

* No attribute holds the state: it is read off `ended`, `parked`, the log's ending, `_rank` and `Stream.bypass`. An
  attribute would have to be kept right where the time goes, in sweeps and writes.
* `parked` members stay in `live` until the next sweep (`has_parked`): to take one out of a list of thousands costs.
* A Subscription reaches into its cohort (`has_parked`) and Stream into Subscription (`parked`) and Cohort (`live`,
  `ungrouped`). With all states in Cohort, each event would cross one object more.
* Whatever ends a bypass settles it, and that may exceed a limit and seal the stream, in the midst of something else:
  `attach`, `detach`, `park`, `pause` and every reader of `Stream.log` must bear that.
"""

import heapq
from collections.abc import Callable
from itertools import count
from typing import Any, Protocol

from proxy.stream.rank import Ranks

# Cursors advanced in one turn of the loop, and a rank more: at about 10 us a delivery, other streams wait 3 ms at most.
SLICE = 256


class Member(Protocol):
    """A cursor in a cohort: a subscription, or a rank of them."""

    parked: bool  # sweeps pass over it

    @property
    def size(self) -> int:
        """How many followers it advances."""

    def advance(self) -> None:
        """Go to the log's end, as far as the sink takes it."""

    def regroup(self, ranks: Ranks) -> "Member":
        """Return whom sweeps shall visit for it from now on: itself, or the rank that it has joined."""


class Cohort:
    """The followers of one stream that are advanced at the same moments: here, with every read."""

    __slots__ = ("_call_soon", "_concluded", "_sweep", "_sweep_again", "has_parked", "live", "ungrouped")

    def __init__(self, call_soon: Callable[..., Any]) -> None:
        self.live: list[Member] = []  # all but the parked; those parked since the last sweep may be in it
        self.has_parked = False  # some of the live ones are parked
        self.ungrouped = False  # some of the live ones may stand abreast, and are in no rank
        self._call_soon = call_soon
        self._sweep: list[Member] | None = None  # whom the one that is going on has yet to visit, the next one last
        self._sweep_again = False
        self._concluded = False

    def advance(self) -> None:
        """Advance every live member, in this turn of the loop, or in slices when they are many."""
        if self.has_parked:
            self.drop_parked()
        if self._sweep is not None:
            self._sweep_again = True
            return
        self._sweep = self.live[::-1]
        if self._concluded:
            self.live = []  # a kept stream does not hold the connections of those who followed it
        self._advance_slice()

    def conclude(self) -> None:
        """Advance for the last time: the log is sealed. Who is parked ends by its own advance."""
        self._concluded = True
        self.advance()

    def drop_parked(self) -> None:
        """Leave the parked out of the live ones."""
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
            self._sweep = None  # over: the next one visits all, and the last one ends them
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
        """Have those who stand abreast visited as one. After a sweep: then all do who could be written to."""
        if self.has_parked:
            self.drop_parked()  # else somebody who is alone, and may be served by a bypass, would be put into a rank
        ranks: Ranks = {}
        if len(self.live) > 1:
            self.live = list(dict.fromkeys([member.regroup(ranks) for member in self.live]))
        self.ungrouped = False


class Pacer:
    """The one timer of all paced cohorts: calls each when it is due."""

    __slots__ = ("_call_later", "_due", "_number", "_time")

    def __init__(self, call_later: Callable[..., Any], time: Callable[[], float]) -> None:
        """`time` is in seconds; `call_later` takes seconds and what to call."""
        self._call_later = call_later
        self._time = time
        self._due: list[tuple[float, int, PacedCohort]] = []  # a heap
        self._number = count()

    def wake(self, cohort: "PacedCohort", after_s: float) -> None:
        """Call the cohort's `due` once, after so many seconds."""
        at = self._time() + after_s
        first = not self._due or at < self._due[0][0]
        heapq.heappush(self._due, (at, next(self._number), cohort))
        if first:
            self._call_later(after_s, self._call_due)

    def _call_due(self) -> None:
        now = self._time()
        while self._due and self._due[0][0] <= now:
            heapq.heappop(self._due)[2].due()
        if self._due:
            self._call_later(self._due[0][0] - now, self._call_due)


class PacedCohort(Cohort):
    """A cohort that lets frames gather, for `flush_ms` or until `flush_bytes` of them, so that they can be joined."""

    __slots__ = ("_flush_bytes", "_flush_s", "_held_bytes", "_pacer", "_waiting")

    def __init__(self, call_soon: Callable[..., Any], pacer: Pacer, flush_ms: int, flush_bytes: int) -> None:
        super().__init__(call_soon)
        self._pacer = pacer
        self._flush_s = flush_ms / 1000
        self._flush_bytes = flush_bytes
        self._held_bytes = 0
        self._waiting = False

    def hold(self, size_bytes: int) -> None:
        """The log has grown by so many bytes: advance now or later."""
        self._held_bytes += size_bytes
        if self._held_bytes >= self._flush_bytes:
            self.flush()
        elif not self._waiting:
            self._waiting = True
            self._pacer.wake(self, self._flush_s)

    def due(self) -> None:
        """The time is up."""
        self._waiting = False
        if self._held_bytes:
            self.flush()

    def flush(self) -> None:
        """Advance now."""
        self._held_bytes = 0
        self.advance()
