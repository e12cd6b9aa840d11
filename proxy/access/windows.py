"""Counts within the current minute and the current day, and the limits on them.

Windows are those of the clock: a minute begins at its second 0, a day at 00:00 UTC. Times are passed in, in Unix
seconds. When the clock is set, into whichever direction, the count of another window begins with 0.
What other processes have used of the same limit counts, too, as far as they have told (`sums`).
"""

MINUTE_S, DAY_S = 60, 86400


class Window:
    """How much was used in the current minute or day, and how much may be; a `limit` of 0 is no limit."""

    __slots__ = (
        "_before", "_counted", "_known", "_number", "_others", "_parts", "is_told", "limit", "name", "own", "period_s",
    )  # fmt: skip

    def __init__(self, name: str, period_s: int, limit: int) -> None:
        """`name` is that of the limit, as in the configuration of a caller."""
        self.name = name
        self.period_s = period_s
        self.limit = limit
        self.own = 0  # what was used in this process
        self.is_told = True  # the other processes know it
        self._number = 0
        self._counted = 0  # what the process has counted that counts for all of this machine, if there is one
        self._before = 0  # what was used before this process began
        self._others = 0  # what the others have used, when the sum was known last
        self._known = 0  # the sum, then
        self._parts = 1  # how many processes share what was left, now that the sum is not known

    def roll(self, unix_s: float) -> None:
        """Begin with 0 if another window has begun."""
        number = int(unix_s) // self.period_s
        if number != self._number:
            self._number = number
            self.own = self._before = self._others = self._known = self._counted = 0
            self.is_told = True

    @property
    def used(self) -> int:
        """How much was used, here and elsewhere."""
        return max(self._counted, self.own + max(self._before, self._others))

    def use(self, more: int) -> None:
        """Count what was used here."""
        self.own += more
        self.is_told = False

    def restore(self, used: int) -> None:
        """Count what was used before this process began; or, if another process counts, all that was used so far."""
        self._before = used

    @property
    def allowed(self) -> int:
        """How much may be used before this process admits no more: the limit, or a share of what was left of it."""
        if self._parts == 1:
            return self.limit
        return max(1, self._known + max(0, self.limit - self._known) // self._parts)

    @property
    def is_used_up(self) -> bool:
        """Whether nothing more is admitted in this window."""
        return self.limit > 0 and self.allowed <= self.used

    @property
    def is_exceeded(self) -> bool:
        """Whether more was used than is allowed."""
        return self.limit > 0 and self.allowed < self.used

    @property
    def left(self) -> int:
        """How much is left; 0 also for a window in which more was used than is allowed."""
        return max(0, self.allowed - self.used)

    def ends_in_s(self, unix_s: float) -> int:
        """Return in how many whole seconds the next window begins; at least 1."""
        return self.period_s - int(unix_s) % self.period_s

    def hear(self, counted: int) -> None:
        """Note what another process has counted for this one and its like."""
        self._counted = counted

    # The sum of all processes

    @property
    def keep_s(self) -> float:
        """How long what was used is of use, in seconds."""
        return 2.0 * self.period_s

    @property
    def key(self) -> str:
        """The name of this minute or day of the limit."""
        return f"{self.name}:{self._number}"

    def doubt(self) -> None:
        """Note that what the others know is not known until they have answered."""
        self.is_told = False

    def learn(self, key: str, own: int, total: int) -> None:
        """Note the sum of all processes, `own` being what this one has told."""
        self._parts = 1
        if key == self.key:
            self._known, self._others = total, max(0, total - own)
            self.is_told = self.own == own

    def divide(self, parts: int) -> None:
        """Allow no more than an equal share of what is left, as long as the sum is not known."""
        self._parts = max(self._parts, parts)
        self.is_told = False


def tightest(windows: tuple[Window, Window]) -> Window | None:
    """Return the window of the two that has the smaller part of its limit left; None if neither has a limit."""
    limited = [window for window in windows if window.limit]
    return min(limited, key=lambda window: window.left / window.limit, default=None)
