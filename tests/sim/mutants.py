"""The safeguards of the real code, each switched off: a seed must break a law then.

A mutant is the name of what is replaced, and by what.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest import mock

from proxy.store.entries import Entry, EntryId, Frames, GapError, read_seal
from proxy.store.replica import Replica
from proxy.store.store import STORED, StoreError


class Mutant(NamedTuple):
    """What is replaced, and by what; and the faults that show it."""

    target: str
    replacement: Any
    faults: tuple[str, ...] = ()


def _accepts_all(self: Any, key: bytes, *rest: bytes) -> Any:
    from tests.store.fake_redis import FakeLog, _id, _text

    parts = [part for part in rest if part != b"NOMKSTREAM"]
    if b":log:" not in key:
        return _xadd(self, key, *rest)
    if not self.has(key) and len(parts) != len(rest):
        return None
    log = self.keys.setdefault(key, FakeLog())
    ident = _id(parts[0])
    log.entries.append((ident, parts[1:]))
    log.last = max(log.last, ident)
    self.notify()
    return _text(ident)


def _from_the_cursor_on(self: Any, keys: Any, ids: Any, count: int) -> Any:
    lower = [b"%d-%d" % (int(i.split(b"-")[0]), int(i.split(b"-")[1]) - 1) if b"-" in i and b":log:" in k else i
             for k, i in zip(keys, ids, strict=True)]  # fmt: skip
    return _xread(self, keys, lower, count)


def _unchecked(self: Frames, at: EntryId) -> list[bytes]:
    return self.frames


async def _dead_at_once(self: Any, now: float, more: Any = ()) -> set[str]:
    return {*await self._store.members("nodes"), *more} - {self._node}


async def _stored_anyway(self: Any, operations: Any) -> Any:
    try:
        return await _write(self, operations)
    except StoreError:
        return [STORED] * len(operations)


async def _always_anew(self: Any, ident: str) -> Any:
    return await self._fetch(ident)


async def _nothing(self: Any, *arguments: Any) -> None:
    return None


def _nothing_at_once(self: Any, *arguments: Any) -> None:
    return None


async def _read_then_set(self: Any, name: bytes, asked: bytes, ident: str) -> Any:
    from proxy.store.store import Put

    (held,) = await self._store.values(["idem:test"])
    if held is None:
        await self._store.write([Put("idem:test", ident.encode(), 60)])
        return None
    return await self._find(held.decode())


def _sealed_as_by_the_owner(self: Replica, entry: Entry) -> None:
    seal = read_seal(entry)
    if seal.at is not None and seal.at != self.at:
        raise GapError
    self.stream.seal(seal.ending._replace(imposed=False), tail=seal.tail)


def _as_if_all_were_written(self: Any, frames: list[bytes]) -> Any:
    entry = _data(self, frames)
    self._heard_at = self.stream.heard_at
    return entry


def _original(path: str) -> Callable[..., Any]:
    import importlib

    module, cls, name = path.rsplit(".", 2)
    found: Callable[..., Any] = getattr(getattr(importlib.import_module(module), cls), name)
    return found


_xadd = _original("tests.store.fake_redis.FakeServer._xadd")
_xread = _original("tests.store.fake_redis.FakeServer.xread")
_write = _original("proxy.store.redis_store.RedisStore.write")
_data = _original("proxy.store.outbox.Outbox._data")

MUTANTS = {
    "fencing id and seal": Mutant("tests.store.fake_redis.FakeServer._xadd", _accepts_all, ("cut owner",)),
    "exclusive cursor": Mutant("tests.store.fake_redis.FakeServer.xread", _from_the_cursor_on),
    "gap check": Mutant("proxy.store.entries.Frames.after", _unchecked, ("trim",)),
    "rest of a burst": Mutant("proxy.store.outbox.Outbox._data", _as_if_all_were_written),
    "last-leaver rule": Mutant("proxy.store.node.Node._count", _nothing_at_once),
    "lease": Mutant("proxy.store.leases.Leases.dead", _dead_at_once),
    "settling": Mutant("proxy.store.redis_store.RedisStore.write", _stored_anyway, ("break",)),
    "verified seal": Mutant("proxy.store.publisher.Publisher._settle", _nothing, ("fail over",)),
    "key check": Mutant("proxy.store.tail.Tail._check_there", _nothing, ("delete",)),
    "number of no frame": Mutant("proxy.store.replica.Replica._seal", _sealed_as_by_the_owner, ("crash",)),
    "number of no frame, back at the owner": Mutant(
        "proxy.store.replica.Replica._seal", _sealed_as_by_the_owner, ("cut owner",)
    ),
    "one reader a stream and node": Mutant("proxy.store.replicas.Replicas.find", _always_anew),
    "one claim a key": Mutant("proxy.store.claims.Claims.claim", _read_then_set),
}


@contextmanager
def switched_off(safeguard: str) -> Iterator[None]:
    """Run without a safeguard."""
    with ExitStack() as stack:
        if safeguard:
            mutant = MUTANTS[safeguard]
            stack.enter_context(mock.patch(mutant.target, mutant.replacement))
        yield
