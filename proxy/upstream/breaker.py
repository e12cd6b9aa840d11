"""A circuit breaker: whether an upstream is asked at all.

Pure: time is handed in, in monotonic seconds; nobody is asked from here. Closed, requests pass; after some failures
within a window it opens, and none do; when it has been open long enough, one may pass (half open), whose outcome
closes or opens it again. A stream may run for long: after as much time again without an outcome, one more may pass.
"""

from collections import deque
from enum import Enum


class State(Enum):
    """What a breaker lets through."""

    CLOSED = "closed"
    HALF_OPEN = "half_open"
    OPEN = "open"


class Breaker:
    """The breaker of one upstream. Who asks `allows`, and goes, calls `goes`; then one of the outcomes."""

    __slots__ = ("_failed_at", "_failures", "_open_s", "_open_until", "_trial_until", "_window_s")

    def __init__(self, failures: int, window_s: float, open_s: float) -> None:
        """Open for `open_s` after so many failures within `window_s`."""
        self._failures = failures
        self._window_s = window_s
        self._open_s = open_s
        self._failed_at: deque[float] = deque(maxlen=failures)
        self._open_until: float | None = None
        self._trial_until = 0.0  # half open: until then the one that is on its way is waited for

    def state(self, now: float) -> State:
        """Return the state at a time."""
        if self._open_until is None:
            return State.CLOSED
        return State.OPEN if now < self._open_until else State.HALF_OPEN

    def allows(self, now: float) -> bool:
        """Tell whether a request may go."""
        return self._open_until is None or now >= max(self._open_until, self._trial_until)

    def opens_in_s(self, now: float) -> float:
        """Return in how many seconds a request may go, as far as is known."""
        return max(0.0, max(self._open_until, self._trial_until) - now) if self._open_until is not None else 0.0

    def goes(self, now: float) -> bool:
        """Let a request go that `allows` it; return whether it is the one that half open lets through.

        That one's outcome, and no other's, closes a breaker: requests from before it opened may still end.
        """
        if self._open_until is None:
            return False
        self._trial_until = now + self._open_s
        return True

    def succeeded(self, trial: bool) -> None:
        """An exchange ended cleanly."""
        if trial:
            self._open_until = None
            self._trial_until = 0.0
            self._failed_at.clear()

    def failed(self, trial: bool, now: float, retry_after_s: float | None = None) -> None:
        """The upstream failed. A stated `Retry-After` opens at once, for so long."""
        self._failed_at.append(now)
        if trial:
            self._trial_until = 0.0
        if retry_after_s is not None:
            self._open(now + retry_after_s)
        elif trial or (
            self._open_until is None
            and len(self._failed_at) == self._failures
            and now - self._failed_at[0] <= self._window_s
        ):
            self._open(now + self._open_s)

    def gave_up(self, trial: bool) -> None:
        """The client left: that says nothing of the upstream. Another may try."""
        if trial:
            self._trial_until = 0.0

    def _open(self, until: float) -> None:
        self._open_until = max(until, self._open_until or until)
