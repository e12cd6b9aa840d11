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
# In the first the sockets are read, in the second those go on who waited for what was read (asyncio's loop: one later),
# and in the last whoever waited for them has left what was limited.
_TURNS = 4


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


class Limit:
    """Lets a block be ended with a TimeoutError by whoever has the limit, as asyncio.timeout does it by a timer.

    A block with `with`: two coroutines less than with `async with`, for each connection to an upstream.
    """

    __slots__ = ("_cancelling", "_has_expired", "_task")

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Call within a task of the running loop: `loop`, if given, as to find it takes a system call."""
        task = asyncio.current_task(loop)
        assert task is not None
        self._task = task
        self._has_expired = False

    def __enter__(self) -> None:
        self._cancelling = self._task.cancelling()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._has_expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error  # else somebody else has cancelled the task, too

    def expire(self) -> None:
        """End the block; no effect if it is about to end already."""
        if not self._has_expired:
            self._has_expired = True
            self._task.cancel()


class Within:
    """Limits how long a block may take, as asyncio.timeout does; 0 seconds are no limit. Raises: TimeoutError."""

    __slots__ = ("_limit", "_seconds", "_timer")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        if self._seconds:
            self._limit = Limit()
            self._limit.__enter__()
            self._timer = Timer(self._seconds, self._limit.expire)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._seconds:
            self._timer.cancel()
            self._limit.__exit__(kind, error, at)


async def wait(future: asyncio.Future[Any], seconds: float) -> None:
    """Wait for a future at most so many seconds, 0 for ever, and leave it as it is."""
    with contextlib.suppress(TimeoutError), Within(seconds):
        await asyncio.wait([future])


async def sleep(seconds: float) -> None:
    """Sleep between two turns of a background loop; twice, if the process was stopped meanwhile."""
    began_at = monotonic()
    await asyncio.sleep(seconds)
    if monotonic() - began_at > 2 * seconds:
        await asyncio.sleep(seconds)
    for _ in range(_TURNS):
        await asyncio.sleep(0)
