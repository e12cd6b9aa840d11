"""An event loop with virtual time: what waits takes no time, and the same seed gives the same run.

It does no I/O. When nothing is ready, the clock jumps to the next timer.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any


class _NoInput(selectors.SelectSelector):
    """A selector that never waits: it moves the clock instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "everybody waits, and nothing will come"
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop with virtual time; `after_step` is called after each of its turns."""

    def __init__(self) -> None:
        self._input = _NoInput()
        super().__init__(self._input)
        self.after_step: Callable[[], None] = lambda: None

    def time(self) -> float:
        return self._input.now

    def _run_once(self) -> None:
        super()._run_once()  # type: ignore[misc]
        self.after_step()


def run(main: Callable[[VirtualLoop], Coroutine[Any, Any, Any]]) -> Any:
    """Run a coroutine to its end on a loop of its own."""
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(main(loop))
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.after_step = lambda: None
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        asyncio.set_event_loop(None)
        loop.close()
