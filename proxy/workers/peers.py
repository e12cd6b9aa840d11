"""Requests to other workers of this machine, over their Unix sockets: what a worker, or the supervisor, asks of all.

A worker that has died has nothing to tell. One that hangs may have: whoever asks decides what that means.
"""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson

ANSWERED_S = 2.0  # a worker that answers later than this hangs
_GONE = object()


def socket_paths(directory: Path, number: int) -> tuple[str, str]:
    """Return where a worker is handed connections, and where it serves requests of the others."""
    return str(directory / f"{number}.handover"), str(directory / f"{number}.http")


def quoted(text: str) -> str:
    """Return a text as it stands in a query; one that is not Unicode is no id and no key, and stays none."""
    return quote(text, safe="", errors="surrogatepass")


class Peers:
    """The other workers, as those that answer requests."""

    def __init__(self, directory: Path, token: str) -> None:
        """`directory` has the sockets of all; `token` is what they take for that of an operator."""
        self.token = token
        self.headers = {"Authorization": f"Bearer {token}"}
        self._directory = directory
        self._sessions: dict[int, aiohttp.ClientSession] = {}

    async def close(self) -> None:
        """Close all connections."""
        for session in self._sessions.values():
            await session.close()

    async def ask_all(self, numbers: Iterable[int], target: str) -> dict[int, Any]:
        """Return the JSON that workers answer a GET with, by their numbers; None for those that hang.

        One that is no more is left out: it has nothing.
        """
        asked = list(numbers)
        answers = await asyncio.gather(*(self._ask(number, target) for number in asked))
        return {number: answer for number, answer in zip(asked, answers, strict=True) if answer is not _GONE}

    async def _ask(self, number: int, target: str) -> Any:
        try:
            asked = self.session(number).get(f"http://localhost{target}", headers=self.headers)
            async with asyncio.timeout(ANSWERED_S), asked as response:
                return orjson.loads(await response.read()) if response.status < 400 or response.status == 503 else None
        except aiohttp.ClientConnectorError:
            return _GONE
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            return None

    def session(self, number: int) -> aiohttp.ClientSession:
        """Return the client of one worker."""
        session = self._sessions.get(number)
        if session is None:
            connector = aiohttp.UnixConnector(socket_paths(self._directory, number)[1], limit=0)
            # Without a time-out of its own: live feeds and streams have no end.
            session = aiohttp.ClientSession(
                connector=connector, timeout=aiohttp.ClientTimeout(), auto_decompress=False, trust_env=False
            )
            self._sessions[number] = session
        return session

    async def forget(self, number: int) -> None:
        """Close the connections to a worker that is no more."""
        session = self._sessions.pop(number, None)
        if session is not None:
            await session.close()
