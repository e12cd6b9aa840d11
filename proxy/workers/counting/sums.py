"""The accounts of callers in the supervisor: what all workers have counted, and what each of them holds.

Messages of one worker come in the order in which it sent them. When a worker is gone, what it held is free again; what
was used of a window stays used.
"""

from collections import Counter as Tally
from collections.abc import Callable
from pathlib import Path
from typing import Any

from proxy.access.account import Account
from proxy.access.accounts import Accounts
from proxy.access.gauges import Reached
from proxy.access.limits import DIVIDED, CallerLimits
from proxy.access.usage_file import UsageFile
from proxy.server.callers.usage import counted
from proxy.stream.faults import log_fault
from proxy.timers import sleep
from proxy.wire.errors import Overloaded

_SAVED_S = 5.0


class SummedAccount(Account):
    """What a caller has used in all workers, and what each of these holds of it."""

    __slots__ = ("_numbers", "_places", "_room")

    def __init__(self, name: str, digest: bytes, limits: CallerLimits, clock: Callable[[], float]) -> None:
        super().__init__(name, digest, limits, clock)
        self._numbers: list[int] = []  # the limits, as workers say them
        self._places: Tally[int] = Tally()  # by worker
        self._room: Tally[int] = Tally()  # for followers, by worker

    @property
    def followers(self) -> int:
        """How many clients may follow its streams now, in all workers."""
        return self._room.total()

    @property
    def is_idle(self) -> bool:
        return super().is_idle and not self._room.total()

    def keep(self, numbers: list[int]) -> None:
        """Keep these limits from now on, in the order of DIVIDED."""
        if numbers != self._numbers:
            self._numbers = numbers
            self.limit(CallerLimits.model_validate(dict(zip(DIVIDED, numbers, strict=True))))

    def forget(self, worker: int) -> None:
        """Take back what a worker holds, which is no more."""
        self._taken -= self._places.pop(worker, 0)
        self._room.pop(worker, None)

    # What workers say

    def let_in(self, worker: int, *, looks_up: bool) -> dict[str, Any]:
        """Count a request and give it a place, if the limits leave room for it."""
        reached = self.reached(looks_up=looks_up)
        if reached is None:
            self.count()
            self._places[worker] += 1
        return {"reached": reached and [*reached], "used": [window.used for window in (*self.requests, *self.tokens)]}

    def take_back(self, worker: int) -> dict[str, Any]:
        """Count a request no more: it has not been served, and comes again from another worker."""
        self.end(worker)
        self.roll()
        self.requests_total -= 1
        self.count_less()
        return {}

    def end(self, worker: int) -> None:
        """Take a place back: that of a request without a stream, or of a stream that has ended."""
        if self._places[worker] > 0:
            self._places[worker] -= 1
            self.give_back()

    def make_room(self, worker: int, followers: int) -> dict[str, Any]:
        """Let so many follow at a worker, if the limit leaves room for them."""
        allowed, here = self.limits.followers, self._room[worker]
        if not allowed or self.followers - here + followers <= allowed:
            self.hold_room(worker, max(here, followers))
            return {"reached": None, "room": self._room[worker]}
        reached = Reached("followers", f"{self.followers} follow, {allowed} are allowed", 1)
        return {"reached": [*reached], "room": here}

    def hold_room(self, worker: int, followers: int) -> None:
        """Note how many may follow at a worker."""
        self._room[worker] = followers


class Sums:
    """What the callers of all workers have used together, and the file that keeps it."""

    def __init__(self, usage_file: str = "") -> None:
        """Read the file, if one is named and there. Raises: OSError; ValueError, if it is not one of ours."""
        self._accounts = Accounts(lambda name: CallerLimits(), new_account=SummedAccount)
        self._file = UsageFile(Path(usage_file), self._accounts) if usage_file else None

    def heed(self, worker: int, said: dict[str, Any]) -> dict[str, Any] | None:
        """Do what a worker says, and return the answer, if there is one."""
        name = said["name"]
        try:
            account = self._accounts.account(name, name.encode())
        except Overloaded as error:
            return {"no_account": error.message}
        assert isinstance(account, SummedAccount)
        account.keep(said["limits"])
        return _SAID[said["what"]](account, worker, said)

    def forget(self, worker: int) -> None:
        """Take back what a worker holds, which is no more."""
        for account in self._accounts:
            assert isinstance(account, SummedAccount)
            account.forget(worker)

    async def save(self) -> None:
        """Write the file, if there is one and anything has changed."""
        if self._file is not None:
            await self._file.save()

    async def save_all_the_time(self) -> None:
        """Save every few seconds."""
        while True:
            await sleep(_SAVED_S)
            try:
                await self.save()
            except Exception as error:
                log_fault("saving what callers have used", error)


_SAID: dict[str, Callable[[SummedAccount, int, dict[str, Any]], dict[str, Any] | None]] = {
    "take": lambda account, worker, said: account.let_in(worker, looks_up=said["looks_up"]),
    "withdraw": lambda account, worker, said: account.take_back(worker),
    "over": lambda account, worker, said: account.end(worker),
    "spent": lambda account, worker, said: account.spend(said["tokens"]),
    "follow": lambda account, worker, said: account.make_room(worker, said["count"]),
    "followers": lambda account, worker, said: account.hold_room(worker, said["count"]),
    "sums": lambda account, worker, said: {"sums": counted(account)},
}
