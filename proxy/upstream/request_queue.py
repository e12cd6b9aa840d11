"""Decides which request may be sent next to an upstream whose rate or number of concurrent requests is limited.

Pure: the time is a parameter, in monotonic seconds, and a callback reports that a request is admitted. Callers take
turns, however many requests each has; the requests of one caller are admitted in order. A new request never overtakes
those that wait, and a request keeps its place until it is admitted or leaves.
"""

import math
from collections import deque
from collections.abc import Callable


class Ticket:
    """A request's place in the queue."""

    __slots__ = ("admit", "admitted", "caller")

    def __init__(self, caller: bytes, admit: Callable[[], None]) -> None:
        self.caller = caller
        self.admit = admit
        self.admitted = False


class _Window:
    """At most `limit` within any `span_s` seconds."""

    __slots__ = ("_span_s", "_went_at")

    def __init__(self, limit: int, span_s: float) -> None:
        self._span_s = span_s
        self._went_at: deque[float] = deque(maxlen=limit)  # if full, the next one waits for the first to expire

    def free_at(self) -> float:
        full = len(self._went_at) == self._went_at.maxlen
        return self._went_at[0] + self._span_s if full else -math.inf

    def went(self, now: float) -> None:
        self._went_at.append(now)


class RequestQueue:
    """The queue of one upstream: its limits, and the requests that wait, by caller."""

    __slots__ = ("_lines", "_max_concurrent", "_per_minute", "_running", "_size", "_windows", "waiting")

    def __init__(self, *, max_concurrent: int, per_minute: int, size: int) -> None:
        """`size` requests may wait; `max_concurrent` and `per_minute` 0 are no limit.

        Qwen also enforces a sixtieth of the rate per minute within each second.
        """
        self._max_concurrent = max_concurrent or math.inf
        self._per_minute = per_minute
        self._windows = [_Window(per_minute, 60.0), _Window(math.ceil(per_minute / 60), 1.0)] if per_minute else []
        self._size = size
        self._running = 0
        self._lines: dict[bytes, dict[Ticket, None]] = {}  # the next caller first
        self.waiting = 0

    @property
    def running(self) -> int:
        """The number of requests that were admitted and have not been released."""
        return self._running

    def free(self, now: float) -> bool:
        """Return whether a new request would be admitted at once."""
        return not self.waiting and self._may_go(now)

    def enter(self, caller: bytes, now: float, admit: Callable[[], None]) -> Ticket | None:
        """Return a place, admitted already if no request waits and the limits allow it; None if the queue is full.

        `admit` is called once, within a later `advance`, if the request has to wait.
        """
        ticket = Ticket(caller, admit)
        if self.free(now):
            self._go(ticket, now)
            return ticket
        if self.waiting >= self._size:
            return None
        self._lines.setdefault(caller, {})[ticket] = None
        self.waiting += 1
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Give up a place that waits; has no effect on others."""
        line = self._lines.get(ticket.caller)
        if line is not None and ticket in line:
            self._remove(ticket, line)

    def release(self) -> None:
        """Record that an admitted request has ended; call `advance` then, to admit the next one."""
        self._running -= 1

    def advance(self, now: float) -> float | None:
        """Admit as many requests as the limits allow.

        Return when to advance again; None if no request can be admitted before another one is released.
        """
        while self.waiting and self._may_go(now):
            caller, line = next(iter(self._lines.items()))
            ticket = next(iter(line))
            self._remove(ticket, line)
            if line:  # behind the other callers
                self._lines[caller] = self._lines.pop(caller)
            self._go(ticket, now)
            ticket.admit()
        if not self.waiting or self._running >= self._max_concurrent:
            return None
        return self._free_at()

    def expected_wait_s(self, now: float) -> float:
        """Return how long a new request would wait for the rate limit, in seconds.

        Waiting for other requests to end is not included, as it can't be predicted.
        """
        if not self._per_minute:
            return 0.0
        return max(0.0, self._free_at() - now) + self.waiting * 60 / self._per_minute

    def _may_go(self, now: float) -> bool:
        return self._running < self._max_concurrent and now >= self._free_at()

    def _free_at(self) -> float:
        return max((window.free_at() for window in self._windows), default=-math.inf)

    def _go(self, ticket: Ticket, now: float) -> None:
        ticket.admitted = True
        self._running += 1
        for window in self._windows:
            window.went(now)

    def _remove(self, ticket: Ticket, line: dict[Ticket, None]) -> None:
        del line[ticket]
        self.waiting -= 1
        if not line:
            del self._lines[ticket.caller]
