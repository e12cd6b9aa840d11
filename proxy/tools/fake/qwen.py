"""A fake of Alibaba's Qwen API, faithful to its bytes, which can also misbehave on request.

Every answer is a line of `Step`s: wait, head, part, end. A fault rewrites that line; a `Connection` performs it.
So faults know nothing of sockets, and the connection nothing of faults or of Qwen.

A request chooses its faults by the header `Fake-Fault: name; after=N; seconds=S` (several: separated by commas,
applied in that order) or by its model, `MODEL+name,after=N+name` (the answer then names MODEL alone).
`faults.FAULTS` lists them.
"""

import asyncio
import re
import socket
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from http import HTTPStatus
from random import Random
from time import time
from typing import Any, ClassVar, NamedTuple, cast
from uuid import UUID

import httptools
import orjson

from proxy.tools.fake import ticker as fake_ticker
from proxy.tools.fake.api import Api
from proxy.tools.fake.chat import CHAT, read_chat
from proxy.tools.fake.faults import (
    OF_ASK,
    OF_STEPS,
    SSE,
    BadFault,
    Case,
    Close,
    End,
    Framing,
    Hang,
    Head,
    Named,
    Part,
    Raw,
    Reset,
    State,
    Steps,
    Wait,
    applied,
    head,
    named_faults,
    refusal_steps,
    whole,
)
from proxy.tools.fake.messages import MESSAGES, count_tokens, read_messages
from proxy.tools.fake.native import NATIVE, read_app, read_native
from proxy.tools.fake.refusals import BAD_KEY, Refused, invalid
from proxy.tools.fake.responses import RESPONSES, read_responses
from proxy.tools.fake.text import Ask, Stamp


@dataclass(frozen=True)
class Pace:
    """How fast the fake speaks. All times in seconds."""

    FAST: ClassVar["Pace"]
    REAL: ClassVar["Pace"]

    first_token_s: float = 0.0
    """Median of the time to the head and first frame; lognormal."""
    first_token_sigma: float = 0.8
    interval_s: float = 0.0
    """Mean time between frames; uniform within `jitter` of it."""
    jitter: float = 0.4
    tokens_per_frame: int = 5
    burst_chance: float = 0.0
    """Chance that a frame is held back and sent in one write with the next one or two."""
    stall_chance: float = 0.0
    stall_s: float = 0.0

    def first_s(self, random: Random) -> float:
        return self.first_token_s * random.lognormvariate(0.0, self.first_token_sigma)

    def gap_s(self, random: Random) -> float:
        stall_s = self.stall_s if random.random() < self.stall_chance else 0.0
        return stall_s + self.interval_s * random.uniform(1 - self.jitter, 1 + self.jitter)

    def held_frames(self, random: Random) -> int:
        return random.choice((1, 2)) if random.random() < self.burst_chance else 0


FAST = Pace.FAST = Pace()
# Median 0.4 s, p95 1.5 s to the first token; recorded: 82 and 142 ms between frames of four to five tokens.
REAL = Pace.REAL = Pace(first_token_s=0.4, interval_s=0.1, burst_chance=0.04)


@dataclass(eq=False)
class Received:
    """One request and what became of its answer."""

    method: str
    target: str
    """Path and query as they came."""
    headers: list[tuple[bytes, bytes]]
    """Names and values as they came, in order."""
    body: bytes
    keep_alive: bool = True
    chunked: bool = True
    """Whether the client understands chunked answers (HTTP/1.1)."""
    sent: bytearray = field(default_factory=bytearray)
    """The answer's body bytes written so far, before chunk framing."""
    state: State = "open"
    """complete: its proper end was written. client_gone: the client left before. cut: a fault or `stop` ended it."""
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def header(self, name: str) -> str:
        """Return the first value of a header, or the empty string; `name` in lower case."""
        wanted = name.encode()
        found = (value for key, value in self.headers if key.lower() == wanted)
        return next(found, b"").decode("latin-1")

    def leave_open(self, state: State) -> None:
        """Take the final state; only the first call counts."""
        if self.state == "open":
            self.state = state
            self.closed.set()


class Route(NamedTuple):
    """Where answers are generated, and how a request there is read: path, body, seed, whether SSE was asked for."""

    path: re.Pattern[str]
    api: Api
    read: Callable[[str, Mapping[str, Any], int, bool], Ask]


ROUTES = (
    Route(
        re.compile(r"(/compatible-mode)?/v1/chat/completions"),
        CHAT,
        lambda path, body, seed, sse: read_chat(body, seed),
    ),
    Route(
        re.compile(r"(/compatible-mode/v1|/v1|/api/v2/apps/protocols/compatible-mode/v1)/responses"),
        RESPONSES,
        lambda path, body, seed, sse: read_responses(body, seed),
    ),
    Route(
        re.compile(r"/api/v1/services/aigc/(text|multimodal)-generation/generation"),
        NATIVE,
        lambda path, body, seed, sse: read_native(body, seed, stream=sse, multimodal="/multimodal-" in path),
    ),
    Route(
        re.compile(r"/api/v1/apps/[^/]+/completion"),
        NATIVE,
        lambda path, body, seed, sse: read_app(body, seed, stream=sse),
    ),
    Route(
        re.compile(r"/apps/anthropic/v1/messages"),
        MESSAGES,
        lambda path, body, seed, sse: read_messages(body, seed),
    ),
)
PREFIXES: dict[str, Api] = {
    "/compatible-mode/": CHAT,
    "/v1/": CHAT,
    "/api/v1/": NATIVE,
    "/api/v2/": CHAT,
    "/apps/anthropic/": MESSAGES,
}
"""Where requests are answered with what they are, and refused, where no answer is generated."""
MODELS = ("qwen-max", "qwen-plus", "qwen-turbo", "qwen3-max", "qwen3-vl-plus", "qwq-plus", "qvq-max")


def _route(received: Received) -> Route | None:
    if received.method != "POST":
        return None
    return next((route for route in ROUTES if route.path.fullmatch(received.path)), None)


def _plain(case: Case, received: Received) -> Steps:
    if received.path == fake_ticker.PATH and received.method in ("GET", "POST"):
        return fake_ticker.ticks(case, received.target, received.header("last-event-id"))
    if (received.method, received.path) == ("GET", "/compatible-mode/v1/models"):
        rows = [{"id": name, "object": "model", "created": 0, "owned_by": "system"} for name in MODELS]
        return whole(case, orjson.dumps({"object": "list", "data": rows}))
    if (received.method, received.path) == ("POST", "/apps/anthropic/v1/messages/count_tokens"):
        return whole(case, count_tokens(_body(received)))
    if received.path.startswith(tuple(PREFIXES)):
        return whole(case, _echo(received))
    return whole(case, b'{"error":"nothing is here"}', 404)


def _echo(received: Received) -> bytes:
    told = {
        "method": received.method,
        "target": received.target,
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in received.headers],
        "body_bytes": len(received.body),
        "body_sha256": sha256(received.body).hexdigest(),
    }
    return orjson.dumps(told)


def _body(received: Received) -> dict[str, Any]:
    try:
        body = orjson.loads(received.body)
    except orjson.JSONDecodeError as error:
        raise Refused(invalid(f"the body is not JSON: {error}")) from error
    if not isinstance(body, dict):
        raise Refused(invalid("the body is not a JSON object"))
    return body


def _read(route: Route, path: str, body: Mapping[str, Any], seed: int, sse: bool) -> Ask:
    try:
        return route.read(path, body, seed, sse)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Refused(invalid(f"the request is malformed: {error!r}")) from error


_BODIES: dict[Framing, Callable[[bytes], bytes]] = {
    "chunked": lambda body: b"%x\r\n%b\r\n" % (len(body), body) if body else b"",
    "length": lambda body: body,
    "close": lambda body: body,
    "none": lambda body: b"",
}
_ENDS: dict[Framing, bytes] = {"chunked": b"0\r\n\r\n"}
_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class Connection(asyncio.Protocol):
    """One client connection: parses requests, performs the steps of their answers, one after another."""

    _transport: asyncio.Transport
    _task: asyncio.Task[None]

    def __init__(self, fake: "FakeQwen") -> None:
        self._fake = fake
        self._parser = httptools.HttpRequestParser(self)
        self._inbox: asyncio.Queue[Received] = asyncio.Queue()
        self._received: list[Received] = []
        self._writable = asyncio.Event()
        self._writable.set()
        self._held_wire, self._held_body = bytearray(), bytearray()
        self._framing: Framing = "length"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Both loops set TCP_NODELAY on accepted connections: a write is a segment.
        self._transport = cast(asyncio.Transport, transport)
        self._task = asyncio.get_running_loop().create_task(self._serve())
        self._fake.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fake.connections.discard(self)
        self._abandon("client_gone")

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # the request is complete, and answered as if it had not asked
        except httptools.HttpParserError:
            self._transport.write(_BAD_REQUEST)
            self._transport.close()

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = bytearray()

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if any(name.lower() == b"expect" for name, _ in self._headers):
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        received = Received(
            self._parser.get_method().decode(),
            self._target.decode("latin-1"),
            self._headers,
            bytes(self._body),
            keep_alive=self._parser.should_keep_alive(),
            chunked=self._parser.get_http_version() != "1.0",
        )
        self._received = [*(one for one in self._received if one.state == "open"), received]
        self._fake.admit(received)
        self._inbox.put_nowait(received)

    def cut(self) -> asyncio.Task[None]:
        """Abort at once; return the task to wait for until nothing runs any more."""
        self._abandon("cut")
        self._transport.abort()
        return self._task

    def _abandon(self, state: State) -> None:
        self._task.cancel()
        for received in self._received:
            received.leave_open(state)

    async def _serve(self) -> None:
        while not self._transport.is_closing():
            received = await self._inbox.get()
            try:
                await self._perform(received, self._fake.plan(received))
            except Exception:
                self.cut()
                raise

    async def _perform(self, received: Received, steps: Steps) -> None:
        for step in steps:
            match step:
                case Head():
                    self._held_wire += self._head_wire(received, step)
                case Part(body, held):
                    wire = _BODIES[self._framing](body)
                    await self._write(received, wire, body if wire else b"", held)
                case Raw(wire, body):
                    await self._write(received, wire, body)
                case Wait(seconds):
                    await self._write(received)
                    await asyncio.sleep(seconds)
                case Hang():
                    await self._write(received)
                    await asyncio.Event().wait()
                case End() | Close() | Reset():
                    await self._finish(received, step)
                    return

    def _head_wire(self, received: Received, head: Head) -> bytes:
        framing = "close" if head.framing == "chunked" and not received.chunked else head.framing
        received.keep_alive = received.keep_alive and framing != "close"
        self._framing = framing if received.method != "HEAD" else "none"
        rows = (
            (framing == "chunked", "transfer-encoding", "chunked"),
            (framing == "length", "content-length", f"{head.length}"),
            (not received.keep_alive, "connection", "close"),
        )
        headers = (*head.headers, *((name, value) for present, name, value in rows if present))
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
        return f"HTTP/1.1 {head.status} {HTTPStatus(head.status).phrase}\r\n{lines}\r\n".encode("latin-1")

    async def _write(self, received: Received, wire: bytes = b"", body: bytes = b"", held: bool = False) -> None:
        self._held_wire += wire
        self._held_body += body
        if held or not self._held_wire:
            return
        self._transport.write(bytes(self._held_wire))
        received.sent += self._held_body
        self._held_wire, self._held_body = bytearray(), bytearray()
        # One turn of the loop, so that the next write is a segment of its own and other streams have theirs.
        await asyncio.sleep(0)
        await self._writable.wait()

    async def _finish(self, received: Received, step: End | Close | Reset) -> None:
        await self._write(received, _ENDS.get(self._framing, b"") if isinstance(step, End) else b"")
        received.leave_open(step.state if isinstance(step, End) else "cut")
        if isinstance(step, Reset):
            # Lingering for no time makes the kernel send RST instead of FIN.
            linger = struct.pack("ii", 1, 0)
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self._transport.abort()
        elif isinstance(step, Close) or not received.keep_alive:
            self._transport.close()


class FakeQwen:
    """The fake service: start it, point a base URL at `url`, read `requests` afterwards."""

    def __init__(
        self, *, pace: Pace = FAST, seed: int = 0, require_key: bool = False, history: int | None = None
    ) -> None:
        """`history` bounds how many requests are kept; None keeps all."""
        self.url = ""
        self.requests: list[Received] = []
        self.connections: set[Connection] = set()
        self._pace, self._seed, self._require_key = pace, seed, require_key
        self._random = Random(seed)
        self._history = history
        self._arrived = 0
        self._served: Counter[str] = Counter()
        self._arrival = asyncio.Event()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; port 0 takes a free one. `url` is the root of all routes."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), host, port, backlog=1024)
        self.url = f"http://{host}:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Stop listening and abort what is open, at once."""
        self._server.close()
        if tasks := [connection.cut() for connection in self.connections]:
            await asyncio.wait(tasks)
        await self._server.wait_closed()

    async def wait_closed(self, index: int = -1) -> Received:
        """Return that request once it has arrived and its answer is no longer open."""
        await self.wait_requests(index + 1 if index >= 0 else -index)
        received = self.requests[index]
        await received.closed.wait()
        return received

    async def wait_requests(self, count: int) -> None:
        """Return once so many requests have arrived in all."""
        while self._arrived < count:
            await self._arrival.wait()

    def admit(self, received: Received) -> None:
        """Record a request, and wake who waits for it."""
        self.requests.append(received)
        if self._history is not None and len(self.requests) > self._history:
            del self.requests[0]
        self._arrived += 1
        self._arrival.set()
        self._arrival = asyncio.Event()

    def plan(self, received: Received) -> Steps:
        """Return the steps of the answer, faults included."""
        stamp = Stamp(str(UUID(int=self._random.getrandbits(128), version=4)), int(time()))
        route = _route(received)
        usual = next((api for prefix, api in PREFIXES.items() if received.path.startswith(prefix)), CHAT)
        case = Case(stamp, time(), route.api if route else usual, "gzip" in received.header("accept-encoding"))
        key = received.header("authorization").removeprefix("Bearer").strip() or received.header("x-api-key")
        if self._require_key and not key:
            return refusal_steps(case, BAD_KEY, in_stream=False)
        try:
            return self._planned(received, route, case)
        except BadFault as error:
            return refusal_steps(case, invalid(str(error)), in_stream=False)

    def _planned(self, received: Received, route: Route | None, case: Case) -> Steps:
        named = self._due(named_faults(received.header("fake-fault"), ",", ";"))
        if route is None:
            return cast(Steps, applied(_plain(case, received), OF_STEPS, named, case))
        sse = received.header("x-dashscope-sse") == "enable" or "text/event-stream" in received.header("accept")
        try:
            body = _body(received)
            model, _, suffix = str(body.get("model") or "").partition("+")
            named += self._due(named_faults(suffix, "+", ","))
            case = replace(case, model=model, stream=sse if case.api.native else bool(body.get("stream")))
            ask = _read(route, received.path, {**body, "model": model}, self._seed, sse)
            steps = self._answer(applied(ask, OF_ASK, named, case), case)
        except Refused as refused:
            in_stream = case.stream and case.api.refusal_frame is not None
            steps = refusal_steps(case, refused.refusal, in_stream=in_stream)
        return cast(Steps, applied(steps, OF_STEPS, named, case))

    def _due(self, named: Iterable[Named]) -> list[Named]:
        """Return the faults whose `times` are not used up."""
        due = []
        for one in named:
            self._served[one.words] += 1
            if self._served[one.words] <= int(one.options.get("times", sys.maxsize)):
                due.append(one)
        return due

    def _answer(self, ask: Ask, case: Case) -> Steps:
        ask = replace(ask, tokens_per_frame=self._pace.tokens_per_frame)
        answer = case.api.answer(ask, case.stamp)
        yield Wait(self._pace.first_s(self._random))
        if ask.stream:
            yield head(case, 200, SSE)
            yield from self._paced(answer.frames(), case.api.last)
            yield End()
        else:
            yield Wait(sum(self._pace.gap_s(self._random) for _ in answer.frames()))
            yield from whole(case, answer.whole())

    def _paced(self, frames: Iterator[bytes], last: bytes) -> Steps:
        held = 0
        for number, frame in enumerate(frames):
            if number and not held and frame is not last:
                yield Wait(self._pace.gap_s(self._random))
            held = held - 1 if held else self._pace.held_frames(self._random)
            # The last frame and the end of the body are one write.
            yield Part(frame, held=held > 0 or frame is last)
