"""The simplest store that keeps the contract: dictionaries."""

import asyncio
from collections.abc import Mapping, Sequence

from proxy.store.entries import Entry, EntryId
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
    Operation,
    Outcome,
    Post,
    Put,
    Remove,
    StoreError,
)


class MemoryStore:
    """A store in this process's memory."""

    lanes = 1

    def __init__(self) -> None:
        self._logs: dict[str, list[Entry]] = {}
        self._values: dict[str, bytes] = {}
        self._sets: dict[str, set[str]] = {}
        self._counts: dict[str, dict[str, int]] = {}
        self._boxes: dict[str, list[bytes]] = {}
        self._ends: dict[str, float] = {}
        self._woken: set[tuple[int, str]] = set()
        self._changed = asyncio.Condition()

    def lane(self, ident: str) -> int:
        return 0

    async def write(self, operations: Sequence[Operation]) -> list[Outcome | StoreError]:
        async with self._changed:
            outcomes: list[Outcome | StoreError] = [self._do(operation) for operation in operations]
            self._changed.notify_all()
        return outcomes

    def _do(self, operation: Operation) -> Outcome:
        match operation:
            case Append(ident, entry, begins):
                log = self._log(ident)
                if log is None and not begins:
                    return GONE
                if log and log[-1].id >= entry.id:
                    return REJECTED
                self._logs.setdefault(ident, []).append(entry)
            case Keep(ident, seconds):
                self._ends["log " + ident] = self._now() + seconds
            case Put(name, value, seconds, absent):
                held = self._value(name)
                if absent and held is not None:
                    return Outcome("rejected", held, left_s=self._ends["value " + name] - self._now())
                self._values[name] = value
                self._ends["value " + name] = self._now() + seconds
                return Outcome("stored", value, left_s=seconds) if absent else STORED
            case Drop(names):
                for name in names:
                    self._values.pop(name, None)
            case Add(name, member, _):
                self._sets.setdefault(name, set()).add(member)
            case Remove(name, member):
                self._sets.get(name, set()).discard(member)
            case Post(node, message, _):
                self._boxes.setdefault(node, []).append(message)
            case Count(name, member, number, seconds):
                if self._now() >= self._ends.get("count " + name, float("inf")):
                    self._counts.pop(name, None)
                self._counts.setdefault(name, {})[member] = number
                self._ends["count " + name] = self._now() + seconds
                return Outcome("stored", b"%d" % sum(self._counts[name].values()))
            case Hold(name, member, number, seconds):
                if self._now() >= self._ends.get("count " + name, float("inf")):
                    self._counts.pop(name, None)
                numbers = self._counts.setdefault(name, {})
                numbers[member] = number
                if not number:
                    del numbers[member]
                self._ends["count " + name] = self._now() + seconds
                return Outcome("stored", None, dict(numbers))
        return STORED

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    def _log(self, ident: str) -> list[Entry] | None:
        if self._now() >= self._ends.get("log " + ident, float("inf")):
            self._logs.pop(ident, None)
            del self._ends["log " + ident]
        return self._logs.get(ident)

    def _value(self, name: str) -> bytes | None:
        if self._now() >= self._ends.get("value " + name, float("inf")):
            self._values.pop(name, None)
        return self._values.get(name)

    async def entries(self, ident: str, after: EntryId, count: int) -> list[Entry]:
        return [entry for entry in self._log(ident) or () if entry.id > after][:count]

    async def last(self, idents: Sequence[str]) -> list[Entry | None]:
        logs = [self._log(ident) for ident in idents]
        return [log[-1] if log else None for log in logs]

    async def exist(self, idents: Sequence[str]) -> list[bool]:
        return [self._log(ident) is not None for ident in idents]

    async def values(self, names: Sequence[str]) -> list[bytes | None]:
        return [self._value(name) for name in names]

    async def members(self, name: str) -> set[str]:
        return set(self._sets.get(name, ()))

    async def tail(
        self, lane: int, node: str, cursors: Mapping[str, EntryId], block_s: float
    ) -> dict[str, list[Entry]]:
        def found() -> dict[str, list[Entry]]:
            new = {ident: [e for e in self._log(ident) or () if e.id > after] for ident, after in cursors.items()}
            return {ident: entries for ident, entries in new.items() if entries}

        try:
            async with asyncio.timeout(block_s), self._changed:
                await self._changed.wait_for(lambda: found() or (lane, node) in self._woken)
        except TimeoutError:
            pass
        self._woken.discard((lane, node))
        return found()

    async def wake(self, lane: int, node: str) -> None:
        async with self._changed:
            self._woken.add((lane, node))
            self._changed.notify_all()

    async def messages(self, node: str, after: bytes, block_s: float) -> list[tuple[bytes, bytes]]:
        at = int(after)
        try:
            async with asyncio.timeout(block_s), self._changed:
                await self._changed.wait_for(lambda: len(self._boxes.get(node, ())) > at)
        except TimeoutError:
            pass
        return [(b"%d" % number, message) for number, message in enumerate(self._boxes.get(node, ())[at:], at + 1)]

    async def close(self) -> None:
        """Nothing is open."""
