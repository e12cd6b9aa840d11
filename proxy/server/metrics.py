"""What Prometheus is told. Counters on the hot path are plain integers of streams and subscriptions, summed here
when they are scraped; a stream's own times are observed once, when it has ended.
"""

import platform
from collections import Counter as Tally
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import aiohttp
from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from proxy import __version__
from proxy.stream.hub import Hub
from proxy.stream.stream import Stream, Subscription
from proxy.stream.vitals import GAP_BUCKETS_S, Vitals

# OpenTelemetry's buckets for the first token, carried on as vLLM does; seconds.
FIRST_TOKEN_BUCKETS_S = (
    .001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160,
)  # fmt: skip
DURATION_BUCKETS_S = (*(0.01 * 2**n for n in range(14)), 160, 320, 640, 1280, 2560)
OVERHEAD_BUCKETS_S = (*(0.00002 * 2**n for n in range(13)), 0.1)

_HISTOGRAMS = {  # attribute: (name, help, labels, buckets)
    "first_byte": (
        "time_to_first_byte",
        "Request received to the first body byte from upstream.",
        FIRST_TOKEN_BUCKETS_S,
    ),
    "first_token": (
        "time_to_first_token",
        "Request received to the first frame with generated text (reasoning, content, tool call).",
        FIRST_TOKEN_BUCKETS_S,
    ),
    "first_content": (
        "time_to_first_content",
        "Request received to the first frame with answer text.",
        FIRST_TOKEN_BUCKETS_S,
    ),
    "per_token": (
        "time_per_output_token",
        "(Last token - first token) / (completion tokens - 1), from the stated usage.",
        GAP_BUCKETS_S,
    ),
}  # fmt: skip


class _Children:
    """The histogram children of one (route, model), looked up once."""

    __slots__ = (
        "duration",
        "first_byte",
        "first_content",
        "first_token",
        "gap_counts",
        "gaps_s",
        "per_token",
    )

    def __init__(self, histograms: dict[str, Histogram], route: str, model: str) -> None:
        for name, histogram in histograms.items():
            setattr(self, name, histogram.labels(route, model))
        self.duration: dict[str, Any] = {}
        self.gap_counts = [0] * (len(GAP_BUCKETS_S) + 1)
        self.gaps_s = 0.0


class Metrics(Collector):
    """The registry, and the collector of everything that is counted elsewhere."""

    def __init__(self, hub: Hub, max_models: int, loop: str) -> None:
        self.registry = CollectorRegistry()
        self.requests: Tally[tuple[str, str, int]] = Tally()
        self.rejected: Tally[str] = Tally()
        self.retries = 0
        self.connections = 0  # client connections to an upstream that carry an exchange now
        self._hub = hub
        self._max_models = max_models
        self._models: set[str] = set()
        self._children: dict[tuple[str, str], _Children] = {}
        self._ended: Tally[tuple[str, str, str]] = Tally()
        self._no_token: Tally[tuple[str, str, str]] = Tally()
        self._tokens: Tally[tuple[str, str, str]] = Tally()
        self._frames: Tally[str] = Tally()
        self._bytes: Tally[str] = Tally()
        self._delivered: Tally[str] = Tally()
        self.replayed: Tally[str] = Tally()
        self._subscriptions_ended: Tally[tuple[str, str]] = Tally()
        self._histograms = {
            key: self._histogram(name, text, ("route", "model"), buckets)
            for key, (name, text, buckets) in _HISTOGRAMS.items()
        }
        self._duration = self._histogram(
            "stream_duration",
            "Request received to the seal.",
            ("route", "model", "ending"),
            DURATION_BUCKETS_S,
        )
        self._connect = self._histogram(
            "upstream_connect", "Waiting for a connection to the upstream.", ("route",), FIRST_TOKEN_BUCKETS_S
        )
        self._overhead = self._histogram(
            "proxy_overhead",
            "Read from upstream to handed to every follower's socket; one read in 64.",
            ("route",),
            OVERHEAD_BUCKETS_S,
        )
        build = Gauge(
            "streamtee_build_info",
            "What runs.",
            ("version", "python", "aiohttp", "loop"),
            registry=self.registry,
        )
        build.labels(__version__, platform.python_version(), aiohttp.__version__, loop).set(1)
        self.registry.register(self)

    def overhead(self, route: str) -> Any:
        """Return the function that takes a route's overhead in seconds."""
        return self._overhead.labels(route).observe

    def connect(self, route: str) -> Any:
        """Return the function that takes the seconds a route waited for a connection."""
        return self._connect.labels(route).observe

    def stream_ended(self, stream: Stream, now: float) -> None:
        """Take a stream's times and counts, once, when it is sealed."""
        route, vitals, ending = stream.route, stream.vitals, stream.log.ending
        assert ending is not None
        model = self._model(vitals.model)
        key = (route, model, ending.reason)
        children = self._of(route, model)
        exemplar = {"trace_id": stream.id}
        self._ended[key] += 1
        self._frames[route] += stream.log.end
        self._bytes[route] += stream.log.end_bytes + len(stream.log.tail)
        duration = children.duration.get(ending.reason)
        if duration is None:
            duration = children.duration[ending.reason] = self._duration.labels(*key)
        duration.observe(now - vitals.started_at, exemplar)
        if vitals.first_byte_at:
            children.first_byte.observe(vitals.first_byte_at - vitals.started_at)  # type: ignore[attr-defined]
        if vitals.first_token_at:
            children.first_token.observe(vitals.first_token_at - vitals.started_at, exemplar)  # type: ignore[attr-defined]
        else:
            self._no_token[key] += 1
        if vitals.first_content_at:
            children.first_content.observe(vitals.first_content_at - vitals.started_at)  # type: ignore[attr-defined]
        self._gaps(children, vitals)
        self._usage(children, route, model, vitals)

    def subscription_ended(self, subscription: Subscription) -> None:
        """Take a follower's counts."""
        self._delivered[subscription.mode] += subscription.sent_bytes
        self._subscriptions_ended[subscription.mode, subscription.ended or "left"] += 1

    def collect(self) -> Iterator[Metric]:
        yield from self._counters()
        yield from self._gauges()
        gaps = HistogramMetricFamily(
            "streamtee_inter_token_seconds",
            "Gap between frames with generated text.",
            labels=("route", "model"),
        )
        for (route, model), children in self._children.items():
            running = accumulate(children.gap_counts)
            bounds = [*map(_bound, GAP_BUCKETS_S), "+Inf"]
            gaps.add_metric((route, model), list(zip(bounds, running, strict=True)), children.gaps_s)
        yield gaps

    def _counters(self) -> Iterator[Metric]:
        frames, received = Tally(self._frames), Tally(self._bytes)
        for stream in self._hub:
            if stream.log.ending is None:
                frames[stream.route] += stream.log.end
                received[stream.route] += stream.log.end_bytes
        delivered = Tally(self._delivered)
        for stream in self._hub:
            for subscription in stream.subscriptions:
                delivered[subscription.mode] += subscription.sent_bytes
        label = ("route", "model", "ending")
        yield _counter("streams_ended", "Streams by how they ended.", label, self._ended)
        yield _counter("no_first_token", "Streams that ended before a token.", label, self._no_token)
        yield _counter("tokens", "Tokens, as usage states them.", ("route", "model", "kind"), self._tokens)
        yield _counter("requests", "Requests by final status.", ("route", "method", "status"), self.requests)
        yield _counter("frames", "Frames received from upstream.", ("route",), frames)
        yield _counter("upstream_bytes", "Body bytes of streams from upstream.", ("route",), received)
        yield _counter("delivered_bytes", "Bytes handed to followers, by mode.", ("mode",), delivered)
        yield _counter("replayed_bytes", "Bytes of the past that followers asked for.", ("mode",), self.replayed)
        yield _counter(
            "subscriptions_ended",
            "Followers by why they ended.",
            ("mode", "reason"),
            self._subscriptions_ended,
        )
        yield _counter("rejected", "Requests refused here, by error code.", ("reason",), self.rejected)

    def _gauges(self) -> Iterator[Metric]:
        hub = self._hub
        modes: Tally[str] = Tally(s.mode for stream in hub for s in stream.subscriptions)
        lag = max((s.lag_bytes for stream in hub for s in stream.subscriptions), default=0)
        yield GaugeMetricFamily("streamtee_streams_active", "Streams that are not sealed.", hub.running)
        yield _gauge("subscribers", "Followers, by mode.", ("mode",), modes)
        yield GaugeMetricFamily("streamtee_subscriber_lag_bytes_max", "The slowest follower's lag.", lag)
        yield GaugeMetricFamily("streamtee_log_bytes", "What all logs hold.", hub.ledger.bytes)
        states = Tally({"active": self.connections})
        yield _gauge("upstream_connections", "Connections to upstreams.", ("state",), states)

    def _histogram(self, name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"streamtee_{name}_seconds", text, labels, buckets=buckets, registry=self.registry)

    def _model(self, model: str | None) -> str:
        """Bound the label: the first `max_models` names are kept, the rest are `other`."""
        if model is None:
            return "unknown"
        if model not in self._models:
            if len(self._models) >= self._max_models:
                return "other"
            self._models.add(model)
        return model

    def _of(self, route: str, model: str) -> _Children:
        children = self._children.get((route, model))
        if children is None:
            children = self._children[route, model] = _Children(self._histograms, route, model)
        return children

    def _gaps(self, children: _Children, vitals: Vitals) -> None:
        if vitals.gap_counts is not None:
            counts = children.gap_counts
            for index, count in enumerate(vitals.gap_counts):
                if count:
                    counts[index] += count
            children.gaps_s += vitals.gaps_s

    def _usage(self, children: _Children, route: str, model: str, vitals: Vitals) -> None:
        usage = vitals.summary.usage
        if usage is None:
            return
        for kind, count in zip(usage._fields, usage, strict=True):
            if count:
                self._tokens[route, model, kind] += count
        if usage.completion > 1 and vitals.last_token_at > vitals.first_token_at:
            seconds = (vitals.last_token_at - vitals.first_token_at) / (usage.completion - 1)
            children.per_token.observe(seconds)  # type: ignore[attr-defined]


def _counter(name: str, text: str, labels: tuple[str, ...], tally: Tally[Any]) -> Metric:
    family = CounterMetricFamily(f"streamtee_{name}", text, labels=labels)
    return _filled(family, tally)


def _gauge(name: str, text: str, labels: tuple[str, ...], tally: Tally[Any]) -> Metric:
    return _filled(GaugeMetricFamily(f"streamtee_{name}", text, labels=labels), tally)


def _filled(family: Any, tally: Tally[Any]) -> Metric:
    for key, count in tally.items():
        values = key if isinstance(key, tuple) else (key,)
        family.add_metric([str(value) for value in values], count)
    metric: Metric = family
    return metric


def _bound(seconds: float) -> str:
    return str(float(seconds))
