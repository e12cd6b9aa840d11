"""Numbers in ids, and the workers that names belong to."""

from collections import Counter

import pytest

from proxy.workers.ids import NUMBERS, ending_of, free_numbers, worker_of
from proxy.workers.membership import Membership
from proxy.workers.names import name_of, owner_of

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


def test_names_are_spread_and_stay_where_they_are() -> None:
    """Evenly, and without a worker only that one's names move."""
    names = [name_of(b"key", b"caller", b"%d" % number) for number in range(3000)]
    owners = {name: owner_of(name, range(5)) for name in names}
    assert all(500 < count < 700 for count in Counter(owners.values()).values())
    assert all(owner_of(name, [0, 1, 2, 4]) == owner for name, owner in owners.items() if owner != 3)


def test_parts_of_a_name_are_kept_apart() -> None:
    """What they are together does not decide."""
    named = [name_of(b"key", b"ab", b"c"), name_of(b"key", b"a", b"bc"), name_of(b"call", b"ab", b"c")]
    assert len(set(named)) == 3


def test_name_of_an_older_worker_is_found_while_it_drains() -> None:
    """And not when it has ended."""
    name = name_of(b"key", b"k")
    membership = Membership(3, (3, 4), frozenset({1}), {name: 1})
    assert (membership.older_owner(name), membership.is_retired, membership.others) == (1, False, [4, 1])
    assert membership._replace(draining=frozenset()).older_owner(name) is None
    assert membership._replace(number=1).is_retired
