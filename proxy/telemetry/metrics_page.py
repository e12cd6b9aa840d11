"""The page that Prometheus scrapes: the counters, and gauges that are computed when the page is requested.

prometheus_client writes the page, as text or as OpenMetrics.
"""

import platform
import time
from collections import Counter as Tally
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import aiohttp
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from proxy import __version__
from proxy.dialects.usage import TOKEN_KINDS
from proxy.downstream.client_connections import ClientConnections
from proxy.stream.hub import Hub
from proxy.telemetry.metrics import HISTOGRAMS, Metrics
from proxy.upstream.breaker import State
from proxy.upstream.upstream import Upstream


class Upstreams(Protocol):
    """What this page reads of the configured upstreams."""

    @property
    def by_name(self) -> Mapping[str, Upstream]:
        """All upstreams."""

    def retries(self) -> Mapping[str, int]:
        """Return how many requests were sent upstream again, by reason."""

    def connections(self) -> Mapping[str, int]:
        """Return the number of connections to all upstreams, by state."""


class SharedStore(Protocol):
    """What this page reads of the store that several processes share."""

    @property
    def errors(self) -> int:
        """How many errors it had."""

    @property
    def lag_bytes(self) -> int:
        """How many bytes of running streams it lacks."""

    @property
    def is_down(self) -> bool:
        """Whether it could not be reached the last time."""


class MetricsPage(Collector):
    """Collects all metrics of one proxy; prometheus_client writes the page from `registry`."""

    def __init__(
        self,
        metrics: Metrics,
        hub: Hub,
        upstreams: Upstreams,
        clients: ClientConnections,
        loop: str,
        store: SharedStore | None = None,
    ) -> None:
        """`loop` is the name of the event loop's package, a label of build_info. `store`: None, if there is none."""
        self.registry = CollectorRegistry()
        self._metrics = metrics
        self._hub = hub
        self._upstreams = upstreams
        self._clients = clients
        self._store = store
        self._build = (__version__, platform.python_version(), aiohttp.__version__, loop)
        self.registry.register(self)
        ProcessCollector(registry=self.registry)  # CPU time, memory, descriptors: process_... without our prefix

    def collect(self) -> Iterator[Metric]:
        yield from self._counters()
        yield from self._gauges()
        for name, (text, labels, _) in HISTOGRAMS.items():
            family = HistogramMetricFamily(f"streamtee_{name}_seconds", text, labels=labels)
            for values, child in self._metrics.distributions[name].items():
                family.add_metric(values, child.buckets(), child.sum)
            yield family

    def _counters(self) -> Iterator[Metric]:
        metrics, upstreams = self._metrics, self._upstreams
        frames, received, delivered = Tally[str](), Tally[str](), Tally(metrics.delivered)
        ended, no_token = Tally(metrics.streams_unbegun), Tally(metrics.streams_unbegun)
        tokens, tool_calls = Tally[tuple[str, str, str]](), Tally[tuple[str, str]]()
        for key, counts in metrics.streams_ended.items():
            ended[key] += counts.streams
            no_token[key] += counts.no_token
            frames[key[0]] += counts.frames
            received[key[0]] += counts.bytes
            usage = counts.usage
            tool_calls[key[:2]] += usage.tool_calls
            for kind in TOKEN_KINDS:
                tokens[(*key[:2], kind)] += getattr(usage, kind)
        for stream in self._hub.found():
            if stream.log.ending is None and self._hub.replicas.get(stream.id) is not stream:
                frames[stream.info.route] += stream.log.end
                received[stream.info.route] += stream.log.end_bytes
            for subscription in stream.subscriptions:
                delivered[subscription.mode] += subscription.sent_bytes
        label = ("route", "model", "ending")
        yield _counter("streams_ended", "Streams by how they ended.", label, ended)
        yield _counter("no_first_token", "Streams that ended before a token.", label, +no_token)
        yield _counter("tokens", "Tokens, as usage states them.", ("route", "model", "kind"), +tokens)
        text = "Calls of tools that the upstream runs itself, as usage states them."
        yield _counter("tool_calls", text, ("route", "model"), +tool_calls)
        yield requests_of(metrics)
        yield _counter("frames", "Frames received from upstream.", ("route",), frames)
        yield _counter("upstream_bytes", "Body bytes of streams from upstream.", ("route",), received)
        yield _counter("delivered_bytes", "Bytes handed to followers, by mode.", ("mode",), delivered)
        yield _counter("replayed_bytes", "Bytes of the past that followers asked for.", ("mode",), metrics.replayed)
        sides = ("route", "from")
        yield _counter("socket_messages", "Messages of WebSocket sessions.", sides, metrics.socket_messages)
        yield _counter("socket_bytes", "Bytes in messages of WebSocket sessions.", sides, metrics.socket_bytes)
        reasons = metrics.subscriptions_ended
        yield _counter("subscriptions_ended", "Followers by why they ended.", ("mode", "reason"), reasons)
        yield _counter("retries", "Requests sent upstream once more.", ("reason",), Tally(upstreams.retries()))
        yield _counter("reopened", "Times a shared stream asked its upstream again.", ("route",), metrics.reopened)
        labels = ("route", "how")
        yield _counter("shared_requests", "Requests that shared a call.", labels, metrics.shared_requests)
        text = "Tokens of calls that were shared, once for each request that made none."
        yield _counter("shared_tokens", text, (*labels, "kind"), +metrics.shared_tokens)
        text = "What the tokens of streams cost, by the configured prices."
        yield _counter("cost", text, (*label[:2], "kind", "currency"), metrics.costs)
        text = "What calls that were shared cost, once for each request that made none."
        yield _counter("shared_cost", text, (*labels, "currency"), metrics.shared_costs)
        text = "Requests without streaming that were sent upstream as requests for a stream."
        yield _counter("upgraded_requests", text, ("route",), metrics.upgraded)
        chosen = Tally({upstream.name: upstream.chosen for upstream in upstreams.by_name.values()})
        yield _counter("upstream_requests", "Requests that an upstream was chosen for.", ("upstream",), chosen)
        failures = Tally({loop.name: loop.failures for loop in metrics.background_loops})
        yield _counter("background_loop_failures", "Turns that ended with an exception.", ("loop",), failures)
        text = "Connections of clients that were cut off."
        yield _counter("client_connections_cut", text, ("reason",), self._clients.cuts)
        errors = Tally({} if self._store is None else {(): self._store.errors})
        yield _counter("store_errors", "Errors of the store that processes share.", (), errors)
        yield _counter("rejected", "Requests refused here, by error code.", ("reason",), metrics.rejected)

    def _gauges(self) -> Iterator[Metric]:
        hub, upstreams = self._hub, self._upstreams.by_name.values()
        followers = [subscription for stream in hub.found() for subscription in stream.subscriptions]
        modes = Tally(subscription.mode for subscription in followers)
        lag = max((subscription.lag_bytes for subscription in followers), default=0)
        yield _gauge("streams_active", "Streams that are not sealed.", (), Tally({(): hub.running}))
        yield _gauge("subscribers", "Followers, by mode.", ("mode",), modes)
        yield _gauge("subscriber_lag_bytes_max", "The slowest follower's lag.", (), Tally({(): lag}))
        yield _gauge("log_bytes", "What all logs hold.", (), Tally({(): hub.ledger.bytes}))
        text = "Memory held for streams, by kind; the limit total_log_bytes is on their sum."
        yield _gauge("memory_bytes", text, ("kind",), Tally(hub.ledger.by_kind()))
        yield _gauge("limit", "Configured limits, by their key in [limits].", ("name",), _limits(hub))
        text = "The longest time that the upstream of a running stream has said nothing."
        yield _gauge("silence_seconds_max", text, ("route",), _silence(hub, time.monotonic()))
        connections = Tally(self._upstreams.connections())
        there_are = Tally({(): len(self._clients.open)})
        yield _gauge("client_connections", "Connections of clients, at both ports.", (), there_are)
        held = Tally(
            {"body": self._clients.body_bytes, "pending": self._clients.pending_bytes + hub.ended.pending_bytes}
        )
        yield _gauge("client_bytes", "What requests' bodies take, and what waits for clients.", ("kind",), held)
        yield _gauge("upstream_connections", "Connections to upstreams, by state.", ("state",), connections)
        waiting = {upstream.name: upstream.queue.waiting for upstream in upstreams if upstream.queue is not None}
        yield _gauge("queued", "Requests in the queue before an upstream.", ("upstream",), Tally(waiting))
        states = {
            (upstream.name, state.value): int(upstream.state is state)
            for upstream in upstreams
            for state in State
            if upstream.breaker is not None
        }
        text = "1 for the state that an upstream's circuit breaker is in, 0 for the others."
        yield _gauge("upstream_state", text, ("upstream", "state"), Tally(states))
        alive = Tally({loop.name: int(loop.alive) for loop in self._metrics.background_loops})
        text = "1 while a background loop has its turns, and none of the last minute failed."
        yield _gauge("background_loop_alive", text, ("loop",), alive)
        store = self._store
        behind = Tally({} if store is None else {(): store.lag_bytes})
        yield _gauge("store_lag_bytes", "Bytes of streams that the store lacks.", (), behind)
        is_up = Tally({} if store is None else {(): int(not store.is_down)})
        yield _gauge("store_up", "1 while the store can be reached.", (), is_up)
        build = ("version", "python", "aiohttp", "loop")
        yield _gauge("build_info", "What runs.", build, Tally({self._build: 1}))


def _limits(hub: Hub) -> dict[str, int]:
    return {
        "streams": hub.max_streams,
        "followers": hub.max_followers,
        "total_log_bytes": hub.ledger.max_bytes,
        "total_pending_bytes": hub.max_pending_bytes,
    }


def _silence(hub: Hub, now: float) -> dict[str, float]:
    """Return, by route, the longest silence of an upstream whose stream runs and does not wait for its clients."""
    longest: dict[str, float] = {}
    for stream in hub:
        if not (stream.sealed or stream.full or stream.throttled):
            heard_at = stream.heard_at or stream.vitals.started_at
            longest[stream.info.route] = max(longest.get(stream.info.route, 0.0), now - heard_at)
    return longest


def requests_of(metrics: Metrics) -> Metric:
    """Return the count of requests."""
    return _counter("requests", "Requests by final status.", ("route", "method", "status"), metrics.requests)


def _counter(name: str, text: str, labels: tuple[str, ...], tally: Mapping[Any, float]) -> Metric:
    return _filled(CounterMetricFamily(f"streamtee_{name}", text, labels=labels), tally)


def _gauge(name: str, text: str, labels: tuple[str, ...], tally: Mapping[Any, float]) -> Metric:
    return _filled(GaugeMetricFamily(f"streamtee_{name}", text, labels=labels), tally)


def _filled(family: Any, tally: Mapping[Any, float]) -> Metric:
    for key, count in tally.items():
        values = key if isinstance(key, tuple) else (key,)
        family.add_metric([str(value) for value in values], count)
    metric: Metric = family
    return metric
