"""Messages between the supervisor and a worker: JSON objects, one a line, in both directions over a socket pair.

If either of them is gone, the other reads the end. What a message may be, and who sends it:

    supervisor   start     what a worker needs to begin; the first message
                 serve     accept connections; has the membership
                 members   the membership has changed
                 retire    begin nothing new, and end when all is over; has the membership
                 drain     end as on SIGTERM
                 hurry     end now
                 given     ids of responses that a retired worker knew: they are known here from now on
                 answer    to what a worker has asked about a caller
    worker       ready     it could serve
                 failed    it can't, and why
                 retired   it begins nothing new; has the names that it holds
                 given     the same, from the worker that ends
                 count     what a caller uses, or a question about that: see `counting`
                 ended     its last counts
"""

import asyncio
import socket
from typing import Any

import orjson

_LONGEST_BYTES = 256 * 1024 * 1024  # of a message: the names of many streams


class Channel:
    """One end of the messages between the supervisor and a worker."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, sock: socket.socket) -> "Channel":
        """Return the channel over one end of a socket pair."""
        return cls(*await asyncio.open_unix_connection(sock=sock, limit=_LONGEST_BYTES))

    def send(self, kind: str, **said: Any) -> None:
        """Send a message; if the other end is gone, nobody reads it."""
        try:
            if not self._writer.is_closing():
                self._writer.write(orjson.dumps({"kind": kind, **said}) + b"\n")
        except RuntimeError:  # uvloop, if the other end has just gone
            pass

    async def receive(self) -> dict[str, Any] | None:
        """Return the next message; None if the other end is gone."""
        try:
            line = await self._reader.readline()
        except (OSError, ValueError):
            return None
        if not line.endswith(b"\n"):
            return None
        message: dict[str, Any] = orjson.loads(line)
        return message

    async def close(self) -> None:
        """Send what waits, and close."""
        try:
            self._writer.close()
            await self._writer.wait_closed()
        except OSError:  # the other end is gone
            pass
