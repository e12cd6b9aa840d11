"""The faults of the fake: each a function that returns the steps of an answer, or the request, changed. No sockets.

A new fault is a function here, in one of the tables below. The first line of its docstring is what `streamtee faults`
shows, and its keyword-only arguments are its options. Two options are the same everywhere: `after` is how many complete
frames are sent before the fault (default 3; 0 if the answer is not a stream); `times`, which every fault has, limits
it to so many of the first requests that choose it with exactly the same words.
"""

import re
import sys
import zlib
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

from proxy.tools.fake import native
from proxy.tools.fake.chat import DONE
from proxy.tools.fake.refusals import OUTPUT_INSPECTION, REFUSALS, Refusal, find_refusal
from proxy.tools.fake.steps import (
    Case,
    Close,
    End,
    Hang,
    Head,
    Part,
    Raw,
    Reset,
    Step,
    Steps,
    Wait,
    refusal_steps,
    whole,
)
from proxy.tools.fake.text import Ask

_PING = b'event:ping\ndata:{"type":"ping"}\n\n'


class BadFault(ValueError):
    """A request chose a fault that does not exist, or an option that the fault does not have."""


def _steps_before(steps: Steps, after: int) -> Generator[Step, None, Part | End]:
    """Yield the steps up to and with `after` parts; return the next part, or the end if it comes first."""
    seen = 0
    for step in steps:
        if isinstance(step, End) or (isinstance(step, Part) and seen == after):
            return step
        seen += isinstance(step, Part)
        yield step
    return End()


def _half(step: Part | End) -> bytes:
    """Return the first half of a part's bytes."""
    return step.body[: len(step.body) // 2] if isinstance(step, Part) else b""


def _without_length(steps: Steps) -> Steps:
    """Yield the steps, chunked in place of a Content-Length, which would be wrong after the fault."""
    for step in steps:
        yield replace(step, framing="chunked") if isinstance(step, Head) and step.framing == "length" else step


def _with_header(steps: Steps, name: str, value: str) -> Steps:
    """Yield the steps with one more header in the head."""
    for step in steps:
        yield replace(step, headers=(*step.headers, (name, value))) if isinstance(step, Head) else step


def _each_part(steps: Steps, rewrite: Callable[[bytes], list[bytes]]) -> Steps:
    """Yield the steps with each part replaced by those that `rewrite` returns, at least one."""
    for step in steps:
        if isinstance(step, Part):
            *parts, last = rewrite(step.body)
            yield from map(Part, parts)
            yield Part(last, step.held)
        else:
            yield step


def cut_mid_frame(steps: Steps, case: Case, *, after: int) -> Steps:
    """Half a frame as a whole HTTP chunk, then FIN without the end chunk."""
    step = yield from _steps_before(steps, after)
    yield Part(_half(step))
    yield Close()


def cut_mid_chunk(steps: Steps, case: Case, *, after: int) -> Steps:
    """FIN inside an HTTP chunk."""
    step = yield from _steps_before(_without_length(steps), after)
    half = _half(step)
    yield Raw(b"%x\r\n%b" % (2 * len(half) + 1, half), half)
    yield Close()


def cut_clean_half_frame(steps: Steps, case: Case, *, after: int) -> Steps:
    """Half a frame, then a proper end of the body."""
    step = yield from _steps_before(_without_length(steps), after)
    yield Part(_half(step))
    yield End("cut")


def reset(steps: Steps, case: Case, *, after: int) -> Steps:
    """TCP RST."""
    yield from _steps_before(steps, after)
    yield Reset()


def hang(steps: Steps, case: Case, *, after: int) -> Steps:
    """Nothing more, with the connection left open."""
    yield from _steps_before(steps, after)
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
    step = yield from _steps_before(steps, after)
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
    """Refuses with an HTTP status (and code); 400_stream: as SSE; flat=1: in the native form; empty=1: no body."""
    refusal = _named_refusal(status, code, REFUSALS[0])
    if empty:
        return whole(case, b"", refusal.status, "")
    if flat:
        return whole(case, native.refusal_body(refusal, case.stamp, case.model), refusal.status)
    return refusal_steps(case, refusal, in_stream=status.endswith("_stream"))


def retry_after(steps: Steps, case: Case, *, seconds: float = 1.0, status: str = "429", code: str = "") -> Steps:
    """Refuses as `status` does, with a Retry-After."""
    refusal = _named_refusal(status, code, REFUSALS[0])
    return _with_header(refusal_steps(case, refusal, in_stream=False), "retry-after", f"{seconds:g}")


def error_inside(steps: Steps, case: Case, *, after: int, code: str = "", flat: int = 0, done: int = 0) -> Steps:
    """An error event in the HTTP 200 stream, then its end; flat=1: in a rarer form; done=1: then the last frame."""
    refusal = _named_refusal("", code, OUTPUT_INSPECTION)
    return _erring(_without_length(steps), case, refusal, after, flat=flat, done=done)


def _erring(steps: Steps, case: Case, refusal: Refusal, after: int, *, flat: int, done: int) -> Steps:
    sent = 0
    for step in _steps_before(steps, after):
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
    return _with_header(_zipped(_without_length(steps)), "content-encoding", "gzip") if case.gzip else steps


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
    """Events named ping, as Anthropic sends them: before the first event, between all, and after the last."""
    for step in steps:
        if isinstance(step, Part):
            yield Part(_PING, held=True)
        elif isinstance(step, End):
            yield Part(_PING)
        yield step


def spaced(steps: Steps, case: Case) -> Steps:
    """A space after the colon of each field, as OpenAI and Anthropic write them."""
    return _each_part(steps, lambda body: [re.sub(rb"(?m)^(\w+):(?! )", rb"\1: ", body)])


def close_delimited(steps: Steps, case: Case, *, after: int, cut: str = "") -> Steps:
    """Neither chunks nor a length: FIN ends the body, or, with cut=reset, RST after some frames."""
    steps = reset(steps, case, after=after) if cut == "reset" else steps
    return (replace(step, framing="close") if isinstance(step, Head) else step for step in steps)


def bad_chunk(steps: Steps, case: Case, *, after: int) -> Steps:
    """An invalid chunk size in mid-stream, with the connection left open."""
    step = yield from _steps_before(_without_length(steps), after)
    yield Raw(b"not-a-size\r\n%b\r\n" % _half(step))
    yield Hang()


def garbage(steps: Steps, case: Case) -> Steps:
    """Bytes that are not HTTP, then FIN."""
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
    step = yield from _steps_before(_without_length(steps), 0)
    yield Part(b"\xef\xbb\xbf", held=True)
    yield step
    yield from steps


def huge_frame(ask: Ask, *, after: int, bytes: int = 1 << 20) -> Ask:
    """One frame with that many bytes of content."""
    return replace(ask, huge_bytes=bytes, huge_after=after)


def count(ask: Ask, *, frames: int = 100) -> Ask:
    """Exactly that many frames of content."""
    return replace(ask, frames=frames)


def endless(ask: Ask) -> Ask:
    """Frames of content until the client disconnects."""
    return replace(ask, frames=sys.maxsize) if ask.stream else ask


def openai(ask: Ask) -> Ask:
    """Responses as OpenAI spells them: with spaces, without ids and statuses, calls in pieces."""
    return replace(ask, spaced=True)


def sparse(ask: Ask) -> Ask:
    """Deltas of responses without item_id and content_index."""
    return replace(ask, sparse=True)


Fault = Callable[..., Any]
# These change how the answer is sent: its steps.
OF_STEPS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        *(cut_mid_frame, cut_mid_chunk, cut_clean_half_frame, reset, hang, hang_before_head, slow_first_token, stall),
        *(status, retry_after, error_inside, crlf, cr, split_utf8, split_bytes, gzip, no_done, comments, pings, spaced),
        *(close_delimited, bad_chunk, garbage, burst, late_end, no_blank_line, bom),
    )
}
# These change the request, and so what is answered; they are applied first, before there are steps.
OF_ASK: dict[str, Fault] = {fault.__name__: fault for fault in (huge_frame, count, endless, openai, sparse)}
FAULTS = OF_STEPS | OF_ASK
