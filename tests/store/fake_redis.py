"""As much of a Redis as the store needs, in memory: commands in, replies of RESP2 out.

Held to the real one by the contract suite (test_store.py). Its time is that of the event loop, so that it also runs
in a simulation. `down` makes every command fail; `lose_requests` and `lose_replies` fail the next ones before or after
they are carried out, as a connection that breaks does.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from proxy.store.redis_store import Command
from proxy.store.store import StoreError

_HIGHEST = 2**64 - 1
Id = tuple[int, int]


class FakeLog:
    """A stream of Redis."""

    def __init__(self) -> None:
        self.entries: list[tuple[Id, list[bytes]]] = []
        self.last: Id = (0, 0)


class FakeServer:
    """What one Redis holds; several connections may share it."""

    def __init__(self) -> None:
        self.keys: dict[bytes, Any] = {}
        self.expires: dict[bytes, float] = {}
        self.changed = asyncio.Event()
        self.full = False  # as with maxmemory and noeviction

    def has(self, key: bytes) -> bool:
        if key in self.expires and asyncio.get_running_loop().time() >= self.expires[key]:
            del self.keys[key], self.expires[key]
        return key in self.keys

    def get(self, key: bytes) -> Any:
        return self.keys[key] if self.has(key) else None

    def run(self, command: Command) -> Any:
        """Carry out a command; return its reply, or the StoreError that it is."""
        name, *arguments = (_bytes(part) for part in command)
        if self.full and name in (b"XADD", b"SET", b"SADD", b"HSET"):
            return StoreError("OOM command not allowed when used memory > 'maxmemory'.")
        method: Callable[..., Any] = getattr(self, "_" + name.decode().lower())
        return method(*arguments)

    def _xadd(self, key: bytes, *rest: bytes) -> Any:
        parts, made, limit = list(rest), True, None
        if parts[0] == b"NOMKSTREAM":
            made = bool(parts.pop(0)) and False
        if parts[0] == b"MAXLEN":
            parts.pop(0)
            if parts[0] == b"~":
                parts.pop(0)
            limit = int(parts.pop(0))
        if not self.has(key) and not made:
            return None
        log = self.keys.setdefault(key, FakeLog())
        text = parts.pop(0)
        ident = self._next(log) if text == b"*" else _id(text)
        if log.last == (_HIGHEST, _HIGHEST):
            return StoreError("The stream has exhausted the last possible ID, unable to add more items")
        if ident <= log.last:
            return StoreError("The ID specified in XADD is equal or smaller than the target stream top item")
        log.entries.append((ident, parts))
        log.last = ident
        if limit is not None:
            del log.entries[:-limit]
        self.notify()
        return _text(ident)

    def notify(self) -> None:
        """Wake all that wait for entries."""
        self.changed.set()
        self.changed = asyncio.Event()

    @staticmethod
    def _next(log: FakeLog) -> Id:
        ms = int(asyncio.get_running_loop().time() * 1000)
        return (ms, 0) if ms > log.last[0] else (log.last[0], log.last[1] + 1)

    def _xrange(self, key: bytes, start: bytes, end: bytes, count: bytes, limit: bytes) -> Any:
        log = self.get(key) or FakeLog()
        after = _id(start.removeprefix(b"("))
        return [_reply(entry) for entry in log.entries if entry[0] > after][: int(limit)]

    def _xrevrange(self, key: bytes, end: bytes, start: bytes, count: bytes, limit: bytes) -> Any:
        log = self.get(key) or FakeLog()
        return [_reply(entry) for entry in reversed(log.entries)][: int(limit)]

    def xread(self, keys: Sequence[bytes], ids: Sequence[bytes], count: int) -> Any:
        """Return what XREAD would, without waiting."""
        found = []
        for key, text in zip(keys, ids, strict=True):
            log, after = self.get(key) or FakeLog(), _id(text)
            entries = [_reply(entry) for entry in log.entries if entry[0] > after][:count]
            if entries:
                found.append([key, entries])
        return found or None

    def _exists(self, key: bytes) -> int:
        return int(self.has(key))

    def _del(self, key: bytes) -> int:
        was = self.has(key)
        self.keys.pop(key, None)
        self.expires.pop(key, None)
        return int(was)

    def _pexpire(self, key: bytes, ms: bytes) -> int:
        if not self.has(key):
            return 0
        self.expires[key] = asyncio.get_running_loop().time() + int(ms) / 1000
        return 1

    def _set(self, key: bytes, value: bytes, px: bytes, ms: bytes, nx: bytes = b"") -> Any:
        if nx and self.has(key):
            return None
        self.keys[key] = value
        self._pexpire(key, ms)
        return b"OK"

    def _pttl(self, key: bytes) -> int:
        if not self.has(key):
            return -2
        return round((self.expires[key] - asyncio.get_running_loop().time()) * 1000) if key in self.expires else -1

    def _get(self, key: bytes) -> Any:
        return self.get(key)

    def _hset(self, key: bytes, field: bytes, value: bytes) -> int:
        held: dict[bytes, bytes] = self.get(key) or {}
        self.keys[key] = held
        was = field in held
        held[field] = value
        return int(not was)

    def _hdel(self, key: bytes, field: bytes) -> int:
        held: dict[bytes, bytes] = self.get(key) or {}
        was = held.pop(field, None) is not None
        if not held:
            self._del(key)
        return int(was)

    def _hgetall(self, key: bytes) -> list[bytes]:
        return [part for field in (self.get(key) or {}).items() for part in field]

    def _hvals(self, key: bytes) -> list[bytes]:
        return list((self.get(key) or {}).values())

    def _sadd(self, key: bytes, member: bytes) -> int:
        members: set[bytes] = self.get(key) or set()
        self.keys[key] = members
        added = member not in members
        members.add(member)
        return int(added)

    def _srem(self, key: bytes, member: bytes) -> int:
        members = self.get(key) or set()
        was = member in members
        members.discard(member)
        if self.has(key) and not members:
            self._del(key)
        return int(was)

    def _smembers(self, key: bytes) -> list[bytes]:
        return sorted(self.get(key) or ())


class FakeConnections:
    """Connections of one node to a FakeServer."""

    is_cluster = False

    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.down = False
        self.lose_requests = 0
        self.lose_replies = 0

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        await self.delay()
        if self.down or self._lost("lose_requests"):
            raise StoreError("the connection is lost")
        replies = [await self._run_one(command) for command in commands]
        await self.delay()
        if self.down or self._lost("lose_replies"):
            raise StoreError("the connection is lost")
        return replies

    async def delay(self) -> None:
        """Wait as long as a message is on its way: here not at all."""

    async def _run_one(self, command: Command) -> Any:
        if command[0] != "XREAD":
            return self.server.run(command)
        parts = [_bytes(part) for part in command]
        at = parts.index(b"STREAMS")
        block_s = int(parts[parts.index(b"BLOCK") + 1]) / 1000
        named = parts[at + 1 :]
        keys, ids = named[: len(named) // 2], named[len(named) // 2 :]
        until = asyncio.get_running_loop().time() + block_s
        while (found := self.server.xread(keys, ids, int(parts[2]))) is None:
            left_s = until - asyncio.get_running_loop().time()
            if left_s <= 0:
                return None
            try:
                async with asyncio.timeout(left_s):
                    await self.server.changed.wait()
            except TimeoutError:
                return None
        return found

    def _lost(self, which: str) -> bool:
        left = getattr(self, which)
        if left:
            setattr(self, which, left - 1)
        return bool(left)

    async def close(self) -> None:
        """Nothing is open."""


def _bytes(part: str | bytes | int) -> bytes:
    return part if isinstance(part, bytes) else str(part).encode()


def _id(text: bytes) -> Id:
    ms, _, seq = text.partition(b"-")
    return int(ms), int(seq or 0)


def _text(ident: Id) -> bytes:
    return b"%d-%d" % ident


def _reply(entry: tuple[Id, list[bytes]]) -> list[Any]:
    return [_text(entry[0]), entry[1]]
