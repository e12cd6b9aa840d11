"""File descriptors: how many this process may have, and which of them are kept for what must go on."""

import fcntl
import os
import resource
from collections.abc import Callable
from typing import Final

ADMIN: Final = 16  # for scrapes and probes at the admin port, and log files
_MOST_UPSTREAM: Final = 1024
_TABLE: Final = 65_536  # half a megabyte in the kernel


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


def enlarge_table() -> None:
    """Have the kernel make its table of this process's descriptors large at once.

    Otherwise it doubles it when it is full: at 256 descriptors, 512, and so on. In a process of several threads, as
    Python's are, it waits each time until no core can be using the old table: 10 to 20 ms in which nothing else was
    served. A smaller table is left as it is, where so many descriptors are not allowed.
    """
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    highest = _TABLE - 1 if most == resource.RLIM_INFINITY else min(_TABLE, most) - 1
    try:
        with open(os.devnull, "rb") as file:
            os.close(fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, highest))
    except OSError:
        return


class Descriptors:
    """The limit, how many are in use, and the reserves: a quarter for upstreams, the last ones for the admin port."""

    def __init__(self, limit: int, in_use: int = 0) -> None:
        """`in_use`: those that nobody else counts."""
        self.limit = limit
        self.counted: list[Callable[[], int]] = []  # connections, by those who have them
        self._in_use = in_use
        self._spare = 0  # so many can be taken before it has to be counted again whether they are short
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
        self._spare = 0

    @property
    def in_use(self) -> int:
        return self._in_use + sum(count() for count in self.counted)

    @property
    def left_for_clients(self) -> int:
        """How many connections of clients may be made before they take those that are kept for upstreams."""
        return self._for_clients_end - self.in_use

    @property
    def are_short(self) -> bool:
        """Tell whether a client's connection, which has just come, has taken one that is kept for upstreams."""
        return not self._are_spare() and self.in_use > self._for_clients_end

    @property
    def are_out(self) -> bool:
        """Tell whether a connection to an upstream would take one that is kept for the admin port.

        To be asked before each is made.
        """
        return not self._are_spare() and self.in_use >= self._for_upstream_end

    def _are_spare(self) -> bool:
        """Return whether there are plenty, counting only when as many may have been taken as were spare then.

        At most one is taken for each time that this is asked. So most connections need no count: 5,000 instructions.
        """
        if self._spare <= 0:
            self._spare = self._for_clients_end - self.in_use
        self._spare -= 1
        return self._spare >= 0
