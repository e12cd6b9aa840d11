"""The ids of responses: a caller may name only those that it was given, for as long as the upstream has them."""

import pytest

from proxy.access import response_ids
from proxy.access.response_ids import GivenIds
from proxy.dialects.responses import RESPONSES
from proxy.wire.errors import UnknownResponse

ALICE, BOB = b"alice", b"bob"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def given(clock: Clock) -> GivenIds:
    return GivenIds(list, clock)


def test_id_is_known_to_the_caller_that_was_given_it_alone() -> None:
    """To another it does not exist."""
    ids = given(Clock())
    ids.add(ALICE, "one")
    ids.check(ALICE, RESPONSES, "one")
    for caller, ident in ((BOB, "one"), (ALICE, "two"), (ALICE, "")):
        with pytest.raises(UnknownResponse):
            ids.check(caller, RESPONSES, ident)


def test_id_is_forgotten_when_it_is_deleted_and_when_the_upstream_has_forgotten_it() -> None:
    """After 7 days."""
    clock = Clock()
    ids = given(clock)
    ids.add(ALICE, "deleted")
    ids.remove(ALICE, "deleted")
    ids.add(ALICE, "old")
    clock.now = 7 * 24 * 3600.0
    for ident in ("deleted", "old"):
        with pytest.raises(UnknownResponse):
            ids.check(ALICE, RESPONSES, ident)


def test_oldest_ids_go_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that they take no more memory than allowed."""
    monkeypatch.setattr(response_ids, "_KEPT", 2)
    ids = given(Clock())
    for ident in ("one", "two", "three"):
        ids.add(ALICE, ident)
    ids.check(ALICE, RESPONSES, "three")
    with pytest.raises(UnknownResponse):
        ids.check(ALICE, RESPONSES, "one")
