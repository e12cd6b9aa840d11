"""The steps of an answer: what is sent to the client, and when. No sockets.

An answer is an iterator of steps. `connection` performs them; `faults` rewrites them before.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import formatdate
from time import time
from typing import Literal

from proxy.tools.fake.api import Api
from proxy.tools.fake.refusals import BAD_KEY, Refusal
from proxy.tools.fake.text import Stamp

State = Literal["open", "complete", "client_gone", "cut"]
Framing = Literal["chunked", "length", "close", "none"]


@dataclass(frozen=True, slots=True)
class Wait:
    """A pause."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Head:
    """Status line and headers; `framing` is how the client finds the end of the body."""

    status: int
    headers: tuple[tuple[str, str], ...]
    framing: Framing
    length: int | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """Body bytes, usually a frame: one HTTP chunk and one write; if `held`, sent in one write with the next step."""

    body: bytes
    held: bool = False


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes that are written as they are, without framing; `body` is the part of them that counts as body."""

    wire: bytes
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class End:
    """The proper end of the body."""

    state: State = "complete"


@dataclass(frozen=True, slots=True)
class Close:
    """A FIN, though the body may be incomplete."""


@dataclass(frozen=True, slots=True)
class Reset:
    """A TCP RST."""


@dataclass(frozen=True, slots=True)
class Hang:
    """Nothing more, until the client disconnects."""


Step = Wait | Head | Part | Raw | End | Close | Reset | Hang
Steps = Iterator[Step]


@dataclass(frozen=True, slots=True)
class Case:
    """What the steps of an answer depend on: the API of the request, its model, and the identifiers of the exchange."""

    stamp: Stamp
    arrived: float
    """Unix time."""
    api: Api
    gzip: bool
    """Whether the client accepts gzip."""
    model: str = ""
    stream: bool = False

    def error_frame(self, refusal: Refusal, number: int, *, flat: int = 0) -> bytes:
        """Return the frame that reports an error; `number` is its place in the stream."""
        frame = self.api.flat_error_frame if flat else self.api.error_frame
        return frame(refusal, self.stamp, self.model, number)


SSE = "text/event-stream;charset=UTF-8"  # recorded: no space
_VARY = "Origin,Access-Control-Request-Method,Access-Control-Request-Headers"


def head(case: Case, status: int, content_type: str, length: int | None = None) -> Head:
    """Return the head of an answer that starts now: its headers hold the current time, and the time since arrival."""
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
    """Yield an answer that is sent at once, with a Content-Length."""
    yield head(case, status, content_type, len(body))
    yield Part(body)
    yield End()


def refusal_steps(case: Case, refusal: Refusal, *, in_stream: bool) -> Steps:
    """Yield an error response.

    In a stream the error is a frame, with HTTP status 200 or that of the error, as `Api.refuses_streams_with` says.
    """
    api = case.api
    if in_stream:
        yield head(case, api.refuses_streams_with or refusal.status, SSE)
        yield Part((api.refusal_frame or api.error_frame)(refusal, case.stamp, case.model, 1))
        yield End()
        return
    body = api.refusal_body(refusal, case.stamp, case.model)
    bare = api.native and refusal is BAD_KEY  # recorded without a content-type
    yield from whole(case, body, refusal.status, "" if bare else "application/json")
