"""The numbers of workers in the ids of streams."""

import pytest

from proxy.workers.ids import NUMBERS, ending_of, free_numbers, worker_of

RANDOM = "st_" + "q" * 24


@pytest.mark.parametrize("number", [0, 1, 31, 32, 1000, NUMBERS - 1])
def test_id_says_which_worker_it_is_of(number: int) -> None:
    """By its last two characters."""
    assert worker_of(RANDOM + ending_of(number)) == number


def test_endings_differ() -> None:
    """Each worker has its own."""
    assert len({ending_of(number) for number in range(NUMBERS)}) == NUMBERS


@pytest.mark.parametrize(
    "text", ["", "st_", "st_x", RANDOM, RANDOM + "a", RANDOM + "aaa", "xx_" + "q" * 26, RANDOM + "a1"]
)
def test_other_text_is_of_no_worker(text: str) -> None:
    """It is no id, or not whole."""
    assert worker_of(text) is None


def test_numbers_of_workers_that_go_on_are_not_used_again() -> None:
    """Their ids would lead to the wrong worker."""
    assert free_numbers(3, {0, 2, 7}) == [1, 3, 4]
    with pytest.raises(ValueError, match="numbers of workers are taken"):
        free_numbers(3, range(NUMBERS - 2))
