"""Which node makes the upstream call of a name, over the fake of Redis."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from proxy.store.claims import Claims, is_shared
from proxy.store.leases import Leases
from proxy.store.redis_store import RedisStore
from proxy.stream.endings import CANCELLED, COMPLETE, UPSTREAM_RESET, Ending
from proxy.stream.stream import Stream
from proxy.wire.errors import KeyReused
from proxy.wire.http import Head
from tests.event_loops import GUARD_S
from tests.store.fake_redis import FakeConnections, FakeServer
from tests.streams import new_stream

A, B, C = ("st_" + letter * 26 for letter in "abc")
Find = Callable[[str], Awaitable[Stream | None]]


class Nodes:
    """Two nodes that are asked for the same name, and the streams that they find."""

    def __init__(self) -> None:
        self.server = FakeServer()
        self.streams: dict[str, Stream] = {}
        stores = [RedisStore(FakeConnections(self.server)) for _ in range(2)]
        self.leases = [Leases(store, name, 15.0) for store, name in zip(stores, "ab", strict=True)]
        self.a, self.b = (
            Claims(store, name, leases, self._find)
            for store, name, leases in zip(stores, "ab", self.leases, strict=True)
        )

    async def _find(self, ident: str) -> Stream | None:
        return self.streams.get(ident)

    def begin(self, ident: str, ending: Ending | None = None, status: int = 0) -> Stream:
        """Have a stream be found, which has an upstream, and perhaps has ended."""
        stream = self.streams[ident] = new_stream(ident=ident)
        stream.answered("default", None, Head(status, b"", []) if status else None)
        if ending is not None:
            stream.seal(ending)
        return stream


@pytest.fixture
async def nodes() -> Nodes:
    nodes = Nodes()
    for leases in nodes.leases:
        await leases.renew()
    return nodes


async def test_first_to_claim_makes_the_call_and_others_follow(nodes: Nodes) -> None:
    """Also if they come before it has begun."""
    assert await nodes.a.claim(b"k", b"asked", A) is None
    waiting = asyncio.create_task(nodes.b.claim(b"k", b"asked", B))
    await asyncio.sleep(0)
    stream = nodes.begin(A)
    assert await waiting is stream


async def test_name_for_another_request_is_refused(nodes: Nodes) -> None:
    """At the other node, too."""
    await nodes.a.claim(b"k", b"asked", A)
    nodes.begin(A)
    with pytest.raises(KeyReused):
        await nodes.b.claim(b"k", b"other", B)
    assert await nodes.b.claim(b"l", b"other", B) is None


@pytest.mark.parametrize("ending", [COMPLETE, CANCELLED])
async def test_stream_that_is_complete_or_was_cancelled_is_read_again(nodes: Nodes, ending: Ending) -> None:
    """As at one node."""
    await nodes.a.claim(b"k", b"asked", A)
    stream = nodes.begin(A, ending)
    assert await nodes.b.claim(b"k", b"asked", B) is stream


async def test_successor_of_a_stream_that_failed_is_claimed_once(nodes: Nodes) -> None:
    """By whichever node comes first."""
    await nodes.a.claim(b"k", b"asked", A)
    nodes.begin(A, UPSTREAM_RESET)
    assert await nodes.b.claim(b"k", b"asked", B) is None
    stream = nodes.begin(B)
    assert await nodes.a.claim(b"k", b"asked", C) is stream


async def test_claim_of_a_node_that_has_died_is_succeeded(nodes: Nodes) -> None:
    """If its stream never began."""
    await nodes.a.claim(b"k", b"asked", A)
    await nodes.leases[0].give_back()
    assert await nodes.b.claim(b"k", b"asked", B) is None


async def test_claim_whose_stream_is_gone_is_succeeded_at_once(nodes: Nodes) -> None:
    """How old it is says the store: the clocks of nodes may differ."""
    await nodes.a.claim(b"k", b"asked", A)
    (key,) = [key for key in nodes.server.keys if b"idem" in key]
    nodes.server.expires[key] -= GUARD_S
    async with asyncio.timeout(1):
        assert await nodes.b.claim(b"k", b"asked", B) is None


def test_response_that_is_an_error_is_not_shared() -> None:
    """A retry asks again."""
    nodes = Nodes()
    assert not is_shared(nodes.begin(A, status=429))
    assert is_shared(nodes.begin(B, status=200))
    assert not is_shared(nodes.begin(C, UPSTREAM_RESET))
