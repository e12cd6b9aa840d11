"""What callers use at all processes together: each tells what was used of a window at it, and learns the sum.

A request of a caller with limits is counted here, and then the sum decides: so of several processes that admit requests
at once no more get in than the limit allows. Tokens are told when they are known. While the sum is not known, each
process may use an equal share of what was left, and tells later what it used. A process tells its own count and not
what is new of it: so it can be told again, and a sum that was lost is complete once all have done so.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from proxy.access.account import Account, Place
from proxy.stream.faults import log_fault

_EVERY_S = 1.0
_ALL_EVERY = 60  # all is told again each so many times
_MOST = 500  # accounts whose windows are told at once


class Told(NamedTuple):
    """What this process has counted under a name, and how long that is of use, in seconds."""

    name: str
    own: int
    keep_s: float


class SharedCounts(Protocol):
    """Counts that several processes share: each tells its own, and learns the sum of all."""

    @property
    def parts(self) -> int:
        """How many processes share them, as far as this one knows; at least 1."""

    async def tell(self, counts: Sequence[Told]) -> list[int] | None:
        """Tell what this process has counted, and return the sums; None, if they can't be known now."""


class Sums:
    """Keeps the windows of accounts at what all processes together have used."""

    def __init__(self, counts: SharedCounts, accounts: Iterable[Account]) -> None:
        self._counts = counts
        self._accounts = accounts
        self._due = asyncio.Event()
        self._turns: dict[bytes, _Turn] = {}

    async def confirm(self, account: Account, place: Place) -> None:
        """Count a request that has taken a place in the sum, too, or give its place back. Raises: LimitReached."""
        try:
            await self.correct(account)
        except BaseException:
            place.give_back()
            raise
        reached = account.exceeded() if account.limits.has_windows else None
        if reached is not None:
            await place.withdraw()
            account.refuse(reached)

    async def correct(self, account: Account) -> None:
        """Have the sum know what this process has counted for an account with limits on it."""
        if account.limits.has_windows:
            await self._settled(account)

    async def _settled(self, account: Account) -> None:
        """Return when the sums of an account are known that have all of what was counted until now.

        Requests that come meanwhile wait for one turn together: of two at once, the one sent last may come first.
        """
        turn = self._turns.setdefault(account.digest, _Turn())
        number, turn.waiting = turn.number, turn.waiting + 1
        try:
            async with turn.lock:
                if turn.number == number:
                    turn.number += 1
                    await self.settle([account], only_limited=True)
        finally:
            turn.waiting -= 1
            if not turn.waiting:
                self._turns.pop(account.digest, None)

    async def settle(self, accounts: Sequence[Account], *, only_limited: bool = False) -> None:
        """Tell what was used of windows here, and learn what was used of them everywhere."""
        every = [(account.name, window) for account in accounts for window in account.windows]
        windows = [(name, window) for name, window in every if window.limit or not only_limited]
        told = [Told(f"{name}:{window.key}", window.own, 2.0 * window.period_s) for name, window in windows]
        keys = [window.key for _, window in windows]
        sums = await self._counts.tell(told)
        if sums is None:
            for _, window in windows:
                window.divide(self._counts.parts)
            return
        for (_, window), key, (_, own, _), total in zip(windows, keys, told, sums, strict=True):
            window.learn(key, own, total)

    def hurry(self) -> None:
        """Tell what was used soon: tokens have become known."""
        self._due.set()

    async def flush(self, *, again: bool = False) -> None:
        """Tell whatever was used and has not been told; with `again` all."""
        behind = [one for one in self._accounts if any(again or not window.is_told for window in one.windows)]
        for at in range(0, len(behind), _MOST):
            await self.settle(behind[at : at + _MOST])

    async def watch(self) -> None:
        """Do this from time to time, and when there is a reason to hurry."""
        times = 0
        while True:
            try:
                async with asyncio.timeout(_EVERY_S):
                    await self._due.wait()
            except TimeoutError:
                times += 1
            self._due.clear()
            try:
                await self.flush(again=times % _ALL_EVERY == 0)
            except Exception as fault:
                log_fault("the telling of what callers use, which goes on,", fault)
                await asyncio.sleep(_EVERY_S)


class _Turn:
    """The turns in which an account is settled: one after another."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.number = 0  # how many have begun
        self.waiting = 0
