"""File descriptors: how many this process may have, and which of them are kept for what must go on."""

import os
import resource
from collections.abc import Callable
from typing import Final

ADMIN: Final = 16  # for scrapes and probes at the admin port, and log files
_MOST_UPSTREAM: Final = 1024


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


class Descriptors:
    """The limit, how many are in use, and the reserves: a quarter for upstreams, the last ones for the admin port."""

    def __init__(self, limit: int, in_use: int = 0) -> None:
        """`in_use`: those that nobody else counts."""
        self.limit = limit
        self.counted: list[Callable[[], int]] = []  # connections, by those who have them
        self._in_use = in_use
        self._for_upstream_end = limit - ADMIN
        self._for_clients_end = self._for_upstream_end - min(_MOST_UPSTREAM, limit // 4)

    @classmethod
    def of_process(cls) -> "Descriptors":
        """Return those of this process. Call `recount` when it has opened what it always has open."""
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return cls(1 << 30 if limit == resource.RLIM_INFINITY else limit)

    def recount(self) -> None:
        """Count those that nobody else counts."""
        self._in_use += len(os.listdir("/dev/fd")) - self.in_use

    @property
    def in_use(self) -> int:
        return self._in_use + sum(count() for count in self.counted)

    @property
    def left_for_clients(self) -> int:
        """How many connections of clients may be made before they take those that are kept for upstreams."""
        return self._for_clients_end - self.in_use

    @property
    def are_short(self) -> bool:
        """Tell whether a client's connection has taken one that is kept for upstreams."""
        return self.in_use > self._for_clients_end

    @property
    def are_out(self) -> bool:
        """Tell whether a connection to an upstream would take one that is kept for the admin port."""
        return self.in_use >= self._for_upstream_end
