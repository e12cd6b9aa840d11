"""One request of a measurement: when its first byte, its tokens and its end came, and whether it was complete.

What counts as a token, and as complete, is decided by the proxy's own readers of the APIs. So the numbers mean the same
as those of its metrics, seen from the client's side.
"""

import asyncio
import itertools
from typing import NamedTuple

from proxy.stream.vitals import Vitals
from proxy.tools.endpoint import Endpoint
from proxy.wire.errors import Overloaded, ProxyError, UpstreamError
from proxy.wire.sse import Splitter

_MAX_FRAME_BYTES = 64 * 1024 * 1024
_SAID_BYTES = 300
_WORDS = {
    "upstream_unreachable": "no connection",
    "upstream_timeout": "no connection in time",
    "upstream_reset": "broken off",
    "upstream_garbled": "not HTTP",
}
"""Codes of errors that tell of an upstream, in words that fit any server."""


class Sample(NamedTuple):
    """What was measured of one request. Times are seconds since it was due; 0.0: that did not come."""

    problem: str
    """Why it is not a complete answer, in a few words; "": it is one."""
    first_byte_s: float = 0.0
    first_token_s: float = 0.0
    duration_s: float = 0.0
    tokens_at: tuple[float, ...] = ()
    """When each event with text came, in monotonic seconds."""
    tokens: int = 0
    """As the answer's usage states them; 0: it has none."""
    said: str = ""
    """The beginning of a refusal."""

    @property
    def gaps_s(self) -> list[float]:
        """The times between two events with text; 0 between those of one read."""
        return [later - earlier for earlier, later in itertools.pairwise(self.tokens_at)]

    @property
    def tokens_per_s(self) -> float:
        """How fast the tokens after the first came; 0: not known."""
        streaming_s = self.tokens_at[-1] - self.tokens_at[0] if self.tokens_at else 0.0
        return (self.tokens - 1) / streaming_s if self.tokens > 1 and streaming_s > 0 else 0.0


class Call:
    """A Receiver that keeps one response with the times of its reads, and reads it when it is over.

    Not while it comes, because that would delay the reads that follow, and all other calls' (20 % of a short answer).
    """

    def __init__(self, endpoint: Endpoint, due_at: float) -> None:
        self._dialect = endpoint.api.dialect
        self._due_at = due_at
        self._reads: list[tuple[float, bytes]] = []
        self._ended_at = due_at
        self._over: asyncio.Future[UpstreamError | None] = asyncio.get_running_loop().create_future()

    def received(self, data: bytes, at: float) -> None:
        self._reads.append((at, data))

    def ended(self, data: bytes, at: float, error: UpstreamError | None) -> None:
        if data:
            self.received(data, at)
        self._ended_at = at
        if not self._over.done():
            self._over.set_result(error)

    def failed(self, fault: Exception) -> None:
        if not self._over.done():
            self._over.set_exception(fault)

    async def sample(self) -> Sample:
        """Wait for the end; return what was measured. Raises: TooLarge."""
        error = await self._over
        vitals = Vitals(self._dialect, self._due_at)
        times: list[float] = []
        splitter = Splitter(_MAX_FRAME_BYTES)
        has_events = False
        for at, data in self._reads:
            frames = splitter.feed(data)
            has_events = has_events or bool(frames)
            vitals.note(frames, at, times)
        tokens_at = [vitals.first_token_at, *times] if vitals.first_token_at else []
        usage = vitals.reader.usage
        return Sample(
            problem=_problem(vitals, error) if has_events or error is not None else "no event stream",
            first_byte_s=max(0.0, vitals.first_byte_at - self._due_at),
            first_token_s=max(0.0, vitals.first_token_at - self._due_at),
            duration_s=max(0.0, self._ended_at - self._due_at),
            tokens_at=tuple(tokens_at),
            tokens=0 if usage is None else usage.completion,
        )


def _problem(vitals: Vitals, error: UpstreamError | None) -> str:
    """Return why a response is not a complete answer; "": it is. `error`: why its body is not whole, as HTTP tells."""
    reader = vitals.reader
    if reader.failure is not None:
        return "error event"
    if reader.ended and reader.has_content:
        return ""
    if error is not None:
        return "broken off"
    return "" if reader.has_content and reader.finished else "incomplete"


async def measured(endpoint: Endpoint, body: bytes, due_at: float) -> Sample:
    """Send a request that was due at a time, and measure its response."""
    try:
        exchange = await endpoint.ask(body)
    except (UpstreamError, Overloaded) as error:
        return Sample(_named(error))
    call = Call(endpoint, due_at)
    try:
        if exchange.status != 200:
            said = await exchange.peek(lambda body: len(body) >= _SAID_BYTES)
            return Sample(f"status {exchange.status}", said=said[:_SAID_BYTES].decode(errors="replace"))
        exchange.attach(call)
        return await call.sample()
    except ProxyError as error:
        return Sample(_named(error))
    finally:
        exchange.close()


def _named(error: ProxyError) -> str:
    """Return the kind of the error: one of a few, so that equal ones can be counted."""
    return _WORDS.get(error.code, error.code.replace("_", " "))
