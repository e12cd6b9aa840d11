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

    def __init__(
        self, after_s: float, callback: Callable[[], object], loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        """Call within a running loop, which is `loop`, if given: to find it takes a system call before Python 3.12."""
        self._after_s = after_s
        self._callback = callback
        self._due_at = monotonic() + after_s
        loop = loop or asyncio.get_running_loop()
        self._handle: asyncio.Handle = loop.call_later(after_s, self._due)

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
    """Limits how long a block may take, as asyncio.timeout does; 0 seconds are no limit. Raises: TimeoutError.

    A block with `with`: two coroutines less than with `async with`, for each connection to an upstream.
    """

    __slots__ = ("_cancelling", "_is_late", "_seconds", "_task", "_timer")

    _task: asyncio.Task[Any]

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timer: Timer | None = None
        self._is_late = False

    def __enter__(self) -> None:
        if self._seconds:
            task = asyncio.current_task()
            assert task is not None
            self._task = task
            self._cancelling = task.cancelling()
            self._timer = Timer(self._seconds, self._expire, task.get_loop())

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None  # it refers back to this
        if self._is_late and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error  # else somebody else has cancelled the task, too

    def _expire(self) -> None:
        self._is_late = True
        self._task.cancel()


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
