"""The circuit breaker: when it opens, what half open lets through, and whose outcome closes it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.upstream.breaker import Breaker, State


def failing(breaker: Breaker, *times: float) -> None:
    for now in times:
        breaker.failed(breaker.goes(now), now)


def test_new_breaker_is_closed() -> None:
    """And lets everybody through."""
    breaker = Breaker(failures=3, window_s=10, open_s=30)
    assert breaker.state(0) is State.CLOSED
    assert breaker.allows(0)
    assert not breaker.goes(0)
    assert breaker.opens_in_s(0) == 0


def test_failures_within_the_window_open_it() -> None:
    """For the configured time; then it is half open."""
    breaker = Breaker(failures=3, window_s=10, open_s=30)
    failing(breaker, 0, 5)
    assert breaker.allows(5)
    failing(breaker, 10)
    assert breaker.state(10) is State.OPEN
    assert not breaker.allows(39.9)
    assert breaker.opens_in_s(15) == pytest.approx(25)
    assert breaker.state(40) is State.HALF_OPEN
    assert breaker.allows(40)


def test_failures_too_far_apart_do_not_open_it() -> None:
    """Only so many within the window do."""
    breaker = Breaker(failures=3, window_s=10, open_s=30)
    failing(breaker, 0, 6, 12, 18, 24)
    assert breaker.state(24) is State.CLOSED


def test_half_open_lets_one_through_at_a_time() -> None:
    """Its leaving client says nothing; then another may try."""
    breaker = Breaker(failures=1, window_s=10, open_s=30)
    failing(breaker, 0)
    trial = breaker.goes(30)
    assert trial
    assert not breaker.allows(31)
    breaker.gave_up(trial)
    assert breaker.state(31) is State.HALF_OPEN
    assert breaker.allows(31)


def test_trial_that_takes_long_is_not_waited_for() -> None:
    """A stream may be an hour in coming to its end: the next one may try, and both may close it."""
    breaker = Breaker(failures=1, window_s=10, open_s=30)
    failing(breaker, 0)
    trial = breaker.goes(30)
    assert not breaker.allows(59)
    assert breaker.opens_in_s(59) == 1
    assert breaker.allows(60)
    breaker.goes(60)
    breaker.succeeded(trial)
    assert breaker.state(61) is State.CLOSED


def test_trial_that_succeeds_closes_it() -> None:
    """And what failed before is forgotten."""
    breaker = Breaker(failures=2, window_s=100, open_s=30)
    failing(breaker, 0, 1)
    breaker.succeeded(breaker.goes(31))
    assert breaker.state(31) is State.CLOSED
    failing(breaker, 32)
    assert breaker.state(32) is State.CLOSED


def test_trial_that_fails_opens_it_again() -> None:
    """For as long as the first time."""
    breaker = Breaker(failures=3, window_s=10, open_s=30)
    failing(breaker, 0, 0, 0, 30)
    assert breaker.state(30) is State.OPEN
    assert breaker.opens_in_s(30) == 30


def test_end_of_an_older_request_does_not_close_it() -> None:
    """It went before the upstream failed."""
    breaker = Breaker(failures=1, window_s=10, open_s=30)
    older = breaker.goes(0)
    failing(breaker, 1)
    breaker.succeeded(older)
    assert breaker.state(2) is State.OPEN


def test_retry_after_opens_it_for_that_long() -> None:
    """At the first refusal, whatever the number of failures; a shorter one later takes nothing back."""
    breaker = Breaker(failures=5, window_s=10, open_s=30)
    breaker.failed(breaker.goes(0), 0, retry_after_s=90)
    assert breaker.state(89) is State.OPEN
    breaker.failed(False, 10, retry_after_s=1)
    assert breaker.opens_in_s(10) == 80


OUTCOMES = st.lists(st.tuples(st.sampled_from(["ok", "failed", "gone"]), st.floats(0.1, 20)), max_size=60)


@given(outcomes=OUTCOMES, failures=st.integers(1, 4))
def test_breaker_is_never_stuck(outcomes: list[tuple[str, float]], failures: int) -> None:
    """Whatever happened: once its time is over, somebody may go, and success closes it."""
    breaker, now = Breaker(failures, window_s=10, open_s=30), 0.0
    for outcome, elapsed_s in outcomes:
        now += elapsed_s
        if not breaker.allows(now):
            assert breaker.state(now) is State.OPEN
            continue
        trial = breaker.goes(now)
        if outcome == "ok":
            breaker.succeeded(trial)
            assert breaker.state(now) is State.CLOSED
        elif outcome == "failed":
            breaker.failed(trial, now)
        else:
            breaker.gave_up(trial)
    now += breaker.opens_in_s(now) + 1e-6  # as sums are rounded
    assert breaker.allows(now)
    breaker.succeeded(breaker.goes(now))
    assert breaker.state(now) is State.CLOSED
