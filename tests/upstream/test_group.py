"""Sending upstream: what is sent once more and what never is, to which upstream, and what a client gets at last."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from time import monotonic

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects.chat import CHAT as CHAT_COMPLETIONS
from proxy.dialects.failure import Failure
from proxy.dialects.route import Route
from proxy.upstream.breaker import Breaker, State
from proxy.upstream.exchange import Exchange, Timeouts
from proxy.upstream.group import Retries, UpstreamGroup, by_weight, erred
from proxy.upstream.pool import ConnectionPool
from proxy.upstream.upstream import Upstream, UpstreamRequest
from proxy.wire.errors import Overloaded, Truncated, Unreachable, UpstreamError, UpstreamTimeout
from tests.complaints import no_complaints
from tests.event_loops import GUARD_S, on_each_loop
from tests.exchanges import NO_LIMITS, Listener, listened, upstream
from tests.stage import EVENT_STREAM, Stage, Turn, staged

ROUTE = Route("chat", "/v1/", "/v1/", CHAT_COMPLETIONS)
CHAT = UpstreamRequest(
    ROUTE, b"POST", b"/v1/chat/completions", [(b"Content-Length", b"2")], b"{}", b"alice", generation=True
)
TWICE = Retries(attempts=2, wait_max_s=0.01)
OFF = Retries()
BUSY = b'{"error":{"code":"limit_requests","message":"m"}}'


class Way:
    """An UpstreamGroup of stages, and what it counted."""

    def __init__(
        self, stages: Sequence[Stage], group: UpstreamGroup, upstreams: list[Upstream], retried: Counter[str]
    ) -> None:
        self.stages, self.group, self.upstreams, self.retried = stages, group, upstreams, retried

    def open(self, request: UpstreamRequest = CHAT) -> asyncio.Task[Exchange]:
        return asyncio.create_task(self.group.open(request))

    async def hear(self, request: UpstreamRequest = CHAT) -> tuple[Exchange, Listener]:
        exchange = await self.group.open(request)
        return exchange, await listened(exchange)


@asynccontextmanager
async def way(
    count: int = 1,
    retries: Retries = TWICE,
    *,
    unwraps: bool = False,
    keys: bool = True,
    weights: Sequence[int] = (1, 1, 1),
    failures: int = 3,
    prefixes: Sequence[Sequence[bytes]] = (),
    timeouts: Timeouts = NO_LIMITS,
) -> AsyncIterator[Way]:
    """Open a way to so many stages, each an upstream; see afterwards that nothing of it is left."""
    async with AsyncExitStack() as stack:
        stages = [await stack.enter_async_context(staged()) for _ in range(count)]
        stack.enter_context(no_complaints())
        upstreams = []
        for number, stage in enumerate(stages):
            upstream = ConnectionPool(stage.url, timeouts)
            upstream.name = f"{number}"
            stack.push_async_callback(upstream.close)
            breaker = Breaker(failures, 30, 60) if count > 1 else None
            key = f"{number}" if keys else ""
            one = Upstream(f"{number}", upstream, weight=weights[number], key=key, breaker=breaker)
            upstreams.append(one)
        retried = Counter[str]()
        yield Way(
            stages, UpstreamGroup(upstreams, retries, retried, prefixes=prefixes, unwraps=unwraps), upstreams, retried
        )
        assert not any(upstream.pool.active for upstream in upstreams)


def refuse(turn: Turn, status: int, body: bytes = BUSY, *headers: str) -> None:
    turn.reply(f"{status} No", *headers, body=body)


# Once more


@pytest.mark.parametrize("status", [429, 503])
@on_each_loop
async def test_transient_refusal_is_asked_again(status: int) -> None:
    """On the same connection, whole; the client hears of the last answer only."""
    async with way() as to:
        task = to.open()
        refuse(await to.stages[0].next(), status)
        again = await to.stages[0].next()
        assert await again.body() == b"{}"
        again.reply("200 OK", body=b"fine")
        exchange = await task
        assert (await listened(exchange)).body == b"fine"
        assert exchange.header(b"x-should-retry") is None
        assert to.retried == {f"status_{status}": 1}
        assert to.stages[0].turns[0].stage is again.stage
        assert len(to.stages[0].peers) == 1


@on_each_loop
async def test_last_refusal_passes_byte_for_byte_and_asks_for_no_more_tries() -> None:
    """After so many attempts; the SDK shall not multiply them."""
    async with way() as to:
        task = to.open()
        for number in range(3):
            refuse(await to.stages[0].next(), 429, b'{"error":{"code":"limit_requests"},"n":%d}' % number)
        exchange = await task
        listener = await listened(exchange)
        assert (exchange.status, listener.body) == (429, b'{"error":{"code":"limit_requests"},"n":2}')
        assert (b"x-should-retry", b"false") in exchange.headers
        assert len(to.stages[0].turns) == 3


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, b'{"error":{"code":"invalid_parameter_error"}}'),
        (401, b'{"error":{"code":"invalid_api_key"}}'),
        (400, b'{"code":"Arrearage","message":"m"}'),
        (404, b"not json"),
        (500, b'{"error":{"code":"internal_error"}}'),
        (502, b"<html>"),
        (503, b'{"code":"RequestTimeOut","message":"m"}'),
    ],
)
@on_each_loop
async def test_refusal_that_would_stay_or_may_be_billed_is_not_asked_again(status: int, body: bytes) -> None:
    """Neither what the caller must mend, nor an error after the request was worked on."""
    async with way() as to:
        task = to.open()
        refuse(await to.stages[0].next(), status, body)
        exchange = await task
        assert (await listened(exchange)).body == body
        assert (b"x-should-retry", b"false") not in exchange.headers
        assert not to.retried


@on_each_loop
async def test_status_that_is_configured_is_asked_again() -> None:
    """500, by those who would rather pay twice."""
    async with way(retries=Retries(attempts=1, statuses=(500,), wait_max_s=0)) as to:
        task = to.open()
        refuse(await to.stages[0].next(), 500, b'{"error":{"code":"internal_error"}}')
        (await to.stages[0].next()).reply("200 OK")
        exchange = await task
        await listened(exchange)
        assert exchange.status == 200


@pytest.mark.parametrize("frame", [
    b'id:1\nevent:error\n:HTTP_STATUS/429\ndata:{"code":"Throttling.RateQuota","message":"m"}\n\n',
    b'data: {"object":"error","message":"m","code":429}\n\n',
    b'{"error":{"code":"429","message":"m"}}\n\n',
])  # fmt: skip
@on_each_loop
async def test_error_in_the_first_frame_is_a_refusal(frame: bytes) -> None:
    """Natively a throttle comes as HTTP 200 and an error event, its status in a comment; gateways have other forms."""
    async with way() as to:
        task = to.open()
        for piece in (frame, b'id:1\nevent:result\n:HTTP_STATUS/200\ndata:{"output":{}}\n\n'):
            turn = await to.stages[0].next()
            turn.begin()
            turn.chunk(piece[:20])
            turn.chunk(piece[20:])
            turn.end()
        exchange = await task
        assert (await listened(exchange)).body == piece
        assert to.retried == {"status_429": 1}


@on_each_loop
async def test_stream_is_given_as_soon_as_its_first_frame_is_there() -> None:
    """Whole or not; what has come stays for who attaches."""
    async with way() as to:
        task = to.open()
        turn = await to.stages[0].next()
        turn.begin()
        turn.chunk(b"data: 1\n\ndata: 2")
        exchange = await task
        listener = Listener()
        exchange.attach(listener)
        turn.end(b"\n\n")
        await listener.wait()
        assert listener.body == b"data: 1\n\ndata: 2\n\n"


@on_each_loop
async def test_absent_upstream_is_tried_again_and_then_told() -> None:
    """Nothing of the request had left."""
    async with way() as to:
        await to.stages[0].stop()
        with pytest.raises(Unreachable) as caught:
            await to.group.open(CHAT)
        assert caught.value.retried
        assert to.retried == {"upstream_unreachable": 2}


@pytest.mark.parametrize("end", ["close", "reset", "begin"])
@on_each_loop
async def test_request_that_was_sent_is_not_sent_again(end: str) -> None:
    """Whatever the upstream did with it may be billed."""
    async with way(timeouts=Timeouts(0, 0.05, 0.05, 0)) as to:
        task = to.open()
        turn = await to.stages[0].next()
        if end == "begin":  # and nothing more: no first byte in time
            turn.done.set()
        else:
            getattr(turn, end)()
        with pytest.raises((Unreachable, Truncated, UpstreamTimeout)) as caught:
            await task
        assert not caught.value.retried
        assert len(to.stages[0].turns) == 1


@on_each_loop
async def test_body_that_came_in_pieces_is_sent_once() -> None:
    """It is not kept."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"{}"

    async with way() as to:
        task = to.open(replace(CHAT, body=pieces()))
        refuse(await to.stages[0].next(), 429)
        exchange = await task
        assert (await listened(exchange)).body == BUSY


@on_each_loop
async def test_message_that_is_to_be_sent_once_is_sent_once() -> None:
    """What passes through may do something twice if it is sent twice."""
    async with way() as to:
        task = to.open(replace(CHAT, once=True))
        refuse(await to.stages[0].next(), 429)
        exchange = await task
        assert (await listened(exchange)).body == BUSY


@on_each_loop
async def test_retry_after_is_waited_for_if_there_is_time() -> None:
    """Else the client gets it, to decide for itself."""
    async with way(retries=Retries(attempts=2, total_s=0.5)) as to:
        task = to.open()
        began_at = monotonic()
        refuse(await to.stages[0].next(), 429, BUSY, "Retry-After: 0.2")
        turn = await to.stages[0].next()
        assert monotonic() - began_at >= 0.19
        refuse(turn, 429, BUSY, "Retry-After: 60")
        exchange = await task
        await listened(exchange)
        assert exchange.status == 429
        assert exchange.header(b"retry-after") == b"60"


@on_each_loop
async def test_client_that_leaves_ends_the_wait() -> None:
    """And nothing is sent any more."""
    async with way(retries=Retries(attempts=1)) as to:
        task = to.open()
        refuse(await to.stages[0].next(), 429, BUSY, "Retry-After: 20")
        async with asyncio.timeout(GUARD_S):
            while not to.retried:
                await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(to.stages[0].turns) == 1


@on_each_loop
async def test_refusal_that_does_not_end_is_passed_on_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not waited for for ever."""
    monkeypatch.setattr("proxy.upstream.group._REFUSAL_S", 0.02)
    async with way() as to:
        task = to.open()
        turn = await to.stages[0].next()
        turn.begin(status="400 Bad Request")
        turn.chunk(b"data: {")
        exchange = await task
        listener = Listener()
        exchange.attach(listener)
        turn.end(b"}\n\n")
        await listener.wait()
        assert listener.body == b"data: {}\n\n"


@on_each_loop
async def test_client_that_leaves_while_a_refusal_comes_closes_its_connection() -> None:
    """Nobody is left to read it."""
    async with way() as to:
        task = to.open()
        turn = await to.stages[0].next()
        turn.begin(status="400 Bad Request")
        async with asyncio.timeout(GUARD_S):
            while not any(exchange.status for exchange in to.upstreams[0].pool.active):
                await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await turn.wait_left()


@on_each_loop
async def test_nothing_configured_is_one_try() -> None:
    """And no look at the answer."""
    async with way(retries=OFF) as to:
        task = to.open()
        turn = await to.stages[0].next()
        turn.begin(status="429 No")  # its body has not come
        exchange = await task
        assert exchange.status == 429
        turn.end()
        await listened(exchange)


# Which upstream


@on_each_loop
async def test_spare_is_asked_at_once_when_the_first_refuses() -> None:
    """Not after a wait: it has refused nothing."""
    async with way(2, Retries(attempts=1, wait_max_s=1000, total_s=1000)) as to:
        task = to.open()
        refuse(await to.stages[0].next(), 429)
        spare = await to.stages[1].next()
        assert spare.all("authorization") == [b"Bearer 1"]
        spare.reply("200 OK", body=b"from the spare")
        exchange = await task
        assert (await listened(exchange)).body == b"from the spare"
        assert exchange.upstream_name == "1"


@pytest.mark.parametrize(
    ("target", "first", "second", "there"),
    [
        (b"/compatible-mode/v1/chat", [b"/compatible-mode/v1/"], [b"/v1/"], b"/v1/chat"),
        (b"/api/v1/services", [b"/compatible-mode/v1/"], [b"/v1/"], b"/api/v1/services"),
        (b"/events", [b""], [b"/below"], b"/below/events"),
        (b"/v1/responses", [b"/v1/", b"/v1/responses"], [b"/b/", b"/r"], b"/r"),
        (b"/v1/responses/x", [b"/v1/responses", b"/v1/"], [b"/r", b"/b/"], b"/r/x"),
    ],
)
@on_each_loop
async def test_spare_is_asked_where_its_api_is(
    target: bytes, first: list[bytes], second: list[bytes], there: bytes
) -> None:
    """A target below a prefix of the first one is below that of the spare; of two that fit, the longer counts."""
    async with way(2, Retries(attempts=1), prefixes=(first, second)) as to:
        task = to.open(replace(CHAT, target=target))
        turn = await to.stages[0].next()
        assert turn.target == target
        refuse(turn, 503)
        spare = await to.stages[1].next()
        assert spare.target == there
        spare.reply("200 OK")
        exchange = await task
        await listened(exchange)


@pytest.mark.parametrize(("keys", "status"), [(True, 200), (False, 400)])
@on_each_loop
async def test_key_of_ours_that_is_refused_sends_to_the_spare(keys: bool, status: int) -> None:
    """A caller's own key is the caller's matter, and says nothing of the upstream."""
    async with way(2, Retries(attempts=1), keys=keys, failures=1) as to:
        task = to.open()
        refuse(await to.stages[0].next(), 400, b'{"error":{"code":"Arrearage","message":"m"}}')
        if keys:
            (await to.stages[1].next()).reply("200 OK")
        exchange = await task
        await listened(exchange)
        assert exchange.status == status
        assert to.upstreams[0].state is (State.OPEN if keys else State.CLOSED)


@on_each_loop
async def test_failed_upstream_is_left_alone_for_its_time() -> None:
    """Without attempts: the request that fails fails, the next ones go elsewhere."""
    async with way(2, OFF, weights=(1, 0), failures=2) as to:
        await to.stages[0].stop()
        for _ in range(2):
            with pytest.raises(Unreachable):
                await to.group.open(CHAT)
        task = to.open()
        (await to.stages[1].next()).reply("200 OK")
        exchange = await task
        await listened(exchange)
        assert exchange.upstream_name == "1"


@on_each_loop
async def test_when_all_have_failed_the_client_is_told_when_to_come_back() -> None:
    """Not the upstreams, which would fail again."""
    async with way(2, OFF, failures=1) as to:
        for stage in to.stages:
            await stage.stop()
        for _ in range(2):
            with pytest.raises(Unreachable):
                await to.group.open(CHAT)
        with pytest.raises(Overloaded, match="all 2 upstreams") as caught:
            await to.group.open(CHAT)
        assert 55 <= (caught.value.retry_after_s or 0) <= 60


@on_each_loop
async def test_last_refusal_is_passed_on_when_nobody_may_be_asked_any_more() -> None:
    """It tells more than that all have failed."""
    async with way(2, Retries(attempts=9, wait_max_s=0.01), failures=1) as to:
        task = to.open()
        refuse(await to.stages[0].next(), 429)
        refuse(await to.stages[1].next(), 429, b'{"error":{"code":"limit_requests"},"n":2}')
        exchange = await task
        assert (await listened(exchange)).body.endswith(b'"n":2}')
        assert (b"x-should-retry", b"false") in exchange.headers


@on_each_loop
async def test_error_inside_a_stream_is_a_failure_of_the_upstream_if_it_is_its_fault() -> None:
    """What its code tells."""
    inspection, internal = Failure("inspected", "data_inspection_failed"), Failure("broken", "internal_error")
    async with way(2, OFF, failures=1) as to:
        erred(to.group.upstreams[1], inspection)
        assert to.upstreams[1].state is State.CLOSED
        erred(to.group.upstreams[1], internal)
        assert to.upstreams[1].state is State.OPEN
        assert to.upstreams[0].state is State.CLOSED


@on_each_loop
async def test_wrong_request_opens_no_breaker() -> None:
    """An upstream that says what is wrong with it is well."""
    async with way(2, OFF, weights=(1, 0), failures=1) as to:
        task = to.open()
        refuse(await to.stages[0].next(), 400, b'{"error":{"code":"invalid_parameter_error"}}')
        exchange = await task
        await listened(exchange)
        assert to.upstreams[0].state is State.CLOSED


@on_each_loop
async def test_retry_after_leaves_an_upstream_alone_for_that_long() -> None:
    """At the first refusal."""
    async with way(2, OFF, weights=(1, 0), failures=99) as to:
        task = to.open()
        refuse(await to.stages[0].next(), 429, BUSY, "Retry-After: 77")
        exchange = await task
        await listened(exchange)
        breaker = to.upstreams[0].breaker
        assert breaker is not None
        assert 70 < breaker.opens_in_s(monotonic()) <= 77


@given(weights=st.lists(st.integers(1, 9), min_size=1, max_size=5), rounds=st.integers(1, 4))
async def test_each_is_chosen_as_often_as_its_weight_says(weights: list[int], rounds: int) -> None:
    """Exactly, over as many choices as the weights make."""
    async with upstream("http://127.0.0.1:1") as nobody_asks:
        upstreams = [Upstream(f"{number}", nobody_asks, weight=weight) for number, weight in enumerate(weights)]
    chosen = Counter(by_weight(upstreams).name for _ in range(rounds * sum(weights)))
    assert chosen == {upstream.name: upstream.weight * rounds for upstream in upstreams}


# What the client gets


@pytest.mark.parametrize("unwraps", [True, False])
@on_each_loop
async def test_framed_refusal_is_unwrapped_if_that_is_configured(unwraps: bool) -> None:
    """Into the object alone, with the headers that go with it; else it passes as it is."""
    error = {"error": {"code": "invalid_parameter_error", "message": "错"}, "id": "chatcmpl-1"}
    framed = b"data: " + json.dumps(error).encode() + b"\n\n"
    async with way(retries=OFF, unwraps=unwraps) as to:
        task = to.open()
        turn = await to.stages[0].next()
        turn.begin("X-Request-Id: r1", status="400 Bad Request")
        turn.chunk(framed[:9])
        turn.end(framed[9:])
        exchange = await task
        listener = await listened(exchange)
        headers = {name.lower(): value for name, value in exchange.headers}
        assert exchange.status == 400
        assert headers[b"x-request-id"] == b"r1"
        if unwraps:
            assert json.loads(listener.body) == error
            assert headers[b"content-type"] == b"application/json"
            assert headers[b"content-length"] == b"%d" % len(listener.body)
        else:
            assert listener.body == framed
            assert headers[b"content-type"] == EVENT_STREAM.encode()


@pytest.mark.parametrize("body", [b"data: not json\n\n", b"<html>", b"", b'{"error":{}}'])
@on_each_loop
async def test_what_can_not_be_unwrapped_passes_as_it_is(body: bytes) -> None:
    """Byte for byte."""
    async with way(retries=OFF, unwraps=True) as to:
        task = to.open()
        refuse(await to.stages[0].next(), 400, body)
        exchange = await task
        assert (await listened(exchange)).body == body


@on_each_loop
async def test_refusal_that_passes_through_is_not_unwrapped() -> None:
    """Only generations are known to mean it so."""
    async with way(retries=OFF, unwraps=True) as to:
        task = to.open(replace(CHAT, generation=False))
        refuse(await to.stages[0].next(), 400, b'data: {"error":{}}\n\n')
        exchange = await task
        assert (await listened(exchange)).body == b'data: {"error":{}}\n\n'


def test_errors_that_are_not_retried_say_nothing_of_retries() -> None:
    """So that an SDK begins again as it would without a proxy."""
    assert not UpstreamError("m").retried
