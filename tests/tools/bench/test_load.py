"""Load on real endpoints: what is measured of each answer, by how many workers, and at what rate."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

import pytest

from proxy.dialects.question import Question
from proxy.tools.bench.call import measured
from proxy.tools.bench.load import Load, Plan, Target
from proxy.tools.bench.report import Report
from proxy.tools.endpoint import APIS, Endpoint
from proxy.tools.fake.qwen import FakeQwen, Pace
from tests.proxy_under_test import faked, teed


def question(fault: str = "", max_tokens: int = 0) -> Question:
    """Return a question that the fake answers with a fault."""
    return Question(f"qwen-plus+{fault}" if fault else "qwen-plus", "Hello", max_tokens)


@asynccontextmanager
async def endpoint_at(url: str, api: str = "chat") -> AsyncIterator[Endpoint]:
    base = f"{url}/apps/anthropic" if api == "messages" else url
    one = Endpoint(base, api)
    try:
        yield one
    finally:
        await one.close()


@pytest.mark.parametrize("api", APIS)
async def test_times_of_an_answer_are_those_of_its_upstream(api: str) -> None:
    """The first token is the first text, and the role chunk or the first event of the API is none."""
    async with faked(pace=Pace(interval_s=0.02, jitter=0)) as fake, endpoint_at(fake.url, api) as endpoint:
        body = endpoint.body(question("slow_first_token,seconds=0.1+count,frames=10"))
        sample = await measured(endpoint, body, monotonic() - 0.05)
    assert sample.problem == ""
    assert 0.15 <= sample.first_byte_s < sample.first_token_s < sample.duration_s < 2
    assert sample.first_token_s - sample.first_byte_s >= 0.018
    assert len(sample.tokens_at) == 10
    assert sum(sample.gaps_s) == pytest.approx(9 * 0.02, rel=0.5)
    assert sample.tokens > 10


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("reset", "broken off"),
        ("cut_mid_chunk", "broken off"),
        ("cut_clean_half_frame", "incomplete"),
        ("error_inside", "error event"),
        ("status,status=429", "status 429"),
        ("garbage", "not HTTP"),
    ],
)
async def test_answer_that_is_not_complete_is_a_problem(fake: FakeQwen, fault: str, problem: str) -> None:
    """Named in a few words; its times count for nothing."""
    async with endpoint_at(fake.url) as endpoint:
        assert (await measured(endpoint, endpoint.body(question(fault)), monotonic())).problem == problem


async def test_answer_that_is_no_event_stream_is_a_problem(fake: FakeQwen) -> None:
    """As of a path that is not that of the API: the fake tells what it was asked, in JSON."""
    endpoint = Endpoint(fake.url, "messages")
    assert (await measured(endpoint, endpoint.body(question()), monotonic())).problem == "no event stream"
    await endpoint.close()


async def test_nobody_who_listens_is_a_problem() -> None:
    """Of each request; the measurement goes on."""
    async with endpoint_at("http://127.0.0.1:1") as endpoint:
        assert (await measured(endpoint, b"{}", monotonic())).problem == "no connection"


async def test_workers_send_one_request_after_another(fake: FakeQwen) -> None:
    """So many at once, no more; all that were begun are finished."""
    async with endpoint_at(fake.url) as endpoint:
        target = Target(endpoint, lambda: endpoint.body(question(max_tokens=20)))
        load = Load(Plan(0.3, concurrency=3), [target])
        await load.run()
    assert not [one for one in target.samples if one.problem]
    assert len(target.samples) == len(fake.requests) > 6
    assert len({id(one) for one in fake.connections}) <= 3
    report = Report.of(load)
    assert report.results[0].complete == len(target.samples)
    assert report.results[0].requests_per_s == pytest.approx(len(target.samples) / 0.3, rel=0.5)


async def test_rate_is_kept_whatever_the_answers_take(fake: FakeQwen) -> None:
    """The clock of a request that has to wait for a worker runs from when it was due."""
    async with endpoint_at(fake.url) as endpoint:
        body = endpoint.body(question("slow_first_token,seconds=0.1"))
        free, held = (Target(endpoint, lambda: body) for _ in range(2))
        await asyncio.gather(
            Load(Plan(0.4, concurrency=50, per_s=50), [free]).run(), Load(Plan(0.4, 1, per_s=50), [held]).run()
        )
    assert len(free.samples) == len(held.samples) == 20
    assert max(one.first_byte_s for one in free.samples) < 1
    assert max(one.first_byte_s for one in held.samples) > 1.4  # the last of 20 waited for 19 of 0.1 s


async def test_two_targets_take_turns_and_show_what_the_second_adds() -> None:
    """Here a proxy before an upstream, and one before one that is slower by 30 ms."""
    async with (
        faked() as fake,
        teed(fake.url) as tee,
        endpoint_at(fake.url) as first,
        endpoint_at(tee.proxy.url) as second,
    ):
        slow = first.body(question("slow_first_token,seconds=0.03"))
        targets = [Target(first, lambda: first.body(question(""))), Target(second, lambda: slow)]
        load = Load(Plan(0.5, concurrency=2), targets)
        await load.run()
    first_target, second_target = targets
    assert abs(len(first_target.samples) - len(second_target.samples)) <= 2
    assert 0.03 <= Report.of(load).added["first_byte_s"].p50 < 0.2
