"""Faults in loops in the background: what an exception in a turn does, and what is logged of it."""

import asyncio
import logging

import pytest

from proxy.stream.faults import OVERDUE_S, BackgroundLoop
from tests.fakes import FakeLoop


def test_exception_in_a_turn_is_logged_counted_and_dropped(background_log: list[logging.LogRecord]) -> None:
    """The code after the turn goes on; the log has the loop's name, the exception's type and its place."""
    loop = BackgroundLoop("watch", FakeLoop().time)
    with loop:
        raise ZeroDivisionError
    assert loop.failures == 1
    (record,) = background_log
    assert "watch" in record.getMessage()
    assert "ZeroDivisionError in" in record.getMessage()
    assert record.exc_info is None


def test_loop_that_fails_again_and_again_is_logged_once_a_while(background_log: list[logging.LogRecord]) -> None:
    """Every failure is counted; the log does not fill."""
    clock = FakeLoop()
    loop = BackgroundLoop("watch", clock.time)
    for _ in range(100):
        with loop:
            raise ZeroDivisionError
        clock.now += 1
    assert (loop.failures, len(background_log)) == (100, 1)
    clock.now += 100
    with loop:
        raise ZeroDivisionError
    assert len(background_log) == 2


def test_failing_loop_is_not_alive_for_a_minute(background_log: list[logging.LogRecord]) -> None:
    """Though its other turns go well: long enough to be seen by a scrape."""
    clock = FakeLoop()
    loop = BackgroundLoop("watch", clock.time, OVERDUE_S)
    with loop:
        raise ZeroDivisionError
    seen = []
    for _ in range(61):
        with loop:
            pass
        seen.append(loop.alive)
        clock.now += 1
    assert seen == [False] * 60 + [True]


def test_loop_without_turns_is_not_alive() -> None:
    """Where turns are regular; others wait for something to do."""
    clock = FakeLoop()
    regular, other = BackgroundLoop("watch", clock.time, OVERDUE_S), BackgroundLoop("pace", clock.time)
    assert regular.alive
    clock.now += OVERDUE_S
    assert (regular.alive, other.alive) == (False, True)
    with regular:
        pass
    assert regular.alive


@pytest.mark.parametrize("error", [asyncio.CancelledError, KeyboardInterrupt])
def test_end_of_the_task_or_the_process_is_no_failure(error: type[BaseException]) -> None:
    """It goes up."""
    loop = BackgroundLoop("watch", FakeLoop().time)
    with pytest.raises(error), loop:
        raise error
    assert (loop.failures, loop.alive) == (0, True)
