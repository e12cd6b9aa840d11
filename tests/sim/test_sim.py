"""Seeds of the simulation: none breaks a law, and without any one safeguard one does. `make sim` runs more."""

from pathlib import Path

import pytest

from tests.sim.mutants import MUTANTS
from tests.sim.run import simulate

DOCS = Path(__file__).parents[2] / "docs" / "store.md"
FOUND = {
    119: "a replica was not read, since its owner could not be told of it",
    1290: "the same, after a failover",
}
"""Seeds that have broken a law once, and why."""
KILLERS = {
    "fencing id and seal": 6,
    "exclusive cursor": 48,
    "gap check": 497,
    "last-leaver rule": 46,
    "lease": 9,
    "settling": 63,
    "verified seal": 1,
    "key check": 7,
    "one reader a stream and node": 0,
    "one claim a key": 2,
}
"""A seed that breaks a law without the safeguard."""


@pytest.mark.parametrize("first", range(0, 100, 25))
def test_no_seed_breaks_a_law(first: int) -> None:
    """Whatever fails, and whenever."""
    assert [(seed, found.law) for seed in range(first, first + 25) if (found := simulate(seed)).law] == []


@pytest.mark.parametrize("seed", FOUND)
def test_seed_that_broke_a_law_breaks_none(seed: int) -> None:
    """It was mended."""
    assert simulate(seed).law == ""


def test_same_seed_is_the_same_run() -> None:
    """Else a seed would say nothing."""
    assert simulate(7) == simulate(7)


@pytest.mark.parametrize("safeguard", MUTANTS)
def test_seed_kills_the_mutant_without_a_safeguard(safeguard: str) -> None:
    """So the laws see what the safeguard is for; the documentation says so."""
    seed = KILLERS[safeguard]
    law = simulate(seed, safeguard).law
    assert law
    assert f"| {safeguard} | {seed} | {law} |" in DOCS.read_text()
