"""The sockets at which workers accept clients: of one address, which nobody else gets."""

import asyncio
import socket
from contextlib import ExitStack

import pytest

from proxy.workers.listening import listen

HOSTS = ["127.0.0.1", "::1"]


@pytest.mark.parametrize("host", HOSTS)
def test_sockets_have_one_address_and_share_its_connections(host: str) -> None:
    """Each connection is accepted by exactly one of them."""
    with ExitStack() as stack:
        listening = [stack.enter_context(one) for one in listen(host, 0, 3)]
        addresses = {one.getsockname()[:2] for one in listening}
        assert len(addresses) == 1
        clients = [stack.enter_context(socket.create_connection(addresses.copy().pop())) for _ in range(60)]
        counts = []
        for one in listening:
            accepted = 0
            while True:
                try:
                    stack.enter_context(one.accept()[0])
                except BlockingIOError:
                    break
                accepted += 1
            counts.append(accepted)
        assert sum(counts) == len(clients)
        assert sum(count > 0 for count in counts) > 1


@pytest.mark.parametrize("host", HOSTS)
def test_address_that_another_server_has_is_refused(host: str) -> None:
    """Also if that would share it: clients would get to either of them."""
    with ExitStack() as stack:
        first = [stack.enter_context(one) for one in listen(host, 0, 2)]
        with pytest.raises(OSError, match="in use"):
            listen(host, first[0].getsockname()[1], 2)


async def test_connection_waits_for_the_next_worker_that_has_the_socket() -> None:
    """One that came while the worker was replaced is accepted, not refused."""
    (listening,) = listen("127.0.0.1", 0, 1)
    with listening, socket.create_connection(listening.getsockname()) as client:
        client.sendall(b"hello")
        loop = asyncio.get_running_loop()
        accepted, _ = await loop.sock_accept(listening)
        with accepted:
            assert await loop.sock_recv(accepted, 5) == b"hello"


def test_connection_that_waits_for_a_worker_has_what_others_have() -> None:
    """The system asks whether its client is still there: it has that from the socket it came to, when it came."""
    with ExitStack() as stack:
        (listening,) = (stack.enter_context(one) for one in listen(HOSTS[0], 0, 1))
        stack.enter_context(socket.create_connection(listening.getsockname()))
        waiting = stack.enter_context(listening.accept()[0])
        assert waiting.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
