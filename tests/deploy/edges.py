"""An edge in front of proxies, as a test runs one: the server, and curl as its client."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from tests.event_loops import GUARD_S
from tests.http_client import KEY
from tests.programs import system_tool, wait_listening
from tests.proxy_under_test import CHAT, Tee, chat_body

NAME = "streams.example.com"
OWN = ("-H", f"Authorization: Bearer {KEY}")


class Edge(NamedTuple):
    """A proxy behind an edge at a port, and curl as a client of both."""

    program: str
    tee: Tee
    port: int
    authority: Path

    async def curl(self, *arguments: str) -> asyncio.subprocess.Process:
        """Start curl with this edge as the name's address."""
        resolved = f"{NAME}:{self.port}:127.0.0.1"
        options = ("-q", "-sSN", "--max-time", "20", "--http2", "--cacert", str(self.authority), "--resolve", resolved)
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            system_tool("curl"), *options, *arguments, stdout=pipe, stderr=pipe, limit=1 << 20
        )

    def url(self, path: str) -> str:
        return f"https://{NAME}:{self.port}{path}"

    async def ask(self, *headers: str) -> asyncio.subprocess.Process:
        """Start a curl that asks for a stream."""
        named = [word for header in ("Content-Type: application/json", *headers) for word in ("-H", header)]
        return await self.curl(*OWN, *named, "-d", chat_body().decode(), self.url(CHAT))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@asynccontextmanager
async def running(command: list[str], port: int, folder: Path) -> AsyncIterator[None]:
    """Run a server until it listens, and end it afterwards."""
    with (folder / "errors").open("wb") as errors:
        home = {"HOME": str(folder), "PATH": "/usr/bin:/bin"}
        process = await asyncio.create_subprocess_exec(*command, stdout=errors, stderr=errors, env=home)
    try:
        async with asyncio.timeout(GUARD_S):
            assert await wait_listening(process, port), (folder / "errors").read_text()
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
