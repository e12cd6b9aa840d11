"""Queries about what only some proxies have, against a Prometheus with data: a store, workers, callers with keys."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.access.named import NamedCallers
from tests.deploy.queries import RECIPES, RULES, TARGETS, named
from tests.metric_names import ELSEWHERE
from tests.prometheus_server import Prometheus, scraping
from tests.proxy_under_test import faked, teed
from tests.store.nodes import stored
from tests.store.redis_server import redis_server
from tests.workers_under_test import workers

pytestmark = pytest.mark.xdist_group("prometheus elsewhere")  # whose server is the same for all these tests

ASKED = [(name, query) for name, query in (*TARGETS, *zip(RECIPES, RECIPES, strict=True))]
QUERIES = {name: query for name, query in ASKED if named(query) & ELSEWHERE.keys()}
ONE_AT_ONCE = {"streams": 1}


async def perform(folder: Path, stack: ExitStack) -> Prometheus:
    """Run a proxy with a store and callers, and two workers, until their Prometheus has seen a turn of traffic."""
    callers = NamedCallers(folder, alice=ONE_AT_ONCE)
    alice = callers.header("alice")
    usage = {"stream_options": {"include_usage": True}}
    async with faked() as fake, redis_server() as redis:
        upstream = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "upstream": {"url": fake.url}}
        store = stored(redis.url)
        async with teed(fake.url, **callers.tables(), store=store) as tee, workers(upstream, 2) as several:
            prometheus = stack.enter_context(scraping([tee.proxy.admin_url, several.admin_url], folder, RULES))
            for turn in (1, 2):
                running = await tee.chat(alice, fault="hang; after=3")
                assert (await tee.chat(alice)).status == 429
                await running.client.leave()
                await (await tee.chat(alice, **usage)).read()
                await prometheus.wait_value("sum(streamtee_caller_requests_total)", 2 * turn)
            await tee.chat(alice, fault="hang; after=3")
            await prometheus.wait_value("sum(streamtee_caller_streams)", 1)
            await prometheus.wait_value("sum(streamtee_worker_up)", 2)
            await prometheus.hold("streamtee_caller_streams")
            return prometheus


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """It goes on to answer queries of that time."""
    with ExitStack() as stack:
        yield asyncio.run(perform(tmp_path_factory.mktemp("prometheus"), stack))


@pytest.mark.parametrize("query", QUERIES.values(), ids=list(QUERIES))
def test_query_of_what_only_some_have_is_answered(prometheus: Prometheus, query: str) -> None:
    """Where there is such a thing, it is shown."""
    assert prometheus.query(query)


@pytest.mark.parametrize("name", ["cpu_seconds_total", "resident_memory_bytes", "open_fds", "max_fds"])
def test_each_worker_says_what_its_process_takes(prometheus: Prometheus, name: str) -> None:
    """By a label, which the one of a single process has not."""
    found = [labels.get("worker", "") for labels, _ in prometheus.query(f"process_{name}")]
    assert sorted(found) == ["", "0", "1"]


@pytest.mark.parametrize(
    ("query", "labels"),
    [
        ("sum by (caller) (increase(streamtee_caller_tokens_total[1m]))", {"caller": "alice"}),
        ("sum by (limit) (increase(streamtee_caller_refused_total[1m]))", {"limit": "streams"}),
    ],
)
def test_answer_says_whose_it_is(prometheus: Prometheus, query: str, labels: dict[str, str]) -> None:
    """A caller by its name, and which of its limits was in its way; more than 0 of it."""
    ((told, value),) = prometheus.query(query)
    assert told == labels
    assert value > 0
