"""Connections to one Redis, on each of which many commands are sent in one write, and their replies read at once.

redis-py makes the connections: TLS, credentials, the database, the primary that Sentinel names. What it does for each
command and each reply (tasks, time-outs, several calls) took more CPU time than the event that is written, so commands
are packed and replies parsed here, by hiredis.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
from redis.exceptions import RedisError

from proxy.store.redis_store import Command
from proxy.store.store import StoreError

MOST = 10
"""Connections of a node, at most: look-ups of many clients at once wait for each other, rather than being refused."""
_READ_BYTES = 256 * 1024
_pack: Callable[[Command], bytes] = hiredis.pack_command  # type: ignore[assignment]  # is said to take tuples of one
_MORE = False  # what the parser returns when the next reply is not complete yet


class Wire:
    """One connection."""

    def __init__(self, connection: Any, patience_s: float) -> None:
        """`connection`: one of redis-py, which is open."""
        self._connection = connection
        self._reader: asyncio.StreamReader = connection._reader
        self._writer: asyncio.StreamWriter = connection._writer
        self._patience_s = patience_s
        self._parser: Any = hiredis.Reader(replyError=self._error)
        self.is_stale = False
        """What it leads to is no primary any more: a new connection may lead to the one that is."""

    @property
    def is_open(self) -> bool:
        """Whether it can be used again, as far as is known here."""
        return not (self.is_stale or self._reader.at_eof() or self._writer.is_closing())

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """Return the reply to each, or the StoreError that it is.

        Raises: OSError, TimeoutError when Redis sends nothing for long, and hiredis.ProtocolError.
        """
        if self._writer.is_closing():  # uvloop would raise a RuntimeError for the write
            raise ConnectionResetError("Redis has closed the connection")
        loop = asyncio.get_running_loop()
        replies: list[Any] = []
        self._writer.write(b"".join(map(_pack, commands)))
        async with asyncio.timeout(self._patience_s) as patience:
            while True:
                data = await self._reader.read(_READ_BYTES)
                if not data:
                    raise ConnectionResetError("Redis has closed the connection")
                self._parser.feed(data)
                while (reply := self._parser.gets()) is not _MORE:
                    replies.append(reply)
                if len(replies) >= len(commands):
                    return replies
                patience.reschedule(loop.time() + self._patience_s)

    async def close(self) -> None:
        """Close it, whatever is on its way."""
        await self._connection.disconnect(nowait=True)

    def _error(self, text: str) -> StoreError:
        self.is_stale = self.is_stale or text.startswith("READONLY")
        return StoreError(text)


class Wires:
    """The connections to one Redis: as many as commands wait at once."""

    def __init__(self, make: Callable[[], Any], patience_s: float) -> None:
        """`make` returns a connection of redis-py, which is not open yet. See `Wire.run` for `patience_s`."""
        self._make = make
        self._patience_s = patience_s
        self._free = asyncio.Semaphore(MOST)
        self._idle: list[Wire] = []
        self._all: set[Wire] = set()

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """Return the reply to each, or the StoreError that it is. Raises: StoreError."""
        async with self._free:
            return await self._run(commands)

    async def _run(self, commands: Sequence[Command]) -> list[Any]:
        try:
            wire = await self._idle_one()
            if wire is not None:
                try:
                    return await self._run_on(wire, commands)
                except ConnectionError:
                    pass  # Redis has closed it meanwhile; commands can be repeated
            return await self._run_on(await self._connect(), commands)
        except (RedisError, OSError, TimeoutError, hiredis.HiredisError) as error:
            raise StoreError(f"{type(error).__name__}: {error}") from None

    async def close(self) -> None:
        """Close all."""
        await asyncio.gather(*(self._drop(wire) for wire in list(self._all)))

    async def _idle_one(self) -> Wire | None:
        while self._idle:
            wire = self._idle.pop()
            if wire.is_open:
                return wire
            await self._drop(wire)
        return None

    async def _connect(self) -> Wire:
        connection = self._make()
        try:
            await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        wire = Wire(connection, self._patience_s)
        self._all.add(wire)
        return wire

    async def _run_on(self, wire: Wire, commands: Sequence[Command]) -> list[Any]:
        try:
            replies = await wire.run(commands)
        except BaseException:
            await self._drop(wire)
            raise
        self._idle.append(wire)
        return replies

    async def _drop(self, wire: Wire) -> None:
        self._all.discard(wire)
        await wire.close()
