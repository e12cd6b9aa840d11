"""A fake of Alibaba's Qwen API: it sends what the API sends, byte for byte, and on request it misbehaves.

Every answer is a sequence of steps (module `steps`): a wait, the head, the parts of the body, the end. A fault rewrites
the sequence; a `Connection` performs it. So faults know nothing of sockets, and connections nothing of faults or Qwen.

A request chooses its faults in the header `Fake-Fault: NAME; after=N; seconds=S` (several are separated by commas, and
applied in that order), or in its model: `MODEL+NAME,after=N+NAME`, where the answer then has MODEL as its model.
`streamtee faults` lists them.
"""

import asyncio
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from random import Random
from time import time
from typing import Any, ClassVar, NamedTuple, cast
from uuid import UUID

import orjson

from proxy.tools.fake import ticker as fake_ticker
from proxy.tools.fake.api import Api
from proxy.tools.fake.chat import CHAT, read_chat
from proxy.tools.fake.chosen_faults import ChosenFault, applied, chosen_faults
from proxy.tools.fake.connection import Connection, Received
from proxy.tools.fake.faults import OF_ASK, OF_STEPS, BadFault
from proxy.tools.fake.messages import MESSAGES, count_tokens, read_messages
from proxy.tools.fake.native import NATIVE, read_app, read_native
from proxy.tools.fake.realtime import FakeSocket
from proxy.tools.fake.refusals import BAD_KEY, Refused, invalid
from proxy.tools.fake.responses import RESPONSES, compact, count_input, read_responses
from proxy.tools.fake.steps import SSE, Case, End, Part, Steps, Wait, head, refusal_steps, whole
from proxy.tools.fake.text import Ask, Stamp


@dataclass(frozen=True)
class Pace:
    """How fast the fake answers. All times in seconds."""

    FAST: ClassVar["Pace"]
    REAL: ClassVar["Pace"]

    first_token_s: float = 0.0
    """Median of the time to the head and the first frame, which is distributed lognormally."""
    first_token_sigma: float = 0.8
    interval_s: float = 0.0
    """Mean time between two frames."""
    jitter: float = 0.4
    """The time between two frames is `interval_s` plus or minus at most this share of it."""
    tokens_per_frame: int = 5
    burst_chance: float = 0.0
    """Probability that a frame is held back and sent in one write with the next one or two."""
    stall_chance: float = 0.0
    """Probability that there are `stall_s` more before a frame."""
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


class Route(NamedTuple):
    """A path where answers are generated.

    `read` reads a request there: from its path, its body, the seed, and whether its headers ask for SSE.
    """

    path: re.Pattern[str]
    api: Api
    read: Callable[[str, Mapping[str, Any], int, bool], Ask]


_RESPONSES = r"(/compatible-mode/v1|/v1|/api/v2/apps/protocols/compatible-mode/v1)/responses"
ROUTES = (
    Route(
        re.compile(r"(/compatible-mode)?/v1/chat/completions"),
        CHAT,
        lambda path, body, seed, sse: read_chat(body, seed),
    ),
    Route(
        re.compile(_RESPONSES),
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
    "/compatible-api/": CHAT,
    "/v1/": CHAT,
    "/api/v1/": NATIVE,
    "/api/v2/": CHAT,
    "/apps/anthropic/": MESSAGES,
}
"""Other paths, and the API of their errors: requests there are answered with a description of themselves."""
COUNTED: tuple[tuple[re.Pattern[str], Callable[[dict[str, Any]], bytes]], ...] = (
    (re.compile(rf"{_RESPONSES}/input_tokens"), count_input),
    (re.compile(rf"{_RESPONSES}/compact"), compact),
    (re.compile(r"/apps/anthropic/v1/messages/count_tokens"), count_tokens),
)
"""Paths of POST requests about what an answer would be made of, and how each is answered."""
MODELS = ("qwen-max", "qwen-plus", "qwen-turbo", "qwen3-max", "qwen3-vl-plus", "qwq-plus", "qvq-max")


def _route(received: Received) -> Route | None:
    if received.method != "POST":
        return None
    return next((route for route in ROUTES if route.path.fullmatch(received.path)), None)


def _other_steps(case: Case, received: Received) -> Steps:
    if received.path == fake_ticker.PATH and received.method in ("GET", "POST"):
        return fake_ticker.ticks(case, received.target, received.header("last-event-id"))
    if (received.method, received.path) == ("GET", "/compatible-mode/v1/models"):
        rows = [{"id": name, "object": "model", "created": 0, "owned_by": "system"} for name in MODELS]
        return whole(case, orjson.dumps({"object": "list", "data": rows}))
    counted = next((answer for path, answer in COUNTED if path.fullmatch(received.path)), None)
    if received.method == "POST" and counted is not None:
        return whole(case, counted(_body(received)))
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


class FakeQwen:
    """The fake server: `start` it, use `url` as the base URL of a client, and look at `requests` afterwards."""

    def __init__(
        self, *, pace: Pace = FAST, seed: int = 0, require_key: bool = False, history: int | None = None
    ) -> None:
        """`history` is how many requests are kept at most; None keeps all."""
        self.url = ""
        self.requests: list[Received] = []
        self.sockets: list[FakeSocket] = []
        """The WebSockets of all handshakes, oldest first."""
        self.connections: set[Connection] = set()
        self._pace, self._seed, self._require_key = pace, seed, require_key
        self._random = Random(seed)
        self._history = history
        self._arrived = 0
        self._served: Counter[str] = Counter()
        self._arrival = asyncio.Event()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; port 0 takes a free port. `url` is the URL of the root path."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), host, port, backlog=1024)
        self.url = f"http://{host}:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Stop listening, and abort all connections, at once."""
        self._server.close()
        if tasks := [connection.cut() for connection in self.connections]:
            await asyncio.wait(tasks)
        await self._server.wait_closed()

    async def wait_closed(self, index: int = -1) -> Received:
        """Wait until the request at this index of `requests` has arrived and its answer has ended, and return it."""
        await self.wait_requests(index + 1 if index >= 0 else -index)
        received = self.requests[index]
        await received.closed.wait()
        return received

    async def wait_requests(self, count: int) -> None:
        """Wait until that many requests have arrived in all."""
        while self._arrived < count:
            await self._arrival.wait()

    def admit(self, received: Received) -> None:
        """Record a request that has arrived."""
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
            return self._steps(received, route, case)
        except BadFault as error:
            return refusal_steps(case, invalid(str(error)), in_stream=False)

    def _steps(self, received: Received, route: Route | None, case: Case) -> Steps:
        named = self._due(chosen_faults(received.header("fake-fault"), ",", ";"))
        if route is None:
            return cast(Steps, applied(_other_steps(case, received), OF_STEPS, named, case))
        sse = received.header("x-dashscope-sse") == "enable" or "text/event-stream" in received.header("accept")
        try:
            body = _body(received)
            model, _, suffix = str(body.get("model") or "").partition("+")
            named += self._due(chosen_faults(suffix, "+", ","))
            case = replace(case, model=model, stream=sse if case.api.native else bool(body.get("stream")))
            ask = _read(route, received.path, {**body, "model": model}, self._seed, sse)
            steps = self._answer(applied(ask, OF_ASK, named, case), case)
        except Refused as refused:
            in_stream = case.stream and case.api.refusal_frame is not None
            steps = refusal_steps(case, refused.refusal, in_stream=in_stream)
        return cast(Steps, applied(steps, OF_STEPS, named, case))

    def _due(self, named: Iterable[ChosenFault]) -> list[ChosenFault]:
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
            # The last frame and the end of the body are sent in one write.
            yield Part(frame, held=held > 0 or frame is last)
