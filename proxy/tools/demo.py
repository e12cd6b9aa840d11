"""The demonstration: one streamed answer, four clients, and the proof that all were given the same bytes.

A fake Qwen and the proxy run in processes of their own, on free loopback ports; this one is only their client.
"""

import asyncio
import contextlib
import os
import re
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import aiohttp
import click
import orjson
from prometheus_client.parser import text_string_to_metric_families
from rich.columns import Columns
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from proxy.tools.command_error import CommandError
from proxy.wire.sse import Splitter, payload

BIG_BYTES = 6_000_000  # in one event; the kernel's buffers for a loopback connection hide the lag of smaller ones
QUESTION = {"model": "qwen3-max", "messages": [{"role": "user", "content": "How many may listen?"}], "stream": True}
_PROGRAM = sys.argv[0] if os.path.basename(sys.argv[0]) == "streamtee" else "streamtee"
BY_HAND = f"""\
By hand, in three terminals:
  {_PROGRAM} fake --listen 127.0.0.1:8000
  STREAMTEE_UPSTREAM__URL=http://127.0.0.1:8000 {_PROGRAM} serve
  curl -N http://127.0.0.1:8080/v1/chat/completions -H 'Stream-Key: demo' -H 'Content-Type: application/json' \\
    -d '{{"model":"qwen3-max","messages":[{{"role":"user","content":"Hello"}}],"stream":true}}'
That answer can be followed while it runs, and for five minutes after:
  curl -N 'http://127.0.0.1:8080/v1/keys/demo/stream?mode=raw'
  curl -N http://127.0.0.1:8080/v1/keys/demo/stream -H 'Last-Event-ID: 5'
  curl -s http://127.0.0.1:9090/metrics | grep first_token"""


class DemoError(Exception):
    """A claim of the demonstration did not hold; the message says which."""


@contextlib.asynccontextmanager
async def running(*command: str, urls: int, **settings: str) -> AsyncIterator[list[str]]:
    """Run `streamtee COMMAND` in a process of its own; yield the first URL of each of its first lines."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STREAMTEE_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "proxy.tools.cli", *command),  # -P: not the `proxy` of the current directory
        stdout=asyncio.subprocess.PIPE,
        env=environment | settings,
    )
    assert process.stdout is not None
    try:
        found = [re.search(rb"http://[^/\s,]+", await process.stdout.readline()) for _ in range(urls)]
        if None in found:
            raise DemoError(f"`streamtee {command[0]}` did not start")
        yield [match.group().decode() for match in found if match is not None]
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


@dataclass
class Client:
    """One client, and the frames it has been given."""

    name: str
    state: str = "not here yet"
    frames: list[bytes] = field(default_factory=list)
    text: str = ""

    async def read(
        self, response: aiohttp.ClientResponse, *, until: float = float("inf"), pause_s: float = 0, then: str = "done"
    ) -> None:
        """Take the response, or `until` so many frames are here. What comes of a frame and no more is dropped."""
        if response.status != 200:
            raise DemoError(f"{self.name}: the answer was status {response.status}")
        splitter = Splitter(2 * BIG_BYTES)
        async for data in response.content.iter_chunked(2**16):
            for frame in splitter.feed(data):
                self.frames.append(frame)
                self.text += said(frame)
            self.state = f"{len(self.frames)} events"
            if len(self.frames) >= until:
                break
            await asyncio.sleep(pause_s)
        self.state = then

    @property
    def data(self) -> bytes:
        """What it was given, less the ids that mode events adds."""
        return b"".join(re.sub(rb"\nid: [a-z2-7]{6}-\d+\n\n$", b"\n\n", frame) for frame in self.frames)


def said(frame: bytes) -> str:
    """Return the text that a frame adds to the answer; of the picture its size."""
    data = payload(frame)
    chunk = orjson.loads(data) if data and data != b"[DONE]" else {}
    text = "".join(choice["delta"].get("content") or "" for choice in chunk.get("choices", ()))
    return text if len(text) < BIG_BYTES else f" [an event of {len(frame)} bytes] "


class Demo:
    """The scene: the proxy at `url` with its metrics at `admin_url`, four clients, and who looks on."""

    def __init__(self, url: str, admin_url: str, seconds: float, show: Callable[["Demo"], None]) -> None:
        self.url, self.admin_url, self.seconds, self.show = url, admin_url, seconds, show
        self.events = int(seconds * 10)  # the fake, at its real pace, sends ten a second
        self.clients = [Client(name) for name in ("asker, raw", "late, raw", "resuming, events", "slow, raw")]
        self.asker, self.late, self.resuming, self.slow = self.clients
        self.ident = ""
        self.lag = (0, 0, 0)  # the worst: bytes and events by info, bytes by metrics
        self.metrics: Counter[str] = Counter()

    async def play(self) -> None:
        """Let all clients come, and look on until they have gone. Raises: DemoError, when one was not served."""
        async with aiohttp.ClientSession() as self.session:
            try:
                async with asyncio.timeout(self.seconds + 30), asyncio.TaskGroup() as group:
                    parts = [group.create_task(part()) for part in (self.ask, self.join, self.resume, self.dawdle)]
                    group.create_task(self.watch(parts))
            except (TimeoutError, ExceptionGroup) as error:
                first = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
                raise DemoError(f"{type(first).__name__}: {first}") from error
            self.metrics = await self.scrape()
        self.show(self)

    async def ask(self) -> None:
        """Ask the question, tell the fake how much to say, and read the answer as any client does."""
        headers = {"Fake-Fault": f"count; frames={self.events}, huge_frame; after=9; bytes={BIG_BYTES}"}
        async with self.session.post(f"{self.url}/v1/chat/completions", json=QUESTION, headers=headers) as response:
            self.ident = response.headers.get("Stream-Id", "")
            await self.asker.read(response)

    async def join(self) -> None:
        """Come when a third is over: the past arrives at once, and then what is new."""
        await self.wait_events(self.events // 3)
        async with self.follow(mode="raw") as response:
            await self.late.read(response)

    async def resume(self) -> None:
        """Leave when half is over, and come back later with the id of the last event."""
        client = self.resuming
        await self.wait_events(1)
        async with self.follow(mode="events", heartbeat="0") as response:
            await client.read(response, until=self.events // 2, then="gone")
        await self.wait_events(self.events * 3 // 4)
        last_id = client.frames[-1].rpartition(b"id: ")[2].decode().strip()
        async with self.follow({"Last-Event-ID": last_id}, mode="events", heartbeat="0") as response:
            await client.read(response, then=f"done, resumed after {last_id}")

    async def dawdle(self) -> None:
        """Be there from the start, and read slowly."""
        await self.wait_events(1)
        async with self.follow(mode="raw") as response:
            own_socket = response.connection.transport.get_extra_info("socket")
            own_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
            await self.slow.read(response, pause_s=self.seconds / 4 / (BIG_BYTES / 2**16))

    async def wait_events(self, count: int) -> None:
        """Return once the asker has so many events."""
        while len(self.asker.frames) < count:
            await asyncio.sleep(0.02)

    def follow(self, headers: dict[str, str] | None = None, **query: str) -> Any:
        return self.session.get(f"{self.url}/v1/streams/{self.ident}", headers=headers, params=query)

    async def watch(self, parts: list[asyncio.Task[None]]) -> None:
        """Show the scene and ask the proxy who lags, until all parts are played."""
        await self.wait_events(1)
        while not all(part.done() for part in parts):
            async with self.session.get(f"{self.url}/v1/streams/{self.ident}/info") as response:
                followers = (await response.json())["followers"]
            lag_bytes = (await self.scrape())["streamtee_subscriber_lag_bytes_max"]
            self.lag = max([self.lag, *((one["lag_bytes"], one["lag_events"], lag_bytes) for one in followers)])
            self.show(self)
            await asyncio.sleep(0.1)

    async def scrape(self) -> Counter[str]:
        """Return the proxy's metrics, each summed over its labels."""
        values: Counter[str] = Counter()
        async with self.session.get(f"{self.admin_url}/metrics") as response:
            for family in text_string_to_metric_families(await response.text()):
                for sample in family.samples:
                    values[sample.name] += sample.value  # type: ignore[assignment]
        return values

    def prove(self) -> None:
        """Raises: DemoError, when a claim does not hold."""
        whole = self.asker.data
        for client in self.clients:
            if client.data != whole:
                raise DemoError(
                    f"{client.name}: its {len(client.data)} bytes are not those of the client that asked, {len(whole)}"
                )
        if not whole.endswith(b"data: [DONE]\n\n"):
            raise DemoError("the answer did not end with [DONE]")
        if (received := self.metrics["streamtee_upstream_bytes_total"]) != len(whole):
            raise DemoError(f"streamtee_upstream_bytes_total is {received:g}, and the answer has {len(whole)} bytes")


class Screen:
    """Shows a scene: in columns on a terminal, in lines elsewhere."""

    def __init__(self) -> None:
        self.console = Console()
        self.live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None
        self.shows = 0

    def show(self, demo: Demo) -> None:
        self.shows += 1
        if self.live is not None:
            self.live.update(Columns(map(self.panel, demo.clients), padding=0), refresh=True)
        elif self.shows % 10 == 1:
            print("; ".join(f"{c.name}: {c.state}" for c in demo.clients), flush=True)

    def panel(self, client: Client) -> Panel:
        width, height = self.console.width // 4, 14
        seen = Text("\n").join(Text(client.text).wrap(self.console, width - 4)[2 - height :])
        return Panel(seen, title=client.name, subtitle=client.state, width=width, height=height)


def report(demo: Demo) -> None:
    for client in demo.clients:
        print(f"{sha256(client.data).hexdigest()}  {client.name}, {client.state}")
    print(f"the same {len(demo.asker.data)} bytes in {len(demo.asker.frames)} events for all of them")
    for name in ("time_to_first_token_seconds", "stream_duration_seconds"):
        print(f"streamtee_{name}: {demo.metrics[f'streamtee_{name}_sum']:.3f}")
    print("furthest behind: {1} events, {0} bytes by info, {2:g} by metrics".format(*demo.lag), BY_HAND, sep="\n\n")


async def run(seconds: float) -> None:
    """Play the demonstration. Raises: DemoError, when something did not hold."""
    screen = Screen()
    own = {"STREAMTEE_LISTEN": "127.0.0.1:0", "STREAMTEE_ADMIN": "127.0.0.1:0"}
    async with (
        running("fake", "--listen", "127.0.0.1:0", urls=1) as (fake,),
        running("serve", urls=2, STREAMTEE_UPSTREAM__URL=fake, **own) as (url, admin_url),
    ):
        print(f"an answer of about {seconds:g} s from a fake Qwen at {fake}, through {url}, for four clients:")
        demo = Demo(url, admin_url, seconds, screen.show)
        with screen.live or contextlib.nullcontext():
            await demo.play()
    demo.prove()
    report(demo)


_EXAMPLES = """\b
Examples:
  streamtee demo
  streamtee demo --seconds 30
"""


@click.command("demo", epilog=_EXAMPLES, short_help="Show one answer going to four clients.")
@click.option("--seconds", type=click.FloatRange(2), default=12, show_default=True, help="How long the answer takes.")
def demo(seconds: float) -> None:
    """Send one response to four clients, show it, and check that all received the same bytes."""
    try:
        asyncio.run(run(seconds))
    except DemoError as error:
        raise CommandError(f"the demo failed: {error}", exit_code=1) from None
