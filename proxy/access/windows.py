"""Counts within the current minute and the current day, and the limits on them.

Windows are those of the clock: a minute begins at its second 0, a day at 00:00 UTC. Times are passed in, in Unix
seconds. When the clock is set, into whichever direction, the count of another window begins with 0.
"""

MINUTE_S, DAY_S = 60, 86400


class Window:
    """How much was used in the current minute or day, and how much may be; a `limit` of 0 is no limit."""

    __slots__ = ("_number", "limit", "name", "period_s", "used")

    def __init__(self, name: str, period_s: int, limit: int) -> None:
        """`name` is that of the limit, as in the configuration of a caller."""
        self.name = name
        self.period_s = period_s
        self.limit = limit
        self.used = 0
        self._number = 0

    def roll(self, unix_s: float) -> None:
        """Begin with 0 if another window has begun."""
        number = int(unix_s) // self.period_s
        if number != self._number:
            self._number = number
            self.used = 0

    @property
    def is_used_up(self) -> bool:
        """Whether nothing more is admitted in this window."""
        return 0 < self.limit <= self.used

    @property
    def left(self) -> int:
        """How much is left; 0 also for a window in which more was used than is allowed."""
        return max(0, self.limit - self.used)

    def ends_in_s(self, unix_s: float) -> int:
        """Return in how many whole seconds the next window begins; at least 1."""
        return self.period_s - int(unix_s) % self.period_s


def tightest(windows: tuple[Window, Window]) -> Window | None:
    """Return the window of the two that has the smaller part of its limit left; None if neither has a limit."""
    limited = [window for window in windows if window.limit]
    return min(limited, key=lambda window: window.left / window.limit, default=None)
