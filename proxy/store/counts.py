"""Counts that all nodes of a store share: each node tells its own, and learns the sum of all.

Asked before a request is served, so a store that does not answer soon is taken for away for a moment.
"""

import asyncio
from collections.abc import Sequence

from proxy.store.leases import Leases
from proxy.store.store import Count, Store, StoreError

_ANSWER_S = 0.5
_AWAY_S = 1.0  # after a failure nobody waits for the store so long


class StoredCounts:
    """Counts that all nodes of a store share."""

    def __init__(self, store: Store, node: str, leases: Leases) -> None:
        self._store = store
        self._node = node
        self._leases = leases
        self._away_until = 0.0

    @property
    def parts(self) -> int:
        """How many nodes were alive when this one looked last."""
        return self._leases.seen

    async def tell(self, counts: Sequence[tuple[str, int, float]]) -> list[int] | None:
        """Tell counts, each by its name and kept for so many seconds; return the sums; None, if the store is away."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._away_until:
            return None
        told = [Count(f"used:{name}", self._node, own, keep_s) for name, own, keep_s in counts]
        try:
            async with asyncio.timeout(_ANSWER_S):
                outcomes = await self._store.write(told)
        except (StoreError, TimeoutError):
            outcomes = []
        sums = [int(one.value) for one in outcomes if not isinstance(one, StoreError) and one.value is not None]
        if len(sums) == len(counts):
            return sums
        self._away_until = loop.time() + _AWAY_S
        return None
