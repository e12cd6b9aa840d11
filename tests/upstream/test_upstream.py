"""One upstream behind its queue and its breaker, on real sockets."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from time import monotonic
from typing import Any

import pytest

from proxy.dialects.chat import CHAT
from proxy.dialects.route import Route
from proxy.upstream.breaker import Breaker, State
from proxy.upstream.exchange import Exchange, Timeouts
from proxy.upstream.pool import ConnectionPool
from proxy.upstream.request_queue import RequestQueue
from proxy.upstream.upstream import Upstream, UpstreamRequest
from proxy.wire.errors import Overloaded, RateLimited, Unreachable
from tests.complaints import no_complaints
from tests.event_loops import on_each_loop, until
from tests.exchanges import NO_LIMITS, listened
from tests.stage import Stage, staged

ROUTE = Route("chat", "/v1/", "/compatible-mode/v1/", CHAT)
ALICE, BOB = b"alice", b"bob"


def request(caller: bytes = ALICE, **more: Any) -> UpstreamRequest:
    made = UpstreamRequest(
        ROUTE, b"POST", b"/compatible-mode/v1/x", [(b"Authorization", b"Bearer theirs")], b"{}", caller
    )
    return replace(made, **more)


def queue(max_concurrent: int = 0, per_minute: int = 0, size: int = 10) -> RequestQueue:
    return RequestQueue(max_concurrent=max_concurrent, per_minute=per_minute, size=size)


@asynccontextmanager
async def opened(url: str, timeouts: Timeouts = NO_LIMITS, name: str = "one", **more: Any) -> AsyncIterator[Upstream]:
    """Open an upstream; see afterwards that it holds nobody's place."""
    with no_complaints():
        upstream = ConnectionPool(url, timeouts)
        one = Upstream(name, upstream, **more)
        try:
            yield one
        finally:
            await upstream.close()
        assert one.queue is None or (one.queue.running, one.queue.waiting) == (0, 0)


def opening(one: Upstream, caller: bytes = ALICE) -> asyncio.Task[Exchange]:
    async def opened() -> Exchange:
        exchange, _ = await one.open(request(caller))
        return exchange

    return asyncio.create_task(opened())


async def answered(stage: Stage, task: asyncio.Task[Exchange], status: str = "200 OK") -> None:
    """Answer the next request, and hear the answer of a task to its end."""
    (await stage.next()).reply(status)
    await listened(await task)


@on_each_loop
async def test_key_of_the_origin_goes_upstream() -> None:
    """In place of the one that the request came with."""
    async with staged() as stage, opened(stage.url, key="ours") as one:
        task = opening(one)
        turn = await stage.next()
        assert turn.all("authorization") == [b"Bearer ours"]
        turn.reply("200 OK")
        await listened(await task)


@on_each_loop
async def test_failure_to_admit_one_keeps_no_other_waiting(background_log: list[logging.LogRecord]) -> None:
    """Nor does whoever made room for it hear of it; who waits behind it is admitted within a second."""
    async with staged() as stage, opened(stage.url, queue=queue(1)) as one:
        first = opening(one)
        turn = await stage.next()
        assert one.queue is not None
        one.queue.enter(BOB, monotonic(), _raise)
        second = opening(one)
        await until(lambda: one.queue is not None and one.queue.waiting == 2)
        turn.reply("200 OK")
        await listened(await first)
        assert (one.background.failures, len(background_log)) == (1, 1)
        one.queue.release()  # that of the one that failed
        await answered(stage, second)


def _raise() -> None:
    raise ZeroDivisionError


@on_each_loop
async def test_limit_of_concurrent_requests_holds_until_answers_end() -> None:
    """Not until they begin: a stream that runs takes its place."""
    waits: list[float] = []
    async with staged() as stage, opened(stage.url, queue=queue(1), on_wait=waits.append) as one:
        first, second = opening(one), opening(one)
        turn = await stage.next()
        turn.begin()
        exchange = await first
        assert one.queue is not None
        assert (one.queue.running, one.queue.waiting) == (1, 1)
        assert len(stage.turns) == 1
        turn.end()
        await listened(exchange)
        await answered(stage, second)
        await until(lambda: len(waits) == 2)
        assert waits[1] > waits[0]


@on_each_loop
async def test_client_that_leaves_gives_its_place_up() -> None:
    """While it waits, while it is answered, and while it connects."""
    async with staged() as stage, opened(stage.url, queue=queue(1)) as one:
        assert one.queue is not None
        first, leaving, last = opening(one), opening(one), opening(one, BOB)
        turn = await stage.next()
        leaving.cancel()
        await asyncio.wait([leaving])
        assert one.queue.waiting == 1
        turn.begin()
        (await first).close()
        await answered(stage, last)
        unanswered = opening(one)
        await stage.next()
        unanswered.cancel()
        await asyncio.wait([unanswered])
        await answered(stage, opening(one))


@on_each_loop
async def test_full_queue_refuses_at_once() -> None:
    """With a Retry-After."""
    async with staged() as stage, opened(stage.url, queue=queue(1, size=0)) as one:
        first = opening(one)
        turn = await stage.next()
        with pytest.raises(Overloaded, match="0 requests wait already") as caught:
            await one.open(request())
        assert caught.value.retry_after_s == 1
        turn.reply("200 OK")
        await listened(await first)


@on_each_loop
async def test_wait_that_lasts_too_long_is_refused() -> None:
    """When its time is over."""
    async with staged() as stage, opened(stage.url, queue=queue(1), queue_s=0.05) as one:
        first = opening(one)
        turn = await stage.next()
        with pytest.raises(Overloaded, match=r"0\.05 s"):
            await one.open(request())
        turn.reply("200 OK")
        await listened(await first)


@on_each_loop
async def test_wait_that_would_last_too_long_is_refused_at_once() -> None:
    """A rate can be foretold; the client learns when to come back."""
    async with staged() as stage, opened(stage.url, queue=queue(per_minute=1), queue_s=5) as one:
        await answered(stage, opening(one))
        with pytest.raises(RateLimited, match="5 s are allowed") as caught:
            await one.open(request())
        assert 55 <= (caught.value.retry_after_s or 0) <= 60


@on_each_loop
async def test_rate_lets_the_next_one_in_by_itself() -> None:
    """No request has to end for it."""
    async with staged() as stage, opened(stage.url, queue=queue(per_minute=60)) as one:
        tasks = [opening(one), opening(one)]
        turn = await stage.next()
        turn.begin()
        late = await stage.next()
        late.begin()
        for task in tasks:
            (await task).close()


@on_each_loop
async def test_unreachable_upstream_opens_the_breaker_and_holds_no_place() -> None:
    """Each try is a failure."""
    async with staged() as stage:
        nowhere = stage.url
    breaker = Breaker(2, 10, 60)
    async with opened(nowhere, breaker=breaker, queue=queue(1)) as one:
        for _ in range(2):
            assert one.state is State.CLOSED
            with pytest.raises(Unreachable):
                await one.open(request())
        assert one.state is State.OPEN


@on_each_loop
async def test_outcome_of_an_answer_moves_the_breaker() -> None:
    """A break is a failure, a clean end a success; a client that leaves is neither."""
    breaker = Breaker(1, 10, 0)  # open for no time: half open
    async with staged() as stage, opened(stage.url, breaker=breaker) as one:
        for ends, state in (("breaks", State.HALF_OPEN), ("left", State.HALF_OPEN), ("clean", State.CLOSED)):
            task = opening(one)
            turn = await stage.next()
            turn.begin()
            exchange = await task
            if ends == "left":
                exchange.close()
            else:
                turn.chunk(b"data: x\n\n")
                turn.close() if ends == "breaks" else turn.end()
                await listened(exchange)
            assert one.state is state, ends


@on_each_loop
async def test_client_of_the_trial_that_leaves_lets_another_try() -> None:
    """Before an answer, and in it: neither says anything of the upstream."""
    breaker = Breaker(1, 10, 60)
    async with staged() as stage, opened(stage.url, breaker=breaker) as one:
        breaker.failed(False, monotonic() - 60)
        for answered in (False, True):
            task = opening(one)
            turn = await stage.next()
            assert not one.allows(monotonic())
            if answered:
                turn.begin()
                (await task).close()
            else:
                task.cancel()
                await asyncio.wait([task])
            assert one.allows(monotonic())
            assert one.state is State.HALF_OPEN


@on_each_loop
async def test_client_that_does_not_finish_its_request_is_no_failure() -> None:
    """Its upload broke off: the upstream had no chance."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"{"
        raise ConnectionResetError

    breaker = Breaker(1, 10, 60)
    async with staged() as stage, opened(stage.url, breaker=breaker) as one:
        with pytest.raises(Unreachable, match="did not finish"):
            await one.open(request(ALICE, body=pieces()))
        assert one.state is State.CLOSED


@on_each_loop
async def test_half_open_tries_one_request_at_a_time() -> None:
    """Until its outcome is known."""
    breaker = Breaker(1, 10, 60)
    async with staged() as stage, opened(stage.url, breaker=breaker) as one:
        breaker.failed(False, monotonic() - 60)
        task = opening(one)
        turn = await stage.next()
        assert not one.allows(monotonic())
        turn.reply("200 OK")
        await listened(await task)
        assert one.allows(monotonic())
