"""Servers of three workers as `streamtee serve` runs them: real processes, which tests kill and have reload."""

import asyncio
import re
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.event_loops import POLL_S
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.http_client import Answer, Client, request
from tests.proxy_under_test import CHAT, chat_body
from tests.spawned import FREE, answered, serving_at, spawned
from tests.stage import Stage, Turn

GUARD_S = 45  # four processes begin, on a machine that does other things
TOKEN = "a-token-of-the-admin-port"
UP = re.compile(rb'^streamtee_worker_up\{worker="(\d+)"\} 1', re.MULTILINE)


class Served:
    """A running server of three workers."""

    def __init__(self, process: Process, url: str, admin_url: str) -> None:
        self.process = process
        self.url = url
        self.admin_url = admin_url

    async def admin(self, path: str) -> tuple[int, bytes]:
        return await answered(self.admin_url, request("GET", path, f"Authorization: Bearer {TOKEN}"))

    async def up(self) -> list[int]:
        """Return the numbers of the workers that answer."""
        return [int(number) for number in UP.findall((await self.admin("/metrics"))[1])]

    async def wait_up(self, *numbers: int) -> None:
        """Wait until these workers answer, and no others."""
        while await self.up() != list(numbers):
            await asyncio.sleep(10 * POLL_S)  # all processes answer

    async def pid_of(self, number: int) -> int:
        """Return the process of a worker: it says so in the metrics."""
        page = (await self.admin("/metrics"))[1].decode()
        found = re.search(rf'^streamtee_worker_process\{{worker="{number}"\}} (\S+)', page, re.MULTILINE)
        assert found is not None
        return int(float(found[1]))

    async def send(self, *headers: str, **more: Any) -> Client:
        client = await Client.connect(self.url)
        client.send(request("POST", CHAT, *headers, body=chat_body(**more)), method="POST")
        return client

    async def logged(self, words: str) -> str:
        """Read the log until a line has these words; return the line."""
        assert self.process.stderr is not None
        while words not in (said := (await self.process.stderr.readline()).decode()):
            assert said, f"the log ended without {words!r}"
        return said


@asynccontextmanager
async def served(url: str, *arguments: str, guard_s: float = GUARD_S, **settings: str) -> AsyncIterator[Served]:
    """Run a server of three workers in front of the upstream at `url`."""
    more: dict[str, Any] = FREE | {"STREAMTEE_ADMIN_TOKEN": TOKEN, **settings}
    if url:
        more["STREAMTEE_UPSTREAM__URL"] = url
    async with spawned("serve", "--workers", "3", *arguments, guard_s=guard_s, **more) as process:
        yield Served(process, *await serving_at(process))


def worker_of(answer: Answer) -> int:
    """Return the number of the worker that has the stream of an answer."""
    return "abcdefghijklmnop".index(answer.stream_id[-1])


async def begun(one: Served, stage: Stage, *headers: str) -> tuple[Answer, Turn]:
    """Begin a stream that has said one word."""
    client = await one.send(*headers)
    turn = await stage.next()
    await turn.body()
    turn.begin()
    turn.chunk(chunk_frame("first"))
    answer = await client.answer()
    await answer.until(b"first")
    return answer, turn


def finish(turn: Turn) -> None:
    """Say the last word of a stream, and end it."""
    for frame in (chunk_frame("last"), FINISH, DONE):
        turn.chunk(frame)
    turn.end()
