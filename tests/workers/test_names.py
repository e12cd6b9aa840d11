"""Names, and the workers that they belong to."""

from collections import Counter

from proxy.workers.names import name_of, owner_of


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
