"""Counts within a minute and a day of the clock: when they begin anew, and what is left of their limits."""

import pytest

from proxy.access.windows import DAY_S, MINUTE_S, Window, tightest
from tests.access.clock import NOON


def rolled(period_s: int, *, used: int = 0, limit: int = 10) -> Window:
    """Return a window at noon."""
    window = Window("requests", period_s, limit)
    window.roll(NOON)
    window.use(used)
    return window


@pytest.mark.parametrize(("period_s", "left_s"), [(MINUTE_S, 60), (DAY_S, 43_200)])
def test_window_ends_with_its_minute_or_day_of_the_clock(period_s: int, left_s: int) -> None:
    """Its count stays until the last moment of it, and is 0 from the next one on."""
    window = rolled(period_s, used=3)
    assert window.ends_in_s(NOON) == left_s
    window.roll(NOON + left_s - 0.001)
    assert (window.used, window.ends_in_s(NOON + left_s - 0.001)) == (3, 1)
    window.roll(NOON + left_s)
    assert (window.used, window.ends_in_s(NOON + left_s)) == (0, period_s)


@pytest.mark.parametrize("jump_s", [-DAY_S, -1, MINUTE_S, 1000 * DAY_S])
def test_clock_that_is_set_begins_another_window(jump_s: int) -> None:
    """Back or forth; by one second back, too, if that is in the minute before."""
    window = rolled(MINUTE_S, used=3)
    window.roll(NOON + jump_s)
    assert window.used == 0


@pytest.mark.parametrize(
    ("used", "limit", "is_used_up", "left"),
    [(0, 2, False, 2), (1, 2, False, 1), (2, 2, True, 0), (5, 2, True, 0), (5, 0, False, 0)],
)
def test_limit_is_used_up_when_as_much_was_used(used: int, limit: int, is_used_up: bool, left: int) -> None:
    """Or more, by the last one that was admitted; a limit of 0 is none."""
    window = rolled(MINUTE_S, used=used, limit=limit)
    assert (window.is_used_up, window.left) == (is_used_up, left)


@pytest.mark.parametrize(
    ("minute", "day", "expected"),
    [
        ((5, 10), (10, 1000), 0),
        ((5, 10), (900, 1000), 1),
        ((1, 10), (999, 1000), 1),
        ((9, 0), (0, 1000), 1),
        ((9, 10), (0, 0), 0),
    ],
)
def test_tightest_window_has_the_smallest_part_left(
    minute: tuple[int, int], day: tuple[int, int], expected: int
) -> None:
    """Not the smallest number; one without a limit is not asked about."""
    windows = rolled(MINUTE_S, used=minute[0], limit=minute[1]), rolled(DAY_S, used=day[0], limit=day[1])
    assert tightest(windows) is windows[expected]


def test_without_limits_no_window_is_the_tightest() -> None:
    """So no header tells of one."""
    assert tightest((rolled(MINUTE_S, limit=0), rolled(DAY_S, limit=0))) is None
