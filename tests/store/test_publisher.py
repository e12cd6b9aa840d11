"""What an owner writes, over the fake of Redis: whatever is lost on the way, each frame is stored once and in order."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxy.store.entries import ANSWERED, HEADER, SEAL, START, Entry, Seal, read_frames, read_seal
from proxy.store.publisher import Publisher
from proxy.store.redis_store import RedisStore
from proxy.store.store import Append, Keep
from proxy.stream.endings import COMPLETE, PRODUCER_LOST, Ending
from proxy.stream.stream import Stream
from tests.event_loops import GUARD_S
from tests.fakes import FakeWriter
from tests.store.fake_redis import FakeConnections, FakeServer
from tests.streams import new_stream

FRAMES = [b"data: %d\n\n" % number for number in range(50)]


class Owner:
    """A node that writes one stream."""

    def __init__(self) -> None:
        self.server = FakeServer()
        self.connections = FakeConnections(self.server)
        self.keeps = True  # its streams after their end
        self.store = RedisStore(self.connections)
        self.publisher = Publisher(self.store, "owner", 0.001, self._described, lambda stream: self.keeps)
        self.stream: Any = new_stream()
        self.stream.answered("default", None, None)
        self.writer = FakeWriter(self.stream)
        self.publisher.add(self.stream)

    def _described(self, stream: Stream) -> bytes:
        """Return the description of a stream for lists; the other one has none that can be written."""
        if stream is not self.stream:
            raise TypeError("not to be written")
        return b"{}"

    async def stored(self) -> list[Entry]:
        """Return the log."""
        return await RedisStore(FakeConnections(self.server)).entries(self.stream.id, START, 1000)

    async def wait_sealed(self) -> list[Entry]:
        """Wait for the seal; return the log."""
        self.publisher.hurry(self.stream.id)
        async with asyncio.timeout(GUARD_S):
            while not (log := await self.stored()) or log[-1].id != SEAL:
                await asyncio.sleep(0.001)
        return log


@pytest.fixture
async def owner() -> AsyncIterator[Owner]:
    owner = Owner()
    owner.publisher.start()
    yield owner
    await owner.publisher.close(0)


def frames(log: list[Entry]) -> list[bytes]:
    """Return the frames of a log."""
    return [frame for entry in log if entry.id > ANSWERED and entry.id != SEAL for frame in read_frames(entry).frames]


async def say(stream: Stream, ending: Ending = COMPLETE) -> None:
    """Say all frames, with pauses that let some be written."""
    for frame in FRAMES:
        stream.extend([frame])
        await asyncio.sleep(0.0005)
    stream.seal(ending)


async def test_log_is_written_from_its_record_to_its_seal(owner: Owner) -> None:
    """With the position that it ends at."""
    await say(owner.stream)
    log = await owner.wait_sealed()
    assert [entry.id for entry in log[:2]] == [HEADER, ANSWERED]
    assert frames(log) == FRAMES
    seal = read_seal(log[-1])
    assert seal.ending == COMPLETE
    assert seal.at == (50, sum(map(len, FRAMES)))
    assert owner.publisher.lag_bytes == 0


@pytest.mark.parametrize("lost", ["lose_requests", "lose_replies"])
async def test_connection_that_breaks_costs_nothing(owner: Owner, lost: str) -> None:
    """Before a command is carried out or after: it is sent again, and refused if it is there."""
    for frame in FRAMES:
        owner.stream.extend([frame])
        if len(frame) % 3:
            setattr(owner.connections, lost, 1)
        await asyncio.sleep(0.002)
    owner.stream.seal(COMPLETE)
    assert frames(await owner.wait_sealed()) == FRAMES
    assert owner.publisher.errors > 0
    assert not owner.publisher.is_down


async def test_store_that_is_full_or_down_is_written_to_later(owner: Owner) -> None:
    """Meanwhile the lag tells."""
    for trouble, thing in (("full", owner.server), ("down", owner.connections)):
        setattr(thing, trouble, True)
        owner.stream.extend(FRAMES[:25])
        async with asyncio.timeout(GUARD_S):
            while not owner.publisher.is_down:
                await asyncio.sleep(0.001)
        assert owner.publisher.lag_bytes > 0
        setattr(thing, trouble, False)
        async with asyncio.timeout(GUARD_S):
            while owner.publisher.is_down:
                await asyncio.sleep(0.001)
    owner.stream.seal(COMPLETE)
    assert frames(await owner.wait_sealed()) == FRAMES[:25] * 2


async def test_stream_that_somebody_has_sealed_ends_here_too(owner: Owner) -> None:
    """So an owner that was taken for dead closes its upstream."""
    owner.stream.extend(FRAMES[:1])
    async with asyncio.timeout(GUARD_S):
        while len(await owner.stored()) < 3:
            await asyncio.sleep(0.001)
    await owner.store.write([Append(owner.stream.id, Seal(PRODUCER_LOST.saying("dead")).entry())])
    owner.stream.extend(FRAMES[1:2])
    async with asyncio.timeout(GUARD_S):
        while not owner.stream.sealed:
            await asyncio.sleep(0.001)
    assert owner.writer.asked == ["stop"]
    assert owner.stream.log.ending.message == "dead"
    assert frames(await owner.stored()) == FRAMES[:1]


async def test_stream_whose_log_is_gone_goes_on_here(owner: Owner) -> None:
    """It is just not stored any more."""
    owner.stream.extend(FRAMES[:1])
    async with asyncio.timeout(GUARD_S):
        while len(await owner.stored()) < 3:
            await asyncio.sleep(0.001)
    await owner.store.write([Keep(owner.stream.id, 0)])
    await say(owner.stream)
    async with asyncio.timeout(GUARD_S):
        while owner.publisher.stream(owner.stream.id) is not None:
            await asyncio.sleep(0.001)
    assert await owner.stored() == []


async def test_stream_that_has_dropped_what_the_store_lacks_is_sealed_as_lost(owner: Owner) -> None:
    """Its own followers are not told: they have what they were sent."""
    owner.connections.down = True
    owner.stream.extend(FRAMES)
    owner.stream.drop_past(spare_slow=False)
    owner.connections.down = False
    log = await owner.wait_sealed()
    assert frames(log) == []
    assert read_seal(log[-1]).ending.reason == "producer_lost"
    assert not owner.stream.sealed


async def test_stream_that_cant_be_written_down_harms_no_other(owner: Owner) -> None:
    """It is sealed as lost for those who follow it elsewhere; here it goes on."""
    other: Any = new_stream(ident="st_" + "z" * 26)
    other.answered("default", None, None)
    owner.publisher.add(other)
    other.extend(FRAMES[:3])
    other.seal(COMPLETE)
    owner.publisher.hurry(other.id)
    await say(owner.stream)
    assert read_seal((await owner.wait_sealed())[-1]).ending == COMPLETE
    async with asyncio.timeout(GUARD_S):
        while (last := (await owner.store.last([other.id]))[0]) is None or last.id != SEAL:
            await asyncio.sleep(0.001)
    assert read_seal(last).ending.reason == "producer_lost"
    assert owner.publisher.lag_bytes == 0


async def test_log_that_is_held_for_the_store_alone_is_dropped_when_it_is_there(owner: Owner) -> None:
    """Else it would take memory that nobody counts."""
    ident = owner.stream.id
    await say(owner.stream)
    await owner.wait_sealed()
    await asyncio.sleep(0.01)
    assert owner.publisher.stream(ident) is owner.stream
    owner.keeps = False
    async with asyncio.timeout(GUARD_S):
        while owner.publisher.stream(ident) is not None:
            await asyncio.sleep(0.001)


async def test_forgotten_log_is_not_held_for_a_store_that_is_down(owner: Owner) -> None:
    """When the store is there again, others are told that the stream is lost."""
    owner.stream.extend(FRAMES[:1])
    async with asyncio.timeout(GUARD_S):
        while len(await owner.stored()) < 3:
            await asyncio.sleep(0.001)
    owner.connections.down = True
    owner.keeps = False
    owner.stream.seal(COMPLETE)
    owner.publisher.hurry(owner.stream.id)
    async with asyncio.timeout(GUARD_S):
        while owner.publisher.stream(owner.stream.id) is not None:
            await asyncio.sleep(0.001)
    owner.connections.down = False
    async with asyncio.timeout(GUARD_S):
        while (log := await owner.stored())[-1].id != SEAL:
            await asyncio.sleep(0.001)
    assert read_seal(log[-1]).ending.reason == "producer_lost"
