"""Seeds of the simulation: none breaks a law, and without any one safeguard one does. `make sim` runs more."""

import re
from pathlib import Path

import pytest

from tests.sim.mutants import MUTANTS
from tests.sim.run import killer, simulate

DOCS = Path(__file__).parents[2] / "docs" / "store.md"
FOUND: tuple[int, ...] = ()
"""Seeds beyond the first two hundred that have broken a law once."""


@pytest.mark.parametrize("first", range(0, 200, 25))
def test_no_seed_breaks_a_law(first: int) -> None:
    """Whatever fails, and whenever."""
    seeds = [*range(first, first + 25), *(FOUND if first == 0 else ())]
    assert [(seed, found.law) for seed in seeds if (found := simulate(seed)).law] == []


def test_same_seed_is_the_same_run() -> None:
    """Else a seed would say nothing."""
    assert simulate(7) == simulate(7)


@pytest.mark.parametrize("safeguard", MUTANTS)
def test_seed_breaks_a_law_without_a_safeguard(safeguard: str) -> None:
    """So the laws see what the safeguard is for; the documentation has a row for each."""
    faults = ", ".join(MUTANTS[safeguard].faults) or "none"
    row = re.search(rf"^\| {re.escape(safeguard)} \| {re.escape(faults)} \| (\d+) \|", DOCS.read_text(), re.MULTILINE)
    assert row is not None
    assert killer(safeguard, [int(row[1]), *range(100)]) is not None
