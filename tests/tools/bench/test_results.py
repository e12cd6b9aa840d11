"""Numbers of measurements: percentiles, rates, and what one target adds to another."""

import random

import pytest

from proxy.tools.bench.call import Sample
from proxy.tools.bench.results import added, result, spread


def sample(first_s: float = 0.1, tokens: int = 3, at: float = 100.0, **more: object) -> Sample:
    """Return a complete answer: an event with text each 0.1 s from `at` on, two tokens each."""
    times = tuple(at + 0.1 * number for number in range(tokens))
    made = Sample("", first_s / 2, first_s, 1.0, times, 2 * tokens)
    return made._replace(**more)


def test_percentiles_are_values_that_were_measured() -> None:
    """By rank: of 1 to 100, p95 is 95."""
    found = spread(range(101))
    assert found is not None
    assert (found.values, found.p50, found.p90, found.p95, found.p99, found.max) == (101, 50, 90, 95, 99, 100)
    assert found.mean == 50
    assert found.curve == tuple(range(101))
    assert spread([]) is None


def test_error_of_the_median_holds_the_true_one() -> None:
    """In about 95 of 100 measurements, here of 100 values each whose true median is 0."""
    source = random.Random(1)
    found = [spread(source.gauss(0, 1) for _ in range(100)) for _ in range(300)]
    within = sum(one is not None and abs(one.p50) <= 1.3 * one.p50_error for one in found)
    assert 0.9 < within / 300 < 1
    assert all(one is not None and one.p50_error < 0.5 for one in found)


def test_rates_count_what_came_in_time() -> None:
    """Events after the planned time don't, and requests and tokens go with the events."""
    found = result([sample(at=100), sample(at=100.9)], began_at=100, window_s=1)
    assert found.events_per_s == 4
    assert found.tokens_per_s == 8
    assert found.requests_per_s == pytest.approx(4 / 3)


def test_failed_requests_are_counted_by_why_and_measured_in_nothing() -> None:
    """Half an answer would look quick."""
    found = result([sample(), Sample("broken off"), Sample("status 429"), Sample("status 429")], 100, 1)
    assert (found.requests, found.complete) == (4, 1)
    assert found.problems == {"status 429": 2, "broken off": 1}
    assert {one.values for name, one in found.spreads.items() if name != "gap_s"} == {1}


def test_target_without_a_complete_answer_has_no_numbers() -> None:
    """Nor does it divide by nothing."""
    found = result([Sample("no connection")], 100, 1)
    assert (found.spreads, found.requests_per_s, found.tokens_per_s) == ({}, 0, 0)
    assert added(found, result([sample()], 100, 1)) == {}


def test_second_target_adds_the_difference() -> None:
    """Of each measure, with an error that is that of both medians together."""
    first = result([sample(0.1 + n / 1000) for n in range(100)], 100, 1)
    second = result([sample(0.2 + n / 1000) for n in range(100)], 100, 1)
    more = added(first, second)["first_token_s"]
    assert more.p50 == pytest.approx(0.1)
    assert 0.01 < more.p50_error < 0.02


def test_speed_of_an_answer_is_of_the_tokens_after_the_first() -> None:
    """Five in 0.2 s."""
    assert sample().tokens_per_s == pytest.approx(25)
    assert sample(tokens=1).tokens_per_s == 0
    assert Sample("broken off").tokens_per_s == 0
