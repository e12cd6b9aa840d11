"""Commands of this package in processes of their own, which tests send signals to."""

import asyncio
import os
import resource
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

from tests.http_client import Client
from tests.nursery import ADDRESS, nursery

GUARD_S = 15
BEGUN_S = 60  # for a server that imports a framework, on a machine with other work
FREE = {"STREAMTEE_LISTEN": "127.0.0.1:0", "STREAMTEE_ADMIN": "127.0.0.1:0"}
"""Settings of free ports."""


@asynccontextmanager
async def spawned(
    *arguments: str,
    descriptors: tuple[int, int] | None = None,
    stderr: int = PIPE,
    guard_s: float = GUARD_S,
    is_forked: bool = True,
    **settings: str,
) -> AsyncIterator[Process]:
    """Run a command in a process of its own, with no setting and no key of this one's environment.

    `descriptors`: its soft and hard limit of them. `stderr`: a descriptor for what it writes there. `guard_s`: how long
    the test may take at most. `is_forked`: Python need not start, which takes half a second: see tests/nursery.py.
    """
    limit = None if descriptors is None else partial(resource.setrlimit, resource.RLIMIT_NOFILE, descriptors)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("STREAMTEE_", "OPENAI_"))}
    program = [sys.executable, "-m", "proxy"]
    if is_forked and limit is None:
        program, environment[ADDRESS] = [str(nursery().launcher)], nursery().path
    process = await asyncio.create_subprocess_exec(
        *program, *arguments, stdout=PIPE, stderr=stderr, env=environment | settings, preexec_fn=limit
    )
    try:
        async with asyncio.timeout(guard_s):
            yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def line(process: Process) -> str:
    """Read a line that it prints."""
    assert process.stdout is not None
    return (await process.stdout.readline()).decode()


async def answered(url: str, sent: bytes) -> tuple[int, bytes]:
    """Send a request on a connection of its own; return the status and the body of its answer."""
    client = await Client.connect(url)
    client.send(sent)
    answer = await client.answer()
    body = await answer.read()
    await client.leave()
    return answer.status, body


async def serving_at(process: Process) -> tuple[str, str]:
    """Return the URLs of a server's two ports, which it prints once it listens."""
    first, second = await line(process), await line(process)
    return first.split()[3].rstrip(","), second.split()[2].removesuffix("/metrics")


@asynccontextmanager
async def served_by_source(source: str) -> AsyncIterator[str]:
    """Run Python source that serves at a socket, whose descriptor is its argument; yield its URL, once it answers.

    The socket listens already: a free port might be taken by then.
    """
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        command = [sys.executable, "-W", "ignore", "-c", source, str(listening.fileno())]
        process = await asyncio.create_subprocess_exec(*command, pass_fds=[listening.fileno()])
    try:
        async with asyncio.timeout(BEGUN_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"HEAD /ready HTTP/1.0\r\n\r\n")
            assert b" 404 " in await reader.readline()
            writer.close()
            await writer.wait_closed()
        yield f"http://127.0.0.1:{port}"
    finally:
        await ended(process)


async def ended(process: Process) -> None:
    """End a process, unless it has ended by itself: then what the test found of that is what it fails with."""
    if process.returncode is None:
        process.kill()
    await process.communicate()
