"""Processes with the openai SDK that are killed while they hear a response in the background, after any of its events.

What they had, and what another client retrieves after it, are the response: nothing lost, nothing repeated, one call.
"""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import openai

from proxy.tools.fake.qwen import FakeQwen
from tests.event_loops import GUARD_S, on_one_loop
from tests.proxy_under_test import Serve

# Forks a client for each line that it reads, which has a number of events; a client stops there and waits to be killed.
_CLIENTS = """
import os, signal, sys, openai
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    if os.fork():
        continue
    client = openai.OpenAI(base_url=sys.argv[1], api_key="sk-alice", max_retries=0)
    signal.alarm(60)
    model = f"qwen3.7-plus+count,frames=4+stall,after={int(line)},seconds=0.1"
    asked = {"model": model, "input": "x", "background": True, "stream": True}
    had = []
    for event in client.responses.create(**asked):
        had.append(event.sequence_number)
        ident = event.response.id if event.type == "response.created" else ident
        if len(had) == int(line) or event.type == "response.completed":
            print(os.getpid(), ident, *had, flush=True)
            signal.pause()
"""


@asynccontextmanager
async def clients(url: str) -> AsyncIterator[Process]:
    """Run the process that forks clients."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _CLIENTS, url, stdin=PIPE, stdout=PIPE)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def killed_after(process: Process, count: int) -> tuple[str, list[int]]:
    """Have a client hear so many events, and kill it; return the id of its response, and the numbers of its events."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"%d\n" % count)
    pid, ident, *numbers = (await process.stdout.readline()).split()
    os.kill(int(pid), signal.SIGKILL)
    return ident.decode(), [int(number) for number in numbers]


@on_one_loop
async def test_response_is_whole_to_two_clients_wherever_the_first_was_killed(serve: Serve, fake: FakeQwen) -> None:
    """By its id, and the number of the last event that the first had; the upstream is in the middle of it then."""
    tee = await serve()
    url, count, numbers = f"{tee.proxy.url}/v1", 0, [0, 0]
    async with (
        asyncio.timeout(2 * GUARD_S),
        clients(url) as process,
        openai.AsyncOpenAI(base_url=url, api_key="sk-alice", max_retries=0) as second,
    ):
        while count < len(numbers):
            count += 1
            ident, had = await killed_after(process, count)
            assert len(had) == count
            more = await second.responses.retrieve(ident, stream=True, starting_after=had[-1])
            rest = [event async for event in more]
            numbers = [*had, *(event.sequence_number for event in rest)]
            assert numbers == list(range(len(numbers)))
            response = await second.responses.retrieve(ident)
            assert response.status == "completed"
            assert not rest or rest[-1].response == response
    assert count == len(fake.requests) > 9
