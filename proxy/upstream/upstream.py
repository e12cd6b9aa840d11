"""A configured upstream as requests choose it: its key, the queue before it, and the breaker that keeps them away.

The queue and the breaker decide and know no clock; here they meet the event loop. An upstream without limits and
without spares has neither, and costs a request nothing.
"""

import asyncio
import functools
import math
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from dataclasses import dataclass
from time import monotonic

from proxy.dialects.credentials import KEY_HEADERS, key_header
from proxy.dialects.route import Route
from proxy.stream.background import BackgroundLoop
from proxy.upstream.breaker import Breaker, State
from proxy.upstream.exchange import Exchange
from proxy.upstream.pool import ConnectionPool
from proxy.upstream.request_queue import RequestQueue
from proxy.wire.errors import Overloaded, RateLimited, UpstreamError
from proxy.wire.http import Headers


@dataclass  # made in half the time that a NamedTuple takes
class UpstreamRequest:
    """A request as it goes upstream: but for the key, which the upstream puts on."""

    route: Route  # by which it came
    method: bytes
    target: bytes
    headers: Headers
    body: bytes | AsyncIterable[bytes]
    caller: bytes
    generation: bool = False  # answered with what generations are answered with, refusals included
    unwraps: bool = False  # a refusal that is framed as SSE becomes JSON
    chunked: bool = False
    once: bool = False  # not asked for again when it is refused, though its body is at hand


class Upstream:
    """One upstream, and what stands before it."""

    __slots__ = (
        "_credentials",
        "_hides_keys",
        "_key",
        "_on_wait",
        "_queue_s",
        "_timer",
        "background",
        "breaker",
        "chosen",
        "credit",
        "name",
        "pool",
        "queue",
        "weight",
    )

    def __init__(
        self,
        name: str,
        pool: ConnectionPool,
        *,
        weight: int = 1,
        key: str = "",
        credentials: Iterable[str] = KEY_HEADERS,
        hides_keys: bool = False,
        breaker: Breaker | None = None,
        queue: RequestQueue | None = None,
        queue_s: float = 0.0,
        on_wait: Callable[[float], object] = float,
    ) -> None:
        """`key` goes up instead of those that callers show in the headers `credentials`; "": theirs go, as they come.

        `hides_keys`: theirs never go, since they are keys of ours.
        `queue_s` 0 is no limit; `on_wait` is told how long each request waited in the queue.
        """
        self.name = name
        self.pool = pool
        self.weight = weight
        self.credit = 0  # of the choice by weight
        self.chosen = 0
        self.breaker = breaker
        self.queue = queue
        self._key = key
        self._credentials = frozenset(name.lower().encode() for name in credentials)
        self._hides_keys = hides_keys or bool(key)
        self._queue_s = queue_s
        self._on_wait = on_wait
        self.background = BackgroundLoop(f"queue:{name}", monotonic)
        self._timer: asyncio.TimerHandle | None = None

    @property
    def has_key(self) -> bool:
        """True when its key is ours: what it says of a key is then no single caller's matter."""
        return self._key != ""

    @property
    def state(self) -> State:
        return self.breaker.state(monotonic()) if self.breaker is not None else State.CLOSED

    def allows(self, now: float) -> bool:
        """Tell whether its breaker lets a request through."""
        return self.breaker is None or self.breaker.allows(now)

    def free(self, now: float) -> bool:
        """Tell whether a request would go at once."""
        return self.queue is None or self.queue.free(now)

    @property
    def at_once(self) -> bool:
        """True when nothing stands before it, and nobody wants to know how a request fared."""
        return self.queue is None and self.breaker is None

    def send(self, request: UpstreamRequest) -> Awaitable[Exchange]:
        """Send a request without a turn; what is returned waits for the answer. Raises, then: UpstreamError."""
        self.chosen += 1
        return self._send(request)

    async def open(self, request: UpstreamRequest) -> tuple[Exchange, "Attempt | None"]:
        """Send a request when it is its turn; return its exchange, and its attempt if anybody wants its outcome.

        Raises: RateLimited, Overloaded, UpstreamError.
        """
        if self.at_once:
            return await self.send(request), None
        self.chosen += 1
        attempt = Attempt(self)
        try:
            await self._admitted(attempt, request.caller)
            exchange = await self._send(request)
        except UpstreamError as error:
            attempt.released(error)
            raise
        except BaseException:
            attempt.over()
            raise
        exchange.on_released = attempt.released
        return exchange, attempt

    def advance(self) -> None:
        """Let in whose turn it is, now and again when the rate allows the next."""
        if self.queue is None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = monotonic()
        at: float | None = now + 1
        with self.background:
            at = self.queue.advance(now)
        if at is not None:
            self._timer = asyncio.get_running_loop().call_later(max(0.001, at - now), self.advance)

    def _send(self, request: UpstreamRequest) -> Awaitable[Exchange]:
        headers = request.headers
        if self._hides_keys:
            headers = [header for header in headers if header[0].lower() not in self._credentials]
            if self._key:
                headers.append(key_header(request.route.key_header, self._key))
        return self.pool.open(request.method, request.target, headers, request.body, chunked=request.chunked)

    async def _admitted(self, attempt: "Attempt", caller: bytes) -> None:
        """Wait for a place. Raises: RateLimited, Overloaded."""
        queue = self.queue
        if queue is None:
            return
        began_at = monotonic()
        expected_s = queue.expected_wait_s(began_at)
        if self._queue_s and expected_s > self._queue_s:
            raise _refused(expected_s, f"it would be {expected_s:.0f} s, {self._queue_s:g} are allowed")
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ticket = queue.enter(caller, began_at, functools.partial(_admit, admitted))
        if ticket is None:
            raise _refused(expected_s, f"{queue.waiting} requests wait already")
        try:
            if not ticket.admitted:
                self.advance()
                async with asyncio.timeout(self._queue_s or None):
                    await admitted
        except TimeoutError:
            if not ticket.admitted:
                raise _refused(expected_s, f"it lasted {self._queue_s:g} s, no more is allowed") from None
        finally:
            attempt.holds_place = ticket.admitted  # also when the client left in the same turn
            if not ticket.admitted:
                queue.leave(ticket)
                self.advance()
        self._on_wait(monotonic() - began_at)


class Attempt:
    """One request at an upstream: the place it holds in the queue, and what its outcome tells the circuit breaker.

    The first outcome counts; none before it is over means that its client left.
    """

    __slots__ = ("_judged", "_trial", "_upstream", "holds_place")

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._trial = upstream.breaker is not None and upstream.breaker.goes(monotonic())
        self._judged = upstream.breaker is None
        self.holds_place = False

    def succeeded(self) -> None:
        if not self._judged and self._upstream.breaker is not None:
            self._judged = True
            self._upstream.breaker.succeeded(self._trial)

    def failed(self, retry_after_s: float | None = None) -> None:
        if not self._judged and self._upstream.breaker is not None:
            self._judged = True
            self._upstream.breaker.failed(self._trial, monotonic(), retry_after_s)

    def gave_no_verdict(self) -> None:
        if not self._judged and self._upstream.breaker is not None:
            self._judged = True
            self._upstream.breaker.gave_up(self._trial)

    def released(self, error: UpstreamError | None) -> None:
        """The exchange is over, one way or another."""
        if error is None:
            self.succeeded()
        elif error.blames_upstream:
            self.failed()
        self.over()

    def over(self) -> None:
        """Give the place to the next one."""
        self.gave_no_verdict()
        if self.holds_place and self._upstream.queue is not None:
            self.holds_place = False
            self._upstream.queue.release()
            self._upstream.advance()


def _admit(admitted: asyncio.Future[None]) -> None:
    if not admitted.done():
        admitted.set_result(None)


def _refused(expected_s: float, why: str) -> RateLimited | Overloaded:
    message = f"the queue before the upstream is too long: {why}"
    after_s = max(1, math.ceil(expected_s))
    return RateLimited(message, after_s) if expected_s else Overloaded(message, after_s)
