"""Counters and histograms for Prometheus; `metrics_page` makes the page from them.

A new counter is a `Tally` of `Metrics` and a line of `MetricsPage`; a new histogram is a row of `HISTOGRAMS`, which the
page shows by itself; a count of each stream is a slot of `EndedStreams`, added up in `Metrics.ended`. All are listed in
docs/metrics.md.

Every count is a plain integer: on streams and subscriptions while they run, here once they have ended.
prometheus_client's own Histogram is not used, since an observation takes 1 to 2.4 us there and 0.4 here, and a short
stream has five. All counters with a stream's labels are found by one lookup, and the objects of exemplars are made only
when the page is scraped: together 4 us a stream instead of 7.
"""

import time
from bisect import bisect_left
from collections import Counter as Tally  # prometheus_client has a Counter, too
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, Final

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

_ADDED_AT_ONCE: Final = 32
"""How many rows of numbers are added up at once: that takes a fifth of the time of adding one row after the other."""

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


_TIMES: Final[tuple[str, ...]] = (  # of a route and a model, in the order in which EndedStreams takes them
    "time_to_first_byte",
    "time_to_first_token",
    "time_to_first_content",
    "inter_token",
    "time_per_output_token",
)
_UNKNOWN: Final = "unknown"  # the label of streams without a model


class Distribution:
    """A histogram: how many values fell into each bucket, their sum, and the last exemplar of each bucket."""

    __slots__ = ("_added", "_bounds", "_counts", "exemplars", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._added: list[Sequence[int]] = []  # what `_counts` lacks
        self.exemplars: dict[int, tuple[float, str, float]] = {}  # value, trace id, Unix seconds
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        bounds = self._bounds
        # The wait for a connection is nearly always in the first bucket: that saves a search.
        self._counts[0 if value <= bounds[0] else bisect_left(bounds, value)] += 1
        self.sum += value

    def observe_traced(self, value: float, trace_id: str, unix_s: float) -> None:
        """Count a value, and make it the exemplar of its bucket."""
        bucket = bisect_left(self._bounds, value)  # repeats `observe`, to save a call
        self._counts[bucket] += 1
        self.sum += value
        self.exemplars[bucket] = value, trace_id, unix_s

    def add(self, counts: Sequence[int], total: float) -> None:
        """Add values that have been counted in the same buckets; `total` is their sum. The row is not copied."""
        self._added.append(counts)
        self.sum += total
        if len(self._added) == _ADDED_AT_ONCE:
            self._counts = _total(self._counts, self._added)

    def buckets(self) -> list[Any]:
        """Return the buckets as HistogramMetricFamily takes them: (upper bound, cumulative count, exemplar)."""
        bounds = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        self._counts = _total(self._counts, self._added)
        running = accumulate(self._counts)
        return [
            (bound, count, self._exemplar(number))
            for number, (bound, count) in enumerate(zip(bounds, running, strict=True))
        ]

    def _exemplar(self, bucket: int) -> Exemplar | None:
        if bucket not in self.exemplars:
            return None
        value, trace_id, unix_s = self.exemplars[bucket]
        return Exemplar({"trace_id": trace_id}, value, unix_s)


def _total(row: list[int], added: list[Sequence[int]]) -> list[int]:
    """Return the sums of rows of numbers, place by place, and empty `added`."""
    total = list(map(sum, zip(row, *added, strict=True)))
    added.clear()
    return total


class EndedStreams:
    """The counters of the ended streams of one (route, model, ending)."""

    __slots__ = (
        "_added", "_usage", "bytes", "duration", "first_byte", "first_content", "first_token", "frames", "gap",
        "no_token", "per_token", "streams",
    )  # fmt: skip

    def __init__(
        self,
        duration: Distribution,
        first_byte: Distribution,
        first_token: Distribution,
        first_content: Distribution,
        gap: Distribution,
        per_token: Distribution,
    ) -> None:
        """All distributions but `duration` are those of a route and model, whatever the ending."""
        self.streams = 0
        self.no_token = 0
        self.frames = 0
        self.bytes = 0
        self._usage = [0] * len(Usage._fields)
        self._added: list[Sequence[int]] = []  # what `_usage` lacks
        self.duration = duration
        self.first_byte = first_byte
        self.first_token = first_token
        self.first_content = first_content
        self.gap = gap
        self.per_token = per_token

    @property
    def usage(self) -> Usage:
        """The sums of what their upstreams have stated."""
        self._usage = _total(self._usage, self._added)
        return Usage(*self._usage)

    def use(self, usage: Usage) -> None:
        """Add what the upstream has stated of a stream."""
        self._added.append(usage)
        if len(self._added) == _ADDED_AT_ONCE:
            self._usage = _total(self._usage, self._added)


class Metrics:
    """All counters that are not attributes of running streams, subscriptions or upstreams; an observer of streams."""

    def __init__(self, max_models: int) -> None:
        # Those of each request are no Tally: adding to one takes 2,000 instructions more.
        self.requests: defaultdict[tuple[str, str, int], int] = defaultdict(int)  # by route, method and status
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
        self._connects = self.distributions["upstream_connect"]
        self._overheads: dict[str, Callable[[float], None]] = {}
        self.streams_ended: dict[tuple[str, str, str], EndedStreams] = {}
        self.streams_unbegun: Tally[tuple[str, str, str]] = Tally()  # that ended before a response, by the same labels
        self.delivered: defaultdict[str, int] = defaultdict(int)  # bytes sent to followers that have ended, by mode
        self.subscriptions_ended: defaultdict[tuple[str, str], int] = defaultdict(int)

    def distribution(self, name: str, *labels: str) -> Distribution:
        """Return the distribution of a histogram with these label values."""
        children = self.distributions[name]
        found = children.get(labels)
        if found is None:
            found = children[labels] = Distribution(HISTOGRAMS[name][2])
        return found

    def overhead(self, route: str) -> Callable[[float], None]:
        """Return what counts the seconds that the proxy adds to an event of a route: the same for all its streams."""
        found = self._overheads.get(route)
        if found is None:
            found = self._overheads[route] = self.distribution("proxy_overhead", route).observe
        return found

    def connected(self, route: str, waited_s: float) -> None:
        """Add how long a request waited for a connection to its upstream."""
        found = self._connects.get((route,)) or self.distribution("upstream_connect", route)
        found.observe(waited_s)

    def count_upgraded(self, route: str) -> None:
        """Count a request for a document that was sent upstream as one for a stream."""
        self.upgraded[route] += 1

    def ended(self, stream: Stream) -> None:
        """Add the times and counts of a stream that has ended, unless the response is not an event stream."""
        if stream.kept_head is not None:
            return
        log, vitals, info = stream.log, stream.vitals, stream.info
        assert log.ending is not None
        route, reason = info.route, log.ending.reason
        model = _UNKNOWN if vitals.model is None else vitals.model
        ended = self.streams_ended.get((route, model, reason)) or self._ended_streams(route, vitals.model, reason)
        began, unix_s = vitals.started_at, time.time()
        trace_id = info.w3c_trace_id or info.id  # info.trace_id, a call less
        ended.streams += 1
        ended.frames += log.end
        ended.bytes += log.end_bytes + len(log.tail)
        ended.duration.observe_traced(stream.ended_at - began, trace_id, unix_s)
        if vitals.first_byte_at:
            ended.first_byte.observe(vitals.first_byte_at - began)
        if vitals.first_token_at:
            ended.first_token.observe_traced(vitals.first_token_at - began, trace_id, unix_s)
        elif stream.dialect.frames.has_text:
            ended.no_token += 1
        if vitals.first_content_at:
            ended.first_content.observe(vitals.first_content_at - began)
        gap_counts = vitals.gap_counts
        if gap_counts is not None:
            ended.gap.add(gap_counts, vitals.gaps_s)
        usage = vitals.reader.usage
        if usage is not None:
            ended.use(usage)
            if self.prices is not None:
                self._charge(self.prices, stream, usage)
            if usage.completion > 1 and vitals.last_token_at > vitals.first_token_at:
                seconds = (vitals.last_token_at - vitals.first_token_at) / (usage.completion - 1)
                ended.per_token.observe(seconds)

    def _charge(self, prices: Prices, stream: Stream, usage: Usage) -> None:
        """Add what a stream has cost."""
        model = self._model(stream.vitals.model)
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
            return _UNKNOWN
        if model not in self._models:
            if len(self._models) >= self.max_models:
                return "other"
            self._models.add(model)
        return model

    def _ended_streams(self, route: str, model: str | None, ending: str) -> EndedStreams:
        """Return the counters for streams with these labels, which are made for the first of them."""
        label = self._model(model)
        found = self.streams_ended.get((route, label, ending))
        if found is None:
            duration = self.distribution("stream_duration", route, label, ending)
            found = EndedStreams(duration, *[self.distribution(name, route, label) for name in _TIMES])
            self.streams_ended[route, label, ending] = found
        return found
