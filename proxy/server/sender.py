"""Sending a request upstream: to which of several upstreams, and once more if that is worth it.

A request is sent again only while nothing of an answer has reached its client, and only when it has cost nothing:
when no connection was made; when the answer is a refusal that Qwen's table calls transient, with a status that is
configured; when it refuses a key of ours and a spare has another. What is not configured costs a request nothing.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from time import monotonic

from proxy.edge.upstream_exchange import Exchange
from proxy.server.backoff import Backoff, retry_after_s
from proxy.server.origin import Message, Origin, Passage
from proxy.server.upstream_config import RetriesConfig
from proxy.wire.errors import Overloaded, RateLimited, UpstreamError
from proxy.wire.qwen import Fault, Trouble, trouble
from proxy.wire.refusal import Refusal, is_error, read
from proxy.wire.sse import Splitter

_REFUSAL_BYTES = 64 * 1024  # more than that is no refusal
_REFUSAL_S = 5.0  # a refusal comes whole; what does not is passed on as it comes
_BUSY_S = 1.0  # before the first retry of what no answer came to


class Sender:
    """An upstream and its spares, as one."""

    def __init__(
        self,
        origins: Sequence[Origin],
        retries: RetriesConfig,
        retried: Counter[str],
        *,
        bases: Sequence[bytes] = (),
        unwraps: bool = False,
    ) -> None:
        """`retried` counts, by reason, what is sent once more; `unwraps`: refusals framed as SSE become JSON.

        `bases`, one for each origin, are the paths of the API there. Targets are made for the first.
        """
        self.origins = origins
        self._bases = dict(zip((origin.name for origin in origins), bases, strict=False))
        self.retries = retries
        self.retried = retried
        self.unwraps = unwraps
        # Answers are looked into only where something depends on them.
        self.judges = retries.attempts > 0 or len(origins) > 1
        only = not (self.judges or unwraps) and origins[0].at_once
        self._only = origins[0] if only else None  # then nothing is between a request and it

    def open(self, message: Message) -> Awaitable[Exchange]:
        """Send a request; what is returned waits for the head of the answer that its client gets.

        Raises, then: UpstreamError, RateLimited, Overloaded.
        """
        if self._only is not None and not message.unwraps:
            return self._only.send(message)
        return _Sending(self, message).open()

    def erred(self, name: str, frames: Sequence[bytes]) -> None:
        """Hear that a stream of the upstream of that name ended with an error event, which is among these frames."""
        origin = next(origin for origin in self.origins if origin.name == name)
        frame = next(filter(is_error, reversed(frames)), None)
        if origin.breaker is not None and frame is not None:
            refusal = read(200, frame)
            fault = trouble(refusal.status, refusal.code).fault
            if fault is Fault.UPSTREAM or (fault is Fault.ACCOUNT and origin.has_key):
                origin.breaker.failed(False, monotonic())

    def choose(self, tried: list[Origin]) -> Origin:
        """Return the upstream whose turn it is, by weight; one of weight 0 only where no other may be asked.

        One that this request has not tried comes first, then one that it need not wait for.
        Raises: Overloaded, when no breaker lets it through.
        """
        origins = self.origins
        if len(origins) == 1:
            return origins[0]
        now = monotonic()
        may = [origin for origin in origins if origin.allows(now)]
        if not may:
            soonest_s = min(origin.breaker.opens_in_s(now) for origin in origins if origin.breaker is not None)
            error = Overloaded(f"all {len(origins)} upstreams have failed of late", max(1, round(soonest_s)))
            error.retried = bool(tried)
            raise error
        may = [origin for origin in may if origin not in tried] or may
        may = [origin for origin in may if origin.weight] or may
        return by_weight([origin for origin in may if origin.free(now)] or may)

    def readdressed(self, message: Message, origin: Origin) -> Message:
        """Return a message as it goes to one of them."""
        first, here = self._bases.get(self.origins[0].name), self._bases.get(origin.name)
        if first is None or here is None or first == here or not message.target.startswith(first):
            return message
        return replace(message, target=here + message.target[len(first) :])

    def allows(self, now: float) -> bool:
        """Tell whether any of them may be asked at a time, as far as is known."""
        return any(origin.allows(now) for origin in self.origins)

    def untried(self, tried: Sequence[Origin]) -> bool:
        """Tell whether there is an upstream that may be asked and has not been."""
        now = monotonic()
        return any(origin.allows(now) for origin in self.origins if origin not in tried)


class _Sending:
    """One request's tries."""

    __slots__ = ("_backoff", "_message", "_sender", "_tried", "_tries")

    def __init__(self, sender: Sender, message: Message) -> None:
        retries = sender.retries
        self._sender = sender
        self._message = message
        self._backoff = Backoff(retries.attempts, retries.wait_max_s, retries.total_s, random.random)
        self._tried: list[Origin] = []
        self._tries = 0  # what was sent, or was to be sent had there been a connection

    async def open(self) -> Exchange:
        """Try until there is an answer to keep. Raises: UpstreamError, RateLimited, Overloaded."""
        tried = self._tried
        while True:
            origin = self._sender.choose(tried)
            tried.append(origin)
            try:
                exchange, passage = await origin.open(self._sender.readdressed(self._message, origin))
            except (RateLimited, Overloaded):  # by the queue before it: nothing has been sent
                if not self._sender.untried(tried):
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
                wait_s, reason = await self._look(exchange, passage)
                if wait_s is None:
                    return exchange
            self._sender.retried[reason] += 1
            if wait_s:
                await asyncio.sleep(wait_s)

    async def _look(self, exchange: Exchange, passage: Passage | None) -> tuple[float | None, str]:
        """Look at an answer; return how long to wait before it is asked for again, None to keep it, and why."""
        try:
            refusal = await _refusal(exchange, in_stream=self._message.generation and self._sender.judges)
        except BaseException:
            exchange.close()
            raise
        if refusal is None:
            return None, ""
        verdict = trouble(refusal.status, refusal.code)
        after_s = retry_after_s(exchange.header(b"retry-after"), lambda: datetime.now(UTC))
        _judge(passage, verdict, after_s, has_key=self._tried[-1].has_key)
        wait_s = self._wait_for(refusal, verdict, after_s)
        if wait_s is None:
            self._finish(exchange, refusal, verdict)
        else:
            _drop(exchange)
        return wait_s, f"status_{refusal.status}"

    def _wait_for(self, refusal: Refusal, verdict: Trouble, after_s: float | None) -> float | None:
        if self._message.once or not isinstance(self._message.body, bytes):
            return None  # it is gone
        if verdict.wait_s is not None and refusal.status in self._sender.retries.statuses:
            return self._wait_s(verdict.wait_s, after_s)
        own_key_refused = verdict.fault is Fault.ACCOUNT and not verdict.transient and self._tried[-1].has_key
        if own_key_refused and self._sender.untried(self._tried):
            return self._wait_s(0)  # another key may do
        return None

    def _wait_s(self, first_s: float, after_s: float | None = None) -> float | None:
        """Return the wait before the next try: none before an upstream that has not been asked yet.

        None when no upstream may be asked even then: what there is tells the client more than that.
        """
        if self._sender.untried(self._tried):
            return self._backoff.wait_s(self._tries, 0)
        wait_s = self._backoff.wait_s(self._tries, first_s, after_s)
        return None if wait_s is None or not self._sender.allows(monotonic() + wait_s) else wait_s

    def _finish(self, exchange: Exchange, refusal: Refusal, verdict: Trouble) -> None:
        """Make the last answer what its client gets."""
        if self._tries > 1 and verdict.transient:
            exchange.headers.append((b"x-should-retry", b"false"))
        unwraps = self._message.unwraps or (self._sender.unwraps and self._message.generation)
        if unwraps and (refusal.framed or exchange.is_event_stream) and refusal.body and exchange.whole:
            exchange.put(refusal.body)
            kept = [h for h in exchange.headers if h[0].lower() not in (b"content-type", b"content-length")]
            length = (b"Content-Length", b"%d" % len(refusal.body))
            exchange.headers[:] = [*kept, (b"Content-Type", b"application/json"), length]


def by_weight(origins: Sequence[Origin]) -> Origin:
    """Return whose turn it is: each as often as its weight says, and evenly spread.

    Smooth weighted round robin, as in nginx (commit 52327e0627f4).
    """
    for origin in origins:
        origin.credit += origin.weight
    chosen = max(origins, key=lambda origin: origin.credit)
    chosen.credit -= sum(origin.weight for origin in origins)
    return chosen


async def _refusal(exchange: Exchange, *, in_stream: bool) -> Refusal | None:
    """Return what an answer refuses, `in_stream` also in the first frame of a stream; None if it does not."""
    if exchange.status >= 400:
        enough = _too_large
    elif in_stream and exchange.is_event_stream:
        enough = _has_frame
    else:
        return None
    try:
        async with asyncio.timeout(_REFUSAL_S if exchange.status >= 400 else None):
            body = await exchange.peek(enough)
    except TimeoutError:
        body = b""
    if exchange.status >= 400:
        return read(exchange.status, body if exchange.whole else b"")
    frames = Splitter(len(body) + 1).feed(body) if body else []
    return read(exchange.status, frames[0]) if frames and is_error(frames[0]) else None


def _too_large(body: bytes) -> bool:
    return len(body) >= _REFUSAL_BYTES


def _has_frame(body: bytes) -> bool:
    return b"\n\n" in body or b"\r\r" in body or b"\n\r\n" in body or len(body) >= _REFUSAL_BYTES


def _judge(passage: Passage | None, verdict: Trouble, after_s: float | None, *, has_key: bool) -> None:
    """Tell the breaker what a refusal says of the upstream: nothing, where it is about the caller's own key."""
    if passage is None:
        return
    if verdict.fault is Fault.CALLER:
        passage.succeeded()
    elif verdict.fault is Fault.UPSTREAM or has_key:
        passage.failed(after_s)
    else:
        passage.told_nothing()


class _Nobody:
    """Takes the rest of an answer that is not wanted, so that its connection serves the next request."""

    def received(self, data: bytes, at: float) -> None:
        pass

    def ended(self, data: bytes, at: float, error: UpstreamError | None) -> None:
        pass


def _drop(exchange: Exchange) -> None:
    if exchange.whole:
        exchange.attach(_Nobody())
    else:
        exchange.close()
