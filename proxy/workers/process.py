"""A worker as its supervisor sees it: a process, the messages to and from it, and how it ended."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, NamedTuple

from proxy.workers.channel import Channel
from proxy.workers.merged_page import Families

READY_S = 60.0  # a worker that is not ready then has failed


Heed = Callable[[int, dict[str, Any]], dict[str, Any] | None]
"""Does what the worker of a number says, and returns the answer, if there is one."""


class WorkerFailed(Exception):
    """A worker could not begin; the message says why."""


class Start(NamedTuple):
    """What a worker needs to begin: its number, the text of its configuration, and what it shares with the others."""

    number: int
    workers: int
    seat: int  # its place among them
    config: str
    directory: str  # of the workers' sockets
    secret: str  # of callers' digests, in hex
    listening: int  # the descriptor of its socket


class WorkerProcess:
    """A worker as its supervisor sees it."""

    start: Start  # once it has begun
    began_at: float  # in monotonic seconds

    def __init__(self, process: asyncio.subprocess.Process, channel: Channel) -> None:
        self.process = process
        self.retired: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()
        self.last_counts: Families | None = None
        self.is_asked_to_end = False
        self._channel = channel
        self._heed: Heed
        self._reading: asyncio.Task[None]

    @classmethod
    async def spawn(cls, command: Sequence[str], descriptors: Sequence[int]) -> "WorkerProcess":
        """Start a process that waits to be told how to begin; these descriptors are open there, too."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *command,
                str(theirs.fileno()),
                pass_fds=(theirs.fileno(), *descriptors),
                stdin=asyncio.subprocess.DEVNULL,
            )
        return cls(process, await Channel.over(ours))

    async def begin(self, start: Start, heed: Heed) -> None:
        """Have it begin, and wait until it could serve; `heed` answers what it asks. Raises: WorkerFailed."""
        self.start, self.began_at, self._heed = start, monotonic(), heed
        self._channel.send("start", **start._asdict())
        try:
            async with asyncio.timeout(READY_S):
                said = await self._channel.receive()
        except TimeoutError:
            said = {"kind": "failed", "why": f"it was not ready within {READY_S:g} s"}
        if said is None or said["kind"] != "ready":
            await self.kill()
            raise WorkerFailed("it ended before it was ready" if said is None else said["why"])
        self._reading = asyncio.create_task(self._read())

    @property
    def has_ended(self) -> bool:
        """Return whether the process is no more."""
        return self.process.returncode is not None

    @property
    def number(self) -> int:
        return self.start.number

    def send(self, kind: str, **said: Any) -> None:
        """Send it a message."""
        self.is_asked_to_end = self.is_asked_to_end or kind in ("retire", "drain", "hurry")
        self._channel.send(kind, **said)

    async def wait(self) -> str:
        """Wait until all that it said has been read, and the process has ended; return how it ended.

        Raises: whatever reading that has raised.
        """
        await self._reading
        status = await self.process.wait()
        await self._channel.close()
        if not self.retired.done():
            self.retired.set_result([])
        return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"

    async def kill(self) -> None:
        """End the process at once."""
        self.kill_soon()
        await self.process.wait()
        await self._channel.close()

    def kill_soon(self) -> None:
        """End the process at once; `wait` returns then."""
        if not self.has_ended:  # not by `process.kill`, which may take the end of the process from asyncio's watcher
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)

    async def _read(self) -> None:
        while (message := await self._channel.receive()) is not None:
            if message["kind"] == "retired" and not self.retired.done():
                self.retired.set_result([bytes.fromhex(name) for name in message["names"]])
            elif message["kind"] == "ended":
                self.last_counts = message["families"]
            else:
                answer = self._heed(self.number, message)
                if "number" in message:
                    self._channel.send("answer", number=message["number"], answer=answer)
