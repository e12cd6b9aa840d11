"""Counts that all nodes of a store share: each node tells its own, and learns the sum of all.

Some are kept for a time, whatever becomes of the node: what was used of a minute or a day. Others are of what a node
holds: they count as long as it has its lease, which is looked at before they are added up, so that no clock decides.
Asked before a request is served, so a store that does not answer soon is taken for away for a moment.
"""

import asyncio
from collections.abc import Iterable, Sequence

from proxy.store.leases import Leases
from proxy.store.store import Count, Hold, Outcome, Store, StoreError

_ANSWER_S = 0.5
_AWAY_S = 1.0  # after a failure nobody waits for the store so long
_SEEN_S = 1.0  # how long a node is taken for alive that had its lease
_KEPT_LEASES = 8.0  # how many times as long as a lease what is held is kept without a sign of any node


class StoredCounts:
    """Counts that all nodes of a store share."""

    def __init__(self, store: Store, node: str, leases: Leases) -> None:
        self._store = store
        self._node = node
        self._leases = leases
        self._away_until = 0.0
        self._was_away = False
        self._complete_at = 0.0  # from when on all others have told what they hold, since the store was away
        self._alive_until: dict[str, float] = {}  # other nodes, and until when they are taken for alive

    @property
    def parts(self) -> int:
        """How many nodes were alive when this one looked last."""
        return self._leases.seen

    @property
    def again_s(self) -> float:
        """How often what is held is to be told again: a store that was begun anew has lost it."""
        return self._leases.renew_s

    @property
    def is_complete(self) -> bool:
        """Whether all have told what they hold since the store was away.

        It may have lost that, and they their leases.
        """
        return not self._was_away and asyncio.get_running_loop().time() >= self._complete_at

    async def tell(self, counts: Sequence[tuple[str, int, float]]) -> list[int | None]:
        """Tell counts, each by its name and kept for so many seconds; 0: as long as this node lives.

        Return the sums; None for those that can't be known now.
        """
        loop = asyncio.get_running_loop()
        if loop.time() < self._away_until:
            return [None] * len(counts)
        try:
            async with asyncio.timeout(_ANSWER_S):
                sums = await self._sums(counts, loop.time())
        except (StoreError, TimeoutError):
            self._away_until = loop.time() + _AWAY_S
            self._was_away = True
            return [None] * len(counts)
        if self._was_away:
            self._was_away, self._complete_at = False, loop.time() + max(self.again_s, 1.0) + _AWAY_S
        return list(sums)

    async def _sums(self, counts: Sequence[tuple[str, int, float]], now: float) -> list[int]:
        """Tell counts and return the sums. Raises: StoreError."""
        told = [self._operation(*one) for one in counts]
        holds = any(isinstance(one, Hold) for one in told)
        # The lease first: else what is held here would be that of a node without one.
        before = [self._leases.renewal] if holds else []
        outcomes = _checked(await self._store.write([*before, *told]))[len(before) :]
        dead = await self._dead(outcomes, now)
        if dead:
            await self._store.write(
                [one._replace(member=node, number=0) for one in told if isinstance(one, Hold) for node in sorted(dead)]
            )
        return [_sum(outcome, dead) for outcome in outcomes]

    def _operation(self, name: str, own: int, keep_s: float) -> Count | Hold:
        if keep_s:
            return Count(f"used:{name}", self._node, own, keep_s)
        return Hold(f"held:{name}", self._node, own, _KEPT_LEASES * self._leases.lease_s)

    async def _dead(self, outcomes: Iterable[Outcome], now: float) -> frozenset[str]:
        """Return the nodes without a lease that hold anything. Raises: StoreError."""
        self._alive_until = {node: until for node, until in self._alive_until.items() if now < until}
        holders = {node for outcome in outcomes for node in outcome.numbers} - {self._node}
        unknown = sorted(holders - self._alive_until.keys())
        dead = await self._leases.lacking(unknown) if unknown else set()
        self._alive_until |= dict.fromkeys(set(unknown) - dead, now + _SEEN_S)
        return frozenset(dead)


def _checked(outcomes: Sequence[Outcome | StoreError]) -> list[Outcome]:
    """Raises: the first StoreError among outcomes."""
    found = []
    for outcome in outcomes:
        if isinstance(outcome, StoreError):
            raise outcome
        found.append(outcome)
    return found


def _sum(outcome: Outcome, dead: frozenset[str]) -> int:
    if outcome.value is not None:
        return int(outcome.value)
    return sum(number for node, number in outcome.numbers.items() if node not in dead)
