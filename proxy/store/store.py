"""The interface of a store: logs, values with a time to live, sets, boxes of messages, and counts.

`write` takes several operations at once, since each is small and the way to the store is long. What it returns for each
is either its result or the StoreError that only this one had. An operation may be carried out although no answer came:
therefore each can be repeated.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from proxy.store.entries import Entry, EntryId


class StoreError(Exception):
    """The store can't be reached, or could not do what it was asked for."""


class Undecipherable(StoreError):
    """The store has what was asked for, but this process can't read it."""


class Outcome(NamedTuple):
    """What became of an operation."""

    word: str
    value: bytes | None = None
    numbers: Mapping[str, int] = {}
    left_s: float = 0.0
    """For how long the value is still kept."""


STORED = Outcome("stored")
REJECTED = Outcome("rejected")
"""The log has an entry with this id or a higher one."""
GONE = Outcome("gone")
"""There is no such log: it has expired, was deleted, or the store has lost it."""


class Append(NamedTuple):
    """Append an entry to the log of a stream; only with `begins` a log is made. STORED, REJECTED or GONE."""

    ident: str
    entry: Entry
    begins: bool = False


class Keep(NamedTuple):
    """Keep the log of a stream for so many seconds from now; 0 deletes it."""

    ident: str
    seconds: float


class Put(NamedTuple):
    """Set a value for so many seconds.

    With `absent` only if there is none. The outcome then has the value there is now, and for how long it is still kept.
    """

    name: str
    value: bytes
    seconds: float
    absent: bool = False


class Drop(NamedTuple):
    """Delete values."""

    names: tuple[str, ...]


class Add(NamedTuple):
    """Add a member to a set, which is forgotten after so many seconds without one more."""

    name: str
    member: str
    seconds: float


class Remove(NamedTuple):
    """Remove a member from a set."""

    name: str
    member: str


class Post(NamedTuple):
    """Put a message into the box of a node, which is forgotten after so many seconds without one more."""

    node: str
    message: bytes
    seconds: float


class Count(NamedTuple):
    """Set a member's own number, forgotten after so many seconds without one more; the outcome has the sum of all."""

    name: str
    member: str
    number: int
    seconds: float


class Hold(NamedTuple):
    """Set a member's own number, as `Count` does; 0 removes it. The outcome has the numbers of all, by their names."""

    name: str
    member: str
    number: int
    seconds: float


Operation = Append | Keep | Put | Drop | Add | Remove | Post | Count | Hold


class Store(Protocol):
    """What several nodes share: logs, values with a time to live, sets, boxes of messages, and counts."""

    lanes: int
    """How many readers a node may have, at most: the logs of one lane can be waited for together."""

    def lane(self, ident: str) -> int:
        """Return which reader reads the log of a stream."""

    async def write(self, operations: Sequence[Operation]) -> list[Outcome | StoreError]:
        """Carry out operations, in this order for each log and name. Raises: StoreError, if none may have been."""

    async def entries(self, ident: str, after: EntryId, count: int) -> list[Entry]:
        """Return the next entries of a log after a position. Raises: StoreError."""

    async def last(self, idents: Sequence[str]) -> list[Entry | None]:
        """Return the last entries of logs; None where there is no log. Raises: StoreError."""

    async def exist(self, idents: Sequence[str]) -> list[bool]:
        """Return which of these logs are there. Raises: StoreError."""

    async def values(self, names: Sequence[str]) -> list[bytes | None]:
        """Return values; None for those that are not there. Raises: StoreError."""

    async def members(self, name: str) -> set[str]:
        """Return the members of a set. Raises: StoreError."""

    async def tail(
        self, lane: int, node: str, cursors: Mapping[str, EntryId], block_s: float
    ) -> dict[str, list[Entry]]:
        """Return new entries of logs of one lane, after these positions.

        Waits until there are any, or `wake` is called for this lane and node, or the time is over. Raises: StoreError.
        """

    async def wake(self, lane: int, node: str) -> None:
        """End the wait of a lane's reader. Raises: StoreError."""

    async def messages(self, node: str, after: bytes, block_s: float) -> list[tuple[bytes, bytes]]:
        """Return the messages in a node's box after a position (b"0": all), with theirs; wait for one if there is none.

        Raises: StoreError.
        """

    async def close(self) -> None:
        """Close all connections."""
