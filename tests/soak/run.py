"""A soak: `python -m tests.soak.run --minutes 60`. A proxy, a fake Qwen that misbehaves, and clients that do, too.

Half of the time with the default limits, half with tight ones. It prints what was found at once, a line a minute, and
a summary; it exits with 1 if anything was wrong. docs/soak.md says what is checked.
"""

import sys
import time
from collections.abc import Sequence

import click
import uvloop

from tests.soak.phase import Outcome, Phase, Plan
from tests.soak.proxy_process import LIMITS


def report(line: str) -> None:
    """Print a line with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


async def soak(phases: Sequence[str], plan: Plan, seed: int) -> list[Outcome]:
    """Run some phases, one after the other."""
    outcomes = []
    for number, name in enumerate(phases):
        report(f"{name} limits, seed {seed}")
        outcomes.append(await Phase(name, seed + number, plan, report).run())
        report(str(outcomes[-1]))
    return outcomes


@click.command()
@click.option("--minutes", default=10.0, show_default=True, help="Of load, in all.")
@click.option("--warm-up-s", default=60.0, show_default=True, help="Before memory is looked at, in each phase.")
@click.option("--seed", default=1, show_default=True)
@click.option("--clients", default=40, show_default=True, help="Visits at once.")
@click.option("--limits", type=click.Choice([*LIMITS, "both"]), default="both", show_default=True)
def main(minutes: float, warm_up_s: float, seed: int, clients: int, limits: str) -> None:
    """Run a soak."""
    phases = list(LIMITS) if limits == "both" else [limits]
    outcomes = uvloop.run(soak(phases, Plan(minutes * 60 / len(phases), warm_up_s, clients), seed))
    found = sum(len(outcome.ground.found) for outcome in outcomes)
    report(f"{found} wrong")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
