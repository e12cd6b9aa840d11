"""What a redis-server is asked for: each command as MONITOR shows it, from all connections."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

from tests.event_loops import GUARD_S
from tests.store.redis_server import RedisServer

_COMMAND = re.compile(rb'^\+[\d.]+ \[\d+ \S+\] (".*")\r\n$')
_WORD = re.compile(rb'"((?:[^"\\]|\\.)*)"')
_marks = count()


class Monitor:
    """The commands that a server carried out since this began."""

    def __init__(self, redis: RedisServer, reader: asyncio.StreamReader) -> None:
        self._redis = redis
        self._reader = reader
        self._commands: list[list[str]] = []

    async def commands(self) -> list[list[str]]:
        """Return all commands up to now, as words."""
        mark = f"mark {next(_marks)}"
        await self._redis.command("ECHO", mark)
        async with asyncio.timeout(GUARD_S):
            while not self._commands or self._commands[-1] != ["ECHO", mark]:
                self._take(await self._reader.readline())
        self._commands.pop()
        return list(self._commands)

    async def of(self, name: str, key: str) -> list[list[str]]:
        """Return those of one name that have a key with this part."""
        return [words for words in await self.commands() if words[0] == name and any(key in word for word in words)]

    async def forget(self) -> None:
        """Begin anew."""
        await self.commands()
        self._commands.clear()

    def _take(self, line: bytes) -> None:
        found = _COMMAND.match(line)
        if found is not None:
            words = [word.decode("latin-1") for word in _WORD.findall(found[1])]
            self._commands.append([words[0].upper(), *words[1:]])


@asynccontextmanager
async def monitored(redis: RedisServer) -> AsyncIterator[Monitor]:
    """Note what a server is asked for."""
    reader, writer = await asyncio.open_connection("127.0.0.1", redis.port, limit=1 << 24)
    try:
        writer.write(b"MONITOR\r\n")
        assert await reader.readline() == b"+OK\r\n"
        yield Monitor(redis, reader)
    finally:
        writer.close()
        await writer.wait_closed()
