"""Metrics of callers with keys of ours: what each has used, by name. So many names are shown; the rest are `other`."""

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class Account(Protocol):
    """What is read of the account of a caller."""

    name: str
    requests_total: int
    tokens_total: int
    refusals: Tally[str]

    @property
    def streams(self) -> int:
        """How many requests and streams have a place now."""

    @property
    def followers(self) -> int:
        """How many clients follow its streams now."""


class CallerMetrics(Collector):
    """Collects the metrics of all callers that have accounts."""

    def __init__(self, accounts: Iterable[Account], most: Callable[[], int]) -> None:
        """`most` returns how many names may be shown."""
        self._accounts = accounts
        self._most = most
        self._shown: set[str] = set()

    def collect(self) -> Iterator[Metric]:
        requests, tokens, streams, followers = Tally[str](), Tally[str](), Tally[str](), Tally[str]()
        refused = Tally[tuple[str, str]]()
        for account in self._accounts:
            name = self._label(account.name)
            requests[name] += account.requests_total
            tokens[name] += account.tokens_total
            streams[name] += account.streams
            followers[name] += account.followers
            for limit, count in account.refusals.items():
                refused[name, limit] += count
        yield _counter("caller_requests", "Requests upstream of callers with keys of ours.", requests)
        yield _counter("caller_tokens", "Tokens of their responses, as they are counted against limits.", tokens)
        yield _gauge("caller_streams", "Their requests and streams that run.", streams)
        yield _gauge("caller_followers", "Followers of their streams.", followers)
        family = CounterMetricFamily("streamtee_caller_refused", "Requests over a limit.", labels=("caller", "limit"))
        for labels, count in refused.items():
            family.add_metric(labels, count)
        yield family

    def _label(self, name: str) -> str:
        if name not in self._shown:
            if len(self._shown) >= self._most():
                return "other"
            self._shown.add(name)
        return name


def _counter(name: str, text: str, tally: Tally[str]) -> Metric:
    family = CounterMetricFamily(f"streamtee_{name}", text, labels=("caller",))
    for caller, count in tally.items():
        family.add_metric((caller,), count)
    return family


def _gauge(name: str, text: str, tally: Tally[str]) -> Metric:
    family = GaugeMetricFamily(f"streamtee_{name}", text, labels=("caller",))
    for caller, count in tally.items():
        family.add_metric((caller,), count)
    return family
