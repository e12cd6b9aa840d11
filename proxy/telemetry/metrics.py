"""What Prometheus is told.

Everything counted is a plain integer somewhere: on streams and subscriptions while they run, here once they have
ended; the Collector sums when it is scraped. prometheus_client makes the page; its own Histogram is not used, since
an observation takes 1 to 2.4 us there and 0.4 here, and a short stream has five. All that a stream adds to is found
by one key, and an exemplar becomes an object when it is scraped: 4 us a stream instead of 7.
"""

import operator
import platform
import time
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any, NamedTuple

import aiohttp
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from proxy import __version__
from proxy.dialects.dialect import Usage
from proxy.stream.background import BackgroundLoop
from proxy.stream.hub import Hub
from proxy.stream.stream import Stream
from proxy.stream.subscription import Subscription
from proxy.stream.vitals import GAP_BUCKETS_S
from proxy.upstream.breaker import State
from proxy.upstream.upstream import Upstream

# OpenTelemetry's buckets for the first token, carried on as vLLM does; seconds.
FIRST_TOKEN_BUCKETS_S = (
    .001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160,
)  # fmt: skip
DURATION_BUCKETS_S = (*(0.01 * 2**n for n in range(14)), 160, 320, 640, 1280, 2560)
OVERHEAD_BUCKETS_S = (*(0.00002 * 2**n for n in range(13)), 0.1)

_HISTOGRAMS = {  # name: (help, labels, bounds)
    "time_to_first_byte": (
        "Request received to the first body byte from upstream.",
        ("route", "model"),
        FIRST_TOKEN_BUCKETS_S,
    ),
    "time_to_first_token": (
        "Request received to the first frame with generated text (reasoning, content, tool call).",
        ("route", "model"),
        FIRST_TOKEN_BUCKETS_S,
    ),
    "time_to_first_content": (
        "Request received to the first frame with answer text.",
        ("route", "model"),
        FIRST_TOKEN_BUCKETS_S,
    ),
    "inter_token": ("Gap between frames with generated text.", ("route", "model"), GAP_BUCKETS_S),
    "time_per_output_token": (
        "(Last token - first token) / (completion tokens - 1), from the stated usage.",
        ("route", "model"),
        GAP_BUCKETS_S,
    ),
    "stream_duration": ("Request received to the seal.", ("route", "model", "ending"), DURATION_BUCKETS_S),
    "queue_wait": ("Waiting in the queue before the upstream.", ("upstream",), FIRST_TOKEN_BUCKETS_S),
    "upstream_connect": ("Waiting for a connection to the upstream.", ("route",), FIRST_TOKEN_BUCKETS_S),
    "proxy_overhead": (
        "Read from upstream to handed to every follower's socket; about one read in 64.",
        ("route",),
        OVERHEAD_BUCKETS_S,
    ),
}


class Distribution:
    """How many values fell into each bucket of a histogram, and their sum; in each, the last exemplar."""

    __slots__ = ("_bounds", "counts", "exemplars", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.exemplars: dict[int, tuple[float, str, float]] = {}  # value, trace id, Unix seconds
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def observe_traced(self, value: float, trace_id: str, unix_s: float) -> None:
        """Count a value that is shown as its bucket's exemplar until the next one."""
        bucket = bisect_left(self._bounds, value)  # as observe does, without its call
        self.counts[bucket] += 1
        self.sum += value
        self.exemplars[bucket] = value, trace_id, unix_s

    def add(self, counts: list[int], total: float) -> None:
        """Count values that were sorted into the same buckets elsewhere."""
        self.counts = list(map(operator.add, self.counts, counts))
        self.sum += total

    def buckets(self) -> list[Any]:
        """Return what HistogramMetricFamily takes: (upper bound, cumulative count, exemplar)."""
        bounds = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        running = accumulate(self.counts)
        return [
            (bound, count, self._exemplar(number))
            for number, (bound, count) in enumerate(zip(bounds, running, strict=True))
        ]

    def _exemplar(self, bucket: int) -> Exemplar | None:
        if bucket not in self.exemplars:
            return None
        value, trace_id, unix_s = self.exemplars[bucket]
        return Exemplar({"trace_id": trace_id}, value, unix_s)


_TIMES = (
    "time_to_first_byte",
    "time_to_first_token",
    "time_to_first_content",
    "inter_token",
    "time_per_output_token",
)


class _Times(NamedTuple):
    """The distributions of one (route, model), in the order of _TIMES."""

    first_byte: Distribution
    first_token: Distribution
    first_content: Distribution
    gap: Distribution
    per_token: Distribution


class _Ended:
    """What is counted of the streams of one (route, model) that ended in one way."""

    __slots__ = ("bytes", "duration", "frames", "no_token", "streams", "times", "tokens")

    def __init__(self, duration: Distribution, times: _Times) -> None:
        self.streams = 0
        self.no_token = 0
        self.frames = 0
        self.bytes = 0
        self.tokens = [0] * len(Usage._fields)
        self.duration = duration
        self.times = times


class Metrics(Collector):
    """The registry, and the collector of everything that is counted."""

    def __init__(self, hub: Hub, max_models: int, loop: str) -> None:
        self.registry = CollectorRegistry()
        self.requests: Tally[tuple[str, str, int]] = Tally()
        self.rejected: Tally[str] = Tally()
        self.replayed: Tally[str] = Tally()
        self.retries: Callable[[], Mapping[str, int]] = dict  # requests that were sent upstream once more, by reason
        self.connections: Callable[[], Mapping[str, int]] = dict  # to upstreams, by state
        self.upstreams: Callable[[], Iterable[Upstream]] = tuple
        self.reopened: Tally[str] = Tally()  # by route
        self.background_loops: list[BackgroundLoop] = []  # each with a name of its own
        self._hub = hub
        self._build = (__version__, platform.python_version(), aiohttp.__version__, loop)
        self._max_models = max_models
        self._models: set[str] = set()
        self._distributions: dict[str, dict[tuple[str, ...], Distribution]] = {name: {} for name in _HISTOGRAMS}
        self._ended: dict[tuple[str, str, str], _Ended] = {}
        self._never_began: Tally[tuple[str, str, str]] = Tally()
        self._delivered: Tally[str] = Tally()
        self._subscriptions_ended: Tally[tuple[str, str]] = Tally()
        self.registry.register(self)

    def distribution(self, name: str, *labels: str) -> Distribution:
        """Return the distribution of a histogram with these label values."""
        children = self._distributions[name]
        found = children.get(labels)
        if found is None:
            found = children[labels] = Distribution(_HISTOGRAMS[name][2])
        return found

    def stream_ended(self, stream: Stream, now: float) -> None:
        """Take a stream's times and counts, once, when it is sealed; `now` in monotonic seconds."""
        log, vitals = stream.log, stream.vitals
        assert log.ending is not None
        key = stream.route, self._model(vitals.model), log.ending.reason
        ended = self._ended.get(key) or self._first(*key)
        began, times, unix_s = vitals.started_at, ended.times, time.time()
        ended.streams += 1
        ended.frames += log.end
        ended.bytes += log.end_bytes + len(log.tail)
        ended.duration.observe_traced(now - began, stream.trace_id, unix_s)
        if vitals.first_byte_at:
            times.first_byte.observe(vitals.first_byte_at - began)
        if vitals.first_token_at:
            times.first_token.observe_traced(vitals.first_token_at - began, stream.trace_id, unix_s)
        elif stream.dialect.frames.has_text:
            ended.no_token += 1
        if vitals.first_content_at:
            times.first_content.observe(vitals.first_content_at - began)
        if vitals.gap_counts is not None:
            times.gap.add(vitals.gap_counts, vitals.gaps_s)
        usage = vitals.reader.usage
        if usage is not None:
            ended.tokens = list(map(operator.add, ended.tokens, usage))
            if usage.completion > 1 and vitals.last_token_at > vitals.first_token_at:
                seconds = (vitals.last_token_at - vitals.first_token_at) / (usage.completion - 1)
                times.per_token.observe(seconds)

    def never_began(self, route: str, ending: str) -> None:
        """Count a generation that ended before its answer began."""
        self._never_began[route, self._model(None), ending] += 1

    def subscription_ended(self, subscription: Subscription) -> None:
        """Take a follower's counts."""
        self._delivered[subscription.mode] += subscription.sent_bytes
        self._subscriptions_ended[subscription.mode, subscription.ended or "left"] += 1

    def collect(self) -> Iterator[Metric]:
        yield from self._counters()
        yield from self._gauges()
        for name, (text, labels, _) in _HISTOGRAMS.items():
            family = HistogramMetricFamily(f"streamtee_{name}_seconds", text, labels=labels)
            for values, child in self._distributions[name].items():
                family.add_metric(values, child.buckets(), child.sum)
            yield family

    def _counters(self) -> Iterator[Metric]:
        frames, received, delivered = Tally[str](), Tally[str](), Tally(self._delivered)
        ended, no_token, tokens = Tally(self._never_began), Tally(self._never_began), Tally[tuple[str, str, str]]()
        for key, counts in self._ended.items():
            ended[key] += counts.streams
            no_token[key] += counts.no_token
            frames[key[0]] += counts.frames
            received[key[0]] += counts.bytes
            for kind, count in zip(Usage._fields, counts.tokens, strict=True):
                tokens[(*key[:2], kind)] += count
        for stream in self._hub:
            if stream.log.ending is None:
                frames[stream.route] += stream.log.end
                received[stream.route] += stream.log.end_bytes
            for subscription in stream.subscriptions:
                delivered[subscription.mode] += subscription.sent_bytes
        label = ("route", "model", "ending")
        yield _counter("streams_ended", "Streams by how they ended.", label, ended)
        yield _counter("no_first_token", "Streams that ended before a token.", label, +no_token)
        yield _counter("tokens", "Tokens, as usage states them.", ("route", "model", "kind"), +tokens)
        yield _counter("requests", "Requests by final status.", ("route", "method", "status"), self.requests)
        yield _counter("frames", "Frames received from upstream.", ("route",), frames)
        yield _counter("upstream_bytes", "Body bytes of streams from upstream.", ("route",), received)
        yield _counter("delivered_bytes", "Bytes handed to followers, by mode.", ("mode",), delivered)
        yield _counter("replayed_bytes", "Bytes of the past that followers asked for.", ("mode",), self.replayed)
        reasons = self._subscriptions_ended
        yield _counter("subscriptions_ended", "Followers by why they ended.", ("mode", "reason"), reasons)
        yield _counter("retries", "Requests sent upstream once more.", ("reason",), Tally(self.retries()))
        yield _counter("reopened", "Times a shared stream asked its upstream again.", ("route",), self.reopened)
        chosen = Tally({upstream.name: upstream.chosen for upstream in self.upstreams()})
        yield _counter("upstream_requests", "Requests that an upstream was chosen for.", ("upstream",), chosen)
        failures = Tally({loop.name: loop.failures for loop in self.background_loops})
        yield _counter("background_loop_failures", "Turns that ended with an exception.", ("loop",), failures)
        yield _counter("rejected", "Requests refused here, by error code.", ("reason",), self.rejected)

    def _gauges(self) -> Iterator[Metric]:
        hub = self._hub
        followers = [subscription for stream in hub for subscription in stream.subscriptions]
        modes = Tally(subscription.mode for subscription in followers)
        lag = max((subscription.lag_bytes for subscription in followers), default=0)
        yield _gauge("streams_active", "Streams that are not sealed.", (), Tally({(): hub.running}))
        yield _gauge("subscribers", "Followers, by mode.", ("mode",), modes)
        yield _gauge("subscriber_lag_bytes_max", "The slowest follower's lag.", (), Tally({(): lag}))
        yield _gauge("log_bytes", "What all logs hold.", (), Tally({(): hub.ledger.bytes}))
        connections = Tally(self.connections())
        yield _gauge("upstream_connections", "Connections to upstreams, by state.", ("state",), connections)
        waiting = {upstream.name: upstream.queue.waiting for upstream in self.upstreams() if upstream.queue is not None}
        yield _gauge("queued", "Requests in the queue before an upstream.", ("upstream",), Tally(waiting))
        states = {
            (upstream.name, state.value): int(upstream.state is state)
            for upstream in self.upstreams()
            for state in State
            if upstream.breaker is not None
        }
        text = "1 for the state that an upstream's circuit breaker is in, 0 for the others."
        yield _gauge("upstream_state", text, ("upstream", "state"), Tally(states))
        alive = Tally({loop.name: int(loop.alive) for loop in self.background_loops})
        text = "1 while a background loop has its turns, and none of the last minute failed."
        yield _gauge("background_loop_alive", text, ("loop",), alive)
        build = ("version", "python", "aiohttp", "loop")
        yield _gauge("build_info", "What runs.", build, Tally({self._build: 1}))

    def _model(self, model: str | None) -> str:
        """Bound the label: the first `max_models` names are kept, the rest are `other`."""
        if model is None:
            return "unknown"
        if model not in self._models:
            if len(self._models) >= self._max_models:
                return "other"
            self._models.add(model)
        return model

    def _first(self, route: str, model: str, ending: str) -> _Ended:
        """Return what counts streams that end so from now on."""
        times = _Times(*(self.distribution(name, route, model) for name in _TIMES))
        ended = _Ended(self.distribution("stream_duration", route, model, ending), times)
        self._ended[route, model, ending] = ended
        return ended


def _counter(name: str, text: str, labels: tuple[str, ...], tally: Tally[Any]) -> Metric:
    return _filled(CounterMetricFamily(f"streamtee_{name}", text, labels=labels), tally)


def _gauge(name: str, text: str, labels: tuple[str, ...], tally: Tally[Any]) -> Metric:
    return _filled(GaugeMetricFamily(f"streamtee_{name}", text, labels=labels), tally)


def _filled(family: Any, tally: Tally[Any]) -> Metric:
    for key, count in tally.items():
        values = key if isinstance(key, tuple) else (key,)
        family.add_metric([str(value) for value in values], count)
    metric: Metric = family
    return metric
