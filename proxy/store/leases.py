"""Which nodes are alive, and what becomes of the streams of those that are not.

A node renews its lease, a value with a time to live. A node whose lease is over may have died, stalled, or be cut off
from the store. Its streams are sealed as lost once the lease has been missing for a while: after a restart of the store
all leases may be missing for a moment. Silence of a stream is never taken for loss, since models think.
"""

from collections.abc import Iterable, Sequence

from proxy.store.entries import Seal
from proxy.store.outbox import running
from proxy.store.store import Add, Append, Drop, Operation, Put, Remove, Store, StoreError
from proxy.stream.endings import PRODUCER_LOST

NODES = "nodes"
LEASE = "node:"
"""How the names of leases begin."""
_NODES_S = 24 * 3600.0
LOST = PRODUCER_LOST.saying("the process that read this stream has died, or can't reach the store")


class Leases:
    """The lease of a node, and its view of those of others."""

    def __init__(self, store: Store, node: str, lease_s: float) -> None:
        self._store = store
        self._node = node
        self.lease_s = lease_s  # how long a node is taken for alive after it has renewed its lease
        self._missing: dict[str, float] = {}  # nodes without a lease, and since when
        self.seen = 1  # nodes that had a lease when last looked at, this one too

    @property
    def renew_s(self) -> float:
        """How often to renew, in seconds."""
        return self.lease_s / 4

    async def renew(self) -> None:
        """Renew the lease. Raises: StoreError."""
        _check(await self._store.write([self.renewal, Add(NODES, self._node, _NODES_S)]))

    @property
    def renewal(self) -> Put:
        """What renews the lease."""
        return Put(_lease(self._node), b"1", self.lease_s)

    async def give_back(self) -> None:
        """End the lease: the node stops. Raises: StoreError."""
        await self._store.write([Drop((_lease(self._node),)), Remove(NODES, self._node)])

    def forget_misses(self) -> None:
        """Begin to wait anew for all missing leases: the store could not be reached."""
        self._missing.clear()

    async def alive(self, node: str) -> bool:
        """Return whether a node has a lease now. Raises: StoreError."""
        return not await self.lacking([node])

    async def lacking(self, nodes: Sequence[str]) -> set[str]:
        """Return those of these nodes that have no lease now. Raises: StoreError."""
        leases = await self._store.values([_lease(node) for node in nodes])
        return {node for node, lease in zip(nodes, leases, strict=True) if lease is None}

    async def dead(self, now: float, more: Iterable[str] = ()) -> set[str]:
        """Return the nodes, and those of `more`, that have been without a lease for long. Raises: StoreError."""
        nodes = sorted({*await self._store.members(NODES), *more} - {self._node})
        missing = await self.lacking(nodes)
        self.seen = 1 + len(nodes) - len(missing)
        self._missing = {node: self._missing.get(node, now) for node in missing}
        return {node for node, since in self._missing.items() if now - since >= self.lease_s / 2}

    async def bury(self, node: str) -> None:
        """Seal all streams of a node that has died. Raises: StoreError, if some could not be."""
        idents = await self._store.members(running(node))
        _check(await seal_lost(self._store, sorted(idents)))
        operations: list[Operation] = [Remove(running(node), ident) for ident in idents]
        _check(await self._store.write([*operations, Remove(NODES, node)]))


async def seal_lost(store: Store, idents: Sequence[str]) -> list[object]:
    """Seal streams as lost; one that is sealed already stays as it is. Raises: StoreError."""
    return list(await store.write([Append(ident, Seal(LOST).entry()) for ident in idents])) if idents else []


def _lease(node: str) -> str:
    return LEASE + node


def _check(outcomes: Iterable[object]) -> None:
    """Raises: the first StoreError among outcomes."""
    for outcome in outcomes:
        if isinstance(outcome, StoreError):
            raise outcome
