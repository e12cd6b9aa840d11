"""How much later followers at another node get an event than the owner's client, and what it costs.

    python -m tests.store.latency [--events 500] [--per-second 50] [--followers 1] [--streams 1]

The upstream writes the time into each event; each client compares it with the time at which it got the event. All are
on one machine. CPU time is that of the processes, from their start to the end of the last stream.
"""

import argparse
import asyncio
import os
import random
import time
from pathlib import Path
from typing import Any

from tests.event_streams import DONE, FINISH, chunk_frame
from tests.proxy_under_test import Tee
from tests.stage import Turn
from tests.store.ground import Ground, ground

Delays = list[float]


async def listen(answer: Any, delays: Delays) -> None:
    """Note for each event how long it was on its way, in ms."""
    at = 0
    while answer.end == "open":
        await answer._piece()
        now = time.monotonic()
        while (found := answer.body.find(b"@", at)) >= 0:
            end = answer.body.find(b"@", found + 1)
            if end < 0:
                break
            delays.append((now - float(answer.body[found + 1 : end])) * 1000)
            at = end + 1


async def speak(turn: Turn, events: int, per_second: float) -> None:
    """Say so many events, at random times."""
    for _ in range(events):
        turn.chunk(chunk_frame(f"@{time.monotonic():.6f}@"))
        await asyncio.sleep(random.uniform(0, 2 / per_second))
    turn.end(FINISH, DONE)


async def stream(there: Ground, events: int, per_second: float, followers: int, local: Delays, remote: Delays) -> None:
    """Run one stream, with one client at the owner and so many at the other node."""
    client = await there.owner.tee.send_chat()
    turn = await there.stage.next()
    await turn.body()
    turn.begin()
    turn.chunk(chunk_frame("begun"))
    answer = await client.answer()
    tees: list[Tee] = [there.other.tee] * followers
    answers = await asyncio.gather(*(tee.follow(answer.stream_id, "mode=raw") for tee in tees))
    assert {one.status for one in answers} <= {200}, "a follower was refused: its events would seem to be missing"
    listening = [listen(answer, local), *(listen(one, remote) for one in answers)]
    await asyncio.gather(speak(turn, events, per_second), *listening)


def quantile(values: Delays, share: float) -> float:
    """Return the value below which so large a share of them is."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def main(events: int, per_second: float, followers: int, streams: int) -> None:
    local: Delays = []
    remote: Delays = []
    async with ground(is_forked=False, STREAMTEE_STORE__LEASE_S="15") as there:
        pids = {"owner": there.owner.pid, "other node": there.other.pid, "redis-server": there.redis.pid}
        before = {name: cpu_s(pid) for name, pid in pids.items()}
        running = [stream(there, events, per_second, followers, local, remote) for _ in range(streams)]
        await asyncio.gather(*running)
        used = {name: cpu_s(pid) - before[name] for name, pid in pids.items()}
    for name, delays in (("owner's client", local), ("followers elsewhere", remote)):
        if delays:
            p50, p99 = quantile(delays, 0.5), quantile(delays, 0.99)
            print(f"{name}: {len(delays)} events, p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    total = events * streams
    per = {"owner": total, "other node": max(1, total * followers), "redis-server": total}
    for name, seconds in used.items():
        print(
            f"{name}: {seconds / per[name] * 1e6:.0f} us of CPU time per event" + " delivered" * (name == "other node")
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=500)
    parser.add_argument("--per-second", type=float, default=50)
    parser.add_argument("--followers", type=int, default=1)
    parser.add_argument("--streams", type=int, default=1)
    given = parser.parse_args()
    asyncio.run(main(given.events, given.per_second, given.followers, given.streams))
