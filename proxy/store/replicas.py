"""Finds streams of other nodes: one replica a stream and node, fed by one reader, however many follow here.

Owners are told how many follow, all over again each time: so a message that is lost does no harm for long.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Coroutine

import orjson

from proxy.store.entries import HEADER, START, EntryId, Record, Seal, UnreadableError, is_kept, read_header
from proxy.store.leases import seal_lost
from proxy.store.replica import Replica
from proxy.store.store import Append, Post, Store, StoreError, Undecipherable
from proxy.store.tail import Tail
from proxy.stream.endings import Ending
from proxy.stream.faults import log_fault
from proxy.stream.stream import Stream

_log = logging.getLogger("streamtee.store")
SLICE = 256  # entries that are read at once to catch up
LINGER_S = 5.0  # a replica is kept so long for its first follower, and after its last one
BOX_S = 3600.0
_CANCEL_S = 2.0  # how long the owner has to end a stream before another node does

Make = Callable[[Record], Stream]
"""Makes the stream of a replica. Raises: Overloaded; KeyError, if its dialect is not known here."""


class Replicas:
    """The replicas of a node."""

    def __init__(
        self,
        store: Store,
        node: str,
        tail: Tail,
        make: Make,
        drop: Callable[[Stream], object],
        on_error: Callable[[], object],
    ) -> None:
        """`drop` is called with the stream of a replica that is no longer needed; `on_error` when the store fails."""
        self._store = store
        self._node = node
        self._tail = tail
        self._make = make
        self._drop = drop
        self._on_error = on_error
        self._by_id: dict[str, Replica] = {}
        self._wanted_at: dict[str, float] = {}
        self._fetching: dict[str, asyncio.Task[Stream | None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._told: set[str] = set()  # nodes that have been told of followers here

    @property
    def open_ones(self) -> list[Replica]:
        """The replicas whose streams go on."""
        return [replica for replica in self._by_id.values() if replica.is_open]

    def get(self, ident: str) -> Replica | None:
        """Return the replica of a stream, if there is one."""
        return self._by_id.get(ident)

    def note_elsewhere(self, ident: str, count: int) -> None:
        """Note how many follow a stream at other nodes, as its owner says."""
        if ident in self._by_id:
            self._by_id[ident].stream.note_elsewhere(count)

    async def find(self, ident: str, *, own: bool = False) -> Stream | None:
        """Return the stream of a replica that has all that is stored now, and tell the owner of a follower.

        None, if the store has no such stream, or only one of this node's that it no longer keeps; with `own` it still
        does. Raises: StoreError, Overloaded.
        """
        now = asyncio.get_running_loop().time()
        replica = self._by_id.get(ident)
        if replica is not None:
            is_new = not replica.stream.wanted and now - self._wanted_at[ident] > LINGER_S / 2
            self._wanted_at[ident] = now
            if is_new and replica.is_open:
                await self._announce_now(replica)
            return replica.stream
        task = self._fetching.get(ident)
        if task is None:
            task = self._fetching[ident] = asyncio.create_task(self._fetch(ident, own=own))
            task.add_done_callback(lambda _: self._fetching.pop(ident, None))
        return await asyncio.shield(task)

    async def _fetch(self, ident: str, *, own: bool = False) -> Stream | None:
        """Read all that is stored of a stream, in slices, and have it fed from then on."""
        entries = await self._store.entries(ident, START, SLICE)
        if not entries or entries[0].id != HEADER:
            return None
        try:
            record = read_header(entries[0])
            if record.node == self._node and not own:
                return None
            stream = self._make(record)
        except UnreadableError as error:
            _log.error("%s", error)
            raise Undecipherable(str(error)) from None
        except KeyError as error:
            log_fault("the reading of a stream's record", error)
            return None
        clock = asyncio.get_running_loop().time
        replica = Replica(record, stream, clock, self._stop, self._left, self._resume, self._find_end)
        try:
            replica.take(entries)
            while replica.is_open and len(entries) == SLICE:
                entries = await self._store.entries(ident, replica.cursor, SLICE)
                replica.take(entries)
        except BaseException:
            self._drop(stream)
            raise
        if entries and not is_kept(entries[-1]):
            self._drop(stream)
            return None
        self._by_id[ident] = replica
        self._wanted_at[ident] = asyncio.get_running_loop().time()
        if replica.is_open:
            await self._announce_now(replica)
        return stream

    async def _announce_now(self, replica: Replica) -> None:
        """Have a replica fed, and tell its owner of it; if that fails, the next announcement does."""
        try:
            await self._tail.add(replica)
            await self.announce(replica.record.node)
        except StoreError:
            self._on_error()

    async def announce(self, owner: str) -> None:
        """Tell a node how many follow its streams here. Raises: StoreError."""
        loop = asyncio.get_running_loop()
        follows = {
            ident: max(count, int(loop.time() - self._wanted_at[ident] < LINGER_S))
            for ident, replica in self._by_id.items()
            if replica.record.node == owner and replica.is_open
            for count in [len(replica.stream.subscriptions) + sum(replica.stream.holds.values())]
        }
        await self._post(owner, {"from": self._node, "follows": follows})
        (self._told.add if any(follows.values()) else self._told.discard)(owner)

    async def announce_all(self) -> None:
        """Tell all owners. Raises: StoreError."""
        for owner in sorted({replica.record.node for replica in self.open_ones} | self._told):
            await self.announce(owner)

    async def end_orphans(self, dead: set[str]) -> None:
        """Seal the streams of nodes that have died; they end here also if that can't be stored."""
        orphans: dict[str, list[Replica]] = defaultdict(list)
        for replica in self.open_ones:
            if replica.record.node in dead:
                orphans[replica.record.node].append(replica)
        for replicas in orphans.values():
            try:
                outcomes = await seal_lost(self._store, [replica.stream.id for replica in replicas])
            except StoreError as error:
                outcomes = [error] * len(replicas)
            for replica, outcome in zip(replicas, outcomes, strict=True):
                if isinstance(outcome, StoreError):
                    self._on_error()
                    replica.fail("the process that read this stream has died, or can't reach the store")

    def tick(self, now: float) -> None:
        """Drop the replicas that nobody has followed for a while."""
        for ident, replica in list(self._by_id.items()):
            if replica.stream.wanted:
                self._wanted_at[ident] = now
            elif now - self._wanted_at[ident] >= LINGER_S:
                self._forget(replica)

    def forget(self, ident: str) -> None:
        """Drop a replica: its stream was deleted."""
        if ident in self._by_id:
            self._forget(self._by_id[ident])

    async def cancel(self, replica: Replica, ending: Ending) -> None:
        """Have the owner end a stream; if it does not in time, seal it. Raises: StoreError."""
        ident = replica.stream.id
        await self._post(replica.record.node, {"cancel": ident})
        ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        replica.stream.when_sealed(lambda how: None if ended.done() else ended.set_result(how))
        await asyncio.wait([ended], timeout=_CANCEL_S)
        if replica.is_open:
            (outcome,) = await self._store.write([Append(ident, Seal(ending).entry())])
            if isinstance(outcome, StoreError):
                raise outcome

    async def close(self) -> None:
        """End all reading."""
        for task in self._fetching.values():
            task.cancel()
        await self._tail.close()
        for replica in list(self._by_id.values()):
            self._forget(replica)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CANCEL_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._fetching.values(), return_exceptions=True)

    def _forget(self, replica: Replica) -> None:
        ident = replica.stream.id
        del self._by_id[ident], self._wanted_at[ident]
        self._tail.remove(replica)
        if replica.is_open:
            self._spawn(self.announce(replica.record.node))
            replica.fail("nobody followed it here")
        self._drop(replica.stream)

    def _stop(self, replica: Replica, ending: Ending) -> None:
        self._spawn(self.cancel(replica, ending))

    def _left(self, replica: Replica) -> None:
        self._wanted_at[replica.stream.id] = -LINGER_S
        self._spawn(self.announce(replica.record.node))

    def _resume(self, replica: Replica) -> None:
        self._spawn(self._tail.wake(replica))

    async def _find_end(self, replica: Replica) -> EntryId:
        (last,) = await self._store.last([replica.stream.id])
        return START if last is None else last.id

    async def _post(self, owner: str, message: dict[str, object]) -> None:
        (outcome,) = await self._store.write([Post(owner, orjson.dumps(message), BOX_S)])
        if isinstance(outcome, StoreError):
            raise outcome

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        async def run() -> None:
            try:
                await work
            except StoreError:
                self._on_error()

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
