"""Where a client is: by its connection, or by what trusted proxies say, and by nobody else."""

import pytest

from proxy.access.client_addresses import ClientAddresses

EDGE = ("10.0.0.0/8", "192.0.2.7", "2001:db8::/32")


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("198.51.100.1", ["203.0.113.9"], "198.51.100.1"),  # a client of its own that says something
        ("10.1.1.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.1.1.1", ["6.6.6.6, 203.0.113.9"], "203.0.113.9"),  # what the client itself had sent
        ("10.1.1.1", ["6.6.6.6", "203.0.113.9, 192.0.2.7"], "203.0.113.9"),  # two edges, and two headers
        ("10.1.1.1", ["10.2.2.2, 10.3.3.3"], "10.2.2.2"),  # all are trusted: the first
        ("10.1.1.1", [], "10.1.1.1"),
        ("10.1.1.1", [""], "10.1.1.1"),
        ("10.1.1.1", ["203.0.113.9, unknown"], "10.1.1.1"),
        ("10.1.1.1", ["203.0.113.9:4711"], "203.0.113.9"),
        ("2001:db8::1", ["[2001:db9::5]:4711"], "2001:db9::5"),
        ("2001:db8::1", ["2001:db9::5"], "2001:db9::5"),
        ("::ffff:10.1.1.1", ["203.0.113.9"], "203.0.113.9"),
        ("", ["203.0.113.9"], ""),
    ],
)
def test_client_is_the_last_hop_that_is_not_trusted(peer: str, forwarded: list[str], client: str) -> None:
    """Read from the end, as each proxy appends whom it has its connection from."""
    assert ClientAddresses(EDGE).behind(peer, forwarded) == client
