"""What several processes count of one caller, held together by counts that they share."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pytest

from proxy.access.account import Account, Place
from proxy.access.limits import CallerLimits
from proxy.access.sums import Sums, Told
from proxy.wire.errors import LimitReached

NOON = 1_800_014_400.0


class Shared:
    """The counts of several processes, in memory."""

    def __init__(self) -> None:
        self.by_name: defaultdict[str, dict[int, int]] = defaultdict(dict)
        self.away = False
        self.is_complete = True
        self.asked = 0


class Counts:
    """The shared counts, as one process sees them."""

    parts = 3
    again_s = 1.0

    def __init__(self, shared: Shared, number: int) -> None:
        self._shared = shared
        self._number = number

    @property
    def is_complete(self) -> bool:
        return self._shared.is_complete

    async def tell(self, counts: Sequence[Told]) -> list[int | None]:
        self._shared.asked += 1
        await asyncio.sleep(0)
        if self._shared.away:
            return [None] * len(counts)
        sums: list[int | None] = []
        for name, own, _ in counts:
            self._shared.by_name[name][self._number] = own
            sums.append(sum(self._shared.by_name[name].values()))
        await asyncio.sleep(0)
        return sums


class Clock:
    """A clock that a test sets."""

    unix_s = NOON

    def __call__(self) -> float:
        return self.unix_s


class Process:
    """One process, in which a caller has an account."""

    def __init__(self, shared: Shared, number: int, clock: Clock, **limits: Any) -> None:
        self.account = Account("alice", b"a", CallerLimits(**limits), clock)
        self.sums = Sums(Counts(shared, number), [self.account])
        self.sums.include(self.account)

    async def place(self, *, looks_up: bool = False) -> Place | None:
        """Send a request; return its place, if it is admitted."""
        try:
            place = self.account.take(looks_up=looks_up)
            await self.sums.confirm(self.account, place, looks_up=looks_up)
        except LimitReached:
            return None
        return place

    async def ask(self) -> bool:
        """Send a request; return whether it is admitted."""
        place = await self.place()
        if place is None:
            return False
        place.give_back()
        return True

    async def room(self, followers: int) -> bool:
        """Ask for room for followers; return whether it is granted."""
        try:
            await self.account.ask_room(followers)
        except LimitReached:
            return False
        return self.account.has_room(followers)

    async def admitted(self, count: int) -> int:
        """Send so many at once; return how many are admitted."""
        return sum(await asyncio.gather(*(self.ask() for _ in range(count))))


def three(shared: Shared, clock: Clock, **limits: Any) -> list[Process]:
    return [Process(shared, number, clock, **limits) for number in range(3)]


async def test_sum_is_never_more_than_the_limit() -> None:
    """Whatever comes at once to all; and all of it is used in the end."""
    shared = Shared()
    processes = three(shared, Clock(), requests_per_minute=20, requests_per_day=100)
    first = sum(await asyncio.gather(*(one.admitted(15) for one in processes)))
    assert 0 < first <= 20
    await asyncio.gather(*(one.sums.flush() for one in processes))
    second = sum([await one.admitted(20) for one in processes])
    assert first + second == 20
    await asyncio.gather(*(one.sums.flush(again=True) for one in processes))
    assert [one.account.requests[1].used for one in processes] == [20] * 3
    assert [one.account.requests_total for one in processes] != [20] * 3
    assert all(one.account.streams == 0 for one in processes)


async def test_requests_that_come_at_once_are_told_together() -> None:
    """A hundred do not ask a hundred times."""
    shared = Shared()
    (one, *_) = three(shared, Clock(), requests_per_minute=1000)
    assert await one.admitted(100) == 100
    assert shared.asked == 1


async def test_tokens_of_one_process_are_used_at_all() -> None:
    """Once they are told."""
    one, other, _ = three(Shared(), Clock(), tokens_per_day=100)
    assert await one.ask()
    one.account.spend(100)
    await one.sums.flush()
    assert not await other.ask()
    assert other.account.refusals == {"tokens_per_day": 1}
    assert other.account.requests[1].own == 0


async def test_shares_are_of_what_was_left_and_end_when_the_sum_is_known() -> None:
    """A third each of 30 less 3; then all have used all of it."""
    shared, clock = Shared(), Clock()
    processes = three(shared, clock, requests_per_day=30)
    assert [await one.ask() for one in processes] == [True] * 3
    await asyncio.gather(*(one.sums.flush(again=True) for one in processes))
    shared.away = True
    assert [await one.admitted(30) for one in processes] == [9] * 3
    shared.away = False
    await asyncio.gather(*(one.sums.flush() for one in processes))
    await asyncio.gather(*(one.sums.flush(again=True) for one in processes))
    assert [one.account.requests[1].used for one in processes] == [30] * 3
    clock.unix_s += 86400
    assert sum([await one.admitted(20) for one in processes]) == 30


async def test_window_that_begins_while_the_sum_is_unknown_is_shared_equally() -> None:
    """At least one request each, where there are fewer than processes."""
    shared, clock = Shared(), Clock()
    shared.away = True
    assert [await one.admitted(5) for one in three(shared, clock, requests_per_minute=7)] == [2] * 3
    processes = three(shared, clock, requests_per_minute=2)
    for _ in range(2):
        assert [await one.admitted(5) for one in processes] == [1] * 3
        clock.unix_s += 60


async def test_counts_that_were_lost_are_told_again() -> None:
    """By each process its own: no request that was admitted is forgotten."""
    shared = Shared()
    one, other, _ = three(shared, Clock(), requests_per_day=10)
    assert (await one.admitted(4), await other.admitted(4)) == (4, 4)
    shared.by_name.clear()
    await asyncio.gather(one.sums.flush(again=True), other.sums.flush(again=True))
    assert await one.admitted(5) + await other.admitted(5) == 2


async def test_request_that_is_cancelled_while_it_waits_gives_its_place_back() -> None:
    """Its client has gone; the next one is served."""
    shared = Shared()
    (one, *_) = three(shared, Clock(), requests_per_day=10, streams=1)
    waiting = asyncio.create_task(one.ask())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert one.account.streams == 0
    assert await one.ask()


async def test_caller_without_windows_asks_nobody() -> None:
    """What it uses is told afterwards."""
    shared = Shared()
    (one, *_) = three(shared, Clock(), followers=5)
    assert await one.admitted(5) == 5
    assert shared.asked == 0
    await one.sums.flush()
    told = [name.split(":")[1] for name, numbers in shared.by_name.items() if any(numbers.values())]
    assert sorted(told) == ["requests_per_day", "requests_per_minute"]


async def test_streams_are_never_more_than_the_limit_in_sum() -> None:
    """Whatever comes at once to all; a place that is given back is free at each of them."""
    processes = three(Shared(), Clock(), streams=4)
    found = await asyncio.gather(*(one.place() for one in processes for _ in range(5)))
    places = [place for place in found if place is not None]
    assert len(places) <= 4
    places += [place for _ in range(4) for one in processes if (place := await one.place()) is not None]
    assert len(places) == 4
    assert [await one.place() for one in processes] == [None] * 3
    places[0].give_back()
    await asyncio.gather(*(one.sums.flush() for one in processes))
    assert await processes[2].place() is not None
    assert await processes[0].place() is None


async def test_lookup_is_served_while_as_many_streams_run_as_may() -> None:
    """Wherever they run."""
    one, other, _ = three(Shared(), Clock(), streams=1)
    assert await one.place() is not None
    assert await other.place() is None
    assert await other.place(looks_up=True) is not None


async def test_request_that_is_cancelled_has_no_other_admitted_that_was_not_told() -> None:
    """What several have told together is told, though the one that came first waits no longer."""
    shared = Shared()
    one, other, _ = three(shared, Clock(), streams=2)
    first, second = (asyncio.create_task(one.place()) for _ in range(2))
    while not shared.asked:
        await asyncio.sleep(0)
    first.cancel()
    assert await second is not None
    assert await other.place() is None
    await one.sums.flush()
    assert await other.place() is not None


async def test_followers_are_told_before_they_have_room() -> None:
    """A room that is not granted is given back at once, and one that is, when the follower has left."""
    processes = three(Shared(), Clock(), followers=3)
    asked = await asyncio.gather(*(one.room(2) for one in processes))
    assert sum(asked) <= 1
    while not any(asked):
        await asyncio.gather(*(one.sums.flush() for one in processes))
        asked = [await one.room(2) for one in processes]
    (holder,) = (one for one, granted in zip(processes, asked, strict=True) if granted)
    rest = [one for one in processes if one is not holder]
    await asyncio.gather(*(one.sums.flush() for one in processes))
    assert [await one.room(1) for one in rest] == [True, False]
    for one in processes:
        for room in one.account.rooms:
            room.keep(0)
        await one.sums.flush()
    assert await rest[1].room(3)


async def test_shares_of_streams_are_equal_while_the_sum_is_unknown() -> None:
    """Two each of seven; what runs anywhere counts when the sum is known."""
    shared = Shared()
    shared.away = True
    processes = three(shared, Clock(), streams=7)
    found = [await one.place() for one in processes for _ in range(4)]
    assert [place is not None for place in found] == [True, True, False, False] * 3
    shared.away = False
    await asyncio.gather(*(one.sums.flush() for one in processes))
    more = [await processes[at].place() for at in (0, 0, 1)]
    assert [place is not None for place in more] == [True, False, False]


async def test_shares_hold_until_all_have_told_what_they_have() -> None:
    """A store that was begun anew has lost what the others hold."""
    shared = Shared()
    one, other, _ = three(shared, Clock(), streams=6)
    shared.is_complete = False
    assert [await one.place() is not None for _ in range(3)] == [True, True, False]
    shared.is_complete = True
    assert [await one.place() is not None for _ in range(5)] == [True] * 4 + [False]
    shared.is_complete = False
    assert await other.place() is None
    assert other.account.refusals == {"streams": 1}


async def test_account_is_not_dropped_while_others_think_that_it_holds_something() -> None:
    """Nobody else would tell them."""
    (one, *_) = three(Shared(), Clock(), streams=6)
    place = await one.place()
    assert place is not None
    place.give_back()
    one.account.count_less()
    assert not one.account.is_idle
    await one.sums.flush()
    assert one.account.is_idle


async def test_limit_that_is_taken_away_leaves_nothing_held() -> None:
    """The others are told so; when it is there again, all is told anew."""
    one, other, _ = three(Shared(), Clock(), streams=1)
    assert await one.place() is not None
    one.account.limit(CallerLimits())
    await one.sums.flush()
    assert await other.place() is not None
    one.account.limit(CallerLimits(streams=1))
    assert not one.account.is_told
