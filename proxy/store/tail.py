"""Reads the logs of all replicas of a node: a few readers, each of which waits for many logs at once."""

import asyncio
from collections.abc import Callable

from proxy.store.replica import Replica
from proxy.store.store import Store, StoreError
from proxy.stream.faults import log_fault

BLOCK_S = 2.0
_AGAIN_S = 0.2  # after an error


class Tail:
    """The readers of a node, one a lane, and the replicas that each feeds."""

    def __init__(
        self, store: Store, node: str, patience_s: float, pause_s: float, on_error: Callable[[], object]
    ) -> None:
        """A replica is ended when the store could not be read for `patience_s`. `on_error` is called at each error.

        `pause_s`: from one reading to the next, at least. Redis wakes a reader with the first of the entries that an
        owner writes at once; a moment later the others are read together.
        """
        self._pause_s = pause_s
        self._store = store
        self._node = node
        self._patience_s = patience_s
        self._on_error = on_error
        self._lanes: dict[int, dict[str, Replica]] = {}
        self._readers: dict[int, asyncio.Task[None]] = {}

    async def add(self, replica: Replica) -> None:
        """Feed a replica from its cursor on. Raises: StoreError, but it is fed all the same."""
        ident = replica.stream.id
        lane = self._store.lane(ident)
        replicas = self._lanes.setdefault(lane, {})
        if replicas.get(ident) is replica and lane in self._readers:
            return
        replicas[ident] = replica
        if lane not in self._readers:
            self._readers[lane] = asyncio.create_task(self._read(lane, replicas))
        else:
            await self._store.wake(lane, self._node)

    async def wake(self, replica: Replica) -> None:
        """Have the reader of a replica begin anew, since it is to be read again. Raises: StoreError."""
        await self._store.wake(self._store.lane(replica.stream.id), self._node)

    def remove(self, replica: Replica) -> None:
        """Feed a replica no longer."""
        self._lanes.get(self._store.lane(replica.stream.id), {}).pop(replica.stream.id, None)

    async def close(self) -> None:
        """End all readers."""
        for reader in self._readers.values():
            reader.cancel()
        await asyncio.gather(*self._readers.values(), return_exceptions=True)

    async def _read(self, lane: int, replicas: dict[str, Replica]) -> None:
        """Read a lane until it has no replicas left."""
        loop = asyncio.get_running_loop()
        reached_at = loop.time()
        while replicas:
            try:
                await self._turn(lane, replicas)
                reached_at = loop.time()
                await asyncio.sleep(self._pause_s)
            except StoreError:
                self._on_error()
                if loop.time() - reached_at >= self._patience_s:
                    for replica in list(replicas.values()):
                        replica.fail(f"the store could not be reached for {self._patience_s:g} s")
                        self.remove(replica)
                await asyncio.sleep(_AGAIN_S)
            except Exception as fault:
                log_fault("a reader of the store, which goes on,", fault)
                await asyncio.sleep(_AGAIN_S)
        del self._readers[lane]

    async def _turn(self, lane: int, replicas: dict[str, Replica]) -> None:
        """Wait for entries, and feed the replicas; without any, end those whose logs are gone."""
        for ident in [ident for ident, one in replicas.items() if one.stream.sealed]:
            del replicas[ident]
        if not replicas:
            return
        open_ones = {ident: one for ident, one in replicas.items() if not one.paused}
        cursors = {ident: one.cursor for ident, one in open_ones.items()}
        found = await self._store.tail(lane, self._node, cursors, BLOCK_S)
        for ident, entries in found.items():
            open_ones[ident].take(entries)
        if not found:
            await self._check_there(open_ones)

    async def _check_there(self, replicas: dict[str, Replica]) -> None:
        idents = list(replicas)
        for ident, there in zip(idents, await self._store.exist(idents), strict=True):
            if not there:
                replicas[ident].fail("the store no longer has the stream")
