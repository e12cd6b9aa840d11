"""Sends a request to one of several upstreams, and retries it where that is useful.

A request is retried only before any part of a response has reached its client, and only if the attempt was free of
charge: if no connection was made; if the error is transient by the table of Qwen's error codes and has a configured
status; or if the proxy's own key was refused and a spare has another. Without retries there is no overhead.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from time import monotonic
from typing import Final, NamedTuple

from proxy.dialects.error_codes import Fault, Trouble, trouble
from proxy.dialects.failure import Failure, Refusal, read_refusal, reported
from proxy.timers import Within
from proxy.upstream.backoff import Backoff, retry_after_s
from proxy.upstream.exchange import Exchange
from proxy.upstream.upstream import Attempt, Upstream, UpstreamRequest
from proxy.wire.errors import Overloaded, RateLimited, UpstreamError
from proxy.wire.sse import Splitter

_REFUSAL_BYTES: Final = 64 * 1024  # a larger response is not inspected
_REFUSAL_S = 5.0  # for an error response to be complete; after it, the response is forwarded uninspected
_BUSY_S: Final = 1.0  # the ceiling of the wait before the first retry if there was no connection

Paths = Mapping[str, str]
"""The paths of one upstream that the prefixes of routes stand for, by prefix."""

OpenExchange = Callable[[UpstreamRequest], Awaitable[Exchange]]
"""Sends a request upstream; awaiting the result waits for the head of the response, as in UpstreamGroup.open."""


class Retries(NamedTuple):
    """When a request is retried, and how long to wait between attempts, in seconds."""

    attempts: int = 0
    statuses: tuple[int, ...] = (429, 503)
    wait_max_s: float = 8.0
    total_s: float = 30.0


class UpstreamGroup:
    """An upstream and its spares, used as one."""

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        retries: Retries,
        retried: Counter[str],
        *,
        paths: Mapping[str, Paths] | None = None,
        unwraps: bool = False,
    ) -> None:
        """`retried` counts retries by reason; `unwraps`: error responses that are framed as SSE become JSON.

        `paths` has the paths of each upstream, by its name; an upstream without any is sent the request's own target.
        """
        self.upstreams = upstreams
        self._paths = paths or {}
        self.retries = retries
        self.retried = retried
        self.unwraps = unwraps
        # Responses are inspected only if something depends on it.
        self.judges = retries.attempts > 0 or len(upstreams) > 1
        only = not (self.judges or unwraps or self._paths) and upstreams[0].at_once
        self._only = upstreams[0] if only else None  # not None: requests go to it directly

    def open(self, request: UpstreamRequest) -> Awaitable[Exchange]:
        """Send a request; awaiting the result waits for the head of the response for the client.

        Awaiting raises: UpstreamError, RateLimited, Overloaded.
        """
        if self._only is not None and not request.unwraps:
            return self._only.send(request)
        return _Attempts(self, request).open()

    def choose(self, tried: list[Upstream]) -> Upstream:
        """Return the upstream whose turn it is, by weight; one of weight 0 only if no other is available.

        Upstreams that this request has not tried yet are preferred, then those with a free place.
        Raises: Overloaded, if no breaker allows a request.
        """
        upstreams = self.upstreams
        if len(upstreams) == 1:
            return upstreams[0]
        now = monotonic()
        may = [upstream for upstream in upstreams if upstream.allows(now)]
        if not may:
            soonest_s = min(upstream.breaker.opens_in_s(now) for upstream in upstreams if upstream.breaker is not None)
            error = Overloaded(f"all {len(upstreams)} upstreams have failed recently", max(1, round(soonest_s)))
            error.retried = bool(tried)
            raise error
        may = [upstream for upstream in may if upstream not in tried] or may
        may = [upstream for upstream in may if upstream.weight] or may
        return by_weight([upstream for upstream in may if upstream.free(now)] or may)

    def readdressed(self, request: UpstreamRequest, upstream: Upstream) -> UpstreamRequest:
        """Return a request with the target that it has at one of the upstreams."""
        route, paths = request.route, self._paths.get(upstream.name)
        path = None if paths is None else paths.get(route.prefix)
        if path is None or path == route.upstream_prefix:
            return request
        return replace(request, target=path.encode() + request.target[len(route.upstream_prefix.encode()) :])

    def allows(self, now: float) -> bool:
        """Return whether the breaker of any upstream allows a request at a time, as far as is known."""
        return any(upstream.allows(now) for upstream in self.upstreams)

    def untried(self, tried: Sequence[Upstream]) -> bool:
        """Return whether there is an upstream that is available and has not been tried."""
        now = monotonic()
        return any(upstream.allows(now) for upstream in self.upstreams if upstream not in tried)


class _Attempts:
    """The attempts of one request."""

    __slots__ = ("_backoff", "_group", "_request", "_tried", "_tries")

    def __init__(self, group: UpstreamGroup, request: UpstreamRequest) -> None:
        retries = group.retries
        self._group = group
        self._request = request
        self._backoff = Backoff(retries.attempts, retries.wait_max_s, retries.total_s, random.random)
        self._tried: list[Upstream] = []
        self._tries = 0  # attempts, including those without a connection

    async def open(self) -> Exchange:
        """Send the request until there is a response to keep. Raises: UpstreamError, RateLimited, Overloaded."""
        tried = self._tried
        while True:
            upstream = self._group.choose(tried)
            tried.append(upstream)
            try:
                exchange, attempt = await upstream.open(self._group.readdressed(self._request, upstream))
            except (RateLimited, Overloaded):  # by its queue: nothing has been sent
                if not self._group.untried(tried):
                    raise
                continue
            except UpstreamError as error:
                self._tries += 1
                error.retried = self._tries > 1
                wait_s = None if error.sent else self._wait_s(_BUSY_S)
                if wait_s is None:
                    raise
                reason = error.ending
            else:
                self._tries += 1
                wait_s, reason = await self._look(exchange, attempt)
                if wait_s is None:
                    return exchange
            self._group.retried[reason] += 1
            if wait_s:
                await asyncio.sleep(wait_s)

    async def _look(self, exchange: Exchange, attempt: Attempt | None) -> tuple[float | None, str]:
        """Inspect a response; return how long to wait before a retry, or None to keep it, and the reason."""
        try:
            refusal = await _refusal(self._request, exchange, in_stream=self._request.generation and self._group.judges)
        except BaseException:
            exchange.close()
            raise
        if refusal is None:
            return None, ""
        verdict = trouble(refusal.status, refusal.code)
        after_s = retry_after_s(exchange.header(b"retry-after"), lambda: datetime.now(UTC))
        _judge(attempt, verdict, after_s, has_key=self._tried[-1].has_key)
        wait_s = self._wait_for(refusal, verdict, after_s)
        if wait_s is None:
            self._finish(exchange, refusal, verdict)
        else:
            _drop(exchange)
        return wait_s, f"status_{refusal.status}"

    def _wait_for(self, refusal: Refusal, verdict: Trouble, after_s: float | None) -> float | None:
        if self._request.once or not isinstance(self._request.body, bytes):
            return None  # a body that is sent piece by piece is not kept, so it can't be sent again
        if verdict.wait_s is not None and refusal.status in self._group.retries.statuses:
            return self._wait_s(verdict.wait_s, after_s)
        own_key_refused = verdict.fault is Fault.ACCOUNT and not verdict.transient and self._tried[-1].has_key
        if own_key_refused and self._group.untried(self._tried):
            return self._wait_s(0)  # another key may work
        return None

    def _wait_s(self, first_s: float, after_s: float | None = None) -> float | None:
        """Return the wait before the next attempt in seconds: 0 if there is an upstream that was not tried yet.

        None if no attempt is left, or if no upstream would be available by then: the client then gets the current
        error, which says more than that none is available.
        """
        if self._group.untried(self._tried):
            return self._backoff.wait_s(self._tries, 0)
        wait_s = self._backoff.wait_s(self._tries, first_s, after_s)
        return None if wait_s is None or not self._group.allows(monotonic() + wait_s) else wait_s

    def _finish(self, exchange: Exchange, refusal: Refusal, verdict: Trouble) -> None:
        """Prepare the last response for the client."""
        if self._tries > 1 and verdict.transient:
            exchange.headers.append((b"x-should-retry", b"false"))
            exchange.note_headers()
        unwraps = self._request.unwraps or (self._group.unwraps and self._request.generation)
        if unwraps and (refusal.framed or exchange.is_event_stream) and refusal.body and exchange.complete:
            exchange.put(refusal.body)
            kept = [h for h in exchange.headers if h[0].lower() not in (b"content-type", b"content-length")]
            length = (b"Content-Length", b"%d" % len(refusal.body))
            exchange.headers[:] = [*kept, (b"Content-Type", b"application/json"), length]
            exchange.note_headers()


def erred(upstream: Upstream, failure: Failure) -> None:
    """Report the error with which a stream ended to its upstream's breaker."""
    if upstream.breaker is not None:
        fault = trouble(failure.status or 200, failure.code).fault
        if fault is Fault.UPSTREAM or (fault is Fault.ACCOUNT and upstream.has_key):
            upstream.breaker.failed(False, monotonic())


def by_weight(upstreams: Sequence[Upstream]) -> Upstream:
    """Return the upstream whose turn it is; turns are proportional to the weights, and evenly spread.

    Smooth weighted round robin, as in nginx (commit 52327e0627f4).
    """
    for upstream in upstreams:
        upstream.credit += upstream.weight
    chosen = max(upstreams, key=lambda upstream: upstream.credit)
    chosen.credit -= sum(upstream.weight for upstream in upstreams)
    return chosen


async def _refusal(request: UpstreamRequest, exchange: Exchange, *, in_stream: bool) -> Refusal | None:
    """Return the error in a response, if `in_stream` also from the first frames of a stream; None if it has none."""
    if exchange.status >= 400:
        enough = _too_large
    elif in_stream and exchange.is_event_stream:
        enough = _has_frame
    else:
        return None
    try:
        with Within(_REFUSAL_S if exchange.status >= 400 else 0):
            body = await exchange.peek(enough)
    except TimeoutError:
        body = b""
    if exchange.status >= 400:
        return read_refusal(exchange.status, body if exchange.complete else b"")
    for frame in Splitter(len(body) + 1).feed(body) if body else ():
        if (found := reported(frame, request.route.dialect.status_of)) is not None:
            return Refusal(found.status or exchange.status, found.code, found.body, framed=True)
    return None


def _too_large(body: bytes) -> bool:
    return len(body) >= _REFUSAL_BYTES


def _has_frame(body: bytes) -> bool:
    return b"\n\n" in body or b"\r\r" in body or b"\n\r\n" in body or len(body) >= _REFUSAL_BYTES


def _judge(attempt: Attempt | None, verdict: Trouble, after_s: float | None, *, has_key: bool) -> None:
    """Report an error response to the breaker; one about the caller's own key says nothing about the upstream."""
    if attempt is None:
        return
    if verdict.fault is Fault.CALLER:
        attempt.succeeded()
    elif verdict.fault is Fault.UPSTREAM or has_key:
        attempt.failed(after_s)
    else:
        attempt.gave_no_verdict()


class _Nobody:
    """A Receiver that ignores the body, so that its connection can be used for the next request."""

    def received(self, data: bytes, at: float) -> None:
        pass

    def ended(self, data: bytes, at: float, error: UpstreamError | None) -> None:
        pass

    def failed(self, fault: Exception) -> None:
        pass


def _drop(exchange: Exchange) -> None:
    if exchange.complete:
        exchange.attach(_Nobody())
    else:
        exchange.close()
