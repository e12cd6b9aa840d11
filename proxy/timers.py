"""Timers for what ends because something did not come in time: they fire only after the sockets have been read.

A process that was stopped (SIGSTOP, a laptop's lid), or whose loop was held up, finds its timers due before it has read
what came meanwhile: libuv runs timers first, and asyncio cancels a task although its future was done in the same turn.
So a timer that is late waits once more, as long as it was late, at most as long as it was set for. And whatever fires
lets the loop turn a few times before, as the process may have been stopped again while it waited.
"""

import asyncio
import contextlib
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Any

_LATE_S = 0.1  # more than a busy loop is late
# In the first the sockets are read, in the second those go on who waited for what was read (asyncio's loop: one later).
_TURNS = 3


class Timer:
    """Calls back once after some seconds."""

    __slots__ = ("_after_s", "_callback", "_due_at", "_handle")

    def __init__(self, after_s: float, callback: Callable[[], object]) -> None:
        """Call within a running loop."""
        self._after_s = after_s
        self._callback = callback
        self._due_at = monotonic() + after_s
        self._handle: asyncio.Handle = asyncio.get_running_loop().call_later(after_s, self._due)

    def cancel(self) -> None:
        """Do not call back any more."""
        self._handle.cancel()
        self._callback = _ignore  # a method of whoever has this timer: else they would be a reference cycle

    def _due(self) -> None:
        late_s = monotonic() - self._due_at
        if late_s < _LATE_S:
            self._let_turn()
        else:
            again_s = min(late_s, self._after_s)
            self._handle = asyncio.get_running_loop().call_later(again_s, self._let_turn)

    def _let_turn(self, turns: int = _TURNS) -> None:
        if turns:
            self._handle = asyncio.get_running_loop().call_soon(self._let_turn, turns - 1)
        else:
            self._call_back()

    def _call_back(self) -> None:
        callback = self._callback
        self.cancel()
        callback()


def _ignore() -> None:
    """Do nothing: the callback of a timer that is over."""


class Within:
    """Limits how long a block may take, as asyncio.timeout does; 0 seconds are no limit. Raises: TimeoutError."""

    __slots__ = ("_limit", "_seconds", "_timer")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._limit = asyncio.timeout(None)
        self._timer: Timer | None = None

    async def __aenter__(self) -> None:
        await self._limit.__aenter__()
        if self._seconds:
            self._timer = Timer(self._seconds, self._expire)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None  # it refers back to this
        await self._limit.__aexit__(kind, error, at)

    def _expire(self) -> None:
        self._limit.reschedule(asyncio.get_running_loop().time())


async def wait(future: asyncio.Future[Any], seconds: float) -> None:
    """Wait for a future at most so many seconds, 0 for ever, and leave it as it is."""
    with contextlib.suppress(TimeoutError):
        async with Within(seconds):
            await asyncio.wait([future])


async def sleep(seconds: float) -> None:
    """Sleep between two turns of a background loop; twice, if the process was stopped meanwhile."""
    began_at = monotonic()
    await asyncio.sleep(seconds)
    if monotonic() - began_at > 2 * seconds:
        await asyncio.sleep(seconds)
    for _ in range(_TURNS):
        await asyncio.sleep(0)
