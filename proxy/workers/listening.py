"""The sockets at which workers accept clients: one for each, at one address, open for as long as the supervisor runs.

The kernel divides new connections among the sockets of an address (SO_REUSEPORT, Linux). They are the supervisor's: so
what waits in the queue of a worker that died, or that was replaced, is accepted by the next one, and none is refused.
"""

import socket
import sys

_BACKLOG = 4096


def listen(host: str, port: int, count: int) -> list[socket.socket]:
    """Return so many listening sockets of an address. Raises: OSError, if it is taken."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as alone:  # SO_REUSEPORT would let a second server share the address
        _allow_reuse(alone)
        alone.bind(address)
        address = alone.getsockname()
    if sys.platform != "linux":  # elsewhere one socket of several gets all connections
        one = _bound(family, kind, protocol, address)
        return [one] + [one.dup() for _ in range(count - 1)]
    return [_bound(family, kind, protocol, address) for _ in range(count)]


def _bound(
    family: int, kind: int, protocol: int, address: tuple[str, int] | tuple[str, int, int, int]
) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    _allow_reuse(sock)
    if sys.platform == "linux":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # its connections have it, too: before any can come
    sock.bind(address)
    sock.listen(_BACKLOG)
    sock.setblocking(False)
    return sock


def _allow_reuse(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if sock.family == socket.AF_INET6:  # as asyncio's servers: "::" does not take IPv4
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
