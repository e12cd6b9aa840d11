"""The plan of the fake's answers as a line of `Step`s, and the faults that rewrite it. No sockets.

A fault's first line of docstring says what it does, its keywords are its options. Common are `after`, complete frames
sent before it (3; 0 if the answer is not a stream), and, for every fault, `times`: only the first so many requests
that name it in these very words are served it.
"""

import inspect
import re
import sys
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from email.utils import formatdate
from time import time
from typing import Any, Literal, NamedTuple

from proxy.tools.fake import native
from proxy.tools.fake.api import Api
from proxy.tools.fake.chat import DONE
from proxy.tools.fake.messages import PING
from proxy.tools.fake.refusals import BAD_KEY, OUTPUT_INSPECTION, REFUSALS, Refusal, find_refusal
from proxy.tools.fake.text import Ask, Stamp

State = Literal["open", "complete", "client_gone", "cut"]
Framing = Literal["chunked", "length", "close", "none"]


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
    api: Api
    gzip: bool
    """Whether the client takes gzip."""
    model: str = ""
    stream: bool = False

    def error_frame(self, refusal: Refusal, number: int, *, flat: int = 0) -> bytes:
        """Return the frame, with this number in its stream, that tells of an error."""
        frame = self.api.flat_error_frame if flat else self.api.error_frame
        return frame(refusal, self.stamp, self.model, number)


SSE = "text/event-stream;charset=UTF-8"  # recorded: no space
_VARY = "Origin,Access-Control-Request-Method,Access-Control-Request-Headers"


def head(case: Case, status: int, content_type: str, length: int | None = None) -> Head:
    """Return the head as of now: the service answers only once the model has started, and its headers tell when."""
    now = time()
    cost_ms = int((now - case.arrived) * 1000)
    rows = (
        (True, "vary", _VARY if length is None else f"{_VARY}, Accept-Encoding"),
        (True, "x-request-id", case.stamp.request_id),
        (bool(content_type), "content-type", content_type),
        (True, "x-dashscope-call-gateway", "true"),
        (case.api.native, "x-dashscope-timeout", "298"),
        (case.api.native, "x-dashscope-finished", "true" if length is not None else "false"),
        (True, "req-cost-time", f"{cost_ms}"),
        (True, "req-arrive-time", f"{int(case.arrived * 1000)}"),
        (True, "resp-start-time", f"{int(now * 1000)}"),
        (True, "x-envoy-upstream-service-time", f"{max(0, cost_ms - 2)}"),
        (True, "date", formatdate(now, usegmt=True)),
        (True, "server", "istio-envoy"),
    )
    headers = tuple((name, value) for present, name, value in rows if present)
    return Head(status, headers, "chunked" if length is None else "length", length)


def whole(case: Case, body: bytes, status: int = 200, content_type: str = "application/json") -> Steps:
    yield head(case, status, content_type, len(body))
    yield Part(body)
    yield End()


def refusal_steps(case: Case, refusal: Refusal, *, in_stream: bool) -> Steps:
    """Yield a refusal. One for a stream is a frame: natively in an HTTP 200, compatibly in an HTTP 400."""
    api = case.api
    if in_stream:
        yield head(case, api.refuses_streams_with or refusal.status, SSE)
        yield Part((api.refusal_frame or api.error_frame)(refusal, case.stamp, case.model, 1))
        yield End()
        return
    body = api.refusal_body(refusal, case.stamp, case.model)
    bare = api.native and refusal is BAD_KEY  # recorded without a content-type
    yield from whole(case, body, refusal.status, "" if bare else "application/json")


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
    found = find_refusal(asked, code) if asked or code else default
    if found is None:
        raise BadFault(f"no refusal has status={status or 'any'} and code={code or 'any'}")
    return found


def status(steps: Steps, case: Case, *, status: str = "400", code: str = "", flat: int = 0, empty: int = 0) -> Steps:
    """Refuses before the stream with an HTTP status (and code); 400_stream: as SSE; flat=1; empty=1: no body."""
    refusal = _named_refusal(status, code, REFUSALS[0])
    if empty:
        return whole(case, b"", refusal.status, "")
    if flat:
        return whole(case, native.refusal_body(refusal, case.stamp, case.model), refusal.status)
    return refusal_steps(case, refusal, in_stream=status.endswith("_stream"))


def retry_after(steps: Steps, case: Case, *, seconds: float = 1.0, status: str = "429", code: str = "") -> Steps:
    """Refuses as `status` does, with a Retry-After."""
    refusal = _named_refusal(status, code, REFUSALS[0])
    return _headed(refusal_steps(case, refusal, in_stream=False), "retry-after", f"{seconds:g}")


def error_inside(steps: Steps, case: Case, *, after: int, code: str = "", flat: int = 0, done: int = 0) -> Steps:
    """An error event in the HTTP 200 stream, then its end; flat=1: in an odd form; done=1: the last frame follows."""
    refusal = _named_refusal("", code, OUTPUT_INSPECTION)
    return _erring(_unmeasured(steps), case, refusal, after, flat=flat, done=done)


def _erring(steps: Steps, case: Case, refusal: Refusal, after: int, *, flat: int, done: int) -> Steps:
    sent = 0
    for step in _lead(steps, after):
        sent += isinstance(step, Part)
        yield step
    yield Part(case.error_frame(refusal, sent + 1, flat=flat))
    if done:
        yield Part(case.api.last or DONE)
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
    """The frame at the end of every stream is missing: [DONE], or message_stop."""
    last = case.api.last.rstrip()
    return (step for step in steps if not (isinstance(step, Part) and last and step.body.rstrip() == last))


def comments(steps: Steps, case: Case) -> Steps:
    """Comment lines in frames, and comment-only blocks between them."""
    parts = 0
    for step in steps:
        if isinstance(step, Part):
            parts += 1
            yield Part(b": between\n\n") if parts % 2 else Part(b": before\n", held=True)
        yield step


def pings(steps: Steps, case: Case) -> Steps:
    """Events named ping, as Anthropic has them: before the first event, between all, and after the last."""
    for step in steps:
        if isinstance(step, Part):
            yield Part(PING, held=True)
        elif isinstance(step, End):
            yield Part(PING)
        yield step


def spaced(steps: Steps, case: Case) -> Steps:
    """A space after the colon of each field, as OpenAI and Anthropic write them."""
    return _each_part(steps, lambda body: [re.sub(rb"(?m)^(\w+):(?! )", rb"\1: ", body)])


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


def openai(ask: Ask) -> Ask:
    """Responses as OpenAI spells them: with spaces, without ids and statuses, calls in pieces."""
    return replace(ask, spaced=True)


def sparse(ask: Ask) -> Ask:
    """Deltas of responses without item_id and content_index."""
    return replace(ask, sparse=True)


Fault = Callable[..., Any]
OF_STEPS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        *(cut_mid_frame, cut_mid_chunk, cut_clean_half_frame, reset, hang, hang_before_head, slow_first_token, stall),
        *(status, retry_after, error_inside, crlf, cr, split_utf8, split_bytes, gzip, no_done, comments, pings, spaced),
        *(close_delimited, bad_chunk, garbage, burst, late_end, no_blank_line, bom),
    )
}
# These change what is said, so they come before those that change how it is sent.
OF_ASK: dict[str, Fault] = {fault.__name__: fault for fault in (huge_frame, count, endless, openai, sparse)}
FAULTS = OF_STEPS | OF_ASK


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
        context = (case,) if self.name in OF_STEPS else ()
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


def named_faults(text: str, between: str, within: str) -> Iterator[Named]:
    """Yield every fault a text names. Raises BadFault."""
    for words in filter(None, (part.strip() for part in text.split(between))):
        name, *pairs = (word.strip() for word in words.split(within))
        if name not in FAULTS:
            raise BadFault(f"there is no fault {name!r}; there are {', '.join(FAULTS)}")
        options = dict(pair.partition("=")[::2] for pair in pairs if pair)
        if not options.get("times", "1").isdigit():
            raise BadFault(f"{words!r}: times is a number of requests")
        yield Named(words, name, options)


def applied(subject: Any, table: Mapping[str, Fault], named: Iterable[Named], case: Case) -> Any:
    for one in named:
        subject = one.apply(subject, case) if one.name in table else subject
    return subject
