"""Streams of other processes are found before handlers look for them; what a store that is away means for each."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from proxy.access.callers import Caller
from proxy.access.response_ids import GivenIds
from proxy.dialects import table
from proxy.server import directory as module
from proxy.server.directory import Directory, connected
from proxy.store.entries import Record
from proxy.store.node import Node
from proxy.store.settings import StoreConfig
from proxy.store.store import StoreError
from proxy.stream.endings import CANCELLED, COMPLETE
from proxy.stream.stream import Stream
from proxy.stream.vitals import Vitals
from proxy.telemetry.stream_object import describe
from proxy.wire import json_text
from proxy.wire.errors import StoreUnavailable
from tests.event_loops import until
from tests.event_streams import chunk_frame
from tests.fakes import FakeWriter
from tests.store.memory_store import MemoryStore
from tests.streams import hub_stream, new_hub

ME, OTHER = Caller(b"me"), Caller(b"other")
UNKNOWN = "st_" + "a" * 26
FLUSH_S = 0.001


class Store(MemoryStore):
    """A store that can be away, and counts what it is asked for logs."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False
        self.looked_for: list[str] = []

    async def entries(self, ident: str, *more: Any) -> Any:
        self._check()
        self.looked_for.append(ident)
        return await super().entries(ident, *more)

    async def values(self, names: Any) -> Any:
        self._check()
        return await super().values(names)

    async def members(self, name: str) -> Any:
        self._check()
        return await super().members(name)

    async def write(self, operations: Any) -> Any:
        self._check()
        return await super().write(operations)

    def _check(self) -> None:
        if self.is_away:
            raise StoreError("away")


class Machine:
    """A process that shares the store: its hub, its node and its directory."""

    def __init__(self, store: Store, **config: Any) -> None:
        self.hub = new_hub(asyncio.get_running_loop())  # type: ignore[arg-type]
        self.node = Node(
            store,
            lease_s=5,
            flush_s=FLUSH_S,
            summary=lambda stream: json_text.written({**describe(stream), "followers": []}),
            make=self._make,
            drop=self.hub.drop,
            forget=self.hub.forget,
            keeps=self.hub.keeps,
        )
        self.given = GivenIds(self.hub.found, time.monotonic)
        self.directory = Directory(self.node, self.hub, StoreConfig(**config), self.given)
        self.served: list[dict[str, str]] = []

    def _make(self, record: Record) -> Stream:
        return self.hub.adopt(record.info, Vitals(table.dialect(record.dialect), time.monotonic(), record.model))

    async def begin(self, **named: Any) -> Stream:
        """Begin a stream with one word, which the store has."""
        stream = hub_stream(self.hub, **named)
        FakeWriter(stream)
        self.node.publisher.add(stream)
        stream.extend([chunk_frame("word")])
        await until(lambda: self.node.publisher.lag_bytes == 0)
        return stream

    async def close(self) -> None:
        """Seal all streams, else their ends would be waited for, and leave."""
        for stream in [one for one in self.hub if not one.sealed]:
            stream.seal(COMPLETE)
        await self.node.close()

    async def near(self, query: str = "", caller: Caller = ME, **names: str) -> bool:
        """Have a request be served that names streams; return whether the first was found by then."""
        found = []

        async def serve(request: web.BaseRequest, caller: Caller, **names: str) -> web.StreamResponse:
            found.append("ident" in names and self.hub.has(names["ident"]))
            return web.Response()

        await self.directory.near(serve)(make_mocked_request("GET", f"/?{query}"), caller, **names)
        return found == [True]


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
async def two(store: Store) -> AsyncIterator[tuple[Machine, Machine]]:
    """Two processes with one store."""
    both = Machine(store), Machine(store)
    async with AsyncExitStack() as stack:
        for one in both:
            one.node.start()
            stack.push_async_callback(one.close)
        yield both
        store.is_away = False


async def test_stream_of_another_process_is_found_by_its_id(two: tuple[Machine, Machine]) -> None:
    """When its handler is called, the hub has it, with what was said."""
    owner, other = two
    stream = await owner.begin()
    assert await other.near(ident=stream.id)
    assert other.hub.find(stream.id, ME.digest).log.end == 1


async def test_nothing_is_asked_of_the_store_that_can_be_no_id(store: Store, two: tuple[Machine, Machine]) -> None:
    """Nor for a stream that is here."""
    owner, _ = two
    stream = await owner.begin()
    store.looked_for.clear()
    for ident in ("x", "st_", UNKNOWN.upper(), f"{UNKNOWN}a"):
        assert not await owner.near(ident=ident)
    assert await owner.near(ident=stream.id)
    assert store.looked_for == []
    assert not await owner.near(ident=UNKNOWN)
    assert set(store.looked_for) == {UNKNOWN}


async def test_only_what_is_here_is_found_while_the_store_is_away(store: Store, two: tuple[Machine, Machine]) -> None:
    """Of anything else nobody knows whether it is there: 503, not 404."""
    owner, other = two
    stream = await owner.begin()
    store.is_away = True
    assert await owner.near(ident=stream.id)
    with pytest.raises(StoreUnavailable):
        await other.near(ident=stream.id)
    assert other.node.publisher.errors > 0


async def test_newest_stream_under_a_key_is_found_wherever_it_is(two: tuple[Machine, Machine]) -> None:
    """For its caller alone."""
    owner, other = two
    await other.begin(key="k")
    newer = await owner.begin(key="k")
    await other.near(key="k")
    found = other.hub.keys.find("k", ME.digest)
    assert found is not None
    assert found.id == newer.id
    await other.near(caller=OTHER, key="k")
    assert other.hub.keys.find("k", OTHER.digest) is None


async def test_list_has_what_is_elsewhere_and_kept(two: tuple[Machine, Machine]) -> None:
    """Running or ended, as its owner would describe it; nobody else's, and nothing that is here."""
    owner, other = two
    running, over = await owner.begin(key="k"), await owner.begin()
    over.seal(COMPLETE)
    await owner.begin(caller=b"other")
    await other.begin()
    await until(lambda: owner.node.publisher.lag_bytes == 0)
    listed = await _listed(other, over.id)
    assert set(listed) == {running.id, over.id}
    assert (listed[running.id]["state"], listed[running.id]["key"]) == ("open", "k")
    assert (listed[over.id]["state"], listed[over.id]["events"]) == ("complete", 1)
    assert set(describe(over)) == set(listed[running.id])
    assert await owner.directory.listed(ME.digest) != []


async def _listed(machine: Machine, sealed: str) -> dict[str, Any]:
    """Return the list by ids, once the store has the seal of a stream."""
    while True:
        listed = {one["id"]: one for one in await machine.directory.listed(ME.digest)}
        if listed[sealed]["state"] != "open":
            return listed
        await asyncio.sleep(FLUSH_S)


async def test_list_is_what_is_here_while_the_store_is_away(store: Store, two: tuple[Machine, Machine]) -> None:
    """A list is of use without the rest."""
    owner, other = two
    await owner.begin()
    store.is_away = True
    assert await other.directory.listed(ME.digest) == []


async def test_ids_that_a_caller_was_given_are_known_everywhere(two: tuple[Machine, Machine]) -> None:
    """Until their response is deleted; nobody else's, and none that is too long."""
    owner, other = two
    stream = await owner.begin()
    stream.seal(COMPLETE)
    owner.given.give(ME.digest, "resp_1", "default")
    while await other.directory.made_by(ME.digest, "resp_1") != "default":
        await asyncio.sleep(FLUSH_S)
    assert await other.directory.made_by(OTHER.digest, "resp_1") is None
    assert await other.directory.made_by(ME.digest, "x" * 1000) is None
    await owner.directory.delete(stream, "resp_1")
    assert await other.directory.is_deleted(ME.digest, "resp_1")
    while await other.directory.made_by(ME.digest, "resp_1") is not None:
        await asyncio.sleep(FLUSH_S)


async def test_end_that_does_not_come_is_told(two: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that cancels is not told that all is well; one that has ended is not waited for."""
    monkeypatch.setattr(module, "_END_S", 0.01)
    owner, _ = two
    stream = await owner.begin()
    with pytest.raises(StoreUnavailable):
        await owner.directory.end(stream)
    monkeypatch.setattr(module, "_END_S", 60)
    ending = asyncio.create_task(owner.directory.end(stream))
    await asyncio.sleep(0)
    stream.seal(CANCELLED)
    await ending
    await owner.directory.end(stream)


@pytest.mark.parametrize("required", [False, True])
async def test_claim_without_a_store_is_refused_if_the_store_is_required(store: Store, required: bool) -> None:
    """Else the call is made, perhaps twice: that is what was chosen."""
    one = Machine(store, url="redis://127.0.0.1", secret="s" * 32, required=required)
    assert await one.directory.claim(b"k", b"asked", UNKNOWN) is None
    store.is_away = True
    if required:
        with pytest.raises(StoreUnavailable, match="required"):
            await one.directory.claim(b"l", b"asked", UNKNOWN)
    else:
        assert await one.directory.claim(b"l", b"asked", UNKNOWN) is None


async def test_without_a_store_there_is_no_node() -> None:
    """Nor anything to wait for."""
    assert connected(StoreConfig(), new_hub()) is None
