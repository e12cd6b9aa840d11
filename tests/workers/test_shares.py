"""The shares of a limit: never more together than what is configured, and never none."""

import pytest

from proxy.server.config import Config
from proxy.workers.shares import DIVIDED, DIVIDED_UPSTREAM, divided
from tests.proxy_under_test import configured

pytestmark = pytest.mark.usefixtures("bare_environment")
URL = "http://127.0.0.1:1"


def shares(workers: int, **tables: object) -> list[Config]:
    return [divided(configured(URL, **tables), workers, seat) for seat in range(workers)]


@pytest.mark.parametrize("workers", [2, 3, 7])
def test_shares_add_up_to_the_limit(workers: int) -> None:
    """Of each limit that is divided."""
    limits = {name: 1000 + number for number, name in enumerate(DIVIDED)}
    upstream = {"url": URL, **{name: 100 + number for number, name in enumerate(DIVIDED_UPSTREAM)}}
    found = shares(workers, limits=limits, upstream=upstream, upstreams={"other": upstream})
    for name, limit in limits.items():
        each = [getattr(one.limits, name) for one in found]
        assert (sum(each), max(each) - min(each) <= 1) == (limit, True)
    for name in DIVIDED_UPSTREAM:
        for table in ([one.upstream for one in found], [one.upstreams["other"] for one in found]):
            assert sum(getattr(one, name) for one in table) == upstream[name]


def test_no_limit_stays_none() -> None:
    """0 is not divided."""
    assert {one.upstream.max_concurrent for one in shares(3)} == {0}
    assert {one.upstream.requests_per_minute for one in shares(3)} == {0}


@pytest.mark.parametrize(("a_minute", "each"), [(600, [240, 180, 180]), (180, [60, 60, 60]), (1000, [360, 300, 300])])
def test_rate_is_divided_in_whole_requests_a_second(a_minute: int, each: list[int]) -> None:
    """Since the upstream counts a sixtieth of it within each second."""
    found = shares(3, upstream={"requests_per_minute": a_minute})
    assert [one.upstream.requests_per_minute for one in found] == each


@pytest.mark.parametrize(
    ("tables", "named"),
    [
        ({"limits": {"streams": 2}}, "limits.streams is 2"),
        ({"upstream": {"max_concurrent": 1}}, "upstream.max_concurrent is 1"),
        ({"upstream": {"requests_per_minute": 100}}, "a sixtieth of upstream.requests_per_minute is 1"),
    ],
)
def test_limit_that_is_too_low_is_named(tables: dict[str, object], named: str) -> None:
    """A worker without a share could serve nobody."""
    with pytest.raises(ValueError, match=f"{named}, which can't be divided among 3 workers"):
        shares(3, **tables)
