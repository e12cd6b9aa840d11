"""Counters and histograms for Prometheus; `metrics_page` makes the page from them.

A new counter is a `Tally` of `Metrics` and a line of `MetricsPage`; a new histogram is a row of `HISTOGRAMS`, which the
page shows by itself; a count of each stream is a slot of `EndedStreams`, added up in `Metrics.ended`. All are listed in
docs/metrics.md.

Every count is a plain integer: on streams and subscriptions while they run, here once they have ended.
prometheus_client's own Histogram is not used, since an observation takes 1 to 2.4 us there and 0.4 here, and a short
stream has five. All counters with a stream's labels are found by one lookup, and the objects of exemplars are made only
when the page is scraped: together 4 us a stream instead of 7.
"""

import operator
import time
from bisect import bisect_left
from collections import Counter as Tally  # prometheus_client has a Counter, too
from collections import defaultdict
from itertools import accumulate
from typing import Any, Final, NamedTuple

from prometheus_client.samples import Exemplar

from proxy.dialects.usage import Usage
from proxy.stream.faults import BackgroundLoop
from proxy.stream.stream import Stream
from proxy.stream.subscription import Subscription
from proxy.stream.vitals import GAP_BUCKETS_S
from proxy.telemetry.prices import Prices

# OpenTelemetry's buckets for the time to the first token, continued upwards as vLLM does; seconds.
FIRST_TOKEN_BUCKETS_S: Final[tuple[float, ...]] = (
    .001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160,
)  # fmt: skip
DURATION_BUCKETS_S: Final[tuple[float, ...]] = (*(0.01 * 2**n for n in range(14)), 160, 320, 640, 1280, 2560)
OVERHEAD_BUCKETS_S: Final[tuple[float, ...]] = (*(0.00002 * 2**n for n in range(13)), 0.1)

HISTOGRAMS: Final = {  # name: (help, labels, bounds)
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
    """A histogram: how many values fell into each bucket, their sum, and the last exemplar of each bucket."""

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
        """Count a value, and make it the exemplar of its bucket."""
        bucket = bisect_left(self._bounds, value)  # repeats `observe`, to save a call
        self.counts[bucket] += 1
        self.sum += value
        self.exemplars[bucket] = value, trace_id, unix_s

    def add(self, counts: list[int], total: float) -> None:
        """Add values that have been counted in the same buckets; `total` is their sum."""
        self.counts = list(map(operator.add, self.counts, counts))
        self.sum += total

    def buckets(self) -> list[Any]:
        """Return the buckets as HistogramMetricFamily takes them: (upper bound, cumulative count, exemplar)."""
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


_TIMES: Final[tuple[str, ...]] = (
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


class EndedStreams:
    """The counters of the ended streams of one (route, model, ending)."""

    __slots__ = ("bytes", "duration", "frames", "no_token", "streams", "times", "usage")

    def __init__(self, duration: Distribution, times: _Times) -> None:
        self.streams = 0
        self.no_token = 0
        self.frames = 0
        self.bytes = 0
        self.usage = [0] * len(Usage._fields)
        self.duration = duration
        self.times = times


class Metrics:
    """All counters that are not attributes of running streams, subscriptions or upstreams; an observer of streams."""

    def __init__(self, max_models: int) -> None:
        self.requests: Tally[tuple[str, str, int]] = Tally()  # by route, method and status
        self.rejected: Tally[str] = Tally()  # by error code
        self.replayed: Tally[str] = Tally()  # bytes of the past that followers were sent, by mode
        self.reopened: Tally[str] = Tally()  # shared streams that were requested again from the upstream, by route
        self.shared_requests: Tally[tuple[str, str]] = Tally()  # by route, and what found the shared call
        self.shared_tokens: Tally[tuple[str, str, str]] = Tally()  # the same, and kind: of calls that were not made
        self.upgraded: Tally[str] = Tally()  # documents' requests that were sent as ones for streams, by route
        self.prices: Prices | None = None  # None: none are configured
        self.costs: defaultdict[tuple[str, str, str, str], float] = defaultdict(float)  # by labels of cost_total
        self.shared_costs: defaultdict[tuple[str, str, str], float] = defaultdict(float)  # by route, how, currency
        self.socket_messages: Tally[tuple[str, str]] = Tally()  # of WebSocket sessions, by route and side
        self.socket_bytes: Tally[tuple[str, str]] = Tally()
        self.background_loops: list[BackgroundLoop] = []  # with distinct names
        self.max_models = max_models
        self._models: set[str] = set()
        self.distributions: dict[str, dict[tuple[str, ...], Distribution]] = {name: {} for name in HISTOGRAMS}
        self.streams_ended: dict[tuple[str, str, str], EndedStreams] = {}
        self.streams_unbegun: Tally[tuple[str, str, str]] = Tally()  # that ended before a response, by the same labels
        self.delivered: Tally[str] = Tally()  # bytes sent to followers that have ended, by mode
        self.subscriptions_ended: Tally[tuple[str, str]] = Tally()

    def distribution(self, name: str, *labels: str) -> Distribution:
        """Return the distribution of a histogram with these label values."""
        children = self.distributions[name]
        found = children.get(labels)
        if found is None:
            found = children[labels] = Distribution(HISTOGRAMS[name][2])
        return found

    def connected(self, route: str, waited_s: float) -> None:
        """Add how long a request waited for a connection to its upstream."""
        self.distribution("upstream_connect", route).observe(waited_s)

    def count_upgraded(self, route: str) -> None:
        """Count a request for a document that was sent upstream as one for a stream."""
        self.upgraded[route] += 1

    def ended(self, stream: Stream) -> None:
        """Add the times and counts of a stream that has ended, unless the response is not an event stream."""
        if stream.kept_head is not None:
            return
        log, vitals, trace_id = stream.log, stream.vitals, stream.info.trace_id
        assert log.ending is not None
        key = stream.info.route, self._model(vitals.model), log.ending.reason
        ended = self.streams_ended.get(key) or self._first(*key)
        began, times, unix_s = vitals.started_at, ended.times, time.time()
        ended.streams += 1
        ended.frames += log.end
        ended.bytes += log.end_bytes + len(log.tail)
        ended.duration.observe_traced(stream.ended_at - began, trace_id, unix_s)
        if vitals.first_byte_at:
            times.first_byte.observe(vitals.first_byte_at - began)
        if vitals.first_token_at:
            times.first_token.observe_traced(vitals.first_token_at - began, trace_id, unix_s)
        elif stream.dialect.frames.has_text:
            ended.no_token += 1
        if vitals.first_content_at:
            times.first_content.observe(vitals.first_content_at - began)
        if vitals.gap_counts is not None:
            times.gap.add(vitals.gap_counts, vitals.gaps_s)
        usage = vitals.reader.usage
        if usage is not None:
            ended.usage = list(map(operator.add, ended.usage, usage))
            if self.prices is not None:
                self._charge(self.prices, stream, usage, key[1])
            if usage.completion > 1 and vitals.last_token_at > vitals.first_token_at:
                seconds = (vitals.last_token_at - vitals.first_token_at) / (usage.completion - 1)
                times.per_token.observe(seconds)

    def _charge(self, prices: Prices, stream: Stream, usage: Usage, model: str) -> None:
        """Add what a stream has cost; `model` is its label."""
        for kind, cost in prices.of(stream.vitals.model, usage, cached_apart=stream.dialect.cached_apart):
            self.costs[stream.info.route, model, kind, prices.currency] += cost

    def shared(self, how: str, stream: Stream) -> None:
        """Count a request that shares the stream of an earlier one, and, when that ends, the tokens that were saved."""
        self.shared_requests[stream.info.route, how] += 1
        if stream.sealed:
            self._save(how, stream)
        else:
            stream.when_sealed(lambda ending: self._save(how, stream))

    def _save(self, how: str, stream: Stream) -> None:
        usage, route, prices = stream.vitals.reader.usage, stream.info.route, self.prices
        if usage is None:
            return
        for kind, count in zip(Usage._fields, usage, strict=True):
            self.shared_tokens[route, how, kind] += count
        if prices is not None:
            for _, cost in prices.of(stream.vitals.model, usage, cached_apart=stream.dialect.cached_apart):
                self.shared_costs[route, how, prices.currency] += cost

    def answered_in_session(self, route: str, model: str | None, seconds: float) -> None:
        """Count the time to the first token of one response of a WebSocket session, which may have several."""
        self.distribution("time_to_first_token", route, self._model(model)).observe(seconds)

    def never_began(self, route: str, ending: str) -> None:
        """Count a generation that ended before the upstream's response began."""
        self.streams_unbegun[route, self._model(None), ending] += 1

    def subscription_ended(self, subscription: Subscription) -> None:
        """Add the counts of a follower that has ended."""
        self.delivered[subscription.mode] += subscription.sent_bytes
        self.subscriptions_ended[subscription.mode, subscription.ended or "left"] += 1

    def _model(self, model: str | None) -> str:
        """Return the label of a model: its name for the first `max_models` names, `other` for the rest."""
        if model is None:
            return "unknown"
        if model not in self._models:
            if len(self._models) >= self.max_models:
                return "other"
            self._models.add(model)
        return model

    def _first(self, route: str, model: str, ending: str) -> EndedStreams:
        """Make and return the counters for the first stream with these labels."""
        times = _Times(*(self.distribution(name, route, model) for name in _TIMES))
        ended = EndedStreams(self.distribution("stream_duration", route, model, ending), times)
        self.streams_ended[route, model, ending] = ended
        return ended
