"""One phase of a soak: a proxy with some limits, its clients, what is done to it meanwhile, and what is left of it."""

import asyncio
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from tests.soak.ground import Ground
from tests.soak.proxy_process import ProxyProcess, Usage, measure_pause
from tests.soak.upstream import Upstream
from tests.soak.visits import shown, visits

_AT_REST = ("streams_active", "subscribers", "memory_bytes", "client_bytes", "upstream_connections", "queued")
_COUNTERS = ("streams_ended_total{", "subscriptions_ended_total{", "rejected_total{", "client_connections_cut_total{")
_NOTICE_S = 0.1
_QUIET_S = 60.0
_BACK = 1.1  # what may be left, as a part of what there was before the load


@dataclass
class Outcome:
    """What a phase came to."""

    name: str
    ground: Ground
    before: Usage
    after: Usage
    top_rss_mb: float = 0.0
    worst_pause_s: float = 0.0
    cpu_s: float = 0.0
    seconds: float = 0.0
    counters: dict[str, float] = field(default_factory=dict)
    """What the proxy counted of endings, refusals and cut connections."""
    done: dict[str, int] = field(default_factory=dict)
    """How often what was done to the proxy."""

    def __str__(self) -> str:
        what = [f"{name} {count}" for name, count in self.done.items()]
        return "\n".join([
            f"{self.name} limits: {self.seconds:.0f} s, {self.ground.visits} visits, {self.ground.streams} generations "
            f"asked for, {self.ground.upstream.total} requests upstream, {', '.join(what)}; "
            f"{len(self.ground.found)} wrong; this side did not run for long {self.ground.starved} times",
            f"  before {_shown(self.before)}; after {_shown(self.after)}; at most {self.top_rss_mb:.0f} MB; "
            f"CPU {self.cpu_s:.0f} s; health took {self.worst_pause_s * 1000:.0f} ms at most",
            shown(self.ground.tally),
            *(f"  {name} {count:.0f}" for name, count in self.counters.items()),
        ])  # fmt: skip


def _shown(usage: Usage) -> str:
    return f"{usage.rss_mb:.1f} MB, {usage.descriptors} descriptors, {usage.tasks} tasks"


class Plan(NamedTuple):
    """How long a phase is, and how many clients it has at once."""

    seconds: float
    warm_up_s: float = 60.0
    clients: int = 40
    kept_s: int = 12
    late_s: float = 6.0
    """The time-outs of upstreams and clients."""
    grown_mb: float = 8.0
    """What resident memory may grow by in any case: pages of heaps that are used again."""
    settle_s: float = 5.0
    """How long what is used must not have fallen to be taken for the least."""


class Phase:
    """A phase while it runs."""

    def __init__(self, name: str, seed: int, plan: Plan, report: Callable[[str], None]) -> None:
        self._name, self._seed, self._plan, self._report = name, seed, plan, report
        self._random = Random(f"{seed} {name}")
        self._done = {"stops": 0, "reloads": 0}
        self._top_rss_mb = self._worst_pause_s = 0.0
        self._running = asyncio.Event()

    async def run(self) -> Outcome:
        """Warm up, measure, load, measure again, stop."""
        plan = self._plan
        self._upstream = Upstream(self._seed)
        await self._upstream.start()
        proxy = self._proxy = ProxyProcess(self._upstream.url, self._name, plan.late_s)
        self._ground = ground = Ground(
            proxy.port, self._upstream, tight=self._name == "tight", kept_s=plan.kept_s, late_s=plan.late_s
        )
        try:
            await proxy.wait_ready()
            await self._load(plan.warm_up_s, self._seed - 1, leave=True)
            await self._wait_rest()
            outcome = Outcome(self._name, ground, await self._least_usage(None), Usage(0, 0, 0), done=self._done)
            cpu_s, began_at = proxy.cpu_s(), time.monotonic()
            await self._load(plan.seconds, self._seed)
            outcome.cpu_s, outcome.seconds = proxy.cpu_s() - cpu_s, time.monotonic() - began_at
            await self._wait_rest()
            outcome.after = await self._least_usage(outcome.before)
            counted = await proxy.metrics()
            outcome.counters = {name: counted[name] for name in counted if name.startswith(_COUNTERS)}
            self._compare(outcome.before, outcome.after)
            await self._stop()
            outcome.top_rss_mb, outcome.worst_pause_s = self._top_rss_mb, self._worst_pause_s
            return outcome
        finally:
            proxy.close()
            await self._upstream.stop()

    def _say(self, what: str) -> None:
        self._ground.say(what, f"phase {self._name}")

    async def _load(self, seconds: float, seed: int, *, leave: bool = False) -> None:
        """Have clients come for so long, and things be done to the proxy meanwhile.

        Return when all have what they came for; or, with `leave`, have all leave at once.
        """
        ends_at = time.monotonic() + seconds
        self._running.set()
        doing = [asyncio.create_task(do()) for do in (self._disturb, self._watch, self._tell, self._notice)]
        over = lambda: time.monotonic() > ends_at  # noqa: E731
        clients = [
            asyncio.create_task(visits(self._ground, seed, client, over)) for client in range(self._plan.clients)
        ]
        await asyncio.wait(clients, timeout=seconds if leave else None)
        for task in (*clients, *doing):
            task.cancel()
        ended = await asyncio.gather(*clients, *doing, return_exceptions=True)
        self._proxy.signal(signal.SIGCONT)
        self._running.set()
        for error in ended:
            if isinstance(error, Exception):
                self._say(f"what is done meanwhile ended: {error!r}")

    async def _disturb(self) -> None:
        """Stop the process and let it go on, as a laptop's lid does, at times for longer than its time-outs; reload."""
        while True:
            await asyncio.sleep(self._random.uniform(2, 20))
            if self._random.random() < 0.5:
                self._proxy.reload()
                self._done["reloads"] += 1
                continue
            self._running.clear()
            self._proxy.signal(signal.SIGSTOP)
            await asyncio.sleep(
                self._plan.late_s + 1 if self._random.random() < 0.15 else self._random.uniform(0.1, 2.0)
            )
            self._proxy.signal(signal.SIGCONT)
            self._running.set()
            self._done["stops"] += 1

    async def _notice(self) -> None:
        """Notice when this process itself did not run for long."""
        while True:
            began_at = time.monotonic()
            await asyncio.sleep(_NOTICE_S)
            now = time.monotonic()
            if now - began_at > self._plan.late_s / 4:
                self._ground.starved_at = now
                self._ground.starved += 1

    async def _watch(self) -> None:
        """See that it answers, and that its background loops live."""
        while True:
            await asyncio.sleep(1.0)
            await self._running.wait()
            stops = self._done["stops"]
            pause_s = await measure_pause(self._proxy.port)
            metrics = await self._proxy.metrics()
            if self._running.is_set() and stops == self._done["stops"]:
                self._worst_pause_s = max(self._worst_pause_s, pause_s)
            self._top_rss_mb = max(self._top_rss_mb, (await self._proxy.usage()).rss_mb)
            if failures := metrics.get("background_loop_failures_total"):
                self._say(f"{failures:.0f} turns of background loops failed")
                return

    async def _tell(self) -> None:
        """Print a line a minute."""
        began_at = time.monotonic()
        while True:
            await asyncio.sleep(60)
            await self._running.wait()
            metrics, usage = await self._proxy.metrics(), await self._proxy.usage()
            self._report(
                f"{self._name} {(time.monotonic() - began_at) / 60:.0f} min: {self._ground.visits} visits, "
                f"{self._ground.streams} generations; running {metrics.get('streams_active', 0):.0f}, followers "
                f"{metrics.get('subscribers', 0):.0f}, held {metrics.get('memory_bytes', 0) / 1e6:.2f} MB; "
                f"{_shown(usage)}; {len(self._ground.found)} wrong"
            )

    async def _wait_rest(self) -> None:
        """Wait until nothing is under way or kept any more."""
        until = time.monotonic() + _QUIET_S
        while left := _left(await self._proxy.metrics()):
            if time.monotonic() > until:
                self._say(f"still there {_QUIET_S:.0f} s after the last client: {left}")
                return
            await asyncio.sleep(0.25)

    async def _least_usage(self, before: Usage | None) -> Usage:
        """Return what is used at rest, once that falls no more, or is back."""
        least, since = await self._proxy.usage(), time.monotonic()
        while time.monotonic() - since < self._plan.settle_s:
            await asyncio.sleep(0.5)
            usage = await self._proxy.usage()
            if usage.rss_mb < least.rss_mb - 0.5 or usage[1:] < least[1:]:
                least, since = (
                    Usage(min(usage[0], least[0]), min(usage[1], least[1]), min(usage[2], least[2])),
                    time.monotonic(),
                )
            if before is not None and not _grown(before, least, self._plan.grown_mb):
                break
        return least

    def _compare(self, before: Usage, after: Usage) -> None:
        for what in _grown(before, after, self._plan.grown_mb):
            self._say(f"{what} grew: before {_shown(before)}, after {_shown(after)}")

    async def _stop(self) -> None:
        status = await self._proxy.stop()
        if status:
            self._say(f"it ended with status {status}")
        for line in self._proxy.complaints()[:5]:
            self._say(f"its log says: {line[:300]}")
        if self._proxy.complaints():
            print(self._proxy.log.read_text(errors="replace")[-20_000:], flush=True)


def _left(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the gauges that should be 0 and are not; the connection that asks is there."""
    left = {name: metrics[name] for name in _AT_REST if metrics.get(name)}
    if metrics.get("client_connections", 0) > 1:
        left["client_connections"] = metrics["client_connections"]
    return left


def _grown(before: Usage, after: Usage, grown_mb: float) -> list[str]:
    """Return what was not given back."""
    allowed = Usage(max(before.rss_mb * _BACK, before.rss_mb + grown_mb), *[int(n * _BACK) for n in before[1:]])
    return [name for name, most, used in zip(Usage._fields, allowed, after, strict=True) if used > most]
