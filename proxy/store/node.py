"""One process among several that share a store: its lease, the messages that it gets, and what it owns and follows.

    publisher   writes the streams that this node owns
    replicas    find and feed the streams of other nodes that are followed here
    leases      show who is alive; the streams of a node that has died are sealed by whoever notices first

Messages in a node's box: how many follow its streams at another node; cancel a stream; delete one.
"""

import asyncio
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import orjson

from proxy.store.entries import Record
from proxy.store.leases import Leases
from proxy.store.outbox import Summary
from proxy.store.publisher import Publisher
from proxy.store.replicas import BOX_S, Replicas
from proxy.store.store import Keep, Post, Put, Store, StoreError
from proxy.store.tail import Tail
from proxy.stream.bounded import REMOTE_FOLLOWERS
from proxy.stream.faults import log_fault
from proxy.stream.stream import Stream

_AGAIN_S = 0.2
_SOON_S = 1.0
_BLOCK_S = 2.0
_LAST_S = 2.0  # to write what is left when the node stops


class Node:
    """One process among several that share a store."""

    def __init__(
        self,
        store: Store,
        *,
        lease_s: float,
        flush_s: float,
        summary: Summary,
        make: Callable[[Record], Stream],
        drop: Callable[[Stream], object],
        forget: Callable[[Stream], object],
        keeps: Callable[[Stream], bool],
    ) -> None:
        """`make` makes the stream of a replica, `drop` removes it; `forget` removes a stream of this node's own.

        `keeps` returns whether one of its own is still found here.
        """
        self.id = secrets.token_hex(8)
        self.store = store
        self.leases = Leases(store, self.id, lease_s)
        self.publisher = Publisher(store, self.id, flush_s, summary, keeps)
        note_error = self.publisher.note_error
        tail = Tail(store, self.id, 4 * lease_s, flush_s / 4, note_error)
        self.replicas = Replicas(store, self.id, tail, make, drop, note_error)
        self._forget = forget
        self._followed: dict[str, Counter[str]] = {}  # by node: how many follow each stream of ours there
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Take part from now on. Call within a running loop."""
        self.publisher.start()
        self._tasks = [
            *(
                asyncio.create_task(self._every(self.leases.renew_s, turn))
                for turn in (self._renew, self._tell, self._watch)
            ),
            asyncio.create_task(self._every(1.0, self._tick)),
            asyncio.create_task(self._hear()),
        ]

    async def close(self) -> None:
        """Write what is left, and stop."""
        await self.publisher.close(_LAST_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.replicas.close()
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(_LAST_S):
                await self.leases.give_back()
        await self.store.close()

    # Streams of this node

    def begun(self, stream: Stream) -> None:
        """Write a stream of this node to the store: an observer of the hub."""
        if stream.info.caller:  # else it is open to everybody, and each node has its own of the same URL
            self.publisher.add(stream)

    def ended(self, stream: Stream) -> None:
        """Write the end of a stream: an observer of the hub."""
        self.publisher.hurry(stream.id)

    async def delete(self, stream: Stream, more: Sequence[Put]) -> None:
        """Delete a stream in the store, and at its owner; set `more` values. Raises: StoreError."""
        replica = self.replicas.get(stream.id)
        if replica is not None:
            message = orjson.dumps({"delete": stream.id})
            await self.store.write([Post(replica.record.node, message, BOX_S)])
        await self.store.write([*more, Keep(stream.id, 0)])
        self.replicas.forget(stream.id)

    # Turns

    async def _every(self, seconds: float, turn: Callable[[float], Awaitable[None]]) -> None:
        """Have a turn again and again: each is by itself, since a store may read and not write.

        After an error soon again: else a few connections that break, each in the wrong moment, would end the lease.
        """
        loop = asyncio.get_running_loop()
        while True:
            pause_s = seconds
            try:
                await turn(loop.time())
            except StoreError:
                self.publisher.note_error()
                pause_s = min(seconds, _SOON_S)
            except Exception as fault:
                log_fault("a turn of the node, which goes on,", fault)
            await asyncio.sleep(pause_s)

    async def _renew(self, now: float) -> None:
        """Renew the lease. Raises: StoreError."""
        await self.leases.renew()
        self.publisher.note_reached()

    async def _tell(self, now: float) -> None:
        """Tell owners of followers here, and those who follow our streams, of followers elsewhere.

        Raises: StoreError.
        """
        await self.replicas.announce_all()
        counts = [(node, orjson.dumps({"counts": self._elsewhere(node)})) for node in sorted(self._followed)]
        if counts:
            await self.store.write([Post(node, message, BOX_S) for node, message in counts])

    def _elsewhere(self, node: str) -> dict[str, int]:
        """Return how many follow each stream of ours that a node follows, but for those at that node."""
        found = {}
        for ident, count in self._followed[node].items():
            stream = self.publisher.stream(ident)
            if stream is not None:
                found[ident] = len(stream.subscriptions) + stream.followers_elsewhere - count
        return found

    async def _watch(self, now: float) -> None:
        """End the streams of nodes that have died. Raises: StoreError."""
        owners = {replica.record.node for replica in self.replicas.open_ones} - {self.id}
        try:
            dead = await self.leases.dead(now, owners | self._followed.keys())
        except StoreError:
            self.leases.forget_misses()
            raise
        await self.replicas.end_orphans(dead)
        for node in sorted(dead):
            self._count(node, Counter())
            await self.leases.bury(node)

    async def _tick(self, now: float) -> None:
        self.replicas.tick(now)

    async def _hear(self) -> None:
        """Read the messages of this node's box."""
        after = b"0"
        while True:
            try:
                for at, message in await self.store.messages(self.id, after, _BLOCK_S):
                    after = at
                    self._heard(message)
            except StoreError:
                self.publisher.note_error()
                await asyncio.sleep(_AGAIN_S)
            except Exception as fault:
                log_fault("the reading of a message to this node", fault)
                await asyncio.sleep(_AGAIN_S)

    def _heard(self, message: bytes) -> None:
        match orjson.loads(message):
            case {"from": str(node), "follows": dict(follows)}:
                self._count(node, Counter({ident: int(count) for ident, count in follows.items()}))
            case {"counts": dict(counts)}:
                for ident, count in counts.items():
                    self.replicas.note_elsewhere(ident, count)
            case {"cancel": str(ident)}:
                self._cancel(ident)
            case {"delete": str(ident)}:
                stream = self._cancel(ident)
                if stream is not None:
                    self._forget(stream)

    def _cancel(self, ident: str) -> Stream | None:
        stream = self.publisher.stream(ident)
        if stream is not None:
            stream.cancel()
        return stream

    def _count(self, node: str, follows: "Counter[str]") -> None:
        """Note how many follow each stream of this node at another one."""
        before = self._followed.pop(node, Counter())
        if +follows:
            self._followed[node] = +follows
        for ident in before.keys() | follows.keys():
            stream = self.publisher.stream(ident)
            if stream is not None and not stream.sealed:
                count = sum(counts[ident] for counts in self._followed.values())
                self.publisher.note_followed(ident, is_followed=count > 0)
                stream.note_elsewhere(count, REMOTE_FOLLOWERS)
