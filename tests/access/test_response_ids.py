"""The ids of responses: a caller may name only those that it was given, for as long as the upstream has them."""

import pytest

from proxy.access import response_ids
from proxy.access.response_ids import LONGEST, GivenIds
from proxy.dialects.dialect import Dialect
from proxy.dialects.responses import RESPONSES
from proxy.wire.errors import UnknownResponse

ALICE, BOB = b"alice", b"bob"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def given(clock: Clock) -> GivenIds:
    return GivenIds(list, clock)


def upstream(ids: GivenIds, caller: bytes, dialect: Dialect, ident: str) -> str:
    """Return the upstream of an id that a caller names. Raises: UnknownResponse."""
    return ids.allowed(ident, ids.find(caller, dialect, ident))


def test_id_is_known_to_the_caller_that_was_given_it_alone() -> None:
    """To another it does not exist."""
    ids = given(Clock())
    ids.add(ALICE, "one", "spare")
    assert upstream(ids, ALICE, RESPONSES, "one") == "spare"
    for caller, ident in ((BOB, "one"), (ALICE, "two"), (ALICE, "")):
        with pytest.raises(UnknownResponse):
            upstream(ids, caller, RESPONSES, ident)


def test_id_is_forgotten_when_it_is_deleted_and_when_the_upstream_has_forgotten_it() -> None:
    """After 7 days."""
    clock = Clock()
    ids = given(clock)
    ids.add(ALICE, "deleted", "default")
    ids.remove(ALICE, ["deleted", "unknown"])
    ids.add(ALICE, "old", "default")
    clock.now = 7 * 24 * 3600.0
    for ident in ("deleted", "old"):
        with pytest.raises(UnknownResponse):
            upstream(ids, ALICE, RESPONSES, ident)


def test_oldest_ids_go_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that they take no more memory than allowed."""
    monkeypatch.setattr(response_ids, "_KEPT", 2)
    ids = given(Clock())
    for ident in ("one", "two", "three"):
        ids.add(ALICE, ident, "default")
    upstream(ids, ALICE, RESPONSES, "three")
    with pytest.raises(UnknownResponse):
        upstream(ids, ALICE, RESPONSES, "one")


def test_id_that_nobody_was_given_has_no_known_upstream() -> None:
    """Where callers' own keys go up: then the upstream knows what is theirs."""
    ids = GivenIds(list, Clock(), restricts=False)
    ids.add(ALICE, "one", "spare")
    assert [upstream(ids, ALICE, RESPONSES, ident) for ident in ("one", "two")] == ["spare", ""]
    assert upstream(ids, BOB, RESPONSES, "one") == ""


def test_endless_id_is_not_kept() -> None:
    """Upstreams choose them, and a hundred thousand are kept."""
    ids = given(Clock())
    ids.add(ALICE, "x" * (LONGEST + 1), "default")
    with pytest.raises(UnknownResponse):
        upstream(ids, ALICE, RESPONSES, "x" * (LONGEST + 1))
