"""What a store costs the owner of streams: its CPU time for an event, beside that of a proxy without one.

    python -m tests.store.cost [--streams 50] [--per-second 20] [--seconds 10] [--followers 0] [--flush-ms 20]

Both proxies run at the same time, before the same upstream, and under the same load, so that whatever else the machine
does weighs on both. Each stream has one client at its owner. So many followers are at another node, and as many more at
the proxy without a store, where they are followers of the same process.
"""

import argparse
import asyncio
import random
from contextlib import AsyncExitStack

from tests.bench.procfs import cpu_s
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.http_client import Answer
from tests.proxy_under_test import Tee
from tests.stage import Stage, Turn
from tests.store.ground import Ground, alone, ground

WARM_S = 1.0


class Load:
    """Streams of one proxy that say events at random times."""

    def __init__(self, stage: Stage, tee: Tee, per_second: float) -> None:
        self._stage = stage
        self._tee = tee
        self._per_second = per_second
        self._turns: list[Turn] = []
        self.answers: list[Answer] = []
        self.said = 0

    async def begin(self, streams: int) -> None:
        """Begin so many streams, one after the other."""
        for _ in range(streams):
            client = await self._tee.send_chat()
            turn = await self._stage.next()
            await turn.body()
            turn.begin()
            turn.chunk(chunk_frame("begun"))
            self._turns.append(turn)
            self.answers.append(await client.answer())

    async def run(self, seconds: float) -> None:
        """Have all of them say events for so long."""
        await asyncio.gather(*(self._speak(turn, seconds) for turn in self._turns))

    async def _speak(self, turn: Turn, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while loop.time() < until:
            await asyncio.sleep(random.uniform(0, 2 / self._per_second))
            turn.chunk(chunk_frame(f"word {self.said % 1000:4}"))
            self.said += 1

    async def end(self) -> int:
        """End all of them; return how many bytes their clients have received."""
        for turn in self._turns:
            turn.end(FINISH, DONE)
        return sum([len(await answer.read()) for answer in self.answers])


async def measure(given: argparse.Namespace) -> None:
    """Run, and print what an event cost."""
    async with AsyncExitStack() as stack:
        there: Ground = await stack.enter_async_context(
            ground(is_forked=False, STREAMTEE_STORE__FLUSH_MS=str(given.flush_ms), STREAMTEE_STORE__LEASE_S="15")
        )
        plain = await stack.enter_async_context(alone(there.stage, is_forked=False))
        loads = [Load(there.stage, node.tee, given.per_second) for node in (plain, there.owner)]
        for load in loads:
            await load.begin(given.streams)
        followers = [
            await tee.follow(answer.stream_id, "mode=raw")
            for tee, load in zip((plain.tee, there.other.tee), loads, strict=True)
            for answer in load.answers
            for _ in range(given.followers)
        ]
        await asyncio.gather(*(load.run(WARM_S) for load in loads))
        pids = {
            "without a store": plain.pid,
            "with a store": there.owner.pid,
            "redis-server": there.redis.pid,
            "the other node": there.other.pid,
        }
        before, said = {name: cpu_s(pid) for name, pid in pids.items()}, [load.said for load in loads]
        await asyncio.gather(*(load.run(given.seconds) for load in loads))
        used = {name: cpu_s(pid) - before[name] for name, pid in pids.items()}
        events = dict(zip(pids, [loads[0].said - said[0], *[loads[1].said - said[1]] * 3], strict=True))
        await asyncio.gather(*(load.end() for load in loads))
        for answer in followers:
            await answer.read()
    per_event = {name: seconds / events[name] * 1e6 for name, seconds in used.items()}
    for name, us in per_event.items():
        print(f"{name}: {us:.1f} us of CPU time per event")
    if given.followers:
        here = per_event["without a store"] / (given.followers + 1)
        away = per_event["the other node"] / given.followers
        print(f"per delivery: {here:.1f} us in one process, {away:.1f} us at the other node; {away / here:.2f} times")
    else:
        print(f"the owner's ratio: {per_event['with a store'] / per_event['without a store']:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--per-second", type=float, default=20)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--followers", type=int, default=0)
    parser.add_argument("--flush-ms", type=int, default=20)
    asyncio.run(measure(parser.parse_args()))
