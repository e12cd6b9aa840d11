"""Keys with limits, and workers as real processes: what holds when one is killed, or all are replaced under load.

RELOAD_STREAMS=200 in the environment makes the load that docs/workers.md tells of; a few streams show the same.
"""

import asyncio
import json
import os
import signal
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.access.named import NamedCallers
from tests.event_loops import POLL_S, on_one_loop, until
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.http_client import Answer, Client, request
from tests.spawned import answered
from tests.stage import Stage, Turn
from tests.supervised import Served, begun, finish, served, worker_of

pytestmark = [on_one_loop, pytest.mark.timeout(240)]
STREAMS = int(os.environ.get("RELOAD_STREAMS", "12"))


def settings(callers: NamedCallers, **auth: str) -> dict[str, str]:
    table = {"mode": "keys", "keys_file": str(callers.file), **auth}
    return {"STREAMTEE_AUTH": json.dumps(table), "STREAMTEE_UPSTREAM__KEY": "sk-upstream"}


async def usage(one: Served, header: str) -> dict[str, Any]:
    status, body = await answered(one.url, request("GET", "/v1/usage", header))
    assert status == 200
    told: dict[str, Any] = json.loads(body)
    return told


async def all_given_back(one: Served, header: str) -> dict[str, Any]:
    """Return the same once no place is taken: a worker says so a moment after its clients have read the end."""
    while (told := await usage(one, header))["streams"]["now"] or told["followers"]["now"]:
        await asyncio.sleep(POLL_S)
    return told


async def is_refused(one: Served, header: str) -> bool:
    """Return whether a request of a caller is refused for its limits."""
    client = await one.send(header)
    refused = (await client.answer()).status == 429
    await client.leave()
    return refused


async def test_limits_hold_when_a_worker_is_killed(stage: Stage, tmp_path: Path) -> None:
    """Its places are free again, to the last one; what was used of the day stays used, also over a restart of all."""
    callers = NamedCallers(tmp_path, alice={"streams": 8, "requests_per_day": 30})
    alice, file = callers.header("alice"), tmp_path / "usage.json"
    with_keys = settings(callers, usage_file=str(file))
    async with served(stage.url, **with_keys) as one:
        streams = [await begun(one, stage, alice) for _ in range(8)]
        assert await is_refused(one, alice)
        doomed = worker_of(streams[0][0])
        lost = [answer for answer, _ in streams if worker_of(answer) == doomed]
        os.kill(await one.pid_of(doomed), signal.SIGKILL)
        await one.logged("SIGKILL; it is replaced")
        await one.wait_up(0, 1, 2)
        told = await usage(one, alice)
        assert (told["streams"]["now"], told["requests"]["day"]["used"]) == (8 - len(lost), 8)
        streams = [(answer, turn) for answer, turn in streams if answer not in lost]
        streams += [await begun(one, stage, alice) for _ in lost]
        assert await is_refused(one, alice)
        for answer, turn in streams:
            finish(turn)
            await answer.read()
            assert answer.end == "whole"
        await all_given_back(one, alice)
        one.process.send_signal(signal.SIGTERM)
        assert await one.process.wait() == 0
    assert json.loads(file.read_bytes())["used"]["alice"][0] == 8 + len(lost)
    async with served(stage.url, **with_keys) as one:
        left = 30 - 8 - len(lost)
        assert (await usage(one, alice))["requests"]["day"]["used"] == 30 - left
        for _ in range(left):
            answer, turn = await begun(one, stage, alice)
            finish(turn)
            await answer.read()
        assert await is_refused(one, alice)


class Stream:
    """One stream under load: what its upstream has said, and how its followers are served."""

    def __init__(self, one: Served, header: str, number: int) -> None:
        self.one = one
        self.header = header
        self.names = (header, f"Stream-Key: k{number}", f"Idempotency-Key: i{number}")
        self.random = Random(number)
        self.said: list[bytes] = []
        self.leaving = 0  # followers that are yet to resume: who has had all is told that there is no more
        self.answer: Answer
        self.turn: Turn

    async def begin(self, stage: Stage) -> None:
        """Ask for it."""
        self.answer, self.turn = await begun(self.one, stage, *self.names)
        self.said.append(chunk_frame("first"))

    async def go_on(self, over: asyncio.Event) -> None:
        """Have the upstream say more until it is over, and then the end."""
        while not over.is_set():
            self._say(chunk_frame(f"word {len(self.said)}"))
            await asyncio.sleep(0.05)
        self._say(FINISH)
        self._say(DONE)
        self.turn.end()

    async def follow(self) -> None:
        """Follow from some event on, leave after a while, resume; each event comes once."""
        path, seq = f"/v1/streams/{self.answer.stream_id}", self.random.randrange(len(self.said) + 1)
        had = b""
        self.leaving += 1
        for leaves in (True, False):
            client = await Client.connect(self.one.url)
            client.send(request("GET", path, self.header, f"Last-Event-ID: {self.answer.epoch}-{seq}"))
            followed = await client.answer()
            assert followed.status == 200, (followed.status, await followed.read())
            if leaves:
                body = await followed.until(f"id: {self.answer.epoch}-{seq + 3}\n\n".encode())
                body = body[: body.rfind(b"\n\n") + 2]
                await client.leave()
            else:
                self.leaving -= 1
                body = await followed.read()
                assert followed.end == "whole"
            had, seq = had + body, int(body.rstrip().rpartition(b"-")[2])
        ids = [int(line.rpartition(b"-")[2]) for line in had.splitlines() if line.startswith(b"id: ")]
        assert ids == list(range(ids[0], len(self.said) + 1))

    async def retry(self) -> None:
        """Ask again with the same Idempotency-Key: the same stream, from its start."""
        client = await self.one.send(*self.names)
        again = await client.answer()
        assert (again.status, again.stream_id) == (200, self.answer.stream_id)
        assert (await again.read(), again.end) == (b"".join(self.said), "whole")

    async def read(self) -> None:
        """Read what the client that asked is sent."""
        assert (await self.answer.read(), self.answer.end) == (b"".join(self.said), "whole")

    def _say(self, frame: bytes) -> None:
        self.said.append(frame)
        self.turn.chunk(frame)


async def test_reload_under_load_with_limits_loses_and_refuses_nothing(stage: Stage, tmp_path: Path) -> None:
    """Followers that join, leave and resume, retries by Idempotency-Key, while all workers are replaced, twice.

    The streams are in old workers then, the retries come to new ones; together they take all places of the caller.
    """
    callers = NamedCallers(tmp_path, alice={"streams": 2 * STREAMS, "followers": 3 * STREAMS})
    alice = callers.header("alice")
    table = {"mode": "keys", "keys_file": str(callers.file)}
    file = tmp_path / "streamtee.toml"
    auth = "\n".join(f"{name} = {json.dumps(value)}" for name, value in table.items())
    file.write_text(f'drain_s = 60\n[auth]\n{auth}\n[upstream]\nurl = "{stage.url}"\nkey = "sk-upstream"\n')
    async with asyncio.timeout(200), served("", "--config", str(file), guard_s=200) as one:
        streams = [Stream(one, alice, number) for number in range(STREAMS)]
        for stream in streams:
            await stream.begin(stage)
        over = asyncio.Event()
        going = [asyncio.create_task(stream.go_on(over)) for stream in streams]
        clients = [asyncio.create_task(stream.read()) for stream in streams]
        for _ in range(2):
            one.process.send_signal(signal.SIGHUP)
            reloaded = asyncio.create_task(one.logged("3 new workers have begun"))
            for stream in streams[: STREAMS // 2]:
                clients.append(asyncio.create_task(stream.follow()))
                await asyncio.sleep(0.01)
            await reloaded
            clients += [asyncio.create_task(stream.follow()) for stream in streams[STREAMS // 2 :]]
        told = await usage(one, alice)
        assert told["streams"]["now"] == STREAMS
        for stream in streams:  # each counts as a follower: it was not the first to ask
            clients.append(asyncio.create_task(stream.retry()))
            await asyncio.sleep(0.01)
        while (await usage(one, alice))["streams"]["now"] < 2 * STREAMS:
            await asyncio.sleep(POLL_S)
        assert await is_refused(one, alice)
        # Or one has failed, which `gather` then says.
        failed = lambda: any(client.done() and client.exception() is not None for client in clients)  # noqa: E731
        await until(lambda: failed() or not any(stream.leaving for stream in streams))
        over.set()
        await asyncio.gather(*going, *clients)
        told = await all_given_back(one, alice)
        assert told["requests"]["day"]["used"] == 2 * STREAMS
