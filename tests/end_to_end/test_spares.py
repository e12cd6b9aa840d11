"""Spare upstreams and the queue before each, as clients, `/info` and the metrics see them."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.event_loops import POLL_S, on_one_loop
from tests.event_streams import chunk_frame
from tests.proxy_under_test import Serve, Tee
from tests.stage import Stage, Turn, staged
from tests.websocket_client import opened, rest
from tests.workers_under_test import in_one_process

pytestmark = on_one_loop  # origins and their queues have tests on both

FRAME = chunk_frame()


@pytest.fixture
async def spare() -> AsyncIterator[Stage]:
    """A second upstream."""
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(staged())


def two(spare: Stage, **upstream: Any) -> dict[str, Any]:
    """Return the tables of an upstream and its spare."""
    return {
        "upstream": {"key": "sk-first", "spares": ["spare"], **upstream},
        "upstreams": {"spare": {"url": f"{spare.url}/v1", "key": "sk-spare"}},
    }


async def play(turn: Turn) -> None:
    await turn.body()
    turn.begin()
    turn.chunk(FRAME)
    turn.end(b"data: [DONE]\n\n")


async def state(tee: Tee, name: str) -> str:
    """Return the state that the metrics tell of an upstream's breaker."""
    for word in ("closed", "half_open", "open"):
        if await tee.metric("streamtee_upstream_state", upstream=name, state=word):
            return word
    raise AssertionError("no state is told")


async def test_spare_answers_when_the_first_is_throttled(perform: Serve, stage: Stage, spare: Stage) -> None:
    """With its own key, at its own path; the client sees one stream, `/info` says whose."""
    tee = await perform(**two(spare, weight=1000), retries={"attempts": 1})
    client = await tee.send_chat()
    refused = await stage.next()
    assert refused.all("authorization") == [b"Bearer sk-first"]
    assert refused.target == b"/compatible-mode/v1/chat/completions"
    refused.reply("429 No", body=b'{"error":{"code":"limit_requests"}}')
    turn = await spare.next()
    assert turn.all("authorization") == [b"Bearer sk-spare"]
    assert turn.target == b"/v1/chat/completions"
    await play(turn)
    answer = await client.answer()
    assert await answer.read() == FRAME + b"data: [DONE]\n\n"
    assert (await tee.info(answer.stream_id))["upstream"] == "spare"
    assert await tee.metric("streamtee_retries_total", reason="status_429") == 1
    assert await tee.metric("streamtee_upstream_requests_total", upstream="default") == 1
    assert await tee.metric("streamtee_upstream_requests_total", upstream="spare") == 1


async def test_requests_are_shared_out_by_weight(perform: Serve, stage: Stage, spare: Stage) -> None:
    """Two to the first, one to the spare."""
    tee = await perform(**two(spare, weight=2))
    for _ in range(6):
        client = await tee.send_chat()
        waiting = [asyncio.create_task(one.next()) for one in (stage, spare)]
        done, left = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in left:
            task.cancel()
        await play(done.pop().result())
        await (await client.answer()).read()
    assert (len(stage.turns), len(spare.turns)) == (4, 2)


@in_one_process("each has a breaker of its own")
async def test_stream_that_began_is_never_moved(perform: Serve, stage: Stage, spare: Stage) -> None:
    """It breaks off where its upstream does, which is left alone from then on."""
    tee = await perform(**two(spare, weight=1000), retries={"attempts": 3}, breaker={"failures": 1})
    client = await tee.send_chat()
    turn = await stage.next()
    turn.begin()
    turn.chunk(FRAME)
    answer = await client.answer()
    await answer.until(FRAME)
    turn.close()
    await answer.read()
    assert answer.end != "whole"
    assert spare.turns == []
    assert await state(tee, "default") == "open"
    client = await tee.send_chat()
    await play(await spare.next())
    await (await client.answer()).read()


@in_one_process("each has a breaker of its own")
async def test_error_event_opens_the_breaker(perform: Serve, stage: Stage, spare: Stage) -> None:
    """An HTTP 200 that ends cleanly, but not well."""
    tee = await perform(**two(spare, weight=1000), breaker={"failures": 1})
    client = await tee.send_chat()
    turn = await stage.next()
    turn.begin()
    turn.chunk(FRAME)
    turn.end(b'data: {"error":{"code":"internal_error","message":"m"}}\n\n')
    await (await client.answer()).read()
    assert await state(tee, "default") == "open"
    assert await state(tee, "spare") == "closed"


async def test_client_that_leaves_is_no_failure(perform: Serve, stage: Stage, spare: Stage) -> None:
    """Before its answer, and in it."""
    tee = await perform(**two(spare, weight=1000), breaker={"failures": 1})
    client = await tee.send_chat()
    turn = await stage.next()
    await client.leave()
    await turn.wait_left()
    client = await tee.send_chat()
    turn = await stage.next()
    turn.begin()
    turn.chunk(FRAME)
    await (await client.answer()).until(FRAME)
    await client.leave()
    await turn.wait_left()
    assert await state(tee, "default") == "closed"


# The queue


async def test_spare_that_is_free_is_asked_before_one_that_is_busy(perform: Serve, stage: Stage, spare: Stage) -> None:
    """Whatever the weights: nobody waits while there is room."""
    tee = await perform(**two(spare, weight=1000, max_concurrent=1))
    first = await tee.send_chat()
    busy = await stage.next()
    second = await tee.send_chat()
    await play(await spare.next())
    await (await second.answer()).read()
    await play(busy)
    await (await first.answer()).read()
    third = await tee.send_chat()
    await play(await stage.next())
    await (await third.answer()).read()


async def test_callers_take_turns_at_a_busy_upstream(perform: Serve, stage: Stage) -> None:
    """One with three requests and one with one; waiting is part of the time to the first token."""
    tee = await perform(upstream={"max_concurrent": 1})
    alice, bob = "Authorization: Bearer alice", "Authorization: Bearer bob"
    first = await tee.send_chat(alice)
    turn = await stage.next()
    clients = [first]
    for number, who in enumerate((alice, alice, bob), 1):
        clients.append(await tee.send_chat(who))
        async with asyncio.timeout(5):
            while await tee.metric("streamtee_queued", upstream="default") != number:
                await asyncio.sleep(POLL_S)
    order = []
    for _ in clients:
        order.append(turn.all("authorization")[0].removeprefix(b"Bearer "))
        await play(turn)
        if len(order) < len(clients):
            turn = await stage.next()
    assert order == [b"alice", b"alice", b"bob", b"alice"]
    for client in clients:
        assert (await client.answer()).status == 200
    waited = await tee.metric("streamtee_queue_wait_seconds_sum", upstream="default")
    assert await tee.metric("streamtee_queue_wait_seconds_count", upstream="default") == 4
    assert 0 < waited <= await tee.metric("streamtee_time_to_first_token_seconds_sum", route="chat")


@pytest.mark.parametrize("headers", [(), ("Stream-Key: k",), ("Idempotency-Key: k",)])
async def test_full_queue_is_told_with_when_to_come_back(perform: Serve, stage: Stage, headers: tuple[str]) -> None:
    """503, and nothing is left of the request: no stream, no place."""
    tee = await perform(upstream={"max_concurrent": 1, "queue_size": 0})
    first = await tee.send_chat()
    turn = await stage.next()
    refused = await tee.chat(*headers)
    assert refused.status == 503
    assert refused.header("retry-after") == "1"
    assert (await refused.json())["error"]["code"] == "overloaded"
    assert await tee.metric("streamtee_rejected_total", reason="overloaded") == 1
    await play(turn)
    await (await first.answer()).read()
    again = await tee.send_chat(*headers)
    await play(await stage.next())
    assert (await again.answer()).status == 200


async def test_rate_that_is_used_up_is_told_with_when_to_come_back(perform: Serve, stage: Stage) -> None:
    """429, in the dialect's own words, when the wait would be too long."""
    tee = await perform(upstream={"requests_per_minute": 1, "queue_s": 1})
    first = await tee.send_chat()
    await play(await stage.next())
    await (await first.answer()).read()
    for refused in (await tee.chat(), await tee.native()):
        assert refused.status == 429
        assert 50 <= int(refused.header("retry-after") or 0) <= 60
        assert b'"rate_limited"' in await refused.read()


@pytest.mark.parametrize(
    ("limits", "status", "code", "least_s", "close_code"),
    [
        ({"requests_per_minute": 1, "queue_s": 1}, 429, "rate_limited", 50, 4429),
        ({"max_concurrent": 1, "queue_size": 0}, 503, "overloaded", 1, 1013),
    ],
)
async def test_refusal_of_the_queue_is_found_in_the_place_of_a_detached_answer(
    perform: Serve, stage: Stage, limits: dict[str, int], status: int, code: str, least_s: int, close_code: int
) -> None:
    """As the refusal it was, with when to come back: it is no fault of the upstream's, which was not asked."""
    tee = await perform(upstream=limits)
    first = await tee.send_chat()
    turn = await stage.next()
    promised = await tee.chat("Prefer: respond-async")
    assert (promised.status, (await tee.wait_ended(promised.stream_id))["ending"]["reason"]) == (202, code)
    refused = await tee.follow(promised.stream_id, "mode=json")
    error = (await refused.json())["error"]
    assert (refused.status, error["code"]) == (status, code)
    assert error["message"].startswith("the queue before the upstream is too long")
    assert least_s <= int(refused.header("retry-after") or 0) <= 60
    async with opened(tee, promised.stream_id) as socket:
        (event,), close = await rest(socket)
        assert (json.loads(event["data"])["error"]["code"], close) == (code, (close_code, code))
    await play(turn)
    assert (await first.answer()).status == 200


async def test_spare_takes_what_the_queue_before_the_first_does_not(perform: Serve, stage: Stage, spare: Stage) -> None:
    """Also one that is kept for the worst: a client is not refused while somebody may be asked."""
    tables = two(spare, max_concurrent=1, queue_size=0)
    tables["upstreams"]["spare"]["weight"] = 0
    tee = await perform(**tables)
    first = await tee.send_chat()
    busy = await stage.next()
    second = await tee.send_chat()
    await play(await spare.next())
    answer = await second.answer()
    await answer.read()
    assert answer.header("x-should-retry") is None
    await play(busy)
    await (await first.answer()).read()


async def test_client_that_leaves_the_queue_asks_nothing(perform: Serve, stage: Stage) -> None:
    """The next one's turn comes all the same."""
    tee = await perform(upstream={"max_concurrent": 1})
    first = await tee.send_chat()
    turn = await stage.next()
    leaving, last = await tee.send_chat(), await tee.send_chat("Authorization: Bearer other")
    queue = tee.proxy.upstreams.by_name["default"].queue
    assert queue is not None
    async with asyncio.timeout(5):
        while queue.waiting != 2:
            await asyncio.sleep(0)
    await leaving.leave()
    async with asyncio.timeout(5):
        while queue.waiting != 1:
            await asyncio.sleep(0)
    await play(turn)
    await play(await stage.next())
    for client in (first, last):
        assert (await client.answer()).status == 200
    assert len(stage.turns) == 2
