"""How streamtee's cost grows: `make bench-growth`. Writes docs/growth.json, the curves and their table.

CPU time per delivery over followers, streams and frame sizes, and side by side of followers in several modes, in a
window in which all are there; CPU time per frame of a late join over the length of the log; and what one stream's
crowd, or late joins, do to another's latency.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import click
from rich.console import Console

from tests.bench import procfs, report
from tests.bench.load import Plan
from tests.bench.macro import end_on_signals
from tests.bench.measure import touch_memory
from tests.bench.processes import TARGETS, Load, Unavailable, allow_many_files, load, origin, running

FOLLOWERS = (1, 10, 100, 1000, 10000)
STREAMS = (1, 10, 100, 1000, 5000)
SIZES = (50, 250, 1000, 4000, 16000, 64000, 256000, 1 << 20)
LOGS = (100, 1000, 10000, 100000)
JOINS = 10
MODES = ("raw", "events", "incremental", "coalesced&flush_ms=0", "cumulative&flush_ms=0", "text")
"""Each sends each frame at once: so many deliveries as raw has."""
CROWD = 1000
AT_ONE = "followers in modes"
"""The curve that is none, but figures side by side."""
WINDOW_S = 4.0
PROBE = Plan(0, "probe", events=12000, interval_s=0.01)
"""The stream whose latency is measured: 100 events a second."""
NOTHING = 1 << 30
"""One connection in so many has its latency noted: none."""


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a line of a curve: at `n`, a unit costs so many microseconds of CPU."""

    curve: str
    line: str
    n: int
    cpu_us: float
    per_s: float
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Beside:
    """The latency of a stream while something else happens, or nothing does; microseconds."""

    what: str
    p50: float
    p99: float
    max: float
    problem: str = ""


class Proxy(NamedTuple):
    """A streamtee with an origin of its own, for one point: what an earlier one left must not cost this one."""

    pid: int
    port: int

    def load(self, plan: Plan) -> AbstractContextManager[Load]:
        """Run the clients of a plan against it."""
        return load(replace(plan, port=self.port))


@contextmanager
def proxy() -> Iterator[Proxy]:
    """Run a streamtee."""
    with origin() as (_, origin_port), running(TARGETS["streamtee"], origin_port) as (pid, port):
        yield Proxy(pid, port)


def endless(streams: int, per_s: float, followers: int = 0, size_bytes: int = 300) -> Plan:
    """Return a plan that outlives its window and notes no latency."""
    ramp_s = max(0.01, streams / 1000)
    return Plan(
        0, "curve", streams=streams, followers=followers, events=round(per_s * (WINDOW_S + ramp_s + 30)),
        interval_s=1 / per_s, size_bytes=size_bytes, ramp_per_s=streams / ramp_s, sample=NOTHING,
    )  # fmt: skip


def steady(curve: str, line: str, n: int, plan: Plan) -> Point:
    """Measure a point in a window that begins when every stream and follower has had an event."""
    with proxy() as tee, tee.load(plan) as clients:
        clients.ready()
        clients.go()
        clients.wait_begun(plan.streams * (1 + plan.followers))
        before, cpu_s, began = clients.count(), procfs.cpu_s(tee.pid), time.monotonic()
        time.sleep(WINDOW_S)
        cpu_s, seconds = procfs.cpu_s(tee.pid) - cpu_s, time.monotonic() - began
        events = clients.count() - before
        problems = clients.latency()["problems"]
    return Point(curve, line, n, cpu_s * 1e6 / max(1, events), events / seconds, str(problems or ""))


def over_followers(n: int) -> Point:
    """One stream with n followers; 10,000 deliveries a second at most."""
    return steady("followers", "of one stream", n, endless(1, max(1, min(100, 10000 // n)), followers=n))


def over_streams(n: int) -> Point:
    """n streams with one client each; 5,000 events a second at most."""
    return steady("streams", "one client each", n, endless(n, max(1, min(100, 5000 // n))))


def over_sizes(n: int) -> Point:
    """10 streams of frames of n bytes; 40 MB or 1,000 frames a second at most."""
    return steady("frame size, bytes", "10 streams", n, endless(10, max(1, min(100, 4_000_000 // n)), size_bytes=n))


def over_modes(modes: Sequence[str]) -> Point:
    """One stream with followers that take these modes by turns, 20 events a second."""
    line = f"{len(modes)} modes by turns" if len(modes) > 1 else f"mode {modes[0].partition('&')[0]}"
    return steady(AT_ONE, line, CROWD, replace(endless(1, 20, followers=CROWD), mode=",".join(modes)))


@contextmanager
def filled(tee: Proxy, n: int) -> Iterator[Plan]:
    """Run a stream that has n frames in its log and goes on slowly; yields the plan of one who joins late."""
    filler = Plan(0, "long", keyed=True, events=1000, interval_s=0.2, burst=n, sample=NOTHING, deadline_s=200)
    with tee.load(filler) as filling:
        filling.ready()
        filling.go()
        filling.wait_for(n)
        yield Plan(0, "long", streams=0, followers=1, expect=n, sample=NOTHING, deadline_s=60)


def late_join(n: int, mode: str) -> Point:
    """Follow a stream from its start when its log has n frames."""
    with proxy() as tee, filled(tee, n) as late, tee.load(replace(late, mode=mode)) as joining:
        joining.ready()
        cpu_s, began = procfs.cpu_s(tee.pid), time.monotonic()
        joining.go()
        said = joining.report()
        seconds = time.monotonic() - began
        cpu_s = procfs.cpu_s(tee.pid) - cpu_s
    missing = "" if said["events"] >= n and not said["problems"] else f"{said['events']} of {n}, {said['problems']}"
    return Point("frames of a late join", f"mode {mode}", n, cpu_s * 1e6 / n, n / seconds, missing)


def beside(tee: Proxy, what: str, disturb: Callable[[], None]) -> list[Beside]:
    """Return the latency of another stream's events before, and while `disturb` runs."""
    with tee.load(PROBE) as probe:
        probe.ready()
        probe.go()
        probe.wait_for(50)
        probe.latency()
        time.sleep(WINDOW_S)
        before = probe.latency()
        disturb()
        during = probe.latency()
    return [_told(f"before {what}", before), _told(what, during)]


def _told(what: str, latency: Mapping[str, Any]) -> Beside:
    if "p50" not in latency:
        raise TimeoutError(f"no event came: {what}")
    return Beside(what, latency["p50"], latency["p99"], latency["max"], str(latency["problems"] or ""))


def beside_late_joins(n: int, mode: str) -> list[Beside]:
    """Measure another stream while followers, one a second, join a log of n frames."""
    with ExitStack() as stack:
        tee = stack.enter_context(proxy())
        late = replace(stack.enter_context(filled(tee, n)), mode=mode, followers=JOINS, ramp_per_s=1.0)
        joining = stack.enter_context(tee.load(late))
        joining.ready()

        def join() -> None:
            joining.go()
            said = joining.report()
            if said["events"] < JOINS * n:
                raise TimeoutError(f"{said['events']} of {JOINS * n} events came late, {said['problems']}")

        return beside(tee, f"{JOINS} late joins into {n:,} frames, mode {mode}", join)


def beside_followers(n: int) -> list[Beside]:
    """Measure another stream beside one with n followers and an event a second."""
    with proxy() as tee, tee.load(endless(1, 1, followers=n)) as crowd:
        crowd.ready()

        def speak() -> None:
            crowd.go()
            crowd.wait_for(2 * n)
            time.sleep(2 * WINDOW_S)

        return beside(tee, f"one stream with {n:,} followers, an event a second", speak)


def least(points: Sequence[Point]) -> list[Point]:
    """Return the cheapest of the points that were measured more than once, in their order."""
    best: dict[tuple[str, str, int], Point] = {}
    for point in points:
        key = (point.curve, point.line, point.n)
        if key not in best or point.cpu_us < best[key].cpu_us:
            best[key] = point
    return list(best.values())


def calmest(seen: Sequence[Beside]) -> list[Beside]:
    """Return, of those measured more than once, the one with the least p99: others on the machine only add."""
    best: dict[str, Beside] = {}
    for one in seen:
        if one.what not in best or one.p99 < best[one.what].p99:
            best[one.what] = one
    return list(best.values())


def verdict(points: Sequence[Point]) -> str:
    """Say how the total cost of one line grows."""
    per_byte = points[0].curve.startswith("frame size")
    exponent = report.growth([(point.n, point.cpu_us / point.n if per_byte else point.cpu_us) for point in points])
    return f"n^{1 + exponent:.2f}" if exponent > 0.005 else "linear or better"


def paragraphs(points: Sequence[Point], others: Sequence[Beside]) -> list[str]:
    """Return the section of the page."""
    text = ["![CPU time over followers, streams, frame sizes and log lengths](growth.svg)"]
    for curve in dict.fromkeys(point.curve for point in points if point.curve != AT_ONE):
        for line in dict.fromkeys(point.line for point in points if point.curve == curve):
            theirs = [point for point in points if (point.curve, point.line) == (curve, line)]
            rows = [[f"{p.n:,}", f"{p.cpu_us:.2f}", f"{p.per_s:,.0f}", p.problem] for p in theirs]
            text += [
                f"**{curve}** ({line}); total cost from the cheapest point on: {verdict(theirs)}",
                report.grid((curve, "CPU us", "per s", "problems"), rows),
            ]
    if crowds := [point for point in points if point.curve == AT_ONE]:
        rows = [
            [p.line, f"{p.cpu_us:.2f}", f"{p.cpu_us / crowds[0].cpu_us:.2f}", f"{p.per_s:,.0f}", p.problem]
            for p in crowds
        ]
        text += [f"**{AT_ONE}**: {CROWD:,} of one stream, 20 events a second"]
        text += [report.grid(("followers", "CPU us", "ratio", "per s", "problems"), rows)]
    rows = [[one.what, *(f"{us / 1000:.2f}" for us in (one.p50, one.p99, one.max)), one.problem] for one in others]
    if rows:
        text += ["**Latency of another stream** (100 events a second), milliseconds"]
        text += [report.grid(("beside", "p50", "p99", "max", "problems"), rows)]
    return text


PARTS = ("followers", "streams", "sizes", "modes", "logs", "fair")


def work(parts: Sequence[str], followers: int) -> Iterator[Callable[[], Point | list[Beside]]]:
    """Yield what is to be measured, one after the other, with at most so many followers."""
    crowds = [n for n in FOLLOWERS if n <= followers]
    over = {"followers": (over_followers, crowds), "streams": (over_streams, STREAMS), "sizes": (over_sizes, SIZES)}
    for part, (at, numbers) in over.items():
        if part in parts:
            yield from (partial(at, n) for n in numbers)
    if "modes" in parts:
        yield from (partial(over_modes, modes) for modes in (MODES[:1], MODES[1:], *((mode,) for mode in MODES[1:])))
    for mode in ("raw", "events"):
        if "logs" in parts:
            yield from (partial(late_join, n, mode) for n in LOGS)
        if "fair" in parts:
            yield partial(beside_late_joins, LOGS[-1], mode)
    if "fair" in parts:
        yield partial(beside_followers, crowds[-1])


@click.command(help=__doc__)
@click.option("--reps", default=2, show_default=True, help="of each figure the least counts")
@click.option("--parts", default=",".join(PARTS), show_default=True)
@click.option("--keep/--no-keep", default=True, help="write the results below docs/")
def main(reps: int, parts: str, keep: bool) -> None:
    end_on_signals()
    followers = allow_many_files() - 500
    touch_memory()
    console = Console(width=150)
    points: list[Point] = []
    others: list[Beside] = []
    for rep in range(reps):
        console.print(f"repetition {rep + 1} of {reps}")
        for measure in work(parts.split(","), followers):
            try:
                result = measure()
            except (Unavailable, OSError) as exc:
                console.print(f"  left out: {exc}", highlight=False)
                continue
            if isinstance(result, Point):
                points.append(result)
                said = f"{result.curve} ({result.line}) {result.n:,}: {result.cpu_us:.2f} us, {result.per_s:,.0f}/s"
                console.print(f"  {said} {result.problem}", highlight=False, soft_wrap=True)
            else:
                others += result
                for one in result:
                    console.print(f"  {one.what}: p50 {one.p50:,.0f}, p99 {one.p99:,.0f}, max {one.max:,.0f} us")
    points, others = least(points), calmest(others)
    machine = procfs.machine()
    text = [report.conditions(machine, reps), *paragraphs(points, others)]
    if keep:
        results = {"machine": machine, "points": list(map(asdict, points)), "beside": list(map(asdict, others))}
        (report.DOCS / "growth.json").write_text(json.dumps(results, indent=1) + "\n")
        report.write_section("growth", text)
        curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
        for point in (point for point in points if point.curve != AT_ONE):
            curves.setdefault(point.curve, {}).setdefault(point.line, []).append((point.n, point.cpu_us))
        report.plot_curves(curves, report.DOCS / "growth.svg", "CPU time, microseconds per event")
    else:
        console.print("\n\n".join(text), highlight=False)


if __name__ == "__main__":
    main()
