"""Counts that nodes share: those of what a node holds count as long as it lives, whatever the store forgets."""

from typing import NamedTuple

import pytest

from proxy.store import counts
from proxy.store.counts import StoredCounts
from proxy.store.leases import Leases
from proxy.store.redis_store import RedisStore
from proxy.store.store import Drop
from tests.store.fake_redis import FakeConnections, FakeServer

LEASE_S = 1.0


class Node(NamedTuple):
    """One node, and its connections."""

    name: str
    connections: FakeConnections
    counts: StoredCounts
    leases: Leases

    async def hold(self, number: int) -> int | None:
        """Tell that so much is held; return the sum."""
        (total,) = await self.counts.tell([("alice:streams", number, 0.0)])
        return total

    async def die(self) -> None:
        """End the lease, as time does."""
        await RedisStore(self.connections).write([Drop((f"node:{self.name}",))])


def two() -> tuple[FakeServer, Node, Node]:
    """Make two nodes that share a store."""
    server = FakeServer()
    nodes = []
    for name in ("a", "b"):
        connections = FakeConnections(server)
        store = RedisStore(connections)
        leases = Leases(store, name, LEASE_S)
        nodes.append(Node(name, connections, StoredCounts(store, name, leases), leases))
    return server, nodes[0], nodes[1]


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have leases looked at each time, and the store asked again at once."""
    monkeypatch.setattr(counts, "_SEEN_S", 0.0)
    monkeypatch.setattr(counts, "_AWAY_S", 0.0)


@pytest.mark.usefixtures("no_memory")
async def test_what_a_dead_node_held_counts_no_longer_and_is_removed() -> None:
    """Also if it was the only one to hold anything; one that was stalled counts again when it tells."""
    server, one, other = two()
    assert [await one.hold(3), await other.hold(2)] == [3, 5]
    await one.die()
    assert await other.hold(2) == 2
    assert [held for name, held in server.keys.items() if name.startswith(b"st:held:")] == [{b"b": b"2"}]
    assert await one.hold(3) == 5
    assert await other.hold(2) == 5


async def test_node_is_alive_before_it_has_renewed_its_lease_the_first_time() -> None:
    """A request may come before: its place is not that of a dead one."""
    _, one, other = two()
    assert await one.hold(1) == 1
    assert await other.hold(1) == 2


async def test_leases_are_looked_at_now_and_then() -> None:
    """Not for each request."""
    server, one, other = two()
    await one.hold(1)
    looked: list[object] = []
    get = server._get
    server._get = lambda key: looked.append(key) or get(key)  # type: ignore[method-assign, func-returns-value]
    assert [await other.hold(1) for _ in range(20)] == [2] * 20
    assert looked == [b"st:node:a"]


async def test_nothing_is_left_of_what_is_held_no_more() -> None:
    """No empty key either."""
    server, one, _ = two()
    await one.hold(2)
    await one.hold(0)
    await one.leases.give_back()
    assert list(server.keys) == []


@pytest.mark.usefixtures("no_memory")
async def test_sums_are_complete_again_a_while_after_the_store_was_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have lost what others held: they tell it again, each in its time."""
    _, one, _ = two()
    await one.hold(1)
    assert one.counts.is_complete
    one.connections.down = True
    assert await one.hold(1) is None
    assert not one.counts.is_complete
    one.connections.down = False
    assert await one.hold(1) == 1
    assert not one.counts.is_complete
    monkeypatch.setattr(one.counts, "_complete_at", 0.0)
    assert one.counts.is_complete


async def test_what_is_kept_for_a_time_counts_whoever_has_died() -> None:
    """What was used of a day stays used."""
    _, one, other = two()
    await one.counts.tell([("alice:requests_per_day:1", 3, 60.0)])
    await one.die()
    assert await other.counts.tell([("alice:requests_per_day:1", 2, 60.0)]) == [5]


async def test_error_for_one_name_is_one_of_all() -> None:
    """A store that is full has told nobody anything."""
    server, one, _ = two()
    server.full = True
    assert await one.hold(1) is None
    server.full = False
