"""How streamtee's cost grows: `make bench-growth`. Writes docs/growth.json, the curves and their table.

CPU time per delivery over followers, streams and frame sizes, in a window in which all are there; CPU time per frame
of a late join over the length of the log; and what one stream's crowd, or a late join, does to the others' latency.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import NamedTuple

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
CROWD = 10000
WINDOW_S = 4.0
PROBE = Plan(0, "probe", events=2400, interval_s=0.01, deadline_s=60)
"""The other stream, whose latency is measured: 100 events a second."""


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a curve: at n, a unit costs so many microseconds of CPU."""

    curve: str
    line: str
    n: int
    cpu_us: float
    per_s: float
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Beside:
    """Latency of a stream while something else happens, or nothing does; microseconds."""

    what: str
    p50: float
    p99: float
    max: float
    problem: str = ""


class Proxy(NamedTuple):
    """A streamtee that runs for one point."""

    pid: int
    port: int


@contextmanager
def proxy() -> Iterator[Proxy]:
    """Run a new origin and streamtee: a log or pool of an earlier point must not cost a later one."""
    with origin() as (_, origin_port), running(TARGETS["streamtee"], origin_port) as (pid, port):
        yield Proxy(pid, port)


def window(clients: Load, pid: int, all_there: int) -> tuple[float, float, int]:
    """Return CPU and wall seconds and events of a window, once `all_there` events have come. Raises: TimeoutError."""
    clients.go()
    until = time.monotonic() + 30
    while clients.count() < all_there:
        if time.monotonic() > until:
            raise TimeoutError(f"{clients.count()} of {all_there} events came within 30 s")
        time.sleep(0.2)
    before, cpu, began = clients.count(), procfs.cpu_s(pid), time.monotonic()
    time.sleep(WINDOW_S)
    return procfs.cpu_s(pid) - cpu, time.monotonic() - began, clients.count() - before


def steady(curve: str, line: str, n: int, plan: Plan, all_there: int) -> Point:
    """Measure a point in a window of a plan whose streams outlive it."""
    with proxy() as running_now:
        plan = _to(running_now, plan)
        with load(plan) as clients:
            clients.ready()
            cpu_s, seconds, events = window(clients, running_now.pid, all_there)
    return Point(curve, line, n, cpu_s * 1e6 / max(1, events), events / seconds)


def over_followers(n: int) -> Point:
    """One stream with n followers, 10,000 deliveries a second at most."""
    per_s = max(1, min(100, 10000 // n))
    plan = _endless(1, per_s, followers=n)
    return steady("followers", "followers of one stream", n, plan, (n + 1) * max(1, per_s // 2))


def over_streams(n: int) -> Point:
    """n streams, 5,000 events a second at most."""
    per_s = max(1, min(100, 5000 // n))
    return steady("streams", "streams", n, _endless(n, per_s, seconds=25), n * 2)


def over_sizes(n: int) -> Point:
    """10 streams of frames of n bytes, 40 MB or 2,000 frames a second at most."""
    per_s = max(1.0, min(200.0, 4e6 / n))
    return steady("bytes of a frame", "frame size", n, _endless(10, per_s, size_bytes=n), 20)


def _endless(streams: int, per_s: float, followers: int = 0, seconds: float = 20.0, size_bytes: int = 300) -> Plan:
    """Return a plan that outlives its window; nothing is sampled, all start within two seconds."""
    return Plan(
        0, "curve", streams=streams, followers=followers, events=round(per_s * (seconds + WINDOW_S)),
        interval_s=1 / per_s, size_bytes=size_bytes, ramp_per_s=max(100.0, streams / 2), sample=1 << 30,
    )  # fmt: skip


def late_join(n: int, mode: str) -> tuple[Point, list[Beside]]:
    """Follow a stream from its start when its log has n frames, beside another stream."""
    with ExitStack() as stack:
        running_now = stack.enter_context(proxy())
        filler = Plan(0, "long", events=600, interval_s=0.2, burst=n, sample=1 << 30, deadline_s=120)
        filling = stack.enter_context(load(_to(running_now, filler)))
        filling.ready()
        filling.go()
        _wait_for(filling, n)
        late = Plan(0, "long", streams=0, followers=1, mode=mode, expect=n, sample=1 << 30, deadline_s=60)
        joining = stack.enter_context(load(_to(running_now, late)))
        joining.ready()
        cpu, began = procfs.cpu_s(running_now.pid), time.monotonic()
        joining.go()
        said = joining.report()
        seconds = time.monotonic() - began
        cpu_s = procfs.cpu_s(running_now.pid) - cpu
        missing = "" if said["events"] >= n and not said["problems"] else f"{said['events']} of {n}, {said['problems']}"
        beside = []
        if n == LOGS[-1]:
            beside = [_join_again(running_now, late)]
    return Point("frames in the log", f"late join, mode {mode}", n, cpu_s * 1e6 / n, n / seconds, missing), beside


def _join_again(running_now: Proxy, late: Plan) -> Beside:
    """Measure another stream's latency while followers join that log one after the other, twenty times."""

    def disturb() -> None:
        for _ in range(20):
            with load(_to(running_now, late)) as joining:
                joining.ready()
                joining.go()
                joining.report()

    return beside(running_now, f"20 late joins into {late.expect:,} frames, mode {late.mode}", disturb)


def _wait_for(clients: Load, events: int) -> None:
    until = time.monotonic() + 60
    while clients.count() < events:
        if time.monotonic() > until:
            raise TimeoutError(f"{clients.count()} of {events} frames were logged within 60 s")
        time.sleep(0.1)


def beside(running_now: Proxy, what: str, disturb: Callable[[], None]) -> Beside:
    """Return the latency of the probe's events while `disturb` runs."""
    with load(_to(running_now, PROBE)) as probe:
        probe.ready()
        probe.go()
        _wait_for(probe, 20)
        probe.mark()
        disturb()
        latency, problems = probe.latency()
    return Beside(what, latency["p50"], latency["p99"], latency["max"], problems)
