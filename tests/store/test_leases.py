"""Which nodes are taken for dead, over the fake of Redis; the time is a number handed in."""

import pytest

from proxy.store.entries import HEADER, SEAL, Entry, Seal, read_seal
from proxy.store.leases import Leases
from proxy.store.outbox import running
from proxy.store.redis_store import RedisStore
from proxy.store.store import Add, Append
from proxy.stream.endings import COMPLETE
from tests.store.fake_redis import FakeConnections, FakeServer

A, B = "st_" + "a" * 26, "st_" + "b" * 26


@pytest.fixture
async def store() -> RedisStore:
    """Return a store in which the lease of node `dead` is over."""
    store = RedisStore(FakeConnections(FakeServer()))
    dead = Leases(store, "dead", 15.0)
    await dead.renew()
    await store.write([Append(ident, Entry(HEADER, {b"r": b"r"}), begins=True) for ident in (A, B)])
    await store.write([Add(running("dead"), ident, 60) for ident in (A, B)])
    await store.write([Append(B, Seal(COMPLETE).entry())])
    await store._connections.run([("DEL", "st:node:dead")])
    return store


async def test_node_is_dead_after_its_lease_was_missing_for_half_as_long(store: RedisStore) -> None:
    """Not before: all leases may be missing for a moment after a restart."""
    mine = Leases(store, "mine", 15.0)
    await mine.renew()
    assert await mine.dead(100.0) == set()
    assert await mine.dead(107.0) == set()
    assert await mine.dead(107.5) == {"dead"}


async def test_wait_begins_anew_when_the_store_could_not_be_reached(store: RedisStore) -> None:
    """Since nobody could renew."""
    mine = Leases(store, "mine", 15.0)
    await mine.dead(100.0)
    mine.forget_misses()
    assert await mine.dead(108.0) == set()
    assert await mine.dead(115.5) == {"dead"}


async def test_node_that_is_back_is_not_dead(store: RedisStore) -> None:
    """And its misses are forgotten."""
    mine = Leases(store, "mine", 15.0)
    await mine.dead(100.0)
    await Leases(store, "dead", 15.0).renew()
    assert await mine.dead(108.0) == set()


async def test_node_that_no_set_names_is_watched_if_it_is_followed(store: RedisStore) -> None:
    """By those who follow it."""
    mine = Leases(store, "mine", 15.0)
    await mine.dead(100.0, ["forgotten"])
    assert await mine.dead(108.0, ["forgotten"]) == {"dead", "forgotten"}


async def test_streams_of_a_dead_node_are_sealed_once(store: RedisStore) -> None:
    """One that has ended stays as it ended."""
    await Leases(store, "mine", 15.0).bury("dead")
    lost, complete = await store.last([A, B])
    assert lost is not None
    assert complete is not None
    assert (lost.id, complete.id) == (SEAL, SEAL)
    assert read_seal(lost).ending.reason == "producer_lost"
    assert read_seal(complete).ending.reason == "complete"
    assert await store.members(running("dead")) == set()
    assert await store.members("nodes") == set()
