"""The headers that tell a client what its limits leave."""

import pytest

from proxy.dialects.allowance import Allowance, rate_limit_headers


def test_each_limit_is_told_by_three_headers() -> None:
    """How much, what is left, and when it begins anew."""
    assert rate_limit_headers(Allowance(60, 59, 30), Allowance(1000, 0, 90), 0.0) == [
        (b"x-ratelimit-limit-requests", b"60"),
        (b"x-ratelimit-remaining-requests", b"59"),
        (b"x-ratelimit-reset-requests", b"30s"),
        (b"x-ratelimit-limit-tokens", b"1000"),
        (b"x-ratelimit-remaining-tokens", b"0"),
        (b"x-ratelimit-reset-tokens", b"1m30s"),
    ]


def test_limit_that_there_is_not_is_not_told() -> None:
    """A caller without limits has none of these headers."""
    assert rate_limit_headers(None, None, 0.0) == []
    names = [name for name, _ in rate_limit_headers(None, Allowance(1, 1, 1), 0.0)]
    assert len(names) == 3
    assert all(name.endswith(b"-tokens") for name in names)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(1, b"1s"), (59, b"59s"), (60, b"1m0s"), (3599, b"59m59s"), (3600, b"1h0m0s"), (86400, b"24h0m0s")],
)
def test_time_is_written_as_clients_read_it(seconds: int, expected: bytes) -> None:
    """As Go writes durations: each unit after the largest is there, also if it is 0."""
    told = dict(rate_limit_headers(Allowance(1, 1, seconds), None, 0.0))
    assert told[b"x-ratelimit-reset-requests"] == expected
