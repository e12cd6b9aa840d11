"""Runs the asynchronous part of a command."""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")


def run(work: Coroutine[Any, Any, _Result], loop: str = "uvloop") -> _Result:
    """Run to the end, on uvloop or on asyncio's own loop, and return the result."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if loop == "uvloop" and sys.platform != "win32":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work)
