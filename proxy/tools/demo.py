"""The demonstration: one streamed answer, four clients, and the proof that all were given the same bytes.

A fake Qwen and the proxy run in processes of their own, on free loopback ports; this one is only their client.
So it needs no key and no network. It shows what arrives as it arrives, and ends by itself.
"""

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import zip_longest
from typing import Any

import aiohttp
import orjson
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from proxy.wire.sse import Splitter, payload

EVENTS_PER_S = 10  # of the fake at its real pace
PATIENCE_S = 60
PICTURE_BYTES = 6_000_000  # in one event: less fits into the kernel's buffers of a loopback connection, so nobody lags
QUESTION = {
    "model": "qwen3-max",
    "messages": [{"role": "user", "content": "How many may listen to one answer?"}],
    "stream": True,
    "stream_options": {"include_usage": True},
}
PROGRAM = "streamtee" if os.path.basename(sys.argv[0]) != "streamtee" else sys.argv[0]
BY_HAND = f"""\
To try it by hand, in three terminals:
  {PROGRAM} fake --listen 127.0.0.1:8000
  STREAMTEE_UPSTREAM__URL=http://127.0.0.1:8000 {PROGRAM} serve
  curl -N http://127.0.0.1:8080/v1/chat/completions -H 'Stream-Key: demo' -H 'Content-Type: application/json' \\
    -d '{{"model":"qwen3-max","messages":[{{"role":"user","content":"Hello"}}],"stream":true}}'
and follow that answer while it runs, or in the five minutes after it:
  curl -N 'http://127.0.0.1:8080/v1/keys/demo/stream?mode=raw'
  curl -N 'http://127.0.0.1:8080/v1/keys/demo/stream' -H 'Last-Event-ID: 20'
  curl http://127.0.0.1:8080/v1/streams
  curl -s http://127.0.0.1:9090/metrics | grep first_token"""


class DemoError(Exception):
    """Something that the demonstration claims did not hold; the message says what."""


@contextlib.asynccontextmanager
async def running(*command: str, urls: int, **settings: str) -> AsyncIterator[list[str]]:
    """Run `streamtee COMMAND` in a process of its own; yield the first URL of each of the lines it begins with."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STREAMTEE_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "proxy.tools.cli", *command),  # -P: not the `proxy` of the current directory
        stdout=asyncio.subprocess.PIPE,
        env=environment | settings,
    )
    assert process.stdout is not None
    try:
        lines = [(await process.stdout.readline()).decode() for _ in range(urls)]
        found = [re.search(r"http://[^/\s,]+", line) for line in lines]
        if None in found:
            raise DemoError(f"`streamtee {command[0]}` did not start")
        yield [match.group() for match in found if match is not None]
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


@dataclass
class Client:
    """One client, and the frames it has been given."""

    name: str
    state: str = "has not come yet"
    frames: list[bytes] = field(default_factory=list)
    text: str = ""

    async def read(self, response: aiohttp.ClientResponse, *, until: float = float("inf")) -> None:
        """Take the response, or so many frames in all of it; a frame that is cut off is dropped, as browsers do."""
        if response.status != 200:
            raise DemoError(f"{self.name} was answered with status {response.status}")
        splitter = Splitter(2 * PICTURE_BYTES)
        async for data in response.content.iter_any():
            for frame in splitter.feed(data):
                self.frames.append(frame)
                self.text += said(frame)
            if len(self.frames) >= until:
                return
        if splitter.tail:
            raise DemoError(f"{self.name}'s stream ended within an event")

    @property
    def data(self) -> bytes:
        """What it was given, less the ids that mode events adds."""
        return b"".join(re.sub(rb"(?m)^id: [a-z2-7]{6}-\d+\n(?=\n)", b"", frame) for frame in self.frames)

    @property
    def last_id(self) -> str:
        return self.frames[-1].rpartition(b"id: ")[2].decode().strip()


def said(frame: bytes) -> str:
    """Return the text a frame adds to the answer; of one that is no text to read, its size."""
    data = payload(frame) or b"[DONE]"
    choices = [] if data == b"[DONE]" else orjson.loads(data)["choices"]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    return text if len(text) < 10_000 else f"\n[{len(text) / 1e6:g} MB in one event]\n"


class Demo:
    """The scene: a proxy at `url`, its metrics at `admin_url`, and about so many seconds."""

    def __init__(self, url: str, admin_url: str, seconds: float, show: Callable[["Demo"], None]) -> None:
        self.url, self.admin_url, self.show = url, admin_url, show
        self.seconds = seconds
        self.events = int(seconds * EVENTS_PER_S)
        self.ident = ""
        self.lag_bytes = 0
        self.lag = "nobody lagged"
        self.originator = Client("the asker")
        self.late = Client("late, raw")
        self.resuming = Client("resuming, events")
        self.slow = Client("slow, raw")
        self.clients = (self.originator, self.late, self.resuming, self.slow)
        self.metrics: dict[str, float] = {}

    async def play(self) -> None:
        """Let all clients come, and watch them until they are done. Raises: DemoError, when one was not served."""
        timeout = aiohttp.ClientTimeout(total=PATIENCE_S + self.seconds)
        async with aiohttp.ClientSession(timeout=timeout) as self.session:
            try:
                async with asyncio.TaskGroup() as group:
                    parts = [group.create_task(part()) for part in (self.ask, self.join, self.resume, self.dawdle)]
                    group.create_task(self.watch(parts))
            except* (aiohttp.ClientError, OSError, DemoError) as errors:
                error = errors.exceptions[0]
                raise DemoError(str(error) or type(error).__name__) from error
            self.metrics = await self.scrape()
        self.show(self)

    async def ask(self) -> None:
        """Ask the question, and read the answer as any client would."""
        # The fake counts its events, so that the scene has a length.
        faults = f"count; frames={self.events}, huge_frame; after={self.events // 5}; bytes={PICTURE_BYTES}"
        url = f"{self.url}/v1/chat/completions"
        async with self.session.post(url, json=QUESTION, headers={"Fake-Fault": faults}) as response:
            self.ident = response.headers.get("Stream-Id", "")
            await self.taking(self.originator, self.originator.read(response))

    async def join(self) -> None:
        """Come when a third is over: the past arrives at once, then what is new."""
        await self.wait_events(self.events // 3)
        async with self.follow(mode="raw") as response:
            await self.taking(self.late, self.late.read(response))

    async def resume(self) -> None:
        """Leave when half is over, and come back later with the id of the last event."""
        client = self.resuming
        await self.wait_events(1)
        async with self.follow(mode="events", heartbeat="0") as response:
            await self.taking(client, client.read(response, until=self.events // 2), then="has lost its connection")
        await self.wait_events(self.events * 3 // 4)
        async with self.follow({"Last-Event-ID": client.last_id}, mode="events", heartbeat="0") as response:
            await self.taking(client, client.read(response), then=f"done, resumed after {client.last_id}")

    async def dawdle(self) -> None:
        """Be there from the start, but read slowly."""
        await self.wait_events(1)
        async with self.follow(mode="raw") as response:
            content = response.content
            pause_s = self.seconds / 2 / (PICTURE_BYTES / 2**16)
            content.iter_any = lambda: slowly(content, pause_s)  # type: ignore[method-assign]
            await self.taking(self.slow, self.slow.read(response))

    async def taking(self, client: Client, reading: Awaitable[None], then: str = "done") -> None:
        client.state = "reads"
        await reading
        client.state = then

    async def wait_events(self, count: int) -> None:
        """Return once the asker has so many events."""
        while len(self.originator.frames) < count:
            await asyncio.sleep(0.02)

    def follow(self, headers: dict[str, str] | None = None, **query: str) -> Any:
        return self.session.get(f"{self.url}/v1/streams/{self.ident}", headers=headers, params=query)

    async def watch(self, parts: list[asyncio.Task[None]]) -> None:
        """Show the scene, and ask the proxy who lags, until all parts are played."""
        await self.wait_events(1)
        while not all(part.done() for part in parts):
            async with self.session.get(f"{self.url}/v1/streams/{self.ident}/info") as response:
                followers = (await response.json())["followers"]
            scraped = (await self.scrape()).get("streamtee_subscriber_lag_bytes_max", 0)
            worst = max(followers, key=lambda one: one["lag_bytes"], default={"lag_bytes": 0})
            if worst["lag_bytes"] > self.lag_bytes:
                self.lag_bytes = worst["lag_bytes"]
                self.lag = f"{worst['lag_events']} events, {worst['lag_bytes']} bytes (/metrics: {scraped:g} bytes)"
            self.show(self)
            await asyncio.sleep(0.1)

    async def scrape(self) -> dict[str, float]:
        """Return the proxy's metrics, each summed over its labels."""
        async with self.session.get(f"{self.admin_url}/metrics") as response:
            page = await response.text()
        values: dict[str, float] = {}
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                values[sample.name] = values.get(sample.name, 0) + sample.value
        return values


async def slowly(content: aiohttp.StreamReader, pause_s: float) -> AsyncIterator[bytes]:
    async for data in content.iter_chunked(2**16):
        yield data
        await asyncio.sleep(pause_s)
