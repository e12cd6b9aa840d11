"""The address of a client: that of its connection, or, behind an edge that is trusted, what the edge says of it.

Anybody can write X-Forwarded-For; each proxy on the way appends the address that its own connection came from. So the
list is read from its end, as long as whoever wrote an entry is trusted: the first one that is not is the client. This
is nginx's real_ip_recursive. For the log and spans only: no access depends on it.
"""

import ipaddress
from collections.abc import Iterable, Sequence

from aiohttp import web

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class ClientAddresses:
    """Tells the addresses of clients."""

    def __init__(self, trusted_proxies: Sequence[str]) -> None:
        """`trusted_proxies`: addresses and networks of those whose X-Forwarded-For is believed."""
        self._trusted = [ipaddress.ip_network(network) for network in trusted_proxies]

    def of(self, request: web.BaseRequest) -> str:
        """Return the address of the client that a request came from; "" if it has gone."""
        peer = request.remote or ""
        return self.behind(peer, request.headers.getall("X-Forwarded-For", ())) if self._trusted else peer

    def behind(self, peer: str, forwarded: Iterable[str]) -> str:
        """Return the client's address, from that of the connection and the values of X-Forwarded-For."""
        address = _read(peer)
        hops = ",".join(forwarded).split(",")
        while address is not None and hops and any(address in network for network in self._trusted):
            said = _read(hops.pop())
            if said is None:  # the edge did not say, or not in a form that is read here
                break
            address = said
        return peer if address is None else str(address)


def _read(hop: str) -> _Address | None:
    """Return an address, with or without a port; one of IPv4 within IPv6 is that of IPv4. None: it is none."""
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
