"""Hands a client's connection to another worker: its descriptor (SCM_RIGHTS), and the bytes read of it so far.

Each worker listens at a Unix socket, and each hand-over is a connection to it of its own:

    sender      two lengths, a flag, what was read, what is told of the client; the descriptor with the first byte
    receiver    one byte when it has all of it: now the connection is the receiver's

The receiver's byte decides whose it is. A sender that waits no longer shuts its side down for reading: either the byte
is there already, or the receiver can't send it any more and drops its descriptor. So no request is served twice, and
none is dropped by both. Nothing of HTTP is known here.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

TAKEN_S = 3.0  # a worker that takes a connection later than this hangs; in a reload new ones may take none for 2 s
TAKEN, LATE, DEAD = OUTCOMES = ("taken", "late", "dead")
_HEAD = struct.Struct("!QI?")
_RECEIVED_BYTES = 256 * 1024
_MOST_WAITING = 4096  # hand-overs that wait until the receiver accepts them


class Connection(NamedTuple):
    """A connection that has been handed over, and what was read of it."""

    client: socket.socket
    read: bytes
    is_placed: bool  # the receiver is to serve the request in progress, and not to hand it over again
    told: bytes = b""  # of the client, if the socket is not its own


Adopt = Callable[[Connection], None]


def listening(path: str) -> socket.socket:
    """Return a socket at which a worker is handed connections."""
    Path(path).unlink(missing_ok=True)  # of a worker that had the same number and was killed
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    sock.bind(path)
    sock.listen(_MOST_WAITING)
    return sock


async def offer(path: str, descriptor: int, read: bytes, *, is_placed: bool, told: bytes = b"") -> str:
    """Offer a connection to the worker that listens at a path; return TAKEN, LATE or DEAD.

    Until this returns, nothing may be read from the connection or written to it. If it was taken, the caller's own
    descriptor must be closed.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            sock.connect(path)
        except BlockingIOError:
            return LATE  # it has accepted none of the last 4096
        except OSError:
            return DEAD
        try:
            async with asyncio.timeout(TAKEN_S):
                return await _offer(sock, descriptor, _HEAD.pack(len(read), len(told), is_placed) + read + told)
        except TimeoutError:
            return TAKEN if _was_taken(sock) else LATE
        except asyncio.CancelledError:
            if not _was_taken(sock):
                raise
            return TAKEN
        except OSError:
            return DEAD


async def _offer(sock: socket.socket, descriptor: int, message: bytes) -> str:
    loop = asyncio.get_running_loop()
    sent = socket.send_fds(sock, [message], [descriptor])
    if sent < len(message):
        await loop.sock_sendall(sock, memoryview(message)[sent:])
    return TAKEN if await loop.sock_recv(sock, 1) else DEAD


def _was_taken(sock: socket.socket) -> bool:
    """Return whether the receiver has taken the connection; if not, it can't any more."""
    try:
        sock.shutdown(socket.SHUT_RD)
        return bool(sock.recv(1))
    except OSError:
        return False


class Inbox:
    """Receives the connections that other workers hand over."""

    def __init__(self, sock: socket.socket, adopt: Adopt) -> None:
        """`adopt` is called with each connection."""
        self._sock = sock
        self._adopt = adopt
        self._taking: set[asyncio.Task[None]] = set()

    @property
    def descriptor(self) -> int:
        """The descriptor at which connections are offered."""
        return self._sock.fileno()

    @property
    def is_taking(self) -> bool:
        """Return whether a connection is being handed over."""
        return bool(self._taking)

    def open(self) -> None:
        """Take connections from now on; those that were offered before wait."""
        asyncio.get_running_loop().add_reader(self._sock.fileno(), self._accept)

    def close(self) -> None:
        """Take no more, if it is open."""
        if self._sock.fileno() < 0:
            return
        asyncio.get_running_loop().remove_reader(self._sock.fileno())
        self._sock.close()
        for task in self._taking:
            task.cancel()

    def _accept(self) -> None:
        try:
            offered, _ = self._sock.accept()
        except OSError:  # there is none any more, or no descriptor for it
            return
        offered.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._take(offered))
        self._taking.add(task)
        task.add_done_callback(self._taking.discard)

    async def _take(self, offered: socket.socket) -> None:
        with offered:
            try:
                async with asyncio.timeout(TAKEN_S):
                    connection = await _receive(offered)
            except (OSError, TimeoutError):
                return
            try:
                offered.send(b"\1")
            except OSError:  # the sender waits no longer
                connection.client.close()
                return
        self._adopt(connection)


async def _receive(offered: socket.socket) -> Connection:
    """Receive a connection, and all that was read of it. Raises: OSError, if the sender breaks off."""
    loop = asyncio.get_running_loop()
    try:
        received = socket.recv_fds(offered, _RECEIVED_BYTES, 1)
    except BlockingIOError:
        await _wait_readable(offered)
        received = socket.recv_fds(offered, _RECEIVED_BYTES, 1)
    data, descriptors = received[:2]
    if not descriptors:
        raise ConnectionError("no descriptor came")
    client = socket.socket(fileno=descriptors[0])
    try:
        while len(data) < _HEAD.size:
            data += await _more(loop, offered)
        length, told_length, is_placed = _HEAD.unpack_from(data)
        pieces, missing = [data[_HEAD.size :]], length + told_length - (len(data) - _HEAD.size)
        while missing > 0:
            piece = await _more(loop, offered)
            pieces.append(piece)
            missing -= len(piece)
    except BaseException:
        client.close()
        raise
    whole = b"".join(pieces)
    return Connection(client, whole[:length], is_placed, whole[length:])


async def _more(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> bytes:
    piece = await loop.sock_recv(sock, _RECEIVED_BYTES)
    if not piece:
        raise ConnectionError("the sender broke off")
    return piece


async def _wait_readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    readable = loop.create_future()

    def wake() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(sock.fileno(), wake)
    try:
        await readable
    finally:
        loop.remove_reader(sock.fileno())
