"""The requests of a measurement: how many at once, how often, for how long, and to which of the targets next.

Without a rate each worker sends its next request when the last one has ended. With a rate requests are due at fixed
times, whatever the answers take, and their clocks run from then: a server that stalls makes those that wait late, too.
Two targets are sent requests in turn, so that both are measured under the same conditions.
"""

import asyncio
import itertools
from collections.abc import Callable
from time import monotonic, process_time
from typing import NamedTuple

from proxy.tools.bench.call import Sample, measured
from proxy.tools.endpoint import Endpoint


class Plan(NamedTuple):
    """How much load a target is put under, and for how long."""

    duration_s: float
    concurrency: int
    """Requests at once; with a rate, at most."""
    per_s: float = 0.0
    """Requests a second, to each target; 0: as many as the answers allow."""


class Target:
    """An endpoint that is measured, the bodies of its requests, and their samples."""

    def __init__(self, endpoint: Endpoint, next_body: Callable[[], bytes]) -> None:
        self.endpoint = endpoint
        self.next_body = next_body
        self.samples: list[Sample] = []

    async def try_out(self) -> str:
        """Send one request that does not count, so that connections and caches are warm; return what is wrong."""
        sample = await measured(self.endpoint, self.next_body(), monotonic())
        return f"{sample.problem}: {sample.said}" if sample.said else sample.problem

    async def ask(self, due_at: float) -> None:
        """Send a request that was due at a time, and keep what is measured."""
        self.samples.append(await measured(self.endpoint, self.next_body(), due_at))


class Load:
    """A measurement that runs: `run` it; meanwhile others may look at its numbers."""

    def __init__(self, plan: Plan, targets: list[Target]) -> None:
        self.plan = plan
        self.targets = targets
        self.in_flight = 0
        self.began_at = 0.0
        self.seconds = 0.0
        """How long it asked: as planned, or until it was interrupted."""
        self.interrupted = False
        self.client_share = 0.0
        """Of one core, that this process used: near 1, the client is the limit."""

    @property
    def elapsed_s(self) -> float:
        """Seconds since it began, at most those planned."""
        return min(self.plan.duration_s, monotonic() - self.began_at) if self.began_at else 0.0

    async def run(self) -> None:
        """Load all targets for the planned time, and wait for the last answers. Cancelled, it ends with what it has."""
        self.began_at, cpu_s = monotonic(), process_time()
        until = self.began_at + self.plan.duration_s
        asking = asyncio.ensure_future(self._by_rate(until) if self.plan.per_s else self._by_turns(until))
        try:
            await asking
        except asyncio.CancelledError:
            self.interrupted = True
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        spent_s = monotonic() - self.began_at
        self.seconds = min(spent_s, self.plan.duration_s)
        self.client_share = (process_time() - cpu_s) / spent_s

    async def _by_turns(self, until: float) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self.plan.concurrency):
                group.create_task(self._work(number, until))

    async def _work(self, number: int, until: float) -> None:
        """Send one request after the other; every second worker begins with the other target."""
        turns = itertools.cycle(self.targets)
        for _ in range(number % len(self.targets)):
            next(turns)
        for target in turns:
            now = monotonic()
            if now >= until:
                return
            await self._ask(target, now)

    async def _by_rate(self, until: float) -> None:
        """Send requests at the times they are due, by as many workers as that takes."""
        room = asyncio.Semaphore(self.plan.concurrency)
        apart_s = 1 / (self.plan.per_s * len(self.targets))
        async with asyncio.TaskGroup() as group:
            for number, target in enumerate(itertools.cycle(self.targets)):
                due_at = self.began_at + number * apart_s
                if due_at >= until:
                    return
                await asyncio.sleep(max(0.0, due_at - monotonic()))
                await room.acquire()
                group.create_task(self._ask(target, due_at)).add_done_callback(lambda _: room.release())

    async def _ask(self, target: Target, due_at: float) -> None:
        self.in_flight += 1
        try:
            await target.ask(due_at)
        finally:
            self.in_flight -= 1
