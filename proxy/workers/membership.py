"""Which workers there are, as each of them knows it: those that begin what is new, and those that only finish.

After a reload the old workers are draining: they begin nothing, and serve what they have until it has ended. A name
that one of them held is then found there, by its new owner, as long as nothing newer has the name.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from proxy.workers.names import owner_of


class Membership(NamedTuple):
    """Which workers there are, as each of them knows it."""

    number: int  # of this worker
    current: Sequence[int]  # the workers that begin what is new
    draining: frozenset[int] = frozenset()
    older: Mapping[bytes, int] = {}  # names that draining workers held when the current ones began

    @property
    def is_retired(self) -> bool:
        """Return whether this worker begins nothing new."""
        return self.number not in self.current

    @property
    def others(self) -> list[int]:
        """Return all other workers."""
        return [number for number in (*self.current, *sorted(self.draining)) if number != self.number]

    def is_there(self, number: int) -> bool:
        """Return whether there is a worker of this number."""
        return number in self.current or number in self.draining

    def owner(self, name: bytes) -> int:
        """Return the worker that a name belongs to."""
        return owner_of(name, self.current)

    def older_owner(self, name: bytes) -> int | None:
        """Return the draining worker that held a name, if there is one."""
        number = self.older.get(name)
        return number if number in self.draining else None
