"""Writes the streams of a node to the store, all that is due at once, each time `flush_s` have passed.

A stream that has begun or ended is written at once. One that nobody follows at other nodes is written less often, in
larger entries: that costs less, and what is late is late for nobody. Local followers wait for none of this: while
the store can't be reached, what it lacks stays in the logs.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from proxy.store.leases import seal_lost
from proxy.store.outbox import Outbox, Summary, running
from proxy.store.store import Drop, Operation, Outcome, Put, Remove, Store, StoreError
from proxy.stream.faults import log_fault
from proxy.stream.stream import Stream

_log = logging.getLogger("streamtee.store")
_AGAIN_S, _AGAIN_MOST_S = 0.1, 1.0  # after an error, and after many
_VERIFY_S = 10.0  # after the end of a stream, its seal is looked for: a failover may have lost it
_SELDOM = 20  # flushes from one of streams that nobody follows at other nodes to the next
_SWEEP_S = 1.0  # how often to look for streams that are done
_MOST = 500  # operations that are written in one turn


class Publisher:
    """Writes the streams of a node to the store."""

    def __init__(
        self, store: Store, node: str, flush_s: float, summary: Summary, keeps: Callable[[Stream], bool]
    ) -> None:
        """`keeps` returns whether a stream is still found here: else its log is held for the store alone."""
        self._keeps = keeps
        self._abandoned: dict[str, None] = {}  # ids of streams that can't be stored, and are to be sealed as lost
        self._store = store
        self._node = node
        self.flush_s = flush_s
        self._summary = summary
        self._outboxes: dict[str, Outbox] = {}
        self._verify_at: dict[str, float] = {}
        self._values: list[Put | Drop] = []  # to be written with what is due next
        self._at_once: dict[str, Outbox] = {}  # what has begun or ended, or is followed elsewhere since a moment ago
        self._followed: dict[str, Outbox] = {}  # at other nodes
        self._all_at = 0.0  # when to look at all outboxes
        self._due = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None
        self._sweep_at = 0.0
        self._is_unsure = False  # another server may have taken over, which lacks what this one had
        self.errors = 0
        self.is_down = False  # the last attempt at the store failed

    def start(self) -> None:
        """Write from now on. Call within a running loop."""
        self._writing = asyncio.create_task(self._write())

    def add(self, stream: Stream) -> None:
        """Write a stream from its beginning on."""
        self._outboxes[stream.id] = Outbox(stream, self._node, self._summary)
        self.hurry(stream.id)

    def hurry(self, ident: str) -> None:
        """Write what is due of a stream at once: it has begun or ended, or somebody waits for it."""
        outbox = self._outboxes.get(ident)
        if outbox is not None:
            self._at_once[ident] = outbox
            self._due.set()

    def put(self, value: Put | Drop) -> None:
        """Write or delete a value that belongs to no stream, once: a store that is down then does not learn it."""
        self._values.append(value)
        self._due.set()

    def note_followed(self, ident: str, *, is_followed: bool) -> None:
        """Note whether a stream is followed at other nodes."""
        if not is_followed:
            self._followed.pop(ident, None)
        elif ident in self._outboxes and ident not in self._followed:
            self._followed[ident] = self._outboxes[ident]
            self.hurry(ident)

    def stream(self, ident: str) -> Stream | None:
        """Return a stream that is being written."""
        outbox = self._outboxes.get(ident)
        return None if outbox is None else outbox.stream

    @property
    def lag_bytes(self) -> int:
        """How many bytes the store lacks of all logs."""
        return sum(outbox.lag_bytes for outbox in self._outboxes.values())

    def note_error(self) -> None:
        """Count an error of the store."""
        self.errors += 1
        if not self.is_down:
            _log.info("the store can't be reached, or refuses what it is sent; streams are local meanwhile")
        self.is_down = True

    def note_reached(self) -> None:
        """Note that the store has answered."""
        if self.is_down:
            _log.info("the store can be reached again")
        self.is_down = False

    async def close(self, within_s: float) -> None:
        """Write what is left, for at most so many seconds, and stop."""
        try:
            async with asyncio.timeout(within_s):
                while any(not (outbox.closed or outbox.unstored) for outbox in self._outboxes.values()):
                    self._all_at = 0.0
                    self._due.set()
                    await asyncio.sleep(self.flush_s)
        except TimeoutError:
            pass
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        again_s = _AGAIN_S
        while True:
            await self._wait_due()
            try:
                await self._flush(loop.time())
                again_s = _AGAIN_S
            except StoreError:
                self.note_error()
                self._is_unsure = True
                self._abandon_forgotten()
                await asyncio.sleep(again_s)
                again_s = min(2 * again_s, _AGAIN_MOST_S)
            except Exception as fault:
                log_fault("a turn of the writer to the store, which goes on,", fault)
                await asyncio.sleep(_AGAIN_S)

    async def _wait_due(self) -> None:
        """Wait for the time between two flushes, or until something is to be written at once."""
        loop, timer = asyncio.get_running_loop(), None
        if self._followed:
            timer = loop.call_later(self.flush_s, self._due.set)
        elif self._outboxes or self._abandoned:
            timer = loop.call_at(self._all_at, self._due.set)
        await self._due.wait()
        self._due.clear()
        if timer is not None:
            timer.cancel()

    async def _flush(self, now: float) -> None:
        """Write what is due. Raises: StoreError."""
        if self._is_unsure:
            await self._settle(self._outboxes.values())
            self._is_unsure, self._all_at = False, now
        if self._abandoned:
            await self._seal_abandoned()
        values, self._values = self._values, []
        if values:
            await self._store.write(values)
        due = self._looked_at(now)
        while due:
            due = await self._turn(due, now)
        if now >= self._sweep_at:
            self._sweep_at = now + _SWEEP_S
            await self._end_some(now)

    def _looked_at(self, now: float) -> list[Outbox]:
        """Return the outboxes that may have something that is due."""
        at_once, self._at_once = self._at_once, {}
        if now < self._all_at:
            return list((self._followed | at_once).values())
        self._all_at = now + _SELDOM * self.flush_s
        return list(self._outboxes.values())

    async def _turn(self, due: list[Outbox], now: float) -> list[Outbox]:
        """Write one part of each stream; return those that have another to be written at once. Raises: StoreError."""
        operations: list[Operation] = []
        senders: list[Outbox] = []
        looked_at = 0
        for outbox in due:
            part = self._next(outbox, now)
            operations += part
            senders += [outbox] * len(part)
            looked_at += 1
            if len(operations) >= _MOST:
                break
        if not operations:
            return []
        outcomes = await self._store.write(operations)  # what may have been stored in vain is refused the next time
        self.note_reached()
        await self._note(zip(senders, operations, outcomes, strict=True))
        await self._drop_names(dict.fromkeys(senders))
        for outbox in [outbox for outbox in senders if outbox.closed and not self._keeps(outbox.stream)]:
            self._remove(outbox.stream.id)
        return [*due[looked_at:], *(outbox for outbox in dict.fromkeys(senders) if outbox.has_more)]

    async def _drop_names(self, outboxes: Iterable[Outbox]) -> None:
        """Have no key lead to streams that are not kept; it may lead to a newer one by now. Raises: StoreError."""
        names = [(name, outbox.stream.id.encode()) for outbox in outboxes for name in outbox.needless_names]
        if names:
            values = await self._store.values([name for name, _ in names])
            leading = tuple(name for (name, ident), value in zip(names, values, strict=True) if value == ident)
            await self._store.write([Drop(leading)])

    def _next(self, outbox: Outbox, now: float) -> Sequence[Operation]:
        """Return what is to be written next of a stream; if that can't be made, no other stream lacks anything."""
        try:
            return outbox.next(now)
        except Exception as fault:
            log_fault("the writing of a stream to the store", fault)
            self._abandon(outbox.stream.id)
            return ()

    async def _note(self, written: Iterable[tuple[Outbox, Operation, Outcome | StoreError]]) -> None:
        """Note the outcomes. Raises: the StoreError that an operation had."""
        unsettled: dict[Outbox, None] = {}
        failed: StoreError | None = None
        for outbox, operation, outcome in written:
            if isinstance(outcome, StoreError):
                failed = outcome
            elif outbox.noted(operation, outcome):
                unsettled[outbox] = None
        await self._settle(unsettled)
        if failed is not None:
            raise failed

    async def _settle(self, outboxes: Iterable[Outbox]) -> None:
        """Find out what the store has of streams. Raises: StoreError."""
        unsettled = [outbox for outbox in outboxes if not outbox.unstored]
        lasts = await self._store.last([outbox.stream.id for outbox in unsettled])
        for outbox, last in zip(unsettled, lasts, strict=True):
            outbox.settle(last)

    async def _end_some(self, now: float) -> None:
        """Drop outboxes that are done, once their seals have been looked for again. Raises: StoreError."""
        for ident, outbox in list(self._outboxes.items()):
            is_needless = outbox.closed and not self._keeps(outbox.stream)  # a seal that is lost is not written again
            if is_needless or (outbox.unstored and outbox.stream.sealed):
                self._remove(ident)
            elif outbox.closed and now >= self._verify_at.setdefault(ident, now + _VERIFY_S):
                await self._settle([outbox])
                if outbox.closed or outbox.unstored:
                    self._remove(ident)

    def _abandon_forgotten(self) -> None:
        """Drop the logs that are held for a store alone that can't be reached: there may be many, and more to come."""
        for ident, outbox in list(self._outboxes.items()):
            if outbox.stream.sealed and not self._keeps(outbox.stream):
                self._abandon(ident)

    def _abandon(self, ident: str) -> None:
        self._abandoned[ident] = None
        self._remove(ident)

    async def _seal_abandoned(self) -> None:
        """Have those who follow streams that can't be stored told so. Raises: StoreError."""
        idents = list(self._abandoned)
        await seal_lost(self._store, idents)
        await self._store.write([Remove(running(self._node), ident) for ident in idents])
        for ident in idents:
            del self._abandoned[ident]

    def _remove(self, ident: str) -> None:
        self._outboxes.pop(ident, None)
        self._verify_at.pop(ident, None)
        self._followed.pop(ident, None)
