"""A fake of Alibaba's Qwen API, faithful to its bytes, which can also misbehave on request.

Every answer is a line of `Step`s: wait, head, part, end. A fault rewrites that line; a `Connection` performs it.
So faults know nothing of sockets, and the connection nothing of faults or of Qwen.

A request chooses its faults by the header `Fake-Fault: name; after=N; seconds=S` (several: separated by commas,
applied in that order) or by its model, `MODEL+name,after=N+name` (the answer then names MODEL alone).
`FAULTS` lists them: a fault's first line of docstring says what it does, its keywords are its options. Common are
`after`, complete frames sent before it (3; 0 if the answer is not a stream), and, for every fault, `times`: only
the first so many requests that name it in these very words are served it.
"""

import asyncio
import inspect
import re
import socket
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from hashlib import sha256
from http import HTTPStatus
from random import Random
from time import time
from typing import Any, ClassVar, Literal, NamedTuple, cast
from uuid import UUID

import httptools
import orjson

from proxy.tools import fake_text
from proxy.tools.fake_text import BAD_KEY, DONE, Ask, ChatAnswer, NativeAnswer, Refusal, Refused, Stamp

State = Literal["open", "complete", "client_gone", "cut"]
Framing = Literal["chunked", "length", "close", "none"]


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


@dataclass(frozen=True, slots=True)
class Wait:
    seconds: float


@dataclass(frozen=True, slots=True)
class Head:
    """Status line and headers; `framing` says how the body's end is told."""

    status: int
    headers: tuple[tuple[str, str], ...]
    framing: Framing
    length: int | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """Body bytes: one HTTP chunk and one write; `held` joins it to the next write."""

    body: bytes
    held: bool = False


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes for the wire as they are; `body` is what of them counts as body."""

    wire: bytes
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class End:
    """The body's proper end."""

    state: State = "complete"


@dataclass(frozen=True, slots=True)
class Close:
    """A FIN, whatever is still owed."""


@dataclass(frozen=True, slots=True)
class Reset:
    """A TCP RST."""


@dataclass(frozen=True, slots=True)
class Hang:
    """Nothing more, for as long as the client stays."""


Step = Wait | Head | Part | Raw | End | Close | Reset | Hang
Steps = Iterator[Step]


@dataclass(frozen=True, slots=True)
class Case:
    """One request as the plan of its answer sees it."""

    stamp: Stamp
    arrived: float
    """Unix time."""
    native: bool
    gzip: bool
    """Whether the client takes gzip."""
    model: str = ""
    stream: bool = False

    def error_frame(self, refusal: Refusal, number: int) -> bytes:
        return fake_text.error_frame(refusal, self.stamp, self.model, native=self.native, number=number)


_SSE = "text/event-stream;charset=UTF-8"  # recorded: no space
_VARY = "Origin,Access-Control-Request-Method,Access-Control-Request-Headers"


def _head(case: Case, status: int, content_type: str, length: int | None = None) -> Head:
    """Return the head as of now: the service answers only once the model has started, and its headers tell when."""
    now = time()
    cost_ms = int((now - case.arrived) * 1000)
    rows = (
        (True, "vary", _VARY if length is None else f"{_VARY}, Accept-Encoding"),
        (True, "x-request-id", case.stamp.request_id),
        (bool(content_type), "content-type", content_type),
        (True, "x-dashscope-call-gateway", "true"),
        (case.native, "x-dashscope-timeout", "298"),
        (case.native, "x-dashscope-finished", "true" if length is not None else "false"),
        (True, "req-cost-time", f"{cost_ms}"),
        (True, "req-arrive-time", f"{int(case.arrived * 1000)}"),
        (True, "resp-start-time", f"{int(now * 1000)}"),
        (True, "x-envoy-upstream-service-time", f"{max(0, cost_ms - 2)}"),
        (True, "date", formatdate(now, usegmt=True)),
        (True, "server", "istio-envoy"),
    )
    headers = tuple((name, value) for present, name, value in rows if present)
    return Head(status, headers, "chunked" if length is None else "length", length)


def _whole(case: Case, body: bytes, status: int = 200, content_type: str = "application/json") -> Steps:
    yield _head(case, status, content_type, len(body))
    yield Part(body)
    yield End()


def _refused(case: Case, refusal: Refusal, *, in_stream: bool) -> Steps:
    """Yield a refusal. One for a stream is a frame: natively in an HTTP 200, compatibly in an HTTP 400."""
    if in_stream:
        yield _head(case, 200 if case.native else refusal.status, _SSE)
        yield Part(case.error_frame(refusal, 1))
        yield End()
        return
    body = fake_text.refusal_body(refusal, case.stamp, case.model, native=case.native)
    bare = case.native and refusal is BAD_KEY  # recorded without a content-type
    yield from _whole(case, body, refusal.status, "" if bare else "application/json")


class BadFault(ValueError):
    """A fault nobody knows, or an option it does not have."""


def _lead(steps: Steps, after: int) -> Generator[Step, None, Part | End]:
    """Yield the steps before the part that follows `after` parts; return that part, or the end if it comes first."""
    seen = 0
    for step in steps:
        if isinstance(step, End) or (isinstance(step, Part) and seen == after):
            return step
        seen += isinstance(step, Part)
        yield step
    return End()


def _half(step: Part | End) -> bytes:
    return step.body[: len(step.body) // 2] if isinstance(step, Part) else b""


def _unmeasured(steps: Steps) -> Steps:
    """Yield the steps, chunked where a length was promised that a fault will not keep."""
    for step in steps:
        yield replace(step, framing="chunked") if isinstance(step, Head) and step.framing == "length" else step


def _headed(steps: Steps, name: str, value: str) -> Steps:
    for step in steps:
        yield replace(step, headers=(*step.headers, (name, value))) if isinstance(step, Head) else step


def _each_part(steps: Steps, rewrite: Callable[[bytes], list[bytes]]) -> Steps:
    """Yield the steps with every part rewritten into one or more."""
    for step in steps:
        if isinstance(step, Part):
            *parts, last = rewrite(step.body)
            yield from map(Part, parts)
            yield Part(last, step.held)
        else:
            yield step


def cut_mid_frame(steps: Steps, case: Case, *, after: int) -> Steps:
    """Half a frame as a whole HTTP chunk, then FIN without the end chunk."""
    step = yield from _lead(steps, after)
    yield Part(_half(step))
    yield Close()


def cut_mid_chunk(steps: Steps, case: Case, *, after: int) -> Steps:
    """FIN inside an HTTP chunk."""
    step = yield from _lead(_unmeasured(steps), after)
    half = _half(step)
    yield Raw(b"%x\r\n%b" % (2 * len(half) + 1, half), half)
    yield Close()


def cut_clean_half_frame(steps: Steps, case: Case, *, after: int) -> Steps:
    """Half a frame, then a proper end of the body."""
    step = yield from _lead(_unmeasured(steps), after)
    yield Part(_half(step))
    yield End("cut")


def reset(steps: Steps, case: Case, *, after: int) -> Steps:
    """TCP RST."""
    yield from _lead(steps, after)
    yield Reset()


def hang(steps: Steps, case: Case, *, after: int) -> Steps:
    """Nothing more, with the connection left open."""
    yield from _lead(steps, after)
    yield Hang()


def hang_before_head(steps: Steps, case: Case) -> Steps:
    """Accepts the request and never answers."""
    yield Hang()


def slow_first_token(steps: Steps, case: Case, *, seconds: float = 1.0) -> Steps:
    """Waits before the head."""
    yield Wait(seconds)
    yield from steps


def stall(steps: Steps, case: Case, *, after: int, seconds: float = 1.0) -> Steps:
    """Pauses between two frames, then goes on."""
    step = yield from _lead(steps, after)
    yield Wait(seconds)
    yield step
    yield from steps


def _named_refusal(status: str, code: str, default: Refusal) -> Refusal:
    number = status.removesuffix("_stream") or "0"
    asked = int(number) if number.isdigit() else -1
    found = fake_text.find_refusal(asked, code) if asked or code else default
    if found is None:
        raise BadFault(f"no refusal has status={status or 'any'} and code={code or 'any'}")
    return found


def status(steps: Steps, case: Case, *, status: str = "400", code: str = "") -> Steps:
    """Refuses before the stream with an HTTP status (and code); 400_stream frames the refusal as SSE."""
    refusal = _named_refusal(status, code, fake_text.REFUSALS[0])
    return _refused(case, refusal, in_stream=status.endswith("_stream"))


def retry_after(steps: Steps, case: Case, *, seconds: float = 1.0, status: str = "429", code: str = "") -> Steps:
    """Refuses as `status` does, with a Retry-After."""
    refusal = _named_refusal(status, code, fake_text.REFUSALS[0])
    return _headed(_refused(case, refusal, in_stream=False), "retry-after", f"{seconds:g}")


def error_inside(steps: Steps, case: Case, *, after: int, code: str = "", flat: int = 0, done: int = 0) -> Steps:
    """An error event in the HTTP 200 stream, then its end; flat=1: no top-level error; done=1: [DONE] follows."""
    refusal = _named_refusal("", code, fake_text.OUTPUT_INSPECTION)
    return _erring(_unmeasured(steps), case, refusal, after, flat=flat, done=done)


def _erring(steps: Steps, case: Case, refusal: Refusal, after: int, *, flat: int, done: int) -> Steps:
    sent = 0
    for step in _lead(steps, after):
        sent += isinstance(step, Part)
        yield step
    yield Part(
        fake_text.flat_error_frame(refusal, case.stamp, case.model) if flat else case.error_frame(refusal, sent + 1)
    )
    if done:
        yield Part(DONE)
    yield End()


def crlf(steps: Steps, case: Case) -> Steps:
    """Lines end in CRLF."""
    return _each_part(steps, lambda body: [body.replace(b"\n", b"\r\n")])


def cr(steps: Steps, case: Case) -> Steps:
    """Lines end in CR."""
    return _each_part(steps, lambda body: [body.replace(b"\n", b"\r")])


def split_utf8(steps: Steps, case: Case) -> Steps:
    """Writes end inside multi-byte characters."""
    return _each_part(steps, lambda body: re.split(rb"(?<=[\xc0-\xff])", body))


def split_bytes(steps: Steps, case: Case) -> Steps:
    """Each byte its own write and HTTP chunk."""
    return _each_part(steps, lambda body: [bytes([byte]) for byte in body])


def gzip(steps: Steps, case: Case) -> Steps:
    """Content-Encoding: gzip, if the client offers it."""
    return _headed(_zipped(_unmeasured(steps)), "content-encoding", "gzip") if case.gzip else steps


def _zipped(steps: Steps) -> Steps:
    packer = zlib.compressobj(wbits=31)
    for step in steps:
        match step:
            case Part(body, held):
                yield Part(packer.compress(body) + packer.flush(zlib.Z_SYNC_FLUSH), held)
            case End():
                yield Part(packer.flush(), held=True)
                yield step
            case _:
                yield step


def no_done(steps: Steps, case: Case) -> Steps:
    """No [DONE]."""
    return (step for step in steps if not (isinstance(step, Part) and step.body.rstrip() == DONE.rstrip()))


def comments(steps: Steps, case: Case) -> Steps:
    """Comment lines in frames, and comment-only blocks between them."""
    parts = 0
    for step in steps:
        if isinstance(step, Part):
            parts += 1
            yield Part(b": between\n\n") if parts % 2 else Part(b": before\n", held=True)
        yield step


def close_delimited(steps: Steps, case: Case, *, after: int, cut: str = "") -> Steps:
    """No chunks and no length: FIN ends the body, or, with cut=reset, RST after some frames."""
    steps = reset(steps, case, after=after) if cut == "reset" else steps
    return (replace(step, framing="close") if isinstance(step, Head) else step for step in steps)


def bad_chunk(steps: Steps, case: Case, *, after: int) -> Steps:
    """An invalid chunk size in mid-stream, with the connection left open."""
    step = yield from _lead(_unmeasured(steps), after)
    yield Raw(b"not-a-size\r\n%b\r\n" % _half(step))
    yield Hang()


def garbage(steps: Steps, case: Case) -> Steps:
    """Bytes that are no HTTP, then FIN."""
    yield Raw(b"\x16\x03\x01\x02\x00 this is no HTTP \xff\xfe\r\n\r\n")
    yield Close()


def burst(steps: Steps, case: Case) -> Steps:
    """All frames in one write."""
    for step in steps:
        if isinstance(step, Part):
            yield Part(step.body, held=True)
        elif not isinstance(step, Wait):
            yield step


def late_end(steps: Steps, case: Case, *, seconds: float = 1.0) -> Steps:
    """The body's end comes long after its last frame."""
    for step in steps:
        if isinstance(step, End):
            yield Wait(seconds)
        yield step


def no_blank_line(steps: Steps, case: Case) -> Steps:
    """The last frame lacks its blank line."""
    kept: list[Step] = []
    for step in steps:
        if isinstance(step, End):
            yield from _each_part(iter(kept), lambda body: [body.rstrip(b"\r\n") + b"\n"])
            kept = []
        if isinstance(step, Part):
            yield from kept
            kept = [step]
        else:
            yield from (*kept, step)
            kept = []


def bom(steps: Steps, case: Case) -> Steps:
    """A UTF-8 byte order mark before the first frame."""
    step = yield from _lead(_unmeasured(steps), 0)
    yield Part(b"\xef\xbb\xbf", held=True)
    yield step
    yield from steps


def huge_frame(ask: Ask, *, after: int, bytes: int = 1 << 20) -> Ask:
    """One frame with so many bytes of content."""
    return replace(ask, huge_bytes=bytes, huge_after=after)


def count(ask: Ask, *, frames: int = 100) -> Ask:
    """Exactly so many frames of content."""
    return replace(ask, frames=frames)


def endless(ask: Ask) -> Ask:
    """Frames of content until the client goes."""
    return replace(ask, frames=sys.maxsize) if ask.stream else ask


Fault = Callable[..., Any]
_OF_STEPS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        *(cut_mid_frame, cut_mid_chunk, cut_clean_half_frame, reset, hang, hang_before_head, slow_first_token, stall),
        *(status, retry_after, error_inside, crlf, cr, split_utf8, split_bytes, gzip, no_done, comments),
        *(close_delimited, bad_chunk, garbage, burst, late_end, no_blank_line, bom),
    )
}
# These change what is said, so they come before those that change how it is sent.
_OF_ASK: dict[str, Fault] = {fault.__name__: fault for fault in (huge_frame, count, endless)}
FAULTS = _OF_STEPS | _OF_ASK


def fault_options(fault: Fault) -> dict[str, str]:
    """Return a fault's options and their defaults, as a person reads them."""
    shown = {o.name: "3" if o.default is o.empty else f"{o.default}" for o in _parameters(fault).values()}
    return shown | {"times": "always"}


def _parameters(fault: Fault) -> dict[str, inspect.Parameter]:
    return {name: p for name, p in inspect.signature(fault).parameters.items() if p.kind is p.KEYWORD_ONLY}


class Named(NamedTuple):
    """A fault as a request names it."""

    words: str
    name: str
    options: dict[str, str]

    def apply(self, subject: Any, case: Case) -> Any:
        """Return what the fault makes of steps or of an ask. Raises BadFault."""
        context = (case,) if self.name in _OF_STEPS else ()
        return FAULTS[self.name](subject, *context, **self._read_options(case))

    def _read_options(self, case: Case) -> dict[str, Any]:
        wanted = _parameters(FAULTS[self.name])
        given = {key: value for key, value in self.options.items() if key != "times"}
        if "after" in wanted:
            given.setdefault("after", "3" if case.stream else "0")
        try:
            return {key: wanted[key].annotation(value) for key, value in given.items()}
        except (KeyError, ValueError) as error:
            known = ", ".join(f"{key} ({value})" for key, value in fault_options(FAULTS[self.name]).items())
            raise BadFault(f"{self.words!r} is not understood; {self.name} has the options {known}") from error


def _named_faults(text: str, between: str, within: str) -> Iterator[Named]:
    """Yield every fault a text names. Raises BadFault."""
    for words in filter(None, (part.strip() for part in text.split(between))):
        name, *pairs = (word.strip() for word in words.split(within))
        if name not in FAULTS:
            raise BadFault(f"there is no fault {name!r}; there are {', '.join(FAULTS)}")
        options = dict(pair.partition("=")[::2] for pair in pairs if pair)
        if not options.get("times", "1").isdigit():
            raise BadFault(f"{words!r}: times is a number of requests")
        yield Named(words, name, options)


def _applied(subject: Any, table: Mapping[str, Fault], named: Iterable[Named], case: Case) -> Any:
    for one in named:
        subject = one.apply(subject, case) if one.name in table else subject
    return subject


class Route(NamedTuple):
    """Where answers are generated, and how a request there is read: path, body, seed, whether SSE was asked for."""

    path: re.Pattern[str]
    read: Callable[[str, Mapping[str, Any], int, bool], Ask]


ROUTES = (
    Route(
        re.compile(r"(/compatible-mode)?/v1/chat/completions"),
        lambda path, body, seed, sse: fake_text.read_chat(body, seed),
    ),
    Route(
        re.compile(r"/api/v1/services/aigc/(text|multimodal)-generation/generation"),
        lambda path, body, seed, sse: fake_text.read_native(body, seed, stream=sse, multimodal="/multimodal-" in path),
    ),
    Route(
        re.compile(r"/api/v1/apps/[^/]+/completion"),
        lambda path, body, seed, sse: fake_text.read_app(body, seed, stream=sse),
    ),
)
PREFIXES = ("/compatible-mode/", "/v1/", "/api/v1/")
MODELS = ("qwen-max", "qwen-plus", "qwen-turbo", "qwen3-max", "qwen3-vl-plus", "qwq-plus", "qvq-max")


def _route(received: Received) -> Route | None:
    if received.method != "POST":
        return None
    return next((route for route in ROUTES if route.path.fullmatch(received.path)), None)


def _plain(case: Case, received: Received) -> Steps:
    if (received.method, received.path) == ("GET", "/compatible-mode/v1/models"):
        rows = [{"id": name, "object": "model", "created": 0, "owned_by": "system"} for name in MODELS]
        return _whole(case, orjson.dumps({"object": "list", "data": rows}))
    if received.path.startswith(PREFIXES):
        return _whole(case, _echo(received))
    return _whole(case, b'{"error":"nothing is here"}', 404)


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
        raise Refused(fake_text.invalid(f"the body is not JSON: {error}")) from error
    if not isinstance(body, dict):
        raise Refused(fake_text.invalid("the body is not a JSON object"))
    return body


def _read(route: Route, path: str, body: Mapping[str, Any], seed: int, sse: bool) -> Ask:
    try:
        return route.read(path, body, seed, sse)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Refused(fake_text.invalid(f"the request is malformed: {error!r}")) from error


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
        native, gzip = received.path.startswith("/api/"), "gzip" in received.header("accept-encoding")
        case = Case(stamp, time(), native, gzip)
        if self._require_key and not received.header("authorization").removeprefix("Bearer").strip():
            return _refused(case, BAD_KEY, in_stream=False)
        try:
            return self._planned(received, case)
        except BadFault as error:
            return _refused(case, fake_text.invalid(str(error)), in_stream=False)

    def _planned(self, received: Received, case: Case) -> Steps:
        named = self._due(_named_faults(received.header("fake-fault"), ",", ";"))
        route = _route(received)
        if route is None:
            return cast(Steps, _applied(_plain(case, received), _OF_STEPS, named, case))
        sse = received.header("x-dashscope-sse") == "enable" or "text/event-stream" in received.header("accept")
        try:
            body = _body(received)
            model, _, suffix = str(body.get("model") or "").partition("+")
            named += self._due(_named_faults(suffix, "+", ","))
            case = replace(case, model=model, stream=sse if case.native else bool(body.get("stream")))
            ask = _read(route, received.path, {**body, "model": model}, self._seed, sse)
            steps = self._answer(_applied(ask, _OF_ASK, named, case), case)
        except Refused as refused:
            steps = _refused(case, refused.refusal, in_stream=case.stream)
        return cast(Steps, _applied(steps, _OF_STEPS, named, case))

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
        answer = (NativeAnswer if case.native else ChatAnswer)(ask, case.stamp)
        yield Wait(self._pace.first_s(self._random))
        if ask.stream:
            yield _head(case, 200, _SSE)
            yield from self._paced(answer.frames())
            yield End()
        else:
            yield Wait(sum(self._pace.gap_s(self._random) for _ in answer.frames()))
            yield from _whole(case, answer.whole())

    def _paced(self, frames: Iterator[bytes]) -> Steps:
        held = 0
        for number, frame in enumerate(frames):
            if number and not held and frame is not DONE:
                yield Wait(self._pace.gap_s(self._random))
            held = held - 1 if held else self._pace.held_frames(self._random)
            # [DONE] and the end of the body are one write.
            yield Part(frame, held=held > 0 or frame is DONE)
