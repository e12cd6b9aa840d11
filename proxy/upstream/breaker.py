"""A circuit breaker, which decides whether requests may be sent to an upstream.

Pure: the time is a parameter, in monotonic seconds. A closed breaker lets requests pass. After a number of failures
within a window it opens and lets none pass. When it has been open long enough, it lets one request pass (half open),
whose outcome closes or opens it again. Since a stream may take long, another request may pass if there is no outcome
after the same time.
"""

from collections import deque
from enum import Enum


class State(Enum):
    """What a breaker lets through."""

    CLOSED = "closed"
    HALF_OPEN = "half_open"
    OPEN = "open"


class Breaker:
    """The breaker of one upstream. Callers check `allows`, call `goes` on sending, and then report one outcome."""

    __slots__ = ("_failed_at", "_failures", "_open_s", "_open_until", "_trial_until", "_window_s")

    def __init__(self, failures: int, window_s: float, open_s: float) -> None:
        """The breaker opens for `open_s` seconds after `failures` failures within `window_s` seconds."""
        self._failures = failures
        self._window_s = window_s
        self._open_s = open_s
        self._failed_at: deque[float] = deque(maxlen=failures)
        self._open_until: float | None = None
        self._trial_until = 0.0  # half open: until then no other request may pass

    def state(self, now: float) -> State:
        """Return the state at the time `now`."""
        if self._open_until is None:
            return State.CLOSED
        return State.OPEN if now < self._open_until else State.HALF_OPEN

    def allows(self, now: float) -> bool:
        """Return whether a request may be sent."""
        return self._open_until is None or now >= max(self._open_until, self._trial_until)

    def opens_in_s(self, now: float) -> float:
        """Return in how many seconds a request may be sent, as far as is known."""
        return max(0.0, max(self._open_until, self._trial_until) - now) if self._open_until is not None else 0.0

    def goes(self, now: float) -> bool:
        """Record that a request is sent, after `allows`; return whether it is the trial of a half-open breaker.

        Only the outcome of a trial closes a breaker, since requests that were sent before it opened may still end.
        """
        if self._open_until is None:
            return False
        self._trial_until = now + self._open_s
        return True

    def succeeded(self, trial: bool) -> None:
        """Record that an exchange ended cleanly."""
        if trial:
            self._open_until = None
            self._trial_until = 0.0
            self._failed_at.clear()

    def failed(self, trial: bool, now: float, retry_after_s: float | None = None) -> None:
        """Record that the upstream failed. With a `Retry-After` the breaker opens at once, for that time."""
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
        """Record that a request ended without an outcome, as when its client left. Another may be the trial."""
        if trial:
            self._trial_until = 0.0

    def _open(self, until: float) -> None:
        self._open_until = max(until, self._open_until or until)
