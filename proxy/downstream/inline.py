"""A request runs in its connection's task, not in one of its own: 8 to 12 us less of 34 (E of the load harness).

aiohttp's server makes a task for each request and waits for it. From Python 3.12 on it starts that task at once;
before, the request waits for a turn of the loop, and its connection for another after it. The loop can be handed to
the server, so here is one that makes no task of a request. Should aiohttp name it otherwise one day, it gets its task
again.
"""

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any

_A_REQUEST = "RequestHandler._handle_request"


class InlineLoop:
    """An event loop as aiohttp's server is to see it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.create_future = loop.create_future  # asked for at each request: not by __getattr__
        self.time = loop.time

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def create_task(self, coro: Coroutine[Any, Any, Any], **named: Any) -> Any:
        """Return what to await for the result: the coroutine itself, if it is a request's."""
        return coro if getattr(coro, "__qualname__", "") == _A_REQUEST else self._loop.create_task(coro, **named)


def server_loop() -> Any:
    """Return the loop for a server of aiohttp's to run on."""
    loop = asyncio.get_running_loop()
    return InlineLoop(loop) if sys.version_info < (3, 12) else loop
