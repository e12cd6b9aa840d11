"""Percentiles, rates and differences of what was measured. Pure: knows no clock and no connection."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from proxy.tools.bench.call import Sample

_RANKS = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "max": 1.0}
MEASURES = ("first_byte_s", "first_token_s", "gap_s", "duration_s", "tokens_per_s")
_Z = 1.96  # of a normal distribution: 95 % lie within


class Spread(NamedTuple):
    """How a measure is distributed."""

    values: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float
    p50_error: float
    """The median of many such measurements would be off by no more than this, in 95 of 100 cases."""
    curve: tuple[float, ...]
    """Its percentiles from 0 to 100, for a picture."""


class Result(NamedTuple):
    """What was measured at one target."""

    requests: int
    complete: int
    problems: dict[str, int]
    """How many requests failed, by why."""
    requests_per_s: float
    events_per_s: float
    """Events with text, within the planned time."""
    tokens_per_s: float
    """Of all answers together; 0.0: answers don't state their tokens."""
    spreads: dict[str, Spread]
    """By the names of MEASURES, of complete answers; without those that were not measured."""


def spread(values: Iterable[float]) -> Spread | None:
    """Return how values are distributed; None without any. The median's error is from the ranks beside it."""
    ranked = sorted(values)
    if not ranked:
        return None
    last = len(ranked) - 1
    marks = {name: ranked[round(last * part)] for name, part in _RANKS.items()}
    # The number of values below the median is binomial: so many ranks to either side hold it with 95 % confidence.
    beside = math.ceil(_Z * math.sqrt(len(ranked)) / 2)
    low, high = ranked[max(0, last // 2 - beside)], ranked[min(last, last // 2 + beside)]
    curve = tuple(ranked[round(last * percent / 100)] for percent in range(101))
    return Spread(len(ranked), math.fsum(ranked) / len(ranked), **marks, p50_error=(high - low) / 2, curve=curve)


def result(samples: Sequence[Sample], began_at: float, window_s: float) -> Result:
    """Return the numbers of a target. Rates count what came within `window_s` of the beginning, and no later."""
    until = began_at + window_s
    good = [sample for sample in samples if not sample.problem]
    all_events, tokens = sum(len(sample.tokens_at) for sample in good), sum(sample.tokens for sample in good)
    events_per_s = sum(at < until for sample in good for at in sample.tokens_at) / window_s
    values: dict[str, Iterable[float]] = {
        "first_byte_s": (sample.first_byte_s for sample in good),
        "first_token_s": (sample.first_token_s for sample in good),
        "gap_s": (gap_s for sample in good for gap_s in sample.gaps_s),
        "duration_s": (sample.duration_s for sample in good),
        "tokens_per_s": (sample.tokens_per_s for sample in good if sample.tokens_per_s),
    }
    found = {name: spread(values[name]) for name in MEASURES}
    return Result(
        requests=len(samples),
        complete=len(good),
        problems=dict(Counter(sample.problem for sample in samples if sample.problem).most_common()),
        requests_per_s=events_per_s * len(good) / all_events if all_events else 0.0,
        events_per_s=events_per_s,
        tokens_per_s=events_per_s * tokens / all_events if all_events else 0.0,
        spreads={name: one for name, one in found.items() if one is not None},
    )


class Added(NamedTuple):
    """By how much a measure of one target is above that of another; the error is that of the medians' difference."""

    p50: float
    p95: float
    p99: float
    p50_error: float


def added(first: Result, second: Result) -> dict[str, Added]:
    """Return what the second target adds to each measure that both have."""
    both = [name for name in first.spreads if name in second.spreads]
    return {name: _difference(first.spreads[name], second.spreads[name]) for name in both}


def _difference(first: Spread, second: Spread) -> Added:
    error = math.hypot(first.p50_error, second.p50_error)
    return Added(second.p50 - first.p50, second.p95 - first.p95, second.p99 - first.p99, error)
