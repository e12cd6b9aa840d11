"""A queue of work that is done for clients, so that none of them occupies the event loop, however much it asks for.

Long work is done in small pieces, and each piece but the first waits here for its turn: a follower that catches up, a
connection that has sent more than is parsed at once. Knows no clock: it is passed in.
Keeps law 6 (independence).
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final

# How long such work may take in one turn of the event loop; the rest is for other streams, health checks and so on.
TURN_S: Final = 0.005


class Turns:
    """A queue of pieces of work, of which each turn of the event loop does as many as fit into `TURN_S`."""

    __slots__ = ("_call_soon", "_planned", "_time", "_until", "_waiting")

    def __init__(self, call_soon: Callable[..., Any], time: Callable[[], float]) -> None:
        """`time` returns monotonic seconds; `call_soon` calls in the next turn, as asyncio's does."""
        self._call_soon = call_soon
        self._time = time
        self._waiting: deque[Callable[[], object]] = deque()
        self._planned = False
        self._until = 0.0  # while `_planned`: until when this turn of the event loop may do such work

    @property
    def are_waited_for(self) -> bool:
        """Return whether anybody waits for a turn."""
        return bool(self._waiting)

    def do(self, work: Callable[[], object]) -> None:
        """Do a piece of work at once, if no other work waits and this turn has time left; else after the others."""
        if self._waiting or (self._planned and self._time() >= self._until):
            self.wait(work)
            return
        if not self._planned:
            self._plan()
            self._until = self._time() + TURN_S
        work()

    def wait(self, work: Callable[[], object]) -> None:
        """Do a piece of work after those that wait already."""
        self._waiting.append(work)
        if not self._planned:
            self._plan()

    def _plan(self) -> None:
        self._planned = True
        self._call_soon(self._take)

    def _take(self) -> None:
        waiting = self._waiting
        self._until = until = self._time() + TURN_S
        try:
            while waiting:
                waiting.popleft()()
                if self._time() >= until:
                    break
        finally:  # also if a piece raises: the event loop logs that, and the others are still done
            self._planned = bool(waiting)
            if waiting:
                self._call_soon(self._take)
