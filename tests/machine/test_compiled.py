"""What is sent past uvloop's transports, over real sockets: nothing is overtaken, lost, or sent to somebody else."""

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.descriptors import is_open, pair_at
from tests.event_loops import until


class Server(asyncio.Protocol):
    """The server's side of one connection."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.pauses = 0
        self.lost = False
        self.on_lost: Callable[[], object] = bool

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def pause_writing(self) -> None:
        self.pauses += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.on_lost()


@pytest.fixture
async def ends() -> AsyncIterator[tuple[Server, socket.socket]]:
    """Both ends of a connection: a protocol with uvloop's transport, and a socket that nobody reads."""
    loop, made = asyncio.get_running_loop(), Server()
    listening = await loop.create_server(lambda: made, "127.0.0.1", 0)
    client = socket.create_connection(listening.sockets[0].getsockname())
    client.setblocking(False)
    await until(lambda: made.transport is not None)
    yield made, client
    client.close()
    made.transport.abort()
    listening.close()
    await listening.wait_closed()


def direct(machine: Any, server: Server) -> Any:
    """Return a writer that has its descriptor."""
    writer = machine.DirectWriter(server.transport)
    assert machine.write_all([writer], b"") == []
    writer.write(b"")
    return writer


async def read(client: socket.socket, size: int) -> bytes:
    """Read so many bytes, or to the end."""
    loop, came = asyncio.get_running_loop(), bytearray()
    while len(came) < size and (data := await asyncio.wait_for(loop.sock_recv(client, 1 << 16), 10)):
        came += data
    return bytes(came)


async def test_bytes_are_sent_before_the_event_loop_turns(machine: Any, ends: tuple[Server, socket.socket]) -> None:
    """As by the transport's own write."""
    server, client = ends
    direct(machine, server).write(b"at once")
    client.setblocking(True)
    assert client.recv(100) == b"at once"
    client.setblocking(False)


async def test_descriptor_is_not_asked_for_by_the_first_write(machine: Any) -> None:
    """It takes longer than a write, and many connections are written to once."""

    class Transport:
        asked = False
        written = b""

        def get_write_buffer_size(self) -> int:
            return 0

        def is_closing(self) -> bool:
            return False

        def get_extra_info(self, name: str) -> None:
            self.asked = True

        def write(self, data: bytes) -> None:
            self.written += data

    transport = Transport()
    writer = machine.DirectWriter(transport)
    writer.write(b"one")
    assert (transport.written, transport.asked) == (b"one", False)
    with pytest.raises(AttributeError):  # this one has no socket to ask
        writer.write(b"two")
    assert machine.write_all([writer], b"three") == [writer]


def test_rest_of_what_a_socket_takes_in_part_is_not_copied(machine: Any) -> None:
    """Followers of one stream that do not read would have a copy each of what they are all sent."""
    ours, theirs = socket.socketpair()

    class Transport:
        rest: Any = None

        def get_write_buffer_size(self) -> int:
            return 0

        def is_closing(self) -> bool:
            return False

        def get_extra_info(self, name: str) -> socket.socket:
            return ours

        def write(self, data: memoryview) -> None:
            self.rest = data

    with ours, theirs:
        transport, span = Transport(), bytes(range(256)) * (1 << 14)
        assert machine.write_all([machine.DirectWriter(transport)], span) == []
        assert transport.rest.obj is span
        sent = theirs.recv(1 << 22)
        while len(sent) < len(span) - len(transport.rest):
            sent += theirs.recv(1 << 22)
        assert sent + transport.rest == span


async def test_transport_is_not_asked_while_nothing_can_wait_in_it(
    machine: Any, ends: tuple[Server, socket.socket]
) -> None:
    """Nobody else writes to it. What it keeps is far from what else an event touches, with thousands of clients."""
    server, client = ends
    transport = Asked(server.transport)
    writer = machine.DirectWriter(transport)
    sent = b"".join(b"%d " % number for number in range(100))
    for word in sent.split():
        writer.write(word + b" ")
        assert writer.get_write_buffer_size() == 0
    assert transport.asked == {"write": 1, "get_write_buffer_size": 2, "is_closing": 1, "get_extra_info": 1}
    assert await read(client, len(sent)) == sent


class Asked:
    """A transport of which is counted what is asked of it."""

    def __init__(self, transport: Any) -> None:
        self.asked: dict[str, int] = {}
        self._transport = transport

    def __getattr__(self, name: str) -> Any:
        self.asked[name] = self.asked.get(name, 0) + 1
        return getattr(self._transport, name)


@pytest.mark.parametrize("seed", range(8))
async def test_bytes_come_in_order_however_full_the_socket_is(
    machine: Any, ends: tuple[Server, socket.socket], seed: int
) -> None:
    """Those that waited in the transport, and those that followed them, however they were written."""
    server, client = ends
    writer, chance, sent = direct(machine, server), random.Random(seed), bytearray()
    reading = asyncio.ensure_future(asyncio.sleep(0, b""))
    for step in range(400):
        data = chance.randbytes(chance.choice((1, 50, 3000, 70_000)))
        if chance.random() < 0.5:
            writer.write(data)
            sent += data
        elif not machine.write_all([writer], data):  # one in which bytes wait is left alone
            sent += data
        if step == 200:
            reading = asyncio.ensure_future(read(client, 1 << 40))
        if step > 200 and chance.random() < 0.2:
            await asyncio.sleep(0)
    server.transport.close()
    assert await reading == bytes(sent)
    assert server.pauses


async def test_nothing_is_sent_by_a_descriptor_that_is_another_connection_s_by_now(
    machine: Any, ends: tuple[Server, socket.socket]
) -> None:
    """The number of a descriptor is given to the next one as soon as it is closed."""
    server, _ = ends
    writer, number = direct(machine, server), server.transport.get_extra_info("socket").fileno()
    writer.write(b"x")
    server.on_lost = lambda: machine.lost(writer)
    server.transport.close()
    await until(lambda: server.lost)
    await until(lambda: not is_open(number))
    with pair_at(number) as other:
        assert machine.write_all([writer], b"not for you") == [writer]
        with pytest.raises(RuntimeError):  # the transport's
            writer.write(b"not for you")
        with pytest.raises(BlockingIOError):
            other.recv(100)


async def test_what_is_lost_is_never_written_past_its_transport_again(
    machine: Any, ends: tuple[Server, socket.socket]
) -> None:
    """However often it is written to, and though nothing waits in the transport."""
    server, _ = ends
    writer = direct(machine, server)
    writer.write(b"x")
    machine.lost(writer)
    transport = Asked(server.transport)
    for other in (writer, machine.DirectWriter(transport)):
        machine.lost(other)
        for _ in range(3):
            assert machine.write_all([other], b"x") == [other]
            other.write(b"x")
    assert transport.asked == {"write": 3}


async def test_nothing_is_sent_after_a_transport_in_which_bytes_waited_was_told_to_end(
    machine: Any, ends: tuple[Server, socket.socket]
) -> None:
    """Those that waited may be a part of an event: what follows must not come without the rest."""
    server, client = ends
    writer, sent = direct(machine, server), bytes(1 << 24)
    writer.write(sent)
    server.transport.abort()
    assert machine.write_all([writer], b"after") == [writer]
    writer.write(b"after")
    came = await read(client, 1 << 25)
    assert sent.startswith(came)


async def test_reset_by_the_client_is_found_out_by_the_transport(
    machine: Any, ends: tuple[Server, socket.socket]
) -> None:
    """As if it had written itself."""
    server, client = ends
    writer = direct(machine, server)
    server.transport.pause_reading()  # so that only a write can find out
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    for _ in range(3):
        machine.write_all([writer], b"x")
    await until(lambda: server.lost)


async def test_connection_that_can_not_be_sent_the_rest_is_aborted(machine: Any) -> None:
    """Its caller will take it that nothing was sent, and send the same bytes again."""
    ours, theirs = socket.socketpair()

    class Transport:
        is_aborted = False

        def get_write_buffer_size(self) -> int:
            return 0

        def is_closing(self) -> bool:
            return self.is_aborted

        def get_extra_info(self, name: str) -> socket.socket:
            return ours

        def write(self, data: bytes) -> None:
            raise MemoryError

        def abort(self) -> None:
            self.is_aborted = True

    with ours, theirs:
        transport = Transport()
        writer = machine.DirectWriter(transport)
        assert machine.write_all([writer], b"x" * 10_000_000) == [writer]
        assert transport.is_aborted
