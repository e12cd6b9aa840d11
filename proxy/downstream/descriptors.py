"""File descriptors: how many this process may have, and which of them are kept for what must go on.

A new descriptor has the lowest number that is free (POSIX), so its number tells how many are in use.
"""

import resource
from typing import NamedTuple

ADMIN = 16  # the last ones: for scrapes and probes at the admin port
_MOST_UPSTREAM = 1024


def raise_limit() -> tuple[int, int]:
    """Raise the limit to the hard one, as any process may; return what it was and what it is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return soft, soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # macOS allows less than it says
        return soft, soft
    return soft, resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class Descriptors(NamedTuple):
    """The limit, and the reserves below it."""

    limit: int

    @classmethod
    def of_process(cls) -> "Descriptors":
        """Return those of this process as it is now."""
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return cls(1 << 30 if limit == resource.RLIM_INFINITY else limit)

    @property
    def for_upstream(self) -> int:
        """Return how many are kept for connections to upstreams, beside those of the admin port."""
        return min(_MOST_UPSTREAM, self.limit // 4)

    def are_short(self, descriptor: int) -> bool:
        """Tell, by the number of a client's new one, whether only the reserves are left."""
        return descriptor >= self.limit - self.for_upstream - ADMIN

    def are_out(self, descriptor: int) -> bool:
        """Tell, by the number of a new one to an upstream, whether only the admin port's are left."""
        return descriptor >= self.limit - ADMIN
