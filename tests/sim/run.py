"""`make sim SEEDS=N`: runs so many seeds, and prints which break a law; with `--mutants` which seed kills which."""

import argparse
import time
from collections.abc import Iterable
from typing import NamedTuple

from tests.sim.loop import run
from tests.sim.mutants import MUTANTS, switched_off
from tests.sim.wanderer import LawBrokenError
from tests.sim.world import World


class Found(NamedTuple):
    """What a seed has found: the law that it broke, and what happened until then."""

    law: str
    trace: list[str]


def simulate(seed: int, without: str = "") -> Found:
    """Run one seed; without a safeguard only the faults that it is for happen."""
    world = World(seed, MUTANTS[without].faults if without else None)
    with switched_off(without):
        try:
            run(world.run)
        except LawBrokenError as broken:
            return Found(str(broken), world.trace)
    return Found("", world.trace)


def killer(mutant: str, seeds: Iterable[int]) -> tuple[int, str] | None:
    """Return the first seed that breaks a law without a safeguard, and the law."""
    return next(((seed, found.law) for seed in seeds if (found := simulate(seed, mutant)).law), None)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--from", dest="first", type=int, default=0)
    parser.add_argument("--mutants", action="store_true")
    given = parser.parse_args()
    seeds = range(given.first, given.first + given.seeds)
    if given.mutants:
        for mutant in MUTANTS:
            found = killer(mutant, seeds)
            faults = ", ".join(MUTANTS[mutant].faults) or "none"
            print(f"| {mutant} | {faults} | {'none' if found is None else f'{found[0]} | {found[1]}'} |", flush=True)
        return
    began_at, broken = time.monotonic(), 0
    for seed in seeds:
        found_one = simulate(seed)
        if found_one.law:
            broken += 1
            print(f"seed {seed}: {found_one.law}", *found_one.trace, sep="\n  ", flush=True)
    print(f"{len(seeds)} seeds in {time.monotonic() - began_at:.1f} s, {broken} broke a law")


if __name__ == "__main__":
    main()
