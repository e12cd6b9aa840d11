"""The upstreams of a configuration: which have a breaker, a queue and a key of their own, and what they tell."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from proxy.downstream.descriptors import Descriptors
from proxy.server.upstreams import Upstreams
from proxy.telemetry.metrics import Metrics
from tests.complaints import no_complaints
from tests.event_loops import on_each_loop
from tests.proxy_under_test import configured

ONE = {"url": "http://one.test/v1", "key": "sk-one"}
TWO = {"url": "http://two.test"}


@asynccontextmanager
async def made(**tables: Any) -> AsyncIterator[Upstreams]:
    """Make the upstreams of a configuration."""
    with no_complaints():
        upstreams = Upstreams(configured("http://zero.test", **tables), Metrics(5), Descriptors(1024))
        try:
            yield upstreams
        finally:
            await upstreams.close()


@on_each_loop
async def test_lone_upstream_has_neither_breaker_nor_queue() -> None:
    """It costs a request nothing."""
    async with made(upstream={"key": "sk-zero"}) as upstreams:
        upstream = upstreams.by_name["default"]
        assert (upstream.breaker, upstream.queue, upstream.has_key) == (None, None, True)
        assert upstreams.group().upstreams == [upstream]


@on_each_loop
async def test_upstream_and_its_spares_have_breakers_and_their_keys() -> None:
    """Others have not."""
    upstream = {"key": "sk-zero", "spares": ["one"], "weight": 3}
    async with made(upstream=upstream, upstreams={"one": ONE, "two": TWO}) as upstreams:
        default, one, two = (upstreams.by_name[name] for name in ("default", "one", "two"))
        assert upstreams.group().upstreams == [default, one]
        assert upstreams.group("two").upstreams == [two]
        assert default.breaker is not None
        assert one.breaker is not None
        assert two.breaker is None
        assert (default.has_key, one.has_key, two.has_key) == (True, True, False)
        assert (default.weight, one.weight) == (3, 1)


@on_each_loop
async def test_targets_begin_with_the_path_of_each_upstreams_api() -> None:
    """That of the URL, for the user's own routes; for those of the APIs see the settings."""
    async with made(upstreams={"one": ONE, "two": TWO}) as upstreams:
        assert upstreams.base("one") == "/v1"
        assert upstreams.base("two") == ""


@on_each_loop
async def test_limits_make_a_queue() -> None:
    """Each of them."""
    limits = {"a": {"max_concurrent": 1}, "b": {"requests_per_minute": 1}, "c": {}}
    async with made(upstreams={name: {**TWO, **limit} for name, limit in limits.items()}) as upstreams:
        assert [upstreams.by_name[name].queue is not None for name in limits] == [True, True, False]


@on_each_loop
async def test_connections_and_retries_of_all_upstreams_are_counted() -> None:
    """They are summed; the rest is found by name."""
    async with made(upstreams={"one": ONE}) as upstreams:
        upstreams.by_name["one"].pool.retries = 2
        upstreams.by_name["default"].pool.retries = 3
        assert upstreams.retries() == {"connection_reused": 5}
        assert upstreams.connections() == {"active": 0, "idle": 0}
        assert list(upstreams.by_name) == ["default", "one"]
