"""Which workers there are: those that begin what is new, and those that only finish."""

from proxy.workers.membership import Membership
from proxy.workers.names import name_of


def test_name_of_an_older_worker_is_found_while_it_drains() -> None:
    """And not when it has ended."""
    name = name_of(b"key", b"k")
    membership = Membership(3, (3, 4), frozenset({1}), {name: 1})
    assert (membership.older_owner(name), membership.is_retired, membership.others) == (1, False, [4, 1])
    assert membership._replace(draining=frozenset()).older_owner(name) is None
    assert membership._replace(number=1).is_retired


def test_name_belongs_to_a_worker_that_begins_what_is_new() -> None:
    """As each of them computes it by itself; a worker that drains owns none any more."""
    names = [name_of(b"key", b"%d" % number) for number in range(50)]
    views = [Membership(number, (3, 4, 5), frozenset({1})) for number in (3, 4, 5, 1)]
    owners = [[view.owner(name) for name in names] for view in views]
    assert all(one == owners[0] for one in owners)
    assert set(owners[0]) == {3, 4, 5}


def test_only_workers_that_run_are_there() -> None:
    """A stream of any other is nowhere."""
    membership = Membership(3, (3, 4), frozenset({1}))
    assert [number for number in range(6) if membership.is_there(number)] == [1, 3, 4]
