"""Where the rows of the failure table happen: two proxies in processes of their own, a network, and Redis."""

import asyncio
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any, NamedTuple

from tests.event_loops import GUARD_S
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.http_client import Answer, Client
from tests.nursery import ADDRESS, nursery
from tests.proxy_under_test import Tee
from tests.spawned import FREE, serving_at
from tests.stage import Stage, Turn, staged
from tests.store.network import Network, network
from tests.store.nodes import SECRET
from tests.store.redis_server import RedisServer, redis_server

LEASE_S = 1.0
WORDS = [chunk_frame(f"word {n}") for n in range(1, 9)]
ALL = b"".join([*WORDS, FINISH, DONE])
BEFORE = 2
"""Words that all followers have had when something fails."""
_SKEWED = """
import sys, time
real = time.time
time.time = lambda: real() + {skew_s}
from proxy.tools.cli import main
sys.argv[1:] = ["serve"]
main()
"""


class Node:
    """A proxy in a process of its own, and the network between it and Redis."""

    def __init__(self, process: Process, tee: Tee, relay: Any, *, is_forked: bool) -> None:
        self._process = process
        self._stop, self._go_on = (
            (signal.SIGUSR1, signal.SIGUSR2) if is_forked else (signal.SIGSTOP, signal.SIGCONT)
        )  # see tests/nursery.py
        self.tee = tee
        self.network: Network = relay

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        self._process.kill()

    def stop(self) -> None:
        """Let it do nothing: as in a machine that is suspended."""
        self._process.send_signal(self._stop)

    def go_on(self) -> None:
        self._process.send_signal(self._go_on)

    def tell_to_end(self) -> None:
        """Have it drain, and end."""
        self._process.terminate()

    async def wait_ended(self) -> int:
        """Wait until it has ended; return its exit status."""
        async with asyncio.timeout(GUARD_S):
            return await self._process.wait()


class Told(NamedTuple):
    """What a follower was told: how many frames it was sent, and how the stream ended for it."""

    frames: int
    ending: str


class Ground:
    """Two nodes, Redis, and one stream that both follow: its client at the owner, and one at the other node."""

    def __init__(self, stage: Stage, redis: RedisServer, nodes: list[Node], stack: AsyncExitStack) -> None:
        self.stage = stage
        self.redis = redis
        self.owner, self.other = nodes
        self.stack = stack
        self.turn: Any = None
        self.local: Any = None
        self.remote: Any = None
        self.clients: list[Client] = []
        """Those that have no answer yet."""

    @property
    def ident(self) -> str:
        ident: str = self.local.stream_id
        return ident

    async def begin(self) -> None:
        """Begin the stream, and have both followers read its first words."""
        client = await self.ask(self.owner)
        self.turn = await self.answered()
        self.local = await client.answer()
        await self.local.until(b"word 2")
        self.remote = await self.follow()
        await self.remote.until(b"word 2")

    async def ask(self, node: Node, key: str = "once") -> Client:
        """Have a client ask a node for the stream, by an Idempotency-Key unless that is empty."""
        return await node.tee.send_chat("Stream-Mode: events", *([f"Idempotency-Key: {key}"] if key else []))

    async def answered(self) -> Turn:
        """Have the upstream answer the next request with the first words."""
        turn: Turn = await self.stage.next()
        await turn.body()
        turn.begin()
        for frame in WORDS[:BEFORE]:
            turn.chunk(frame)
        return turn

    async def follow(self) -> Answer:
        """Follow the stream at the other node."""
        return await self.other.tee.follow(self.local.stream_id)

    async def say(self, frames: list[bytes], pause_s: float = 0.05) -> None:
        """Have the upstream say frames, each in a read of its own."""
        for frame in frames:
            self.turn.chunk(frame)
            await asyncio.sleep(pause_s)

    async def finish(self) -> None:
        """Have the upstream say the rest."""
        await self.say(WORDS[BEFORE:])
        self.turn.end(FINISH, DONE)

    async def redis_command(self, *words: str) -> bytes:
        return await self.redis.command(*words)

    async def log_key(self) -> str:
        """Return the key of the stream's log."""
        found = await self.redis.command("KEYS", f"*log:{self.ident}")
        return found.split(b"\r\n")[2].decode()


async def told(answer: Answer) -> Told:
    """Read a follower's events to their end; check that the words are those that were said, from the first on."""
    async with asyncio.timeout(4 * GUARD_S):
        body = await answer.read()
    lines = body.split(b"\n")
    heard = [line + b"\n\n" for line in lines if line.startswith(b"data: {") and b'"error"' not in line]
    said = [*WORDS, FINISH]
    assert heard == said[: len(heard)], "frames were lost, repeated, or came in another order"
    if DONE.strip() in lines and answer.end == "whole":
        assert heard == said, "it was told [DONE], and lacks frames"
        return Told(len(heard) + 1, "complete")
    error = next((line for line in lines if b'"error"' in line), None)
    if error is None:
        return Told(len(heard), "cut off")
    return Told(len(heard), "an error")


async def ending(answer: Answer) -> str:
    """Return the word of the error that a follower was told; "" without one."""
    body = bytes(answer.body)
    words = ("producer_lost", "cancelled", "drained", "upstream_reset", "client_gone", "store_unavailable")
    return next((word for word in words if word.encode() in body), "")


@asynccontextmanager
async def _node(
    stage: Stage, relay: Network, skew_s: float, settings: dict[str, str], is_forked: bool
) -> AsyncIterator[Node]:
    stored = {
        "STREAMTEE_STORE__URL": relay.url,
        "STREAMTEE_STORE__SECRET": SECRET,
        "STREAMTEE_STORE__LEASE_S": f"{LEASE_S:g}",
        **settings,
    }
    async with alone(stage, relay, skew_s, stored, is_forked=is_forked) as node:
        yield node


@asynccontextmanager
async def alone(
    stage: Stage,
    relay: Network | None = None,
    skew_s: float = 0,
    settings: dict[str, str] | None = None,
    *,
    is_forked: bool = True,
) -> AsyncIterator[Node]:
    """Run one proxy; without `settings` it has no store. `is_forked`: Python need not start; see tests/nursery.py."""
    is_forked = is_forked and not skew_s
    environment = {**FREE, "STREAMTEE_UPSTREAM__URL": stage.url, "STREAMTEE_LOG_LEVEL": "error", **(settings or {})}
    program = [sys.executable, "-c", _SKEWED.format(skew_s=skew_s)]
    if is_forked:
        program, environment[ADDRESS] = [str(nursery().launcher), "serve"], nursery().path
    process = await asyncio.create_subprocess_exec(*program, stdout=PIPE, stderr=DEVNULL, env=environment)
    try:
        async with asyncio.timeout(GUARD_S):
            url, admin_url = await serving_at(process)
        served: Any = SimpleNamespace(url=url, admin_url=admin_url)
        yield Node(process, Tee(served), relay, is_forked=is_forked)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


@asynccontextmanager
async def ground(*, skew_s: float = 0, is_forked: bool = True, **settings: str) -> AsyncIterator[Ground]:
    """Run two nodes, each with a network of its own to one Redis; the clock of the second is ahead by `skew_s`."""
    async with AsyncExitStack() as stack:
        stage = await stack.enter_async_context(staged())
        redis = await stack.enter_async_context(redis_server())
        relays = [await stack.enter_async_context(network(redis.port)) for _ in range(2)]
        starting = [
            stack.enter_async_context(_node(stage, relay, skew, settings, is_forked))
            for relay, skew in zip(relays, (0.0, skew_s), strict=True)
        ]
        made = Ground(stage, redis, [await one for one in starting], stack)
        try:
            yield made
        finally:
            for node in (made.owner, made.other):
                for client in node.tee.clients:
                    await client.leave()
