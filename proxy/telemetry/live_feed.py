"""The admin port's live feed: one server-sent event when a stream begins, one when it has ended.

The rate is low and listeners are few, so a queue for each is enough. It shares no code with the followers of streams.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress

from proxy.stream.stream import Stream
from proxy.telemetry.stream_object import describe_to_operators
from proxy.wire import json_text

_WAITING = 1000  # events that may be queued for a listener; with one more it is disconnected


class LiveFeed:
    """An observer that sends an event to its listeners when a stream begins and ends: numbers and names, never text."""

    def __init__(self) -> None:
        self._listeners: set[asyncio.Queue[tuple[str, str] | None]] = set()
        self._closed = asyncio.Event()

    def begun(self, stream: Stream) -> None:
        """Send the object that `/info` shows of a stream as an event `begun`."""
        if self._listeners:
            self._publish("begun", stream)

    def ended(self, stream: Stream) -> None:
        """Send the object that `/info` shows of a stream as an event `ended`."""
        if self._listeners:
            self._publish("ended", stream)

    def close(self) -> None:
        """End the response of every listener, after its queued events."""
        self._closed.set()
        for queue in list(self._listeners):
            self._disconnect(queue)

    async def closed_within(self, seconds: float) -> bool:
        """Wait until it is closed, at most for so long; return whether it is."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closed.wait()
        return self._closed.is_set()

    async def listen(self) -> AsyncGenerator[tuple[str, str], None]:
        """Yield the name and the data of each event from now on, in order, until this listener waits for too many."""
        queue: asyncio.Queue[tuple[str, str] | None] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            while (item := await queue.get()) is not None:
                yield item
        finally:
            self._listeners.discard(queue)

    def _publish(self, event: str, stream: Stream) -> None:
        text = json_text.written(describe_to_operators(stream)).decode()
        for queue in list(self._listeners):
            if queue.qsize() < _WAITING:
                queue.put_nowait((event, text))
            else:
                self._disconnect(queue)

    def _disconnect(self, queue: asyncio.Queue[tuple[str, str] | None]) -> None:
        self._listeners.discard(queue)
        queue.put_nowait(None)
