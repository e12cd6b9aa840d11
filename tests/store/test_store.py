"""What every store does alike: one in Redis, and one in the fake of it that simulations run on."""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from proxy.store.cipher import Cipher
from proxy.store.encrypted_store import EncryptedStore
from proxy.store.entries import HEADER, SEAL, START, Entry, EntryId, Frames, Seal, read_frames, read_seal
from proxy.store.redis_client import RedisConnections
from proxy.store.redis_store import RedisStore
from proxy.store.store import (
    GONE,
    REJECTED,
    STORED,
    Add,
    Append,
    Count,
    Drop,
    Hold,
    Keep,
    Outcome,
    Post,
    Put,
    Remove,
    Store,
    StoreError,
)
from proxy.stream.endings import CANCELLED, COMPLETE, PRODUCER_LOST
from tests.event_loops import GUARD_S
from tests.store.fake_redis import FakeConnections, FakeServer
from tests.store.kinds import over_tcp, over_tls, over_unix
from tests.store.memory_store import MemoryStore
from tests.store.redis_server import RedisServer, redis_sentinel

A, B = "st_" + "a" * 26, "st_" + "b" * 26
BEGIN = Append(A, Entry(HEADER, {b"r": b"record"}), begins=True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisServer]:
    """Run a cluster of one server, which has all slots; it takes two seconds to begin."""
    server = RedisServer("--cluster-enabled", "yes")

    async def begin() -> None:
        await server.begin_cluster()
        await server.wait_cluster()

    try:
        asyncio.run(begin())
        yield server
    finally:
        server.close()


@asynccontextmanager
async def over_cluster(server: RedisServer) -> AsyncIterator[str]:
    """Empty a cluster; yield its URL."""
    await server.command("FLUSHALL")
    yield f"redis+cluster://127.0.0.1:{server.port}"


REDIS = {"redis": over_tcp, "tls": over_tls, "unix": over_unix, "sentinel": redis_sentinel}


@pytest.fixture(params=["memory", "fake", "encrypted", *REDIS, "cluster"])
def make(request: Any) -> Callable[[], AbstractAsyncContextManager[str]] | Store:
    """Return what runs a Redis, or a store without one."""
    if request.param == "memory":
        return MemoryStore()
    if request.param == "fake":
        return RedisStore(FakeConnections(FakeServer()))
    if request.param == "encrypted":
        return EncryptedStore(FakeConnections(FakeServer()), Cipher([b"k" * 32]), b"secret")
    if request.param == "cluster":
        return functools.partial(over_cluster, request.getfixturevalue("cluster"))
    return REDIS[request.param]


@pytest.fixture
async def store(make: Any) -> AsyncIterator[Store]:
    """Each store there is."""
    if not callable(make):
        yield make
        return
    async with make() as url:
        store = RedisStore(RedisConnections(url))
        yield store
        await store.close()


def data(seq: int, end_bytes: int, *frames: bytes) -> Append:
    """Return an append of frames to log A."""
    return Append(A, Frames(EntryId(seq, end_bytes), list(frames)).entry())


async def test_entries_come_back_in_order_and_after_a_cursor(store: Store) -> None:
    """What was appended is read from any position on, in slices."""
    assert await store.write([BEGIN, data(1, 3, b"abc"), data(3, 8, b"de", b"fgh")]) == [STORED] * 3
    entries = await store.entries(A, START, 10)
    assert [entry.id for entry in entries] == [HEADER, (1, 3), (3, 8)]
    assert read_frames(entries[2]).frames == [b"de", b"fgh"]
    assert await store.entries(A, EntryId(1, 3), 10) == entries[2:]
    assert await store.entries(A, START, 1) == entries[:1]
    assert await store.last([A, B]) == [entries[2], None]


async def test_entry_that_is_not_above_the_last_is_refused(store: Store) -> None:
    """The same one again, and one of an owner that was taken for dead."""
    await store.write([BEGIN, data(2, 6, b"abc", b"def")])
    assert await store.write([data(2, 6, b"abc", b"def"), data(1, 3, b"abc"), BEGIN]) == [REJECTED] * 3
    assert [entry.id for entry in await store.entries(A, START, 10)] == [HEADER, (2, 6)]


async def test_only_one_seal_is_stored_and_nothing_after_it(store: Store) -> None:
    """Of several that race, the first."""
    await store.write([BEGIN, data(1, 3, b"abc")])
    seals = [Append(A, Seal(ending).entry()) for ending in (CANCELLED, COMPLETE, PRODUCER_LOST)]
    outcomes = await asyncio.gather(*(store.write([seal]) for seal in seals))
    assert sorted(outcomes) == [[REJECTED], [REJECTED], [STORED]]
    assert await store.write([data(2, 6, b"def")]) == [REJECTED]
    (last,) = await store.last([A])
    assert last is not None
    assert last.id == SEAL
    assert read_seal(last).ending.reason in ("cancelled", "complete", "producer_lost")


async def test_append_to_a_log_that_is_gone_makes_none(store: Store) -> None:
    """Whether it never began or was deleted."""
    assert await store.write([data(1, 3, b"abc")]) == [GONE]
    await store.write([BEGIN, Keep(A, 0)])
    assert await store.write([data(1, 3, b"abc"), Append(A, Seal(CANCELLED).entry())]) == [GONE, GONE]
    assert await store.exist([A, B]) == [False, False]
    assert await store.last([A]) == [None]
    assert await store.entries(A, START, 10) == []


async def test_log_is_kept_for_its_time(store: Store) -> None:
    """Then it is gone."""
    await store.write([BEGIN, Keep(A, 0.05)])
    assert await store.exist([A]) == [True]
    async with asyncio.timeout(GUARD_S):
        while await store.exist([A]) == [True]:
            await asyncio.sleep(0.01)


async def test_value_is_set_once_if_there_is_none(store: Store) -> None:
    """Of several at once one sets it, and all are told which."""
    puts = [Put("n", value, 60, absent=True) for value in (b"1", b"2", b"3")]
    outcomes = [outcome for (outcome,) in await asyncio.gather(*(store.write([put]) for put in puts))]
    assert not any(isinstance(outcome, StoreError) for outcome in outcomes)
    assert sorted(outcome.word for outcome in outcomes if not isinstance(outcome, StoreError)) == [
        "rejected", "rejected", "stored",
    ]  # fmt: skip
    assert len({outcome.value for outcome in outcomes if not isinstance(outcome, StoreError)}) == 1
    assert all(59 < outcome.left_s <= 60 for outcome in outcomes if not isinstance(outcome, StoreError))
    await store.write([Put("n", b"4", 60), Put("m", b"5", 0.03)])
    assert await store.values(["n", "none"]) == [b"4", None]
    async with asyncio.timeout(GUARD_S):
        while await store.values(["m"]) != [None]:
            await asyncio.sleep(0.01)
    await store.write([Drop(("n", "m"))])
    assert await store.values(["n"]) == [None]


async def test_count_is_the_sum_of_what_its_members_told_last(store: Store) -> None:
    """Each is told the sum with its own number; to tell the same again changes nothing; it is kept for its time."""
    told = [Count("c", member, number, 60) for member, number in (("a", 1), ("b", 2), ("a", 3), ("a", 3), ("b", 0))]
    outcomes = await store.write([*told, Count("d", "a", 7, 0.02)])
    assert outcomes == [Outcome("stored", b"%d" % total) for total in (1, 3, 5, 5, 3, 7)]
    async with asyncio.timeout(GUARD_S):
        while await store.write([Count("d", "b", 1, 0.001)]) != [Outcome("stored", b"1")]:
            await asyncio.sleep(0.01)


async def test_what_is_held_is_told_by_its_holders(store: Store) -> None:
    """Of each the number that was told last; who holds nothing is not there."""
    told = [Hold("h", member, number, 60) for member, number in (("a", 1), ("b", 2), ("a", 3), ("b", 0), ("c", 0))]
    outcomes = await store.write([*told, Hold("i", "a", 7, 0.02)])
    numbers = [dict(one.numbers) for one in outcomes if not isinstance(one, StoreError)]
    assert numbers == [{"a": 1}, {"a": 1, "b": 2}, {"a": 3, "b": 2}, {"a": 3}, {"a": 3}, {"a": 7}]
    async with asyncio.timeout(GUARD_S):
        while await store.write([Hold("i", "b", 0, 0.001)]) != [Outcome("stored")]:
            await asyncio.sleep(0.01)


async def test_members_of_a_set_come_and_go(store: Store) -> None:
    """Each once."""
    await store.write([Add("s", "a", 60), Add("s", "b", 60), Add("s", "a", 60), Remove("s", "b"), Remove("s", "c")])
    assert await store.members("s") == {"a"}
    assert await store.members("none") == set()


async def test_tail_waits_for_entries_of_many_logs(store: Store) -> None:
    """One that waits is sent what comes, of each log after its own cursor."""
    lane = store.lane(A)
    others = [ident for ident in (f"st_{letter * 26}" for letter in "cdefgh") if store.lane(ident) == lane]
    begun = [Append(ident, Entry(HEADER, {b"r": b"r"}), begins=True) for ident in others]
    await store.write([BEGIN, *begun])
    waiting = asyncio.create_task(store.tail(lane, "n", {A: HEADER, **dict.fromkeys(others, HEADER)}, GUARD_S))
    await asyncio.sleep(0.02)
    await store.write([data(1, 3, b"abc")])
    found = await waiting
    assert [entry.id for entry in found[A]] == [(1, 3)]
    assert await store.tail(lane, "n", {A: START}, GUARD_S) == {A: await store.entries(A, START, 10)}


async def test_tail_ends_without_entries_when_time_is_over_or_it_is_woken(store: Store) -> None:
    """A reader that follows one more log has to begin anew."""
    await store.write([BEGIN])
    assert await store.tail(store.lane(A), "n", {A: HEADER}, 0.02) == {}
    waiting = asyncio.create_task(store.tail(store.lane(A), "n", {A: HEADER}, GUARD_S))
    await asyncio.sleep(0.02)
    await store.wake(store.lane(A), "n")
    assert await waiting == {}


async def test_wake_before_the_wait_is_not_lost(store: Store) -> None:
    """It ends the next one."""
    await store.write([BEGIN])
    await store.wake(store.lane(A), "n")
    async with asyncio.timeout(GUARD_S):
        assert await store.tail(store.lane(A), "n", {A: HEADER}, 2 * GUARD_S) == {}


async def test_many_who_ask_at_once_wait_for_each_other(make: Any) -> None:
    """None is refused for want of a connection."""
    if not callable(make):
        pytest.skip("it has no connections")
    async with make() as url:
        store = RedisStore(RedisConnections(url))
        assert await store.write([BEGIN]) == [STORED]
        found = await asyncio.gather(*(store.last([A, B]) for _ in range(150)))
        assert all(first is not None and other is None for first, other in found)
        await store.close()


async def test_messages_are_read_once_and_in_order(store: Store) -> None:
    """By whoever remembers the position of the last."""
    await store.write([Post("n", b"1", 60), Post("other", b"0", 60), Post("n", b"2", 60)])
    messages = await store.messages("n", b"0", GUARD_S)
    assert [message for _, message in messages] == [b"1", b"2"]
    waiting = asyncio.create_task(store.messages("n", messages[-1][0], GUARD_S))
    await asyncio.sleep(0.02)
    await store.write([Post("n", b"3", 60)])
    assert [message for _, message in await waiting] == [b"3"]
    assert await store.messages("none", b"0", 0.02) == []
