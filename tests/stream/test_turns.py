"""Work that waits its turn: in order, within the time of a turn, and whatever a piece of it raises."""

import pytest

from proxy.stream.turns import TURN_S, Turns
from tests.fakes import FakeLoop


def test_work_is_done_in_order_as_much_as_fits_into_a_turn() -> None:
    """The rest in the next turn, behind nothing but what waited before."""
    loop, done = FakeLoop(), list[int]()
    turns = Turns(loop.call_soon, loop.time)

    def work(number: int) -> None:
        done.append(number)
        loop.now += TURN_S / 4

    for number in range(10):
        turns.wait(lambda number=number: work(number))  # type: ignore[misc]
    for so_far in (4, 8, 10):
        loop.turn()
        assert done == list(range(so_far))
    assert not loop.turn()


def test_work_is_done_at_once_while_the_turn_has_time_for_it() -> None:
    """What is too much for the turn waits, and what comes after it waits behind it."""
    loop, done = FakeLoop(), list[int]()
    turns = Turns(loop.call_soon, loop.time)

    def work(number: int) -> None:
        done.append(number)
        loop.now += TURN_S / 2

    for number in range(5):
        turns.do(lambda number=number: work(number))  # type: ignore[misc]
    assert done == [0, 1]
    loop.turn()
    assert done == [0, 1, 2, 3]
    turns.do(lambda: work(5))
    loop.settle()
    assert done == list(range(6))
    turns.do(lambda: work(6))
    assert done[-1] == 6


def test_work_that_goes_on_lets_the_others_have_their_turn() -> None:
    """Who waits again stands behind those who have waited already."""
    loop, done = FakeLoop(), list[str]()
    turns = Turns(loop.call_soon, loop.time)

    def long() -> None:
        done.append("long")
        if len(done) < 6:
            turns.wait(long)

    turns.wait(long)
    turns.wait(lambda: done.append("short"))
    loop.settle()
    assert done == ["long", "short", "long", "long", "long", "long"]


def test_work_that_fails_keeps_nobody_from_a_turn() -> None:
    """The loop hears of it."""
    loop, done = FakeLoop(), list[int]()
    turns = Turns(loop.call_soon, loop.time)
    turns.wait(lambda: 1 // 0)
    turns.wait(lambda: done.append(1))
    with pytest.raises(ZeroDivisionError):
        loop.turn()
    loop.settle()
    assert done == [1]
