"""A store in Redis whose content can be read only with a key: entries of logs, and values.

Readable stay: ids of streams and nodes, digests of callers, positions in logs (so sizes and times), which nodes are
alive, counts, and the messages between nodes, which name streams and say how many follow.
An entry that can't be decrypted is passed on as it is, and is an UnreadableError to whoever reads its fields: so it
ends its own stream, and not the reading of others.
"""

from collections.abc import Mapping, Sequence
from struct import Struct

from proxy.store.cipher import Cipher
from proxy.store.entries import ENCRYPTED, WHY, Entry, EntryId, Fields, UnreadableError
from proxy.store.redis_store import Connections, RedisStore, is_plain
from proxy.store.store import Append, Operation, Outcome, Put, StoreError, Undecipherable

_SIZES = Struct(">BI")  # of a field's name and of its value


class EncryptedStore(RedisStore):
    """A store in Redis whose content can be read only with a key."""

    def __init__(self, connections: Connections, cipher: Cipher, secret: bytes) -> None:
        """`secret`: as that of any store."""
        super().__init__(connections, secret)
        self.cipher = cipher

    async def write(self, operations: Sequence[Operation]) -> list[Outcome | StoreError]:
        outcomes = await super().write([self._hidden(operation) for operation in operations])
        return [self._shown(operation, outcome) for operation, outcome in zip(operations, outcomes, strict=True)]

    async def entries(self, ident: str, after: EntryId, count: int) -> list[Entry]:
        return [self._read(ident, entry) for entry in await super().entries(ident, after, count)]

    async def last(self, idents: Sequence[str]) -> list[Entry | None]:
        found = zip(idents, await super().last(idents), strict=True)
        return [None if entry is None else self._read(ident, entry) for ident, entry in found]

    async def tail(
        self, lane: int, node: str, cursors: Mapping[str, EntryId], block_s: float
    ) -> dict[str, list[Entry]]:
        found = await super().tail(lane, node, cursors, block_s)
        return {ident: [self._read(ident, entry) for entry in entries] for ident, entries in found.items()}

    async def values(self, names: Sequence[str]) -> list[bytes | None]:
        found = zip(names, await super().values(names), strict=True)
        return [self._value(name, value) for name, value in found]

    def _hidden(self, operation: Operation) -> Operation:
        """Return an operation as the store may see it."""
        match operation:
            case Append(ident, entry):
                data = self.cipher.encrypt(_log(ident), str(entry.id), _packed(entry.fields))
                return operation._replace(entry=Entry(entry.id, {ENCRYPTED: data}))
            case Put(name, value) if not is_plain(name):
                return operation._replace(value=self.cipher.encrypt(_named(name), "", value))
        return operation

    def _shown(self, operation: Operation, outcome: Outcome | StoreError) -> Outcome | StoreError:
        """Return an outcome with the value that there is, if it has one."""
        if not isinstance(operation, Put) or isinstance(outcome, StoreError) or outcome.value is None:
            return outcome
        try:
            return outcome._replace(value=self._value(operation.name, outcome.value))
        except Undecipherable as error:
            return error

    def _read(self, ident: str, entry: Entry) -> Entry:
        """Return an entry with its fields; if it can't be decrypted, with the reason in their place."""
        try:
            return Entry(
                entry.id,
                _unpacked(self.cipher.decrypt(_log(ident), str(entry.id), entry.fields.get(ENCRYPTED, b""))),
            )
        except UnreadableError as error:
            return Entry(entry.id, {ENCRYPTED: b"", WHY: str(error).encode()})

    def _value(self, name: str, value: bytes | None) -> bytes | None:
        """Return a value. Raises: Undecipherable."""
        if value is None or is_plain(name):
            return value
        try:
            return self.cipher.decrypt(_named(name), "", value)
        except UnreadableError as error:
            raise Undecipherable(f"a value of the store can't be read here: {error}") from None


def _log(ident: str) -> str:
    return f"log {ident}"


def _named(name: str) -> str:
    return f"value {name}"


def _packed(fields: Fields) -> bytes:
    """Return the fields of an entry as one text: so that none can be left out."""
    parts = [part for name, value in fields.items() for part in (_SIZES.pack(len(name), len(value)), name, value)]
    return b"".join(parts)


def _unpacked(data: bytes) -> Fields:
    fields, at = {}, 0
    while at < len(data):
        of_name, of_value = _SIZES.unpack_from(data, at)
        begin = at + _SIZES.size
        end = begin + of_name
        at = end + of_value
        fields[data[begin:end]] = data[end:at]
    return fields
