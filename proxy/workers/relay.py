"""Carries bytes between a client and the worker that serves it, where its connection can't go there itself: TLS.

TLS that ends in this process has its state in this process's memory. So the other worker is handed one end of a socket
pair in place of the connection, and what comes at either side is written to the other, no faster than that takes it.
When one side ends, so does the other. Slower than a hand-over: each event is copied once more.
"""

import asyncio
from typing import Any

import orjson

from proxy.downstream.movable import Relayed


class Side(asyncio.Protocol):
    """One side of a relay: the client's connection, or this process's end of the socket pair."""

    other: "Side"

    def __init__(self, relays: set["Side"]) -> None:
        """`relays` has the sides that are open."""
        self.transport: asyncio.Transport | None = None
        self._relays = relays

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._relays.add(self)

    def begin(self) -> None:
        """Read, now that the other side is there."""
        if self.transport is None or self.transport.is_closing():
            self._close_other()
        else:
            self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self.other.transport is not None:
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        """Read no more at the other side: what is written here waits."""
        other = self.other.transport
        if other is not None and not other.is_closing():
            other.pause_reading()

    def resume_writing(self) -> None:
        other = self.other.transport
        if other is not None and not other.is_closing():
            other.resume_reading()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._relays.discard(self)
        self._close_other()

    def _close_other(self) -> None:
        if self.other.transport is not None:
            self.other.transport.close()  # what was written to it is still sent


def join(one: Side, other: Side) -> None:
    """Have two sides carry each other's bytes."""
    one.other, other.other = other, one


def written(relayed: Relayed | None) -> bytes:
    """Return what the other worker is told of the client; b"" for one whose socket it is handed."""
    return b"" if relayed is None else orjson.dumps([*relayed])


def read(told: bytes) -> Relayed | None:
    """Read what another worker has told."""
    return Relayed(*orjson.loads(told)) if told else None
