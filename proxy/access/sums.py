"""What callers use at all processes together: each tells what was used of a window, or is held, and learns the sum.

A request of a caller with limits is counted here, and then the sum decides: so of several processes that admit requests
at once no more get in than the limit allows. Tokens are told when they are known. While the sum is not known, each
process may use an equal share of what was left, and tells later what it used. A process tells its own count and not
what is new of it: so it can be told again, and a sum that was lost is complete once all have done so.
Streams and followers are told before they begin, and when they have ended; those of a process that dies end with it.
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol

from proxy.access.account import Account, Place
from proxy.access.gauges import Gauge
from proxy.access.windows import Window
from proxy.stream.faults import log_fault

_EVERY_S = 1.0
_ALL_EVERY = 60  # all is told again each so many times
_MOST = 500  # accounts whose windows are told at once


class Told(NamedTuple):
    """What this process has counted under a name, and how long that is of use, in seconds; 0: as long as it lives."""

    name: str
    own: int
    keep_s: float


class SharedCounts(Protocol):
    """Counts that several processes share: each tells its own, and learns the sum of all."""

    @property
    def parts(self) -> int:
        """How many processes share them, as far as this one knows; at least 1."""

    @property
    def again_s(self) -> float:
        """How often what is held is to be told again, in seconds."""

    @property
    def is_complete(self) -> bool:
        """Whether all have told what they hold since the sums were not known."""

    async def tell(self, counts: Sequence[Told]) -> list[int | None]:
        """Tell what this process has counted, and return the sums; None for those that can't be known now."""


class Sums:
    """Keeps the windows and gauges of accounts at what all processes together have used and hold."""

    def __init__(self, counts: SharedCounts, accounts: Iterable[Account]) -> None:
        self._counts = counts
        self._accounts = accounts
        self._due = asyncio.Event()
        self._hurried: dict[Account, None] = {}
        self._asking: dict[Account, None] = {}  # those that the next turn settles
        self._next: asyncio.Task[None] | None = None
        self._settling = asyncio.Lock()  # of two that tell at once, the older number may come last

    def include(self, account: Account) -> None:
        """Have the limits of an account hold for all processes together from now on."""
        room = _RoomInSum(account, self)
        account.gauges = {"streams": Gauge("streams", lambda: account.streams), "followers": room.gauge}
        account.rooms.append(room)
        account.on_withdrawn = self.correct
        account.limit(account.limits)

    async def confirm(self, account: Account, place: Place, *, looks_up: bool = False) -> None:
        """Count a request that has taken a place in the sum, too, or give its place back. Raises: LimitReached."""
        try:
            await self.correct(account)
        except BaseException:
            place.give_back()
            self.hurry(account)
            raise
        reached = account.exceeded(looks_up=looks_up) if account.limits.counts_requests else None
        if reached is not None:
            await place.withdraw()
            account.refuse(reached)

    async def correct(self, account: Account) -> None:
        """Have the sum know what this process has counted for an account with limits on it."""
        if account.limits.counts_requests:
            await self.ask(account)

    async def ask(self, account: Account) -> None:
        """Return when the sums of an account are known that have all of what was counted until now.

        All that ask meanwhile are settled together. Their turn goes on when one of them waits no longer.
        """
        self._asking[account] = None
        if self._next is None:
            self._next = asyncio.create_task(self._turn())
        await asyncio.shield(self._next)

    async def _turn(self) -> None:
        async with self._settling:
            accounts, self._asking, self._next = list(self._asking), {}, None
            await self._settle(accounts, only_limited=True)

    async def settle(self, accounts: Sequence[Account]) -> None:
        """Tell what was used of windows here, and what is held, and learn what was used and is held everywhere."""
        async with self._settling:
            await self._settle(accounts, only_limited=False)

    async def _settle(self, accounts: Sequence[Account], *, only_limited: bool) -> None:
        counts = [(account.name, one) for account in accounts for one in _shared(account, only_limited=only_limited)]
        told = [Told(f"{name}:{one.key}", one.own, one.keep_s) for name, one in counts]
        keys = [one.key for _, one in counts]
        for _, one in counts:
            one.doubt()
        sums = await self._counts.tell(told)
        for (_, one), key, (_, own, _), total in zip(counts, keys, told, sums, strict=True):
            if total is None:
                one.divide(self._counts.parts)
            else:
                one.learn(key, own, total)
        if not self._counts.is_complete:
            for _, one in counts:
                if isinstance(one, Gauge):
                    one.share(self._counts.parts)

    def hurry(self, account: Account) -> None:
        """Tell soon what an account has used and holds: tokens have become known, or a place is free."""
        self._hurried[account] = None
        self._due.set()

    async def flush(self, *, again: bool = False) -> None:
        """Tell whatever was used or is held and has not been told; with `again` all."""
        await self._settle_all(account for account in self._accounts if again or not account.is_told)

    async def hold(self) -> None:
        """Tell again what is held here."""
        await self._settle_all(account for account in self._accounts if any(one.own for one in account.gauges.values()))

    async def _settle_all(self, accounts: Iterable[Account]) -> None:
        every = list(accounts)
        for at in range(0, len(every), _MOST):
            await self.settle(every[at : at + _MOST])

    async def watch(self) -> None:
        """Do this from time to time, and when there is a reason to hurry."""
        loop = asyncio.get_running_loop()
        times, all_at, hold_at = 0, loop.time() + _EVERY_S, 0.0
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(all_at):
                    await self._due.wait()
            self._due.clear()
            hurried, self._hurried = list(self._hurried), {}
            try:
                await self._settle_all(account for account in hurried if not account.is_told)
                if loop.time() >= all_at:
                    times, all_at = times + 1, loop.time() + _EVERY_S
                    await self.flush(again=times % _ALL_EVERY == 0)
                if loop.time() >= hold_at:
                    hold_at = loop.time() + self._counts.again_s
                    await self.hold()
            except Exception as fault:
                log_fault("the telling of what callers use, which goes on,", fault)
                await asyncio.sleep(_EVERY_S)


class _RoomInSum:
    """Room for followers of a caller, of those that all processes have together."""

    def __init__(self, account: Account, sums: Sums) -> None:
        self.size = 0
        self.gauge = Gauge("followers", lambda: max(self.size, *self._asked))
        self._account = account
        self._sums = sums
        self._asked = [0]  # what is asked for at the moment: the others are to know of it before it is granted

    async def ask(self, followers: int) -> None:
        """Ask for room for so many followers in all. Raises: LimitReached."""
        self._asked.append(followers)
        try:
            await self._sums.ask(self._account)
            if not self.gauge.exceeds(followers):
                self.size = max(self.size, followers)
                return
        finally:
            self._asked.remove(followers)
            self._sums.hurry(self._account)
        self._account.refuse(self.gauge.reached(self.size))

    def keep(self, followers: int) -> None:
        """Give back what is beyond room for so many."""
        if self.size > followers:
            self.size = followers
            self._sums.hurry(self._account)


def _shared(account: Account, *, only_limited: bool) -> Iterator[Window | Gauge]:
    """Yield what of an account is to be told: what has limits, or was told when it had some; and all windows."""
    yield from (window for window in account.windows if window.limit or not only_limited)
    yield from (gauge for gauge in account.gauges.values() if gauge.limit or not gauge.is_told)
