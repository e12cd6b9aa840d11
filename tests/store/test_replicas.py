"""How a node finds the streams of others, over the fake of Redis."""

from collections.abc import AsyncIterator

import pytest

from proxy.store.entries import HEADER, SEAL, Entry, EntryId, Frames, Record, Seal
from proxy.store.redis_store import RedisStore
from proxy.store.replicas import Replicas
from proxy.store.store import Append, StoreError
from proxy.store.tail import Tail
from proxy.stream.endings import COMPLETE
from proxy.stream.info import StreamInfo
from proxy.stream.stream import Stream
from tests.event_loops import until
from tests.store.fake_redis import FakeConnections, FakeServer
from tests.streams import new_stream

IDENT = "st_" + "a" * 26
INFO = StreamInfo(IDENT, "chat", b"someone", 0, 0.0, 1 << 20)
FRAMES = [b"data: one\n\n", b"data: two\n\n"]


class Found:
    """A node that finds streams, and an owner's side of the store."""

    def __init__(self) -> None:
        server = FakeServer()
        self.connections = FakeConnections(server)
        store = RedisStore(self.connections)
        self.owner = RedisStore(FakeConnections(server))
        self.errors = 0
        self.dropped: list[Stream] = []
        tail = Tail(store, "other", 60.0, 0.001, self._note)
        self.replicas = Replicas(store, "other", tail, self._make, self.dropped.append, self._note)

    def _note(self) -> None:
        self.errors += 1

    def _make(self, record: Record) -> Stream:
        return new_stream(ident=record.info.id)

    async def say(self, *entries: Entry, begins: bool = False) -> None:
        await self.owner.write([Append(IDENT, entry, begins) for entry in entries])

    async def begin(self) -> None:
        await self.say(Entry(HEADER, {b"r": bytes(Record(INFO, "openai", None, "owner"))}), begins=True)


@pytest.fixture
async def found() -> AsyncIterator[Found]:
    """Return a node that finds a stream of which nothing was said yet."""
    found = Found()
    await found.begin()
    yield found
    await found.replicas.close()


def frames(seq: int) -> Entry:
    """Return the entry of one frame."""
    return Frames(EntryId(seq, sum(map(len, FRAMES[:seq]))), FRAMES[seq - 1 : seq]).entry()


async def test_replica_has_what_is_stored_and_then_what_comes(found: Found) -> None:
    """The same one for whoever asks."""
    await found.say(frames(1))
    stream = await found.replicas.find(IDENT)
    assert stream is not None
    assert stream.log.frames == FRAMES[:1]
    assert await found.replicas.find(IDENT) is stream
    await found.say(frames(2), Seal(COMPLETE, EntryId(2, sum(map(len, FRAMES)))).entry())
    await until(lambda: stream.sealed)
    assert (stream.log.frames, stream.log.ending) == (FRAMES, COMPLETE)


async def test_replica_is_fed_although_its_owner_could_not_be_told(found: Found) -> None:
    """The store was reached for the past, and not for the message: the next announcement makes up for it."""
    run, told = found.connections.run, []

    async def lose_messages(commands: object) -> object:
        if "box:owner" in str(commands):
            told.append(commands)
            raise StoreError("lost")
        return await run(commands)  # type: ignore[arg-type]

    found.connections.run = lose_messages  # type: ignore[method-assign, assignment]
    stream = await found.replicas.find(IDENT)
    assert stream is not None
    assert (len(told), found.errors) == (1, 1)
    await found.say(frames(1), Seal(COMPLETE).entry())
    await until(lambda: stream.sealed)
    assert stream.log.frames == FRAMES[:1]


async def test_gap_ends_the_replica_with_an_error(found: Found) -> None:
    """Whatever the store has lost."""
    stream = await found.replicas.find(IDENT)
    assert stream is not None
    await found.say(frames(2))
    await until(lambda: stream.sealed)
    assert stream.log.ending is not None
    assert stream.log.ending.reason == "producer_lost"
    assert stream.log.frames == []


async def test_seal_that_says_there_was_more_ends_the_replica_with_an_error(found: Found) -> None:
    """Though the owner was complete."""
    stream = await found.replicas.find(IDENT)
    assert stream is not None
    await found.say(frames(1), Seal(COMPLETE, EntryId(2, 22)).entry())
    await until(lambda: stream.sealed)
    assert stream.log.ending is not None
    assert stream.log.ending.reason == "producer_lost"


async def test_what_cannot_be_read_ends_the_replica_with_an_error(found: Found) -> None:
    """An entry of another version."""
    stream = await found.replicas.find(IDENT)
    assert stream is not None
    await found.say(Entry(SEAL, {b"e": b"not JSON"}))
    await until(lambda: stream.sealed)
    assert stream.log.ending is not None
    assert "can't be read" in stream.log.ending.message


async def test_replica_that_nobody_follows_is_dropped(found: Found) -> None:
    """After a while."""
    stream = await found.replicas.find(IDENT)
    assert stream is not None
    found.replicas.tick(0.0)
    assert found.dropped == []
    found.replicas.tick(1e9)
    assert found.dropped == [stream]


async def test_stream_that_is_not_stored_is_none(found: Found) -> None:
    """Nor one whose log has lost its beginning."""
    assert await found.replicas.find("st_" + "b" * 26) is None
