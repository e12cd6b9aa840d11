"""A world of two nodes, a Redis and an upstream, in which a seed decides what happens when, and the laws that hold.

The nodes are the real ones: hub, streams, publisher, replicas, leases, claims, and the store in Redis. Made up are the
upstream (it says words), the clients, the network and Redis (tests/store/fake_redis.py). Laws are checked after every
turn of the event loop, and at the end, when everything must have come to its end.
"""

import asyncio
import copy
from collections.abc import Sequence
from random import Random
from typing import Any
from unittest import mock

from proxy.dialects import table
from proxy.store import outbox
from proxy.store.claims import Claims, is_shared
from proxy.store.entries import SEAL, Record
from proxy.store.node import Node
from proxy.store.redis_client import SOCKET_S
from proxy.store.redis_store import Command, RedisStore
from proxy.store.store import StoreError
from proxy.stream.cohort import Pacer
from proxy.stream.endings import CANCELLED, CLIENT_GONE, COMPLETE, Ending
from proxy.stream.hub import Hub
from proxy.stream.info import StreamInfo
from proxy.stream.modes.projection import View
from proxy.stream.observer import Observers
from proxy.stream.stream import Stream
from proxy.stream.subscription import Subscription
from proxy.stream.vitals import Vitals
from proxy.wire.errors import ProxyError
from tests.event_streams import chunk_frame
from tests.pumped import Connected
from tests.sim.bypass import SimBypass
from tests.sim.loop import VirtualLoop
from tests.sim.wanderer import LawBrokenError, Wanderer
from tests.store.fake_redis import FakeConnections, FakeServer

LEASE_S, FLUSH_S = 15.0, 0.02
CALLER = b"somebody"
IDENTS = "abcdefghijklmnopqrstuvwxyz234567"
LAST_S = 110.0
"""After everything was said: by then all must have ended."""
LATE_S = 2.0
"""After something was said: by then all followers must have it, unless something fails."""
ENTRY_FRAMES = 2  # so that some of what is said at once needs two entries
MOST_READS = 1000  # some 200 are usual
FAULTS = {
    "crash": "the owner dies",
    "stall": "the owner does nothing for a while",
    "cut owner": "the owner is cut off from Redis for a while",
    "cut other": "the other node is cut off from Redis for a while",
    "break": "connections break, before or after Redis has carried out a command",
    "fail over": "Redis loses what was acknowledged last",
    "restart empty": "Redis loses everything",
    "delete": "the log is deleted",
    "trim": "the other node is cut off shortly, and lacks entries that are trimmed meanwhile",
}
HARMLESS = {"break"}
"""Faults that nobody may notice."""


class SimConnections(FakeConnections):
    """Connections of a node, on which messages take time and are lost."""

    def __init__(self, world: "World") -> None:
        super().__init__(world.server)
        self._world = world
        self.cut = False
        self.breaks = 0.0  # how likely a connection breaks before a command, and after it
        self._generation = 0  # of connections: those of an older one break

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        self.server, generation = self._world.server, self._generation
        await self._travel()
        if self._world.network.random() < self.breaks:
            raise StoreError("the connection broke")
        if commands[0][0] == "XREAD":
            self._world.reads += 1
            replies = [await self._run_one(commands[0])]
        else:
            replies = [self.server.run(command) for command in commands]
        await self._travel()
        if generation != self._generation or self._world.network.random() < self.breaks:
            raise StoreError("the connection broke")
        return replies

    def lose_next(self) -> None:
        """Break all connections there are."""
        self._generation += 1

    async def _travel(self) -> None:
        await asyncio.sleep(self._world.network.choice((0.0002, 0.0005, 0.001, 0.02)))
        if self.cut:
            await asyncio.sleep(SOCKET_S)
            raise StoreError("no answer came")


class SimNode:
    """A process: a hub, and the node that shares its streams."""

    def __init__(self, world: "World", name: str) -> None:
        loop = asyncio.get_running_loop()
        self.name = name
        self.alive = True
        self.connections = SimConnections(world)
        most: dict[str, Any] = {"max_streams": 99, "max_followers": 99, "max_followers_per_stream": 99}
        self.hub = Hub(
            **most,
            max_total_log_bytes=1 << 30,
            call_soon=loop.call_soon,
            pacer=Pacer(loop.call_later, loop.time),
            observers=Observers(begun=[lambda one: self.node.begun(one)], ended=[lambda one: self.node.ended(one)]),
        )
        with mock.patch("secrets.token_hex", return_value=name):
            self.node = Node(
                RedisStore(self.connections),
                lease_s=LEASE_S,
                flush_s=FLUSH_S,
                summary=lambda stream: b"{}",
                make=self._make,
                drop=self.hub.drop,
                forget=self.hub.forget,
                keeps=self.hub.keeps,
            )
        self.claims = Claims(self.node.store, name, self.node.leases, self.node.replicas.find)
        before = asyncio.all_tasks()
        self.node.start()
        self.tasks = asyncio.all_tasks() - before

    def _make(self, record: Record) -> Stream:
        vitals = Vitals(table.dialect(record.dialect), asyncio.get_running_loop().time(), record.model)
        return self.hub.adopt(record.info, vitals)

    def crash(self) -> None:
        """End the process: none of its tasks goes on."""
        self.alive = False
        self.connections.cut = True
        replicas = self.node.replicas
        readers = [*replicas._tail._readers.values(), *replicas._tasks, *replicas._fetching.values()]
        for task in (*self.node._tasks, self.node.publisher._writing, *readers):
            if task is not None:
                task.cancel()


class SimUpstream:
    """A Writer that says words, and closes when nobody follows."""

    def __init__(self, world: "World", at: SimNode, stream: Stream) -> None:
        self._world = world
        self._at = at
        self.stream = stream
        stream.writer = self
        self.frames: list[bytes] = []
        self.said = b""
        self.due: list[tuple[float, int]] = []  # when all followers must have so many bytes
        self.has_ended = False
        self.task = asyncio.create_task(self._say())

    async def _say(self) -> None:
        random = self._world.random
        self._at.hub.answered(self.stream, "default")
        for number in range(random.randint(2, 12)):
            await asyncio.sleep(random.choice((0.0, 0.001, 0.03, 0.3, random.uniform(0, 25))))
            while self._world.stalled is self._at:
                await asyncio.sleep(0.5)
            frames = [chunk_frame(f"{number}.{part}") for part in range(random.choice((1, 1, 3)))]
            if self.stream.sealed or not self._at.alive:
                return
            self.frames += frames
            self.said += b"".join(frames)
            self._append(frames, asyncio.get_running_loop().time())
        self.has_ended = True
        self.stream.seal(COMPLETE)

    def _append(self, frames: list[bytes], at: float) -> None:
        """Append frames to the log; clients may be sent them before, and often the log has them later."""
        self.due.append((at + LATE_S, len(self.said)))
        stream, bypasses = self.stream, self._world.bypassing
        found = stream.bypassable() if stream.bypass is None and bypasses.random() < 0.7 else None
        if found is not None:
            stream.begin_bypass(SimBypass(stream, found[0]))
        if isinstance(stream.bypass, SimBypass):
            for frame in frames:
                stream.bypass.forward(frame, at)
                if bypasses.random() < 0.4:
                    stream.bypass.settle()
        else:
            stream.fed_at = at
            stream.extend(frames)

    def pause(self) -> None:
        """Never: clients are quick."""

    def resume(self) -> None:
        """Never paused."""

    def followed(self) -> None:
        """Served from the log."""

    def last_left(self) -> None:
        self._world.closing(self)
        self.stop(CLIENT_GONE)

    def stop(self, ending: Ending) -> None:
        if self._at.alive:
            self.stream.seal(ending)


class SimClient:
    """A follower at one node, and when it came."""

    def __init__(self, at: SimNode, stream: Stream, now: float) -> None:
        self.at = at
        self.ident = stream.id
        self.since = now
        self.sink = Connected()
        self.subscription = Subscription(stream, View("raw"), self.sink, 0)
        self.has_left = False
        at.hub.attach(self.subscription, now)

    def leave(self) -> None:
        self.has_left = True
        self.subscription.leave("left")


class World:
    """Everything there is in one run."""

    def __init__(self, seed: int, only: Sequence[str] | None = None) -> None:
        """`only`: the faults that happen, all of them; None: whichever the seed chooses."""
        self._only = only
        self.random = Random(seed)
        self.network = Random(seed)  # by itself, so that one more message does not change what happens
        self.wandering = Random(seed)  # by itself, too
        self.bypassing = Random(seed)
        self.server: Any = None
        self.upstreams: dict[str, SimUpstream] = {}
        self.clients: list[SimClient] = []
        self.faults: set[str] = set()
        self.stalled: SimNode | None = None
        self.trace: list[str] = []
        self.cancels = 0
        self.reads = 0

    async def run(self, loop: VirtualLoop) -> None:
        """Run all that the seed decides. Raises: LawBrokenError."""
        self.server = FakeServer()
        self.owner, self.other = SimNode(self, "a"), SimNode(self, "b")
        loop.after_step = self._check_step
        await asyncio.sleep(0.1)
        with mock.patch.object(outbox, "ENTRY_FRAMES", ENTRY_FRAMES):
            await self._happen()
        self._check_end()

    async def _happen(self) -> None:
        doing = [asyncio.create_task(one) for one in self._plan()]
        await asyncio.gather(*doing)
        await asyncio.gather(*(upstream.task for upstream in self.upstreams.values()))
        await asyncio.sleep(LAST_S)

    def _plan(self) -> list[Any]:
        random = self.random
        plan: list[Any] = [self._ask()]
        plan += [self._follow() for _ in range(random.randint(1, 4))]
        plan += [self._wander() for _ in range(self.wandering.randint(0, 2))]
        names: Sequence[str] = random.sample(sorted(FAULTS), random.choice((0, 1, 1, 1, 2, 3)))
        names = names if random.random() < 0.85 else ["break"]
        plan += [self._fault(name) for name in (names if self._only is None else self._only)]
        if random.random() < 0.15:
            plan.append(self._cancel())
        return plan

    def note(self, what: str) -> None:
        self.trace.append(f"{asyncio.get_running_loop().time():.4f} {what}")

    async def _ask(self) -> None:
        """Both nodes are asked for a stream with the same Idempotency-Key."""
        ident = "st_" + "".join(self.random.choice(IDENTS) for _ in range(26))
        other = ident[:-1] + ("a" if ident[-1] != "a" else "b")
        asked = [self._ask_at(self.owner, ident)]
        if self.random.random() < 0.5:
            asked.append(self._ask_at(self.other, other))
        await asyncio.gather(*asked)

    async def _ask_at(self, at: SimNode, ident: str) -> None:
        await asyncio.sleep(self.random.choice((0.0, 0.0, 0.001, 0.02)))
        try:
            stream = await at.claims.claim(b"once", b"asked", ident)
        except (StoreError, ProxyError):
            return
        if stream is None:
            self.note(f"{at.name} calls upstream")
            if not self.faults - HARMLESS and any(is_shared(one.stream) for one in self.upstreams.values()):
                raise LawBrokenError("two upstream calls for one key")
            info = StreamInfo(ident, "chat", CALLER, 0, 300.0, 1 << 30)
            stream = at.hub.begin(info, Vitals(table.OWN, 0.0))
            self.upstreams[ident] = SimUpstream(self, at, stream)
        self.clients.append(SimClient(at, stream, asyncio.get_running_loop().time()))
        await self._stay(self.clients[-1])

    async def _stay(self, client: SimClient) -> None:
        if self.random.random() < 0.3:
            await asyncio.sleep(self.random.uniform(0, 20))
            if client.at.alive and not client.sink.ended:
                self.note(f"a client leaves {client.at.name}")
                client.leave()

    async def _follow(self) -> None:
        """Follow the stream at a node, from its start."""
        await asyncio.sleep(self.random.choice((0.05, 0.2, self.random.uniform(0, 20))))
        at = self.random.choice((self.owner, self.other, self.other))
        if not at.alive or not self.upstreams:
            return
        stream = await self.found(at, next(iter(self.upstreams)))
        if stream is None or not at.alive:
            return
        self.note(f"a client follows at {at.name}")
        self.clients.append(SimClient(at, stream, asyncio.get_running_loop().time()))
        await self._stay(self.clients[-1])

    async def _wander(self) -> None:
        """Follow the stream, and go on at any node again and again."""
        random = self.wandering
        await asyncio.sleep(random.uniform(0.05, 5))
        if not self.upstreams:
            return
        ident, upstream = next(iter(self.upstreams.items()))
        wanderer = Wanderer(upstream.frames)
        for _ in range(12):
            at, stay_s = random.choice((self.owner, self.other)), random.choice((0.3, 3.0, 20.0))
            stream = await self.found(at, ident)
            if stream is not None:
                self.note(f"a wanderer goes on after {wanderer.cursor} at {at.name}")
                await wanderer.follow(at, stream, stay_s)
            if wanderer.is_done:
                return
            await asyncio.sleep(random.uniform(0, 3))

    async def found(self, at: SimNode, ident: str) -> Stream | None:
        """Return a stream, as a node finds it that a client asks; None, if it has none or does not answer."""
        if not at.alive:
            return None
        try:
            if at.hub.has(ident) and ident not in at.hub.replicas:
                return at.hub.find(ident, None)
            return await at.node.replicas.find(ident)
        except (StoreError, ProxyError):
            return None

    async def _cancel(self) -> None:
        await asyncio.sleep(self.random.uniform(0.1, 20))
        for ident, upstream in self.upstreams.items():
            replica = self.other.node.replicas.get(ident)
            if replica is not None and self.other.alive:
                self.cancels += 1
                self.note("a client cancels")
                replica.stop(CANCELLED)
            elif upstream.stream.writer is upstream:
                self.cancels += 1
                upstream.stop(CANCELLED)

    # What goes wrong

    async def _fault(self, name: str) -> None:
        await asyncio.sleep(self.random.choice((self.random.uniform(0.1, 1), self.random.uniform(0, 20))))
        self.faults.add(name)
        self.note(FAULTS[name])
        seconds = self.random.choice((0.5, 5.0, 40.0))
        owner = next((one._at for one in self.upstreams.values()), self.owner)
        other = self.other if owner is self.owner else self.owner
        if name == "crash":
            await self._crash(owner)
        elif name in ("stall", "cut owner", "cut other"):
            await self._cut(other if name == "cut other" else owner, seconds, stalls=name == "stall")
        elif name == "break":
            owner.connections.breaks = 0.3
            await asyncio.sleep(max(5.0, seconds))
            owner.connections.breaks = 0.0
        else:
            await self._lose(name)

    async def _crash(self, owner: SimNode) -> None:
        """Have a node die; often a moment after something was said, which is not stored then."""
        said = [len(one.frames) for one in self.upstreams.values()]
        waits = self.wandering.random() < 0.7
        while waits and said == [len(one.frames) for one in self.upstreams.values() if not one.task.done()]:
            await asyncio.sleep(0.005)
        owner.crash()

    async def _cut(self, node: SimNode, seconds: float, *, stalls: bool, trims: bool = False) -> None:
        node.connections.cut = True
        node.connections.lose_next()
        if stalls:
            self.stalled = node
        await asyncio.sleep(seconds)
        if stalls:
            self.stalled = None
        for log in [log for key, log in self.server.keys.items() if trims and b":log:" in key]:
            del log.entries[:-1]
        node.connections.cut = not node.alive

    async def _lose(self, name: str) -> None:
        """Have Redis lose something; after a failover or a restart all connections break."""
        if name == "fail over":
            before = {key: copy.deepcopy(value) for key, value in self.server.keys.items()}
            expires = dict(self.server.expires)
            await asyncio.sleep(self.random.choice((0.01, 0.1, 1.0)))
            taking_over = FakeServer()
            taking_over.keys, taking_over.expires = before, expires
            self._take_over(taking_over)
        elif name == "trim":
            await self._cut(self.other if self.owner.alive else self.owner, 3.0, stalls=False, trims=True)
        elif name == "restart empty":
            self._take_over(FakeServer())
        else:
            for key in [key for key in self.server.keys if b":log:" in key]:
                self.server._del(key)

    def _take_over(self, server: FakeServer) -> None:
        old, self.server = self.server, server
        for node in (self.owner, self.other):
            node.connections.lose_next()
        old.notify()

    # Laws

    def closing(self, upstream: SimUpstream) -> None:
        """Check that an upstream that is closed for want of followers has none."""
        now = asyncio.get_running_loop().time()
        for client in self.clients:
            settled = client.ident == upstream.stream.id and not client.has_left and now - client.since > 1.0
            if settled and not client.sink.ended and not self.faults and client.at.alive:
                raise LawBrokenError("closed while somebody followed")

    def _check_step(self) -> None:
        for client in self.clients:
            upstream = self.upstreams.get(client.ident)
            if upstream is not None:
                self._check_client(client, upstream)
        for upstream in self.upstreams.values():
            if upstream.due and upstream.due[0][0] <= asyncio.get_running_loop().time():
                self._check_late(upstream, *upstream.due.pop(0))
        if self.reads > MOST_READS:
            raise LawBrokenError("the same is read again and again")
        for key, log in self.server.keys.items():
            if b":log:" in key:
                ids = [entry[0] for entry in log.entries]
                if ids != sorted(set(ids)) or SEAL in ids[:-1]:
                    raise LawBrokenError("an entry that is there twice, or after the seal")

    def _check_client(self, client: SimClient, upstream: SimUpstream) -> None:
        received = client.sink.received
        if not upstream.said.startswith(received):
            raise LawBrokenError("a follower's log is no prefix of what was said")
        if client.sink.ended == "closed" and not (upstream.has_ended and received == upstream.said):
            raise LawBrokenError("a follower was told complete, and lacks frames")

    def _check_late(self, upstream: SimUpstream, due_at: float, size_bytes: int) -> None:
        for client in self.clients:
            follows = client.ident == upstream.stream.id and not client.has_left and client.since <= due_at - LATE_S
            if follows and not self.faults and not client.sink.ended and len(client.sink.received) < size_bytes:
                raise LawBrokenError("a follower is not sent what was said")

    def _check_end(self) -> None:
        for client in self.clients:
            if client.at.alive and not client.has_left and client.sink.ended is None:
                raise LawBrokenError("a follower waits for ever")
        for ident in self.upstreams:
            log = next((log for key, log in self.server.keys.items() if key.endswith(b"log:" + ident.encode())), None)
            if log is not None and (not log.entries or log.entries[-1][0] != SEAL):
                raise LawBrokenError("never sealed")
        if not self.faults - HARMLESS and not self.cancels:
            for client in self.clients:
                upstream = self.upstreams.get(client.ident)
                if upstream and upstream.has_ended and not client.has_left and client.sink.ended != "closed":
                    raise LawBrokenError("a stream was lost that nothing happened to")
