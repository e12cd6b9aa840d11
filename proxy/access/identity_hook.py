"""Asks an HTTP endpoint of the operator's who the caller with a key is.

    POST URL   {"key": "..."}   200 {"name": "alice", "limits": {...}}, or 401, 403, 404: not known

What it said is kept for a while, and for so many keys, by their digests. It fails closed: while the endpoint can't be
reached, is too slow, or says anything else, the callers that only it knows are refused.
"""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple

import aiohttp
from pydantic import ValidationError

from proxy.access.key_file import check_name
from proxy.access.limits import CallerLimits
from proxy.settings import Table
from proxy.stream.faults import log_fault
from proxy.wire.errors import CallerUnknowable

_AT_ONCE = 32  # questions that are asked at the same time; others wait
_WAITING = 1000  # questions that may wait or be asked; one more is refused
_ANSWER_BYTES = 64 * 1024
_UNKNOWN = (401, 403, 404)


class _Answer(Table):
    """What the endpoint says of a known caller."""

    name: str
    limits: CallerLimits = CallerLimits()


class _Known(NamedTuple):
    """What was said of a key: the name of its caller, None if there is none; and until when that is valid."""

    name: str | None
    until: float  # monotonic seconds


class IdentityHook:
    """Asks the endpoint, and remembers what it said."""

    def __init__(
        self,
        url: str,
        *,
        key: str = "",
        timeout_s: float = 2.0,
        ttl_s: float = 60.0,
        size: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`key`: sent to the endpoint as a Bearer token, so that it knows who asks. `size`: keys to remember."""
        self.on_answer: Callable[[str | None], object] = bool  # called with the name that was said, or None
        self._url = url
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._ttl_s = ttl_s
        self._size = size
        self._clock = clock
        self._known: OrderedDict[bytes, _Known] = OrderedDict()  # the latest last
        self._limits: dict[str, CallerLimits] = {}
        self._asked: dict[bytes, asyncio.Task[None]] = {}
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._fails = False
        self._session: aiohttp.ClientSession | None = None

    def name_of(self, key: str) -> str | None:
        """Return the name of a key's caller, as the endpoint has said; None if it has not, or knows no such caller."""
        known = self._known.get(_digest(key))
        return None if known is None else known.name

    def limits_of(self, name: str) -> CallerLimits | None:
        """Return the limits of a caller, as the endpoint has said them; None if it has not named the caller."""
        return self._limits.get(name)

    async def ask(self, keys: Iterable[str]) -> None:
        """Ask for the callers of those keys of which nothing valid is known. Raises: CallerUnknowable."""
        for key in keys:
            known = self._known.get(digest := _digest(key))
            if known is None or self._clock() >= known.until:
                await self._ask_once(digest, key)
            else:
                self._known.move_to_end(digest)

    async def close(self) -> None:
        """Close the connections to the endpoint."""
        for task in list(self._asked.values()):
            task.cancel()
        await asyncio.gather(*self._asked.values(), return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def _ask_once(self, digest: bytes, key: str) -> None:
        """Ask, or wait for the answer if the same is being asked already."""
        task = self._asked.get(digest)
        if task is None:
            if len(self._asked) >= _WAITING:
                raise CallerUnknowable("too many callers are being identified")
            task = self._asked[digest] = asyncio.create_task(self._ask(digest, key))
            task.add_done_callback(lambda done: self._asked.pop(digest, None))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(task)

    async def _ask(self, digest: bytes, key: str) -> None:
        try:
            async with asyncio.timeout(self._timeout.total), self._room:
                answer = await self._post(key)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            self._known.pop(digest, None)
            if not self._fails:  # once, until it succeeds: anybody can have it asked
                log_fault("asking who a caller is", error)
            self._fails = True
            raise CallerUnknowable("the caller can't be identified now") from None
        self._fails = False
        self._keep(digest, answer)

    async def _post(self, key: str) -> _Answer | None:
        """Ask; return None for a caller that is not known. Raises: ValueError, for any answer that is not foreseen."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout, headers=self._headers)
        async with self._session.post(self._url, json={"key": key}, allow_redirects=False) as response:
            if response.status in _UNKNOWN:
                return None
            body = await response.content.read(_ANSWER_BYTES)
            if response.status != 200 or not response.content.at_eof():
                raise ValueError("the response has an unexpected status, or is too large")
        try:
            answer = _Answer.model_validate_json(body)
        except ValidationError:
            raise ValueError("the response does not have the expected form") from None
        check_name(answer.name)
        return answer

    def _keep(self, digest: bytes, answer: _Answer | None) -> None:
        name = None if answer is None else answer.name
        if answer is not None:
            self._limits[answer.name] = answer.limits
        self._known[digest] = _Known(name, self._clock() + self._ttl_s)
        self._known.move_to_end(digest)
        while len(self._known) > self._size:
            _, dropped = self._known.popitem(last=False)
            self._drop_limits(dropped.name)
        self.on_answer(name)

    def _drop_limits(self, name: str | None) -> None:
        if name is not None and all(known.name != name for known in self._known.values()):
            del self._limits[name]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
