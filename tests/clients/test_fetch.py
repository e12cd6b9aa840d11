"""Node's fetch: a response that breaks off is an error to it, however it asked for the connection to be closed."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.clients.node import HERE
from tests.event_loops import GUARD_S
from tests.event_streams import chunk_frame
from tests.programs import system_tool
from tests.proxy_under_test import chat_body, teed
from tests.stage import Stage, staged

FRAME = chunk_frame("one ")
BROKEN = b"%x\r\n%b\r\n" % (len(FRAME), FRAME)  # chunks without the last one


@asynccontextmanager
async def fetching(
    *urls: str, connection: str = "close", body: bytes = b"{}"
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Have Node fetch these URLs, one after the other. Skips where there is no Node."""
    command = [system_tool("node"), str(HERE / "fetch.mjs"), connection, body.decode(), *urls]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(GUARD_S):
            yield process
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def heard(process: asyncio.subprocess.Process) -> tuple[str, str | None]:
    """Return the next body, and the error that ended it."""
    assert process.stdout is not None
    text, error = json.loads(await process.stdout.readline())
    return text, error


@pytest.mark.parametrize("connection", ["close", "keep-alive"])
async def test_fetch_takes_broken_chunks_for_whole_after_close(connection: str) -> None:
    """What a server must know, without a proxy: `Connection: close` in a head makes the missing end no error."""
    async with staged() as stage, fetching(f"{stage.url}/close", f"{stage.url}/", connection=connection) as node:
        for closes in (True, False):
            turn = await stage.next()
            await turn.body()
            turn.begin(*(["Connection: close"] if closes else []))
            turn.say(BROKEN)
            turn.close()
            text, error = await heard(node)
            assert text == FRAME.decode()
            assert (error is None) == closes


async def break_off(stage: Stage) -> None:
    """Begin a stream, and break it off."""
    turn = await stage.next()
    await turn.body()
    turn.begin()
    turn.say(BROKEN)
    turn.reset()


@pytest.mark.parametrize("connection", ["close", "keep-alive"])
@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions",
        "/v1/audio/speech",
        "/api/v1/services/aigc/text-generation/generation",
        "/rest/stream",
    ],
)
async def test_fetch_hears_that_a_stream_broke_off(path: str, connection: str) -> None:
    """Whatever way it took through the proxy, and though its client asked for the connection to be closed."""
    async with staged() as stage, teed(stage.url, routes=[{"path": "/rest/"}]) as tee:
        asking = fetching(tee.proxy.url + path, connection=connection, body=chat_body())
        async with asking as node:
            await break_off(stage)
            text, error = await heard(node)
    assert text == FRAME.decode()
    assert error is not None
