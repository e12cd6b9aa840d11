"""What a caller has at once, of streams and of followers, and the limits on it, where several processes count together.

Not as windows: what is held is given back, and that of a process which has died is nobody's any more.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol


class Reached(NamedTuple):
    """A limit that leaves no room: its name, how much of it is used, and when there may be room again."""

    limit: str
    used: str
    retry_after_s: int


class Gauge:
    """How much of something a caller has here and at all processes, and may have; a `limit` of 0 is no limit."""

    __slots__ = ("_count", "_others", "_parts", "_told", "key", "limit")

    keep_s = 0.0
    """It is of use as long as this process lives."""

    def __init__(self, key: str, count: Callable[[], int]) -> None:
        """`key` is the name of the limit; `count` returns how much the caller has here."""
        self._count = count
        self._others = 0  # what the others had, when the sum was known last
        self._parts = 1  # how many processes share the limit, now that the sum is not known
        self._told: int | None = 0  # what the others know of what is here; None: that is not known
        self.key = key
        self.limit = 0

    @property
    def own(self) -> int:
        """What the others are to know of what is here."""
        return self._count() if self.limit else 0

    @property
    def everywhere(self) -> int:
        """How much the caller has at all processes, as far as they have told."""
        return self._count() + self._others

    @property
    def is_told(self) -> bool:
        """Whether the others know what is here."""
        return self._told == self.own

    @property
    def is_held(self) -> bool:
        """Whether anything is here, or may be for the others."""
        return self.own != 0 or self._told != 0

    def exceeds(self, count: int) -> bool:
        """Return whether so much is more than may be here."""
        return self.limit > 0 and self._allowed < count

    def reached(self, count: int) -> Reached:
        """Return that the limit leaves no room beside so much that is here."""
        if self._allowed == self._left:
            return Reached(self.key, f"there are {count + self._others}, {self.limit} are allowed", 1)
        used = f"there are {count} here, {self._allowed} of {self.limit} are allowed while the others' are not known"
        return Reached(self.key, used, 1)

    @property
    def _left(self) -> int:
        """What the others leave, as far as that is known."""
        return self.limit - self._others

    @property
    def _allowed(self) -> int:
        """How much may be here: what the others leave, and no more than a share of the limit if not all are known."""
        return self._left if self._parts == 1 else min(self._left, max(1, self.limit // self._parts))

    def doubt(self) -> None:
        """Note that what the others know is not known until they have answered."""
        self._told = None

    def learn(self, key: str, own: int, total: int) -> None:
        """Note the sum of all processes, `own` being what this one has told."""
        self._parts, self._told, self._others = 1, own, max(0, total - own)

    def share(self, parts: int) -> None:
        """Allow no more than an equal share, since some of the others have not told yet what they have."""
        self._parts = parts

    def divide(self, parts: int) -> None:
        """Allow an equal share, as long as the sum is not known."""
        self._parts, self._others = parts, 0


class Room(Protocol):
    """Room for followers of a caller, which somebody grants who counts them for several processes."""

    size: int
    """How many may follow here."""

    async def ask(self, followers: int) -> None:
        """Ask for room for so many followers in all. Raises: LimitReached, Overloaded."""

    def keep(self, followers: int) -> None:
        """Give back what is beyond room for so many, unless somebody asks for more at the moment."""
