"""A client that goes on after its last event again and again, at any node, as an EventSource behind a balancer does.

Where it begins is decided by the real code (proxy/server/following/place.py).
"""

import asyncio
from typing import Protocol

from proxy.server.following.place import find_place, nothing_after, offset_after
from proxy.stream.endings import COMPLETE
from proxy.stream.hub import Hub
from proxy.stream.modes.projection import View
from proxy.stream.stream import Stream
from proxy.stream.subscription import Subscription
from proxy.wire.errors import ProxyError
from proxy.wire.event_id import read_event_id
from proxy.wire.sse import fields
from tests.event_streams import blocks
from tests.fakes import FakeSink

EVENTS = View("events")


class LawBrokenError(AssertionError):
    """A law did not hold."""


class Place(Protocol):
    """A node that it is connected to."""

    alive: bool
    hub: Hub


class Wanderer:
    """What such a client has had, and what it was told."""

    def __init__(self, said: list[bytes]) -> None:
        """`said`: the frames of the upstream so far."""
        self._said = said
        self.cursor: int | None = None  # the number of its last event
        self.is_done = False  # it was told that nothing is left
        self._had = 0  # frames
        self._is_told = False  # that the stream has failed

    async def follow(self, at: Place, stream: Stream, stay_s: float) -> None:
        """Follow the stream at a node, until the connection breaks after a while. Raises: LawBrokenError."""
        try:
            offset = await find_place(stream, lambda: offset_after(stream.log, self.cursor or 0))
        except ProxyError:
            if self._is_told:  # as the error says
                self.cursor = self._had
            return
        if self.cursor is not None and stream.log.ending is not None and nothing_after(stream, EVENTS, offset):
            self._note_end(stream)
            return
        sink = FakeSink()
        subscription = Subscription(stream, EVENTS, sink, offset)
        at.hub.attach(subscription, asyncio.get_running_loop().time())
        await asyncio.sleep(stay_s)
        if at.alive and sink.ended is None:
            subscription.leave("left")
        self._hear(sink.received)
        if sink.ended == "closed" and not self._is_told:
            self._note_end(stream)

    def _hear(self, received: bytes) -> None:
        for block in blocks(received):
            event = fields(block)
            ident = read_event_id((event.id or b"").decode())
            assert ident is not None
            self.cursor = ident.seq
            if b'"error"' in block:
                self._is_told = True
            elif self._had < len(self._said) and event.data == fields(self._said[self._had]).data:
                self._had += 1
            else:
                raise LawBrokenError(f"a client that goes on elsewhere lacks frame {self._had + 1}, and is not told")

    def _note_end(self, stream: Stream) -> None:
        """Note that it was told that it has all; it must have, or know how the stream ended."""
        self.is_done = True
        ending = stream.log.ending
        has_all = ending is not None and ending.reason == COMPLETE.reason and self._had == len(self._said)
        if not self._is_told and not has_all:
            raise LawBrokenError("a client that goes on elsewhere is told that it has all, and lacks the ending")
