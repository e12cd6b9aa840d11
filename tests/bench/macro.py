"""streamtee side by side with its peers, over sockets: `make bench`. Writes docs/performance.json, its table and plot.

Each target runs alone on one core, origin and clients on another; the targets take turns in every repetition, and of
a figure the least counts, as others on the machine can only add to it. Ratios hold within one run only.
"""

import json
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import NamedTuple

import click
from rich.console import Console

from tests.bench import procfs, report
from tests.bench.load import Plan
from tests.bench.measure import Row, run, touch_memory
from tests.bench.processes import TARGETS, Unavailable, allow_many_files, origin, running

PASS = ("nginx", "streamtee", "streamtee_compiled", "aiohttp_naive", "fastapi_httpx")
FAN = ("streamtee", "streamtee_compiled", "aiohttp_queues")


class Scenario(NamedTuple):
    """A plan, and the targets that can carry it out."""

    name: str
    what: str
    plan: Plan
    targets: Sequence[str] = PASS


def _paced(streams: int, per_s: int, seconds: float, followers: int = 0) -> Plan:
    """Return a plan of streams of `per_s` events a second each; latency of about 100 connections is noted."""
    return Plan(
        0, "", streams=streams, followers=followers, events=round(per_s * seconds), interval_s=1 / per_s,
        ramp_per_s=max(100.0, streams), sample=max(1, streams * (1 + followers) // 100), deadline_s=seconds + 5,
    )  # fmt: skip


SCENARIOS = (
    # The many come last: httpx searches all its idle connections at each request.
    Scenario("short", "32 connections, 10 events a request", Plan(0, "", 32, events=9, repeat_s=2, deadline_s=12)),
    Scenario("json", "32 connections, small JSON answers", Plan(0, "", 32, repeat_s=2, stream=False, deadline_s=12)),
    Scenario("busy", "100 streams x 100 events/s", _paced(100, 100, 4)),
    Scenario("many", "500 streams x 20 events/s", _paced(500, 20, 4)),
    Scenario("fan 100", "1 stream x 100 followers x 100 events/s", _paced(1, 100, 4, 100), FAN),
    Scenario("fan 1000", "1 stream x 1,000 followers x 20 events/s", _paced(1, 20, 4, 1000), FAN),
    Scenario("fan 50x20", "50 streams x 20 followers x 20 events/s", _paced(50, 20, 4, 20), FAN),
)


def measure(target: str, scenarios: Iterable[Scenario], console: Console) -> list[Row]:
    """Run a target through scenarios, freshly started, after a few requests to warm it up."""
    rows = []
    with origin() as source, running(TARGETS[target], source[1]) as (pid, port):
        warm = Plan(port, "warm", streams=4, keyed=True, events=20, interval_s=0.002, deadline_s=10)
        first = run(target, "warm", pid, source, warm)
        if first.wrong or first.unfinished:
            raise Unavailable(f"fails: {first.problem or 'unfinished'}")
        for scenario in scenarios:
            plan = replace(scenario.plan, port=port, name=scenario.name.replace(" ", "-"))
            row = run(target, scenario.name, pid, source, plan)
            rows.append(row)
            console.print(
                f"  {target:15} {scenario.name:10} {row.cpu_us:8.1f} us  {row.per_s:8.0f}/s  wrong {row.wrong}"
                f"  unfinished {row.unfinished}  load {row.load_share:.0%}  {row.problem}",
                highlight=False,
                soft_wrap=True,
            )
    return rows


def measure_all(targets: Sequence[str], scenarios: Sequence[Scenario], reps: int, console: Console) -> list[Row]:
    """Run all targets through their scenarios, `reps` times, every second time in the other order."""
    rows: list[Row] = []
    for rep in range(reps):
        console.print(f"repetition {rep + 1} of {reps}")
        for target in targets if rep % 2 == 0 else reversed(targets):
            for chosen in freshly(scenario for scenario in scenarios if target in scenario.targets):
                try:
                    rows += measure(target, chosen, console)
                except (Unavailable, OSError) as exc:
                    console.print(f"  {target}: left out: {exc}", highlight=False, soft_wrap=True)
    return rows


def freshly(scenarios: Iterable[Scenario]) -> Iterator[list[Scenario]]:
    """Group the scenarios by the process they share: with followers each has its own, as its memory is measured."""
    together: list[Scenario] = []
    for scenario in scenarios:
        if scenario.plan.followers:
            yield [scenario]
        else:
            together.append(scenario)
    if together:
        yield together


def end_on_signals() -> None:
    """Leave by an exception when told to end, so that everything started is ended too."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit("ended by a signal"))


@click.command(help=__doc__)
@click.option("--reps", default=3, show_default=True)
@click.option("--targets", default=",".join(TARGETS), show_default=True)
@click.option("--scenarios", default=",".join(scenario.name for scenario in SCENARIOS), show_default=True)
@click.option("--keep/--no-keep", default=True, help="write the results below docs/")
def main(reps: int, targets: str, scenarios: str, keep: bool) -> None:
    end_on_signals()
    allow_many_files()
    touch_memory()
    console = Console(width=150)
    chosen = [scenario for scenario in SCENARIOS if scenario.name in scenarios.split(",")]
    rows = measure_all(targets.split(","), chosen, reps, console)
    machine = procfs.machine()
    what = {scenario.name: scenario.what for scenario in chosen}
    table = report.table(rows, what)
    report.show(table, console)
    if keep:
        results = {"machine": machine, "scenarios": what, "rows": [asdict(row) for row in rows]}
        (report.DOCS / "performance.json").write_text(json.dumps(results, indent=1) + "\n")
        report.write_section("bench", [report.conditions(machine, reps), *report.markdown(table)])
        report.plot_targets(table)
    if any(row.wrong for row in rows if row.target.startswith("streamtee")):
        sys.exit("streamtee gave wrong answers: see above")


if __name__ == "__main__":
    main()
