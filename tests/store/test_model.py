"""The protocol of a stored stream, explored exhaustively: every schedule of every two faults."""

from pathlib import Path

import pytest

from tests.store.model import SAFEGUARDS, Exploration, Protocol, explore, most_calls

DOCS = Path(__file__).parents[2] / "docs" / "store.md"


def test_no_schedule_of_two_faults_breaks_a_law() -> None:
    """One seal, nothing after it, followers have a prefix, and everything comes to its end."""
    found = explore(Protocol(faults=2))
    assert (found.law, found.schedule) == ("", ())
    assert found.states > 10_000


def found_without(safeguard: str) -> Exploration:
    """Return the shortest schedule that breaks a law without a safeguard."""
    return next(found for faults in (0, 1, 2) if (found := explore(Protocol(safeguard, faults))).law)


def row(safeguard: str, found: Exploration) -> str:
    """Return the row of the table in the documentation."""
    return f"| {safeguard} | {SAFEGUARDS[safeguard]} | {found.law}: {', '.join(found.schedule)} |"


@pytest.mark.parametrize("safeguard", SAFEGUARDS)
def test_protocol_without_a_safeguard_breaks_a_law(safeguard: str) -> None:
    """So each is needed, and the exploration finds what it is needed for; the documentation shows it."""
    assert row(safeguard, found_without(safeguard)) in DOCS.read_text()


def test_one_claim_is_one_upstream_call() -> None:
    """Two nodes with the same Idempotency-Key make one call, and without SET NX they make two."""
    assert most_calls(one_attach=True) == 1
    assert most_calls(one_attach=False) == 2
