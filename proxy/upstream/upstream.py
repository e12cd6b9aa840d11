"""A configured upstream: its connections, its key, its request queue, and its circuit breaker.

The queue and the breaker only decide, and know no clock; this module connects them with the event loop. An upstream
without limits and without spares has neither, and adds no overhead to a request.
"""

import asyncio
import functools
import math
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from dataclasses import dataclass
from time import monotonic

from proxy.dialects.route import KEY_HEADERS, Route, key_header
from proxy.stream.faults import BackgroundLoop
from proxy.timers import Within
from proxy.upstream.breaker import Breaker, State
from proxy.upstream.exchange import Exchange
from proxy.upstream.pool import ConnectionPool
from proxy.upstream.request_queue import RequestQueue
from proxy.wire.errors import Overloaded, RateLimited, UpstreamError
from proxy.wire.http import Headers


@dataclass(init=False)  # its own __init__ would stay interpreted in compiled modules: 1 us
class UpstreamRequest:
    """A request as it is sent upstream, except for the key, which the upstream adds."""

    route: Route  # the route of the client's request
    method: bytes
    target: bytes
    headers: Headers
    body: bytes | AsyncIterable[bytes]
    caller: bytes
    generation: bool  # it requests a generation, so errors may be framed as SSE
    unwraps: bool  # an error response that is framed as SSE becomes JSON
    chunked: bool
    once: bool  # an error response is not retried, although the body is available
    switches: bool  # it asks to switch to another protocol
    upstream: str  # the name of the upstream that serves its model; "": the usual one
    alone: bool  # it may not be sent to a spare of that one: none knows the response that it refers to

    def __init__(
        self,
        route: Route,
        method: bytes,
        target: bytes,
        headers: Headers,
        body: bytes | AsyncIterable[bytes],
        caller: bytes,
        generation: bool = False,
        unwraps: bool = False,
        chunked: bool = False,
        once: bool = False,
        switches: bool = False,
        upstream: str = "",
        alone: bool = False,
    ) -> None:
        self.route = route
        self.method = method
        self.target = target
        self.headers = headers
        self.body = body
        self.caller = caller
        self.generation = generation
        self.unwraps = unwraps
        self.chunked = chunked
        self.once = once
        self.switches = switches
        self.upstream = upstream
        self.alone = alone


class Upstream:
    """One upstream with its connections, its queue and its breaker."""

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
        """`key` replaces the keys of callers, which are in the headers `credentials`; if empty, theirs are forwarded.

        `hides_keys`: the keys of callers are never forwarded, because they are keys of this proxy.
        `queue_s` 0 is no limit; `on_wait` is called with the seconds that each request waited in the queue.
        """
        self.name = name
        self.pool = pool
        self.weight = weight
        self.credit = 0  # for the choice by weight
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
        """True when it is used with the proxy's own key, so that errors about the key concern all callers."""
        return self._key != ""

    def use_key(self, key: str) -> None:
        """Send another key of the proxy's own from now on, in place of the one it has."""
        self._key = key

    @property
    def state(self) -> State:
        return self.breaker.state(monotonic()) if self.breaker is not None else State.CLOSED

    def allows(self, now: float) -> bool:
        """Return whether its breaker allows a request."""
        return self.breaker is None or self.breaker.allows(now)

    def free(self, now: float) -> bool:
        """Return whether a request would be sent at once."""
        return self.queue is None or self.queue.free(now)

    @property
    def at_once(self) -> bool:
        """True when it has neither a queue nor a breaker."""
        return self.queue is None and self.breaker is None

    def send(self, request: UpstreamRequest) -> Awaitable[Exchange]:
        """Send a request without queueing; awaiting the result waits for the response, and raises UpstreamError."""
        self.chosen += 1
        return self._send(request)

    async def open(self, request: UpstreamRequest) -> tuple[Exchange, "Attempt | None"]:
        """Send a request when it is its turn; return its exchange, and its attempt if there is a queue or a breaker.

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
        """Admit waiting requests, now and again when the rate limit allows the next one."""
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
        return self.pool.open(
            request.method, request.target, headers, request.body, chunked=request.chunked, switches=request.switches,
            label=request.route.name,
        )  # fmt: skip

    async def _admitted(self, attempt: "Attempt", caller: bytes) -> None:
        """Wait in the queue until the request is admitted. Raises: RateLimited, Overloaded."""
        queue = self.queue
        if queue is None:
            return
        began_at = monotonic()
        expected_s = queue.expected_wait_s(began_at)
        if self._queue_s and expected_s > self._queue_s:
            raise _refused(expected_s, f"the wait would be {expected_s:.0f} s, {self._queue_s:g} s are allowed")
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ticket = queue.enter(caller, began_at, functools.partial(_admit, admitted))
        if ticket is None:
            raise _refused(expected_s, f"{queue.waiting} requests wait already, no more are allowed")
        try:
            if not ticket.admitted:
                self.advance()
                with Within(self._queue_s):
                    await admitted
        except TimeoutError:
            if not ticket.admitted:
                raise _refused(expected_s, f"the request waited the {self._queue_s:g} s that are allowed") from None
        finally:
            attempt.holds_place = ticket.admitted  # also if it was cancelled in the same moment
            if not ticket.admitted:
                queue.leave(ticket)
                self.advance()
        self._on_wait(monotonic() - began_at)


class Attempt:
    """One attempt at an upstream: holds a place in the queue, and reports its outcome to the breaker.

    Only the first outcome counts; an attempt that ends without one was abandoned by its client.
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
        """Report the outcome of an exchange that has ended, and free its place."""
        if error is None:
            self.succeeded()
        elif error.blames_upstream:
            self.failed()
        self.over()

    def over(self) -> None:
        """End the attempt, and give its place in the queue to the next request."""
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
