"""The waits between two tries: drawn below a ceiling that doubles, bounded in number and in all."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.upstream.backoff import Backoff, retry_after_s

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def test_ceiling_doubles_up_to_the_most() -> None:
    """With chance at its highest."""
    backoff = Backoff(5, most_s=8, total_s=1000, random=lambda: 1.0)
    assert [backoff.wait_s(number, 1.5) for number in range(1, 7)] == [1.5, 3, 6, 8, 8, None]


def test_no_attempts_is_no_wait() -> None:
    """Off by default."""
    assert Backoff(0, most_s=8, total_s=1000, random=lambda: 0.0).wait_s(1, 1) is None


def test_retry_after_is_waited_for_as_it_is() -> None:
    """Not jittered, and not capped by the most."""
    assert Backoff(2, most_s=8, total_s=30, random=lambda: 0.0).wait_s(1, 1, retry_after_s=20) == 20


def test_wait_beyond_the_total_is_none() -> None:
    """The client gets the answer there is, instead of waiting for what may not help."""
    backoff = Backoff(9, most_s=8, total_s=30, random=lambda: 1.0)
    assert backoff.wait_s(1, 1, retry_after_s=20) == 20
    assert backoff.wait_s(2, 1, retry_after_s=20) is None


@given(
    chances=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=20),
    first_s=st.floats(0, 60),
    total_s=st.floats(0, 100),
)
def test_waits_are_bounded_each_and_in_all(chances: list[float], first_s: float, total_s: float) -> None:
    """Whatever is drawn."""
    drawn = iter(chances)
    backoff = Backoff(len(chances), most_s=8, total_s=total_s, random=lambda: next(drawn))
    waits = [backoff.wait_s(number, first_s) for number in range(1, len(chances) + 1)]
    kept = [wait_s for wait_s in waits if wait_s is not None]
    assert sum(kept) <= total_s + 1e-6
    assert all(0 <= wait_s <= min(8, first_s * 2**number) for number, wait_s in enumerate(waits) if wait_s is not None)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        (b"", None),
        (b"soon", None),
        (b"-3", None),
        (b"3", 3.0),
        (b" 120 ", 120.0),
        (b"0.5", 0.5),
        (b"Sun, 22 Nov 2026 12:00:30 GMT", 30.0),
        (b"Sun, 22 Nov 2026 11:59:30 GMT", 0.0),
        (b"Sun, 22 Nov 2026 12:00:30", None),
        (b"99999999999999999999", None),
        (b"\xff", None),
    ],
)
def test_retry_after_is_read_in_seconds_or_as_a_date(value: bytes | None, seconds: float | None) -> None:
    """RFC 9110 section 10.2.3; what is neither is not there."""
    assert retry_after_s(value, lambda: NOW) == seconds
