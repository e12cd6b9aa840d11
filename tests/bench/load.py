"""The clients: asks and followers as bare protocols. A process of its own, told what to do by a Plan.

It counts events by their line ends, or the pieces they come in, sums up bytes (CRC-32), reads the time stamp of a
sample of events, and parses nothing else: what it costs is not the proxy's. It says `ready` when all who come first
are connected, waits for `go`, answers `count`, `begun` and `latency` with what has come so far, and reports when all
is there or the plan's time over.

Run by tests/bench/processes.py: python -m tests.bench.load PLAN
"""

import asyncio
import os
import sys
import time
from array import array
from collections import Counter
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import httptools
import orjson
import uvloop

from tests.bench.origin import STAMP, Ask

AT_ONCE = 200
"""Connections that are being opened at a time."""
PER_ADDRESS = 4000
"""Connections that share a source address: its ports are limited, and those of an earlier run are not free yet."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the clients do.

    `streams` clients ask, each once, or over and over for `repeat_s`. With `followers`, each stream has so many who
    come before it, wait under its key, and are told `go` when all are there. With `streams` 0 the followers
    are late ones: they come from `go` on, `ramp_per_s`, and leave when they have had `expect` events.
    """

    port: int
    name: str
    streams: int = 1
    followers: int = 0
    keyed: bool = False
    """Streams have a key without followers of this plan's, too: others come under it."""
    events: int = 0
    interval_s: float = 0.0
    size_bytes: int = 300
    burst: int = 0
    repeat_s: float = 0.0
    stream: bool = True
    mode: str = "raw"
    """Of the followers, with the rest of its query if it has any; several, with commas between, are taken by turns."""
    expect: int = 0
    ramp_per_s: float = 1000.0
    sample: int = 1
    """One connection in so many has the latency of its events noted."""
    deadline_s: float = 60.0
    """After `go`; what has not come then counts as unfinished."""


class Tally:
    """What all connections of this process have received."""

    def __init__(self) -> None:
        self.newlines = 0
        self.pieces = 0
        self.begun = 0  # answers whose first byte has come
        self.per_event = 2  # lines of an event; 0: a mode has other lines, and each piece of a body counts as one
        self.received: Counter[tuple[str, int, int]] = Counter()
        self.latency_ns = array("q")
        self.first_ns = array("q")
        self.problems: Counter[str] = Counter()
        self.began_ns = self.first_at_ns = self.last_at_ns = 0

    @property
    def events(self) -> int:
        return self.newlines // self.per_event if self.per_event else self.pieces

    def latency(self) -> dict[str, Any]:
        """Return the latency of the events since it was asked for last, and the problems so far."""
        said = {**quantiles(self.latency_ns), "problems": dict(self.problems)}
        del self.latency_ns[:]
        return said

    def report(self, unfinished: int) -> dict[str, Any]:
        return {
            "events": self.events,
            "received": [[*key, count] for key, count in self.received.items()],
            "latency_us": quantiles(self.latency_ns),
            "first_us": quantiles(self.first_ns),
            "problems": dict(self.problems),
            "unfinished": unfinished,
            "seconds": (self.last_at_ns - self.began_ns) / 1e9,
            "cpu_s": time.process_time(),
        }


def quantiles(samples_ns: "array[int]") -> dict[str, float]:
    """Return p50, p99 and the greatest, microseconds; empty without samples."""
    if not samples_ns:
        return {}
    rank = sorted(samples_ns)
    last = len(rank) - 1
    return {name: rank[round(last * part)] / 1000 for name, part in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))}


class Call(asyncio.Protocol):
    """One connection: sends its requests one after the other, and sums up what it is answered."""

    __slots__ = (
        "_asked_ns", "_bytes", "_crc", "_expect", "_first", "_name", "_newlines", "_parser", "_sampled", "_tally",
        "done", "headed", "lost", "transport",
    )  # fmt: skip

    def __init__(self, tally: Tally, sampled: bool, expect: int = 0) -> None:
        self._tally = tally
        self._sampled = sampled
        self._expect = expect * tally.per_event
        self._newlines = 0
        self.lost = False
        loop = asyncio.get_running_loop()
        self.headed: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: Any) -> None:  # uvloop's are not asyncio.Transport's heirs
        self.transport = transport

    def ask(self, name: str, request: bytes, timed: bool = True) -> None:
        """Send a request; `done` tells when its answer is whole, or never will be. `timed`: note its first byte."""
        self._name = name
        self._crc = self._bytes = 0
        self._first = timed
        self._parser = httptools.HttpResponseParser(self)
        self.done = asyncio.get_running_loop().create_future()
        self._asked_ns = time.monotonic_ns()
        if self.lost:
            self._over("lost while idle")
        else:
            self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self._over(f"garbled: {exc}")
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._over("broken off")

    # httptools' callbacks

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status != 200:
            self._over(f"status {status}")
            self.transport.abort()
        elif not self.headed.done():
            self.headed.set_result(None)

    def on_body(self, body: bytes) -> None:
        tally = self._tally
        now = time.monotonic_ns()
        self._crc = crc32(body, self._crc)
        newlines = body.count(b"\n")
        tally.newlines += newlines
        tally.pieces += 1
        tally.last_at_ns = now
        if not self._bytes:
            tally.begun += 1
        if self._first:
            self._first = False
            tally.first_ns.append(now - self._asked_ns)
        self._bytes += len(body)
        # The first event of a read is its oldest; of one that the read's end cuts the stamp may not be there.
        if self._sampled and len(body) >= STAMP.stop and body.startswith(b'data: {"id":"'):
            tally.latency_ns.append(now - int(body[STAMP]))
        if self._expect:
            self._newlines += newlines
            if self._newlines >= self._expect:
                self._over("")

    def on_message_complete(self) -> None:
        if not self.done.done():
            self._tally.received[self._name, self._crc, self._bytes] += 1
            self._tally.last_at_ns = time.monotonic_ns()
            self._over("")

    def _over(self, problem: str) -> None:
        if not self.done.done():
            if problem:
                self._tally.problems[problem] += 1
            self.done.set_result(None)
        if not self.headed.done():
            self.headed.set_result(None)


class Clients:
    """All connections of a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.tally = Tally()
        self.tally.per_event = {"raw": 2, "events": 3}.get(plan.mode, 0)  # with an id line
        self.modes = plan.mode.split(",")
        self.calls: list[Call] = []
        self._opening = asyncio.Semaphore(AT_ONCE)

    async def run(self, go: asyncio.Event) -> dict[str, Any]:
        plan = self.plan
        if plan.streams:
            await asyncio.gather(*(self._follow(n) for n in range(plan.streams) for _ in range(plan.followers)))
        print("ready", flush=True)
        await go.wait()
        self.tally.began_ns = time.monotonic_ns()
        if plan.streams:
            asking = [asyncio.create_task(self._ask_by_turns(n)) for n in range(plan.streams)]
        else:
            asking = [asyncio.create_task(self._follow_late(n)) for n in range(plan.followers)]
        _, late = await asyncio.wait(asking, timeout=plan.deadline_s)
        left_s = max(0.1, plan.deadline_s - (time.monotonic_ns() - self.tally.began_ns) / 1e9)
        pending = {call.done for call in self.calls if not call.done.done()}
        if pending:
            _, pending = await asyncio.wait(pending, timeout=left_s)
        for failed in (task for task in asking if task.done() and task.exception() is not None):
            self.tally.problems[type(failed.exception()).__name__] += 1
        report = self.tally.report(len(pending) or len(late))
        for call in self.calls:
            call.transport.abort()
        return report

    async def _open(self, sampled: bool, expect: int = 0) -> Call:
        loop = asyncio.get_running_loop()
        nth = len(self.calls) // PER_ADDRESS
        call = Call(self.tally, sampled, expect)
        local = (f"127.0.0.{2 + nth}", 0) if nth else None
        await loop.create_connection(lambda: call, "127.0.0.1", self.plan.port, local_addr=local)
        self.calls.append(call)
        return call

    async def _follow(self, stream: int) -> None:
        plan = self.plan
        async with self._opening:
            call = await self._open(len(self.calls) % plan.sample == 0, plan.expect)
            name = f"{plan.name}-{stream}"
            mode = self.modes[len(self.calls) % len(self.modes)]
            path = f"/v1/keys/{name}/stream?mode={mode}&wait=60&heartbeat=0"
            call.ask(name, request("GET", path), timed=False)
            await call.headed

    async def _follow_late(self, nth: int) -> None:
        await asyncio.sleep(nth / self.plan.ramp_per_s)
        await self._follow(0)

    async def _ask_by_turns(self, stream: int) -> None:
        plan = self.plan
        await asyncio.sleep(stream / plan.ramp_per_s)
        name = f"{plan.name}-{stream}"
        async with self._opening:
            call = await self._open(stream % plan.sample == 0)
        key = f"Stream-Key: {name}\r\n" if plan.followers or plan.keyed else ""
        turn, until = 0, time.monotonic() + plan.repeat_s
        while not turn or (time.monotonic() < until and not call.lost):
            called = f"{name}-{turn}" if plan.repeat_s else name
            wish = Ask(called, plan.events, plan.interval_s, plan.size_bytes, plan.burst, plan.stream)
            call.ask(called, request("POST", "/v1/chat/completions", wish.body(), key))
            await call.done
            turn += 1


def request(method: str, path: str, body: bytes = b"", more: str = "") -> bytes:
    """Return a request with a key, as an SDK sends it."""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer bench\r\nAccept: */*\r\n{more}"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


async def main(plan: Plan) -> None:
    """Carry out a plan, steered by lines on standard input; end when it ends."""
    loop = asyncio.get_running_loop()
    go = asyncio.Event()
    clients = Clients(plan)
    running = asyncio.create_task(clients.run(go))

    def told() -> None:
        lines = os.read(sys.stdin.fileno(), 4096).split(b"\n")
        if b"go" in lines:
            go.set()
        if b"count" in lines:
            print(clients.tally.events, flush=True)
        if b"begun" in lines:
            print(clients.tally.begun, flush=True)
        if b"latency" in lines:
            print(orjson.dumps(clients.tally.latency()).decode(), flush=True)
        if lines == [b""]:
            running.cancel()

    loop.add_reader(sys.stdin.fileno(), told)
    print(orjson.dumps(await running).decode(), flush=True)


if __name__ == "__main__":
    uvloop.run(main(Plan(**orjson.loads(sys.argv[1]))))
