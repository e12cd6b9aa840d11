"""Descriptors whose numbers are another connection's by now: what is written by one would come to the wrong client."""

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from proxy.machine import Transport
from tests.event_loops import until


@contextlib.contextmanager
def pair_at(descriptor: int) -> Iterator[socket.socket]:
    """Make a pair of sockets, one with this descriptor, which is free; return the other."""
    one, other = socket.socketpair()
    if descriptor == other.fileno():
        one, other = other, one
    elif descriptor != one.fileno():
        os.dup2(one.fileno(), descriptor)
        one.close()
        one = socket.socket(fileno=descriptor)
    other.setblocking(False)
    with one, other:
        yield other


async def check_nothing_is_written(writer: Transport, descriptor: int) -> None:
    """Wait until a descriptor is closed; write when it is another connection's: nothing must come there."""
    await until(lambda: not is_open(descriptor))
    with pair_at(descriptor) as other:
        for _ in range(3):
            with contextlib.suppress(RuntimeError):  # uvloop's
                writer.write(b"not for you")
        with pytest.raises(BlockingIOError):
            other.recv(100)


def is_open(descriptor: int) -> bool:
    """Return whether this process has the descriptor."""
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
