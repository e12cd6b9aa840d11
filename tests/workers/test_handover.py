"""Handing a connection over: with all that was read, to a worker that takes it, and to none that does not."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.workers import handover
from proxy.workers.handover import Connection, Inbox, listening, offer
from tests.event_loops import until

SIZES = (0, 1, 1000, 200_000, 5_000_000)


class Receiver:
    """A worker that is handed connections."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.taken: list[Connection] = []
        self.inbox = Inbox(listening(path), self.taken.append)

    def close(self) -> None:
        self.inbox.close()
        for connection in self.taken:
            connection.client.close()


@pytest.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[Receiver]:
    one = Receiver(str(tmp_path / "1"))
    yield one
    one.close()


@pytest.mark.parametrize("size", SIZES)
async def test_connection_goes_with_all_that_was_read(receiver: Receiver, size: int) -> None:
    """However much that is: more than a socket's buffer, too."""
    receiver.inbox.open()
    read = os.urandom(size)
    client, accepted = socket.socketpair()
    with client, accepted:
        assert await offer(receiver.path, accepted.fileno(), read, is_placed=bool(size % 2)) == "taken"
        await until(lambda: bool(receiver.taken))
        taken = receiver.taken[0]
        assert (taken.read, taken.is_placed) == (read, bool(size % 2))
        accepted.close()  # closes nothing for the client
        taken.client.send(b"hello")
        client.setblocking(False)
        assert await asyncio.get_running_loop().sock_recv(client, 5) == b"hello"


async def test_worker_that_is_not_there_is_dead(tmp_path: Path) -> None:
    """And the connection stays."""
    client, accepted = socket.socketpair()
    with client, accepted:
        assert await offer(str(tmp_path / "none"), accepted.fileno(), b"x", is_placed=False) == "dead"


async def test_worker_that_takes_nothing_is_late_and_can_not_take_it_later(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender has gone on with the connection meanwhile: it is never served by both."""
    monkeypatch.setattr(handover, "TAKEN_S", 0.02)
    client, accepted = socket.socketpair()
    with client, accepted:
        assert await offer(receiver.path, accepted.fileno(), b"x", is_placed=False) == "late"
        receiver.inbox.open()
        other, offered = socket.socketpair()
        with other, offered:
            assert await offer(receiver.path, offered.fileno(), b"y", is_placed=False) == "taken"
        await until(lambda: bool(receiver.taken))
        assert [taken.read for taken in receiver.taken] == [b"y"]


async def test_cancelled_offer_is_not_taken(receiver: Receiver) -> None:
    """Unless it was already: then the caller has to know."""
    client, accepted = socket.socketpair()
    with client, accepted:
        offering = asyncio.create_task(offer(receiver.path, accepted.fileno(), b"x", is_placed=False))
        await asyncio.sleep(0)
        offering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await offering
        receiver.inbox.open()
        other, offered = socket.socketpair()
        with other, offered:
            await offer(receiver.path, offered.fileno(), b"y", is_placed=False)
        await until(lambda: bool(receiver.taken))
        assert [taken.read for taken in receiver.taken] == [b"y"]


async def test_sender_that_breaks_off_harms_nobody(receiver: Receiver) -> None:
    """Neither within the message, nor without a descriptor."""
    receiver.inbox.open()
    for sent in (b"", b"abc", b"\0" * 9, b"\0" * 7 + b"\x05\0ab"):
        with socket.socket(socket.AF_UNIX) as broken:
            broken.connect(receiver.path)
            broken.send(sent)
    client, accepted = socket.socketpair()
    with client, accepted:
        assert await offer(receiver.path, accepted.fileno(), b"x", is_placed=False) == "taken"
