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
    def for_clients_end(self) -> int:
        """Return the first number that is none for clients of the data port: a quarter is kept for upstreams."""
        return max(0, self.for_upstream_end - min(_MOST_UPSTREAM, self.limit // 4))

    @property
    def for_upstream_end(self) -> int:
        """Return the first number that is none for upstreams either: the rest is the admin port's."""
        return max(0, self.limit - ADMIN)
