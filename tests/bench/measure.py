"""One measurement: a plan carried out through a target, with CPU time, memory, latency, and whether all came right."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.bench import procfs
from tests.bench.load import Plan
from tests.bench.processes import load, sent


@dataclass(frozen=True, slots=True)
class Row:
    """What one run gave. A unit is an event that reached a client, or a request where no stream is asked for."""

    target: str
    scenario: str
    units: int
    expected: int
    wrong: int
    """Answers that are not byte for byte what the origin sent, or that broke off."""
    unfinished: int
    """Answers that were not whole when the time was over."""
    problem: str
    cpu_us: float
    """Of the target, a unit."""
    per_s: float
    first_us: Mapping[str, float]
    """From the request to the first byte of its answer's body."""
    latency_us: Mapping[str, float]
    """From the origin's write to the client's read."""
    rss_kb: int
    kb_per_follower: float | None
    target_share: float
    """Of its core."""
    load_share: float
    """Of theirs: origin and clients. Near 1, they are what limits."""
    stolen_s: float


def wrong_answers(received: list[list[Any]], were_sent: Mapping[str, tuple[int, int, int]]) -> Counter[str]:
    """Count the answers that differ from what was sent under their name, by what is wrong."""
    wrong: Counter[str] = Counter()
    for name, crc, size, count in received:
        if name not in were_sent:
            wrong["whole, though the origin was not done"] += count
        elif size != were_sent[name][1]:
            wrong[f"{size} bytes instead of {were_sent[name][1]}"] += count
        elif crc != were_sent[name][0]:
            wrong["altered"] += count
    return wrong


def expected_units(plan: Plan, were_sent: Mapping[str, tuple[int, int, int]]) -> int:
    """Return how many units had to come: planned ones, or all that the origin was asked for in the plan's time."""
    if not plan.stream:
        return len(were_sent)
    if plan.repeat_s:
        return sum(events for _, _, events in were_sent.values())
    return plan.streams * (1 + plan.followers) * (plan.burst + plan.events + 1)


def run(target: str, scenario: str, pid: int, origin: tuple[int, int], plan: Plan) -> Row:
    """Carry out a plan through a running target. Raises: TimeoutError."""
    origin_pid, origin_port = origin
    sent(origin_port)
    before_kb = procfs.rss_kb(pid)
    with load(plan) as clients:
        clients.ready()
        grown_kb = procfs.rss_kb(pid) - before_kb
        stolen, began = procfs.stolen_s(), time.monotonic()
        ours, theirs = procfs.cpu_s(pid), procfs.cpu_s(origin_pid) + procfs.cpu_s(clients.pid)
        clients.go()
        report = clients.report()
        seconds = time.monotonic() - began
        ours = procfs.cpu_s(pid) - ours
        theirs = procfs.cpu_s(origin_pid) + report["cpu_s"] - theirs
    were_sent = sent(origin_port)
    wrong = wrong_answers(report["received"], were_sent) + Counter(report["problems"])
    units = report["events"] if plan.stream else sum(count for *_, count in report["received"])
    return Row(
        target=target, scenario=scenario, units=units, expected=expected_units(plan, were_sent),
        wrong=wrong.total(), unfinished=report["unfinished"],
        problem="; ".join(f"{count} x {what}" for what, count in wrong.most_common(3)),
        cpu_us=ours * 1e6 / max(1, units), per_s=units / max(report["seconds"], 1e-9),
        first_us=report["first_us"], latency_us=report["latency_us"],
        rss_kb=procfs.rss_kb(pid),
        kb_per_follower=grown_kb / (plan.streams * plan.followers) if plan.streams * plan.followers else None,
        target_share=ours / seconds, load_share=theirs / seconds, stolen_s=procfs.stolen_s() - stolen,
    )  # fmt: skip


def touch_memory(size_bytes: int = 1 << 30) -> None:
    """Have the machine back so much memory: on a new virtual one, the first touch of a page costs over 10 us."""
    len(b"\1" * size_bytes)
