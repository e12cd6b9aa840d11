"""Load held: `python -m tests.bench.held`. Many streams, then many followers of one, each with an event a second.

Then streams of ten events that have ended, and are kept.

Prints for each: memory each, the delay of events, the proxy's share of its core, how long health takes meanwhile.
The limit of open files (`ulimit -n`) must be above twice the number of streams.
"""

import time
import urllib.request
from typing import NamedTuple

import click

from tests.bench import procfs
from tests.bench.growth import Proxy, proxy
from tests.bench.load import Plan
from tests.bench.processes import Load, allow_many_files

_SAMPLE = 10  # one connection in so many has its delays noted
_DEADLINE_S = 900.0


class Held(NamedTuple):
    """What a load costs while it is there."""

    kb_each: float
    p50_ms: float
    p99_ms: float
    cpu_share: float
    health_ms: float
    """The longest of all answers to /healthz."""
    events: int
    problems: str

    def __str__(self) -> str:
        return (
            f"{self.kb_each:.1f} KB each; delay p50 {self.p50_ms:.0f} ms, p99 {self.p99_ms:.0f} ms; "
            f"{self.cpu_share:.0%} of a core; health {self.health_ms:.0f} ms at most; {self.events} events came"
            f"{self.problems and '; ' + self.problems}"
        )


def health_ms(port: int) -> float:
    """Return how long the proxy takes to say that it is well."""
    began_at = time.monotonic()
    urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=60).read()
    return (time.monotonic() - began_at) * 1e3


def watched(tee: Proxy, clients: Load, before_kb: int, each: int, seconds: float) -> Held:
    """Look for so long at a load that is there."""
    clients.latency()  # of the beginning
    cpu_s, came, began_at = procfs.cpu_s(tee.pid), clients.count(), time.monotonic()
    longest_ms = 0.0
    while time.monotonic() - began_at < seconds:
        longest_ms = max(longest_ms, health_ms(tee.port))
        time.sleep(0.25)
    cpu_share = (procfs.cpu_s(tee.pid) - cpu_s) / (time.monotonic() - began_at)
    delay = clients.latency()
    return Held(
        (procfs.rss_kb(tee.pid) - before_kb) * 1.024 / each, delay["p50"] / 1e3, delay["p99"] / 1e3,
        cpu_share, longest_ms, clients.count() - came, str(delay["problems"] or ""),
    )  # fmt: skip


def hold(plan: Plan, seconds: float) -> Held:
    """Carry out a plan until all is there, and look at it for so long."""
    each = plan.followers or plan.streams
    with proxy() as tee:
        before_kb = procfs.rss_kb(tee.pid)
        with tee.load(plan) as clients:
            clients.ready(120)
            clients.go()
            clients.wait_begun(plan.streams * (1 + plan.followers), 120)
            return watched(tee, clients, before_kb, each, seconds)


def kept_kb(plan: Plan) -> tuple[int, float]:
    """Return how many streams have ended, and how much memory each takes besides the bytes of its events."""
    with proxy() as tee:
        before_kb = procfs.rss_kb(tee.pid)
        with tee.load(plan) as clients:
            clients.ready(120)
            clients.go()
            report = clients.report()
        grown_kb = (procfs.rss_kb(tee.pid) - before_kb) * 1.024
        number: int = report["events"] // (plan.events + 1)  # with [DONE]
        received_bytes = sum(received[2] for received in report["received"])
        return number, (grown_kb - received_bytes / 1e3) / number


@click.command()
@click.option("--number", default=8000, show_default=True, help="Of streams, and of followers.")
@click.option("--seconds", default=20.0, show_default=True)
def main(number: int, seconds: float) -> None:
    """Measure all three."""
    allow_many_files()
    ramp_s = number / 2000
    events = round(seconds + ramp_s + 120)
    streams = Plan(
        0,
        "held",
        streams=number,
        events=events,
        interval_s=1.0,
        ramp_per_s=2000,
        sample=_SAMPLE,
        deadline_s=_DEADLINE_S,
    )
    followers = Plan(
        0,
        "held",
        followers=number,
        events=events,
        interval_s=1.0,
        mode="events",
        sample=_SAMPLE,
        deadline_s=_DEADLINE_S,
    )
    click.echo(f"{number} streams: {hold(streams, seconds)}")
    click.echo(f"{number} followers of one: {hold(followers, seconds)}")
    ended, kb = kept_kb(Plan(0, "kept", streams=20, events=10, repeat_s=seconds, deadline_s=_DEADLINE_S))
    click.echo(f"{ended} kept streams: {kb:.1f} KB each besides their events")


if __name__ == "__main__":
    main()
