"""A store in Redis, 6.2 or later: a log is a stream of Redis, a box of messages another.

Commands of Redis 6.2 alone, and no scripts: the ids of entries do what would need some. Names of keys:

    st:{B}:log:<stream>    a log; B is one of 64 buckets, so that in a cluster one XREAD covers all logs of a bucket
    st:{B}:wake:<node>     what ends the wait of a node's reader
    st:box:<node>          messages for a node
    st:<name>              sets and leases
    st:<kind>:<digest>     values and counts: clients choose parts of their names, of which nothing is to stay readable

What the commands return is read here as RESP2 has it; `redis_client` connects.
"""

import hmac
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol
from zlib import crc32

from proxy.store.entries import Entry, EntryId, Fields, read_id
from proxy.store.leases import LEASE
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

Command = tuple[str | bytes | int, ...]

BUCKETS = 64
_BOX_MESSAGES = 10_000  # the oldest are dropped: a node that reads none has died
_WAKE_S = 24 * 3600.0  # what has woken a reader is of use for a moment
_NOT_ABOVE = ("equal or smaller", "exhausted the last possible")  # the errors of XADD, of Redis 6.2 and 7


class Connections(Protocol):
    """Runs commands in a Redis."""

    is_cluster: bool
    """Whether a command can only name keys of one slot."""

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """Return the reply to each, or the StoreError that it is. Raises: StoreError, when the connection fails."""

    async def close(self) -> None:
        """Close all."""


def bucket(ident: str) -> int:
    """Return the bucket of a stream."""
    return crc32(ident.encode()) % BUCKETS


class RedisStore:
    """A store in Redis."""

    def __init__(self, connections: Connections, secret: bytes = b"") -> None:
        """`secret`: the same at all nodes."""
        self._connections = connections
        self._secret = secret
        self.lanes = BUCKETS if connections.is_cluster else 1
        self._woken: dict[tuple[int, str], bytes] = {}

    def lane(self, ident: str) -> int:
        return bucket(ident) % self.lanes

    async def write(self, operations: Sequence[Operation]) -> list[Outcome | StoreError]:
        commands: list[Command] = []
        ends = []
        for operation in operations:
            if type(operation) is Append:  # almost all are
                commands.append(_append(operation))
            else:
                commands += _commands(self._with_digest(operation))
            ends.append(len(commands))
        replies = await self._connections.run(commands)
        outcomes: list[Outcome | StoreError] = []
        at = 0
        for operation, end in zip(operations, ends, strict=True):
            outcomes.append(_outcome(operation, replies[at:end]))
            at = end
        return outcomes

    async def entries(self, ident: str, after: EntryId, count: int) -> list[Entry]:
        reply = await self._one("XRANGE", _log(ident), f"({after}", "+", "COUNT", count)
        return [_entry(one) for one in reply]

    async def last(self, idents: Sequence[str]) -> list[Entry | None]:
        replies = await self._all(("XREVRANGE", _log(ident), "+", "-", "COUNT", 1) for ident in idents)
        return [_entry(reply[0]) if reply else None for reply in replies]

    async def exist(self, idents: Sequence[str]) -> list[bool]:
        return [bool(reply) for reply in await self._all(("EXISTS", _log(ident)) for ident in idents)]

    async def values(self, names: Sequence[str]) -> list[bytes | None]:
        return await self._all(("GET", _key(self._digest(name))) for name in names)

    async def members(self, name: str) -> set[str]:
        return {member.decode() for member in await self._one("SMEMBERS", _key(name))}

    async def tail(
        self, lane: int, node: str, cursors: Mapping[str, EntryId], block_s: float
    ) -> dict[str, list[Entry]]:
        wake = self._wake(lane, node)
        keys = {_log(ident): ident for ident in cursors}
        woken = self._woken.get((lane, node), b"0")
        ids: list[str | bytes] = [woken, *(str(cursor) for cursor in cursors.values())]
        wait = ("BLOCK", max(1, int(block_s * 1000)))
        reply = await self._one("XREAD", "COUNT", 256, *wait, "STREAMS", wake, *keys, *ids)
        found: dict[str, list[Entry]] = {}
        for key, entries in _streams(reply):
            if key == wake:
                self._woken[lane, node] = entries[-1][0]
            else:
                found[keys[key]] = [_entry(one) for one in entries]
        return found

    async def wake(self, lane: int, node: str) -> None:
        key = self._wake(lane, node)
        await self._all([("XADD", key, "MAXLEN", 1, "*", "w", "1"), ("PEXPIRE", key, _ms(_WAKE_S))])

    async def messages(self, node: str, after: bytes, block_s: float) -> list[tuple[bytes, bytes]]:
        reply = await self._one(
            "XREAD", "COUNT", 256, "BLOCK", max(1, int(block_s * 1000)), "STREAMS", f"st:box:{node}", after
        )
        return [(one[0], _fields(one[1])[b"m"]) for _, entries in _streams(reply) for one in entries]

    async def close(self) -> None:
        await self._connections.close()

    def _with_digest(self, operation: Operation) -> Operation:
        """Return an operation with the name under which the store has a value or a count."""
        match operation:
            case Put(name) | Count(name) | Hold(name):
                return operation._replace(name=self._digest(name))
            case Drop(names):
                return Drop(tuple(map(self._digest, names)))
        return operation

    def _digest(self, name: str) -> str:
        """Return the name under which the store has a value: what kind it is of, and a digest."""
        if is_plain(name):
            return name
        kind = name.partition(":")[0]
        return f"{kind}:{hmac.digest(self._secret, name.encode(errors='surrogatepass'), 'sha256')[:16].hex()}"

    def _wake(self, lane: int, node: str) -> str:
        return f"st:{{{lane if self.lanes == BUCKETS else 0}}}:wake:{node}:{lane}"

    async def _one(self, *command: str | bytes | int) -> Any:
        return (await self._all([command]))[0]

    async def _all(self, commands: Iterable[Command]) -> list[Any]:
        listed = list(commands)
        replies = await self._connections.run(listed) if listed else []
        for reply in replies:
            if isinstance(reply, StoreError):
                raise reply
        return replies


def is_plain(name: str) -> bool:
    """Return whether a value is kept as it is: a lease, which must not seem to be over where it can't be decrypted."""
    return name.startswith(LEASE)


@lru_cache(maxsize=16384)
def _log(ident: str) -> str:
    return f"st:{{{bucket(ident)}}}:log:{ident}"


def _append(append: Append) -> Command:
    fields = [part for field in append.entry.fields.items() for part in field]
    made = () if append.begins else ("NOMKSTREAM",)
    return ("XADD", _log(append.ident), *made, str(append.entry.id), *fields)


def _key(name: str) -> bytes:
    """Return the key of a value or a set."""
    return f"st:{name}".encode()


def _commands(operation: Operation) -> Iterable[Command]:
    match operation:
        case Keep(ident, seconds):
            yield ("PEXPIRE", _log(ident), _ms(seconds)) if seconds else ("DEL", _log(ident))
        case Put(name, value, seconds, absent):
            yield ("SET", _key(name), value, "PX", _ms(seconds), *(("NX",) if absent else ()))
            if absent:
                yield ("GET", _key(name))
                yield ("PTTL", _key(name))
        case Drop(names):
            yield from (("DEL", _key(name)) for name in names)
        case Add(name, member, seconds):
            yield ("SADD", _key(name), member)
            yield ("PEXPIRE", _key(name), _ms(seconds))
        case Remove(name, member):
            yield ("SREM", _key(name), member)
        case Post(node, message, seconds):
            yield ("XADD", f"st:box:{node}", "MAXLEN", "~", _BOX_MESSAGES, "*", "m", message)
            yield ("PEXPIRE", f"st:box:{node}", _ms(seconds))
        case Count(name, member, number, seconds):
            yield ("HSET", f"st:{name}", member, number)
            yield ("HVALS", f"st:{name}")
            yield ("PEXPIRE", f"st:{name}", _ms(seconds))
        case Hold(name, member, number, seconds):
            yield ("HSET", f"st:{name}", member, number) if number else ("HDEL", f"st:{name}", member)
            yield ("HGETALL", f"st:{name}")
            yield ("PEXPIRE", f"st:{name}", _ms(seconds))


def _outcome(operation: Operation, replies: list[Any]) -> Outcome | StoreError:
    if type(operation) is Append and type(replies[0]) is bytes:
        return STORED
    error = next((reply for reply in replies if isinstance(reply, StoreError)), None)
    if error is not None:
        is_refusal = isinstance(operation, Append) and any(text in str(error) for text in _NOT_ABOVE)
        return REJECTED if is_refusal else error
    match operation:
        case Append() if replies[0] is None:
            return GONE
        case Put(absent=True):
            return Outcome("stored" if replies[0] else "rejected", replies[1], left_s=replies[2] / 1000)
        case Count():
            return Outcome("stored", b"%d" % sum(map(int, replies[1])))
        case Hold():
            members = zip(replies[1][::2], replies[1][1::2], strict=True)
            return Outcome("stored", None, {member.decode(): int(number) for member, number in members})
        case _:
            return STORED


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _streams(reply: Any) -> list[tuple[str, list[Any]]]:
    return [(key.decode(), entries) for key, entries in reply or ()]


def _entry(reply: Any) -> Entry:
    ident, fields = reply
    return Entry(read_id(ident), _fields(fields))


def _fields(flat: list[bytes]) -> Fields:
    return dict(zip(flat[::2], flat[1::2], strict=True))
