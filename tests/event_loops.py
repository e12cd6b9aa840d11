"""Running tests on both event loops, and waiting: for a condition, never for a time, and each wait with a limit."""

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

GUARD_S = 10.0
"""How long a test waits at most for what must happen."""
_TURNS = 200
POLL_S = 0.005
"""After how long a test asks again whether what it waits for has come: asking leaves the cores to others."""
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}
on_one_loop = pytest.mark.asyncio(loop_factories=["uvloop"])
"""For tests that take long, or that measure what does not depend on the loop."""


def on_each_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run one test on both event loops, in a folder whose conftest.py does not do so for all of them."""

    def run(loop: str, **named: Any) -> None:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(test(**named))

    parameter = inspect.Parameter("loop", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    signature = inspect.signature(test)
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[parameter, *signature.parameters.values()], return_annotation=None
    )
    run.__name__, run.__qualname__, run.__doc__ = test.__name__, test.__qualname__, test.__doc__
    run.__module__ = test.__module__
    on_each: Callable[..., None] = pytest.mark.parametrize("loop", list(LOOPS))(run)
    return on_each


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, in a loop: for those that no event is set for.

    What does not come within some turns of the event loop is waited for without keeping a core busy.
    """
    async with asyncio.timeout(GUARD_S):
        turns = 0
        while not condition():
            await asyncio.sleep(0 if turns < _TURNS else POLL_S)
            turns += 1
