"""The turns of a node, over the fake of Redis and in virtual time."""

import asyncio
from collections.abc import Sequence
from typing import Any, NoReturn

from proxy.store.entries import Record
from proxy.store.node import Node
from proxy.store.redis_store import Command, RedisStore
from proxy.store.store import StoreError
from proxy.stream.stream import Stream
from tests.sim.loop import VirtualLoop, run
from tests.store.fake_redis import FakeConnections, FakeServer

LEASE_S = 15.0


class Unlucky(FakeConnections):
    """Connections of which so many break that would renew a lease, before Redis has heard of it."""

    left = 0

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        if self.left and any(command[0] == "SET" for command in commands):
            self.left -= 1
            raise StoreError("the connection broke")
        return await super().run(commands)


def test_lease_outlives_connections_that_break_at_each_renewal() -> None:
    """The next attempt is made soon after one that failed."""

    async def main(loop: VirtualLoop) -> bool:
        connections = Unlucky(FakeServer())
        node = node_of(connections)
        node.start()
        await asyncio.sleep(1)
        connections.left = 6
        await asyncio.sleep(LEASE_S)
        assert connections.left == 0
        alive = await node.leases.alive(node.id)
        await node.close()
        return alive

    assert run(main)


def node_of(connections: FakeConnections) -> Node:
    """Return a node without streams."""

    def make(record: Record) -> NoReturn:
        raise AssertionError("nobody follows here")

    def drop(stream: Stream) -> None:
        """Nothing is ever dropped."""

    return Node(
        RedisStore(connections),
        lease_s=LEASE_S,
        flush_s=0.02,
        summary=lambda stream: b"{}",
        make=make,
        drop=drop,
        forget=drop,
        keeps=lambda stream: True,
    )
