"""The address of a client: that of its connection, or the one that a trusted proxy before this one states.

Anybody can write X-Forwarded-For; each proxy on the way appends the address from which it was reached. So the list is
read from its end, while the address read last is that of a trusted proxy; the first that is not is the client's. nginx
calls this real_ip_recursive. It is for the log and spans only: no access depends on it.
"""

import ipaddress
from collections.abc import Iterable, Sequence

from aiohttp import web

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class ClientAddresses:
    """Finds the addresses of clients."""

    def __init__(self, trusted_proxies: Sequence[str]) -> None:
        """`trusted_proxies`: addresses and networks of the proxies whose X-Forwarded-For is trusted."""
        self._trusted = [ipaddress.ip_network(network) for network in trusted_proxies]

    def of(self, request: web.BaseRequest) -> str:
        """Return the address of the client that sent a request; "" if it has disconnected."""
        peer = request.remote or ""
        return self.behind(peer, request.headers.getall("X-Forwarded-For", ())) if self._trusted else peer

    def behind(self, peer: str, forwarded: Iterable[str]) -> str:
        """Return the client's address, from that of the connection and the values of X-Forwarded-For."""
        address = _read(peer)
        hops = ",".join(forwarded).split(",")
        while address is not None and hops and any(address in network for network in self._trusted):
            said = _read(hops.pop())
            if said is None:  # no address, or not in a form that `_read` knows
                break
            address = said
        return peer if address is None else str(address)


def _read(hop: str) -> _Address | None:
    """Return the address in an entry, which may have a port; None if it has none. IPv4-mapped IPv6 becomes IPv4."""
    host = hop.strip()
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
