"""What several workers cost beside one process: CPU time an event, in all of their processes together, on one core.

`python -m tests.bench.several [--workers 2] [--reps 3] [--scenarios C,J,fan]`. The runs take turns, and the least of
each counts. Connections land anywhere: so of the followers of one stream, which come before it, half are handed over.
"""

import time
from dataclasses import replace

import click

from tests.bench.load import Plan
from tests.bench.measure import Row, run
from tests.bench.processes import TARGETS, Target, allow_many_files, origin, running

_SETTLED_S = 5.0  # for the process that is kept ready in place of a worker that dies
SCENARIOS = {
    "C": Plan(0, "", streams=500, events=100, interval_s=0.05, ramp_per_s=500, sample=5, deadline_s=15),
    "J": Plan(0, "", streams=500, events=400, interval_s=0.01, ramp_per_s=500, sample=5, deadline_s=60),
    "fan": Plan(0, "", streams=1, followers=5000, events=60, interval_s=0.1, ramp_per_s=500, sample=50, deadline_s=30),
}


def target(workers: int) -> Target:
    """Return streamtee with so many workers."""
    one = TARGETS["streamtee"]
    return one._replace(command=f"{one.command} --workers {workers}")


def measured(workers: int, name: str) -> Row:
    """Run a scenario, freshly started."""
    with origin() as source, running(target(workers), source[1]) as (pid, port):
        run("warm", "warm", pid, source, Plan(port, "warm", streams=8, events=20, interval_s=0.002, deadline_s=10))
        time.sleep(_SETTLED_S)
        return run(f"{workers}", name, pid, source, replace(SCENARIOS[name], port=port, name=name))


@click.command()
@click.option("--workers", default=2)
@click.option("--reps", default=3)
@click.option("--scenarios", default="C,J,fan")
def main(workers: int, reps: int, scenarios: str) -> None:
    """Measure, and print a line for each run and each scenario."""
    allow_many_files()
    for name in scenarios.split(","):
        rows: dict[int, list[Row]] = {1: [], workers: []}
        for _ in range(reps):
            for count, found in rows.items():
                found.append(row := measured(count, name))
                came = f"{row.units} of {row.expected} events, {row.wrong + row.unfinished} wrong {row.problem}"
                print(f"{name} {count} workers: {row.cpu_us:.1f} us of CPU time an event; {came}")
        least = {count: min(row.cpu_us for row in found) for count, found in rows.items()}
        print(f"{name}: {least[workers]:.1f} us beside {least[1]:.1f}: {least[workers] / least[1]:.2f} times")


if __name__ == "__main__":
    main()
