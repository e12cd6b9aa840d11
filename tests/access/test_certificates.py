"""The subject of a client's certificate, as a real handshake leaves it, and how its attributes are written."""

import asyncio
import ssl
from typing import Any

import pytest

from proxy.access.certificates import shown
from tests.certificates import Authority


class Transport:
    """A transport that has this TLS connection, or none."""

    def __init__(self, ssl_object: Any) -> None:
        self._ssl_object = ssl_object

    def get_extra_info(self, name: str) -> Any:
        return self._ssl_object if name == "ssl_object" else None


class Handshaken:
    """A TLS connection whose client has shown a certificate with these attributes, or none."""

    def __init__(self, *subject: tuple[tuple[str, str], ...], shows: bool = True) -> None:
        self.asked = 0
        self._certificate = {"subject": subject} if shows else None

    def getpeercert(self) -> dict[str, Any] | None:
        self.asked += 1
        return self._certificate


def subject(ssl_object: Any) -> str:
    transport: Any = Transport(ssl_object)
    return shown(transport)


async def test_subject_is_that_of_the_certificate_the_client_showed(authority: Authority) -> None:
    """In the order of the certificate, with its names short; read on the server's side of the connection."""
    found: list[str] = []

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.append(shown(writer.transport))
        writer.close()

    context = authority.server(authority.sign("localhost"), client_ca=authority.file)
    context.verify_mode = ssl.CERT_OPTIONAL
    server = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=context)
    host, port = server.sockets[0].getsockname()
    for certificate in (authority.sign("alice", organization="Example, Ltd"), None):
        client = authority.client(certificate)
        reader, writer = await asyncio.open_connection(host, port, ssl=client, server_hostname="localhost")
        await reader.read()
        writer.close()
    server.close()
    assert found == ["CN=alice,O=Example\\, Ltd", ""]


@pytest.mark.parametrize("transport", [None, Transport(None)])
def test_connection_without_tls_has_no_subject(transport: Any) -> None:
    """Nor has one that is gone."""
    assert shown(transport) == ""


def test_attributes_stand_in_their_order_with_the_names_they_have_for_short() -> None:
    """Several at one place, too; a name that has no short form is written out."""
    one = Handshaken(
        (("countryName", "DE"),),
        (("domainComponent", "org"), ("userId", "7")),
        (("serialNumber", "1"),),
        (("commonName", "alice"),),
    )
    assert subject(one) == "C=DE,DC=org,UID=7,serialNumber=1,CN=alice"


@pytest.mark.parametrize("value", ["a,O=b", "a+b", 'a"b', "a\\", "a;b", "a=b", "<a>"])
def test_value_can_not_be_taken_for_another_attribute(value: str) -> None:
    """A client whose authority lets it choose its name must not become another caller by it."""
    written = subject(Handshaken((("commonName", value),)))
    assert written == "CN=" + "".join(f"\\{one}" if one in ',+"\\<>;=' else one for one in value)
    assert written != subject(Handshaken((("commonName", "a"),), (("organizationName", "b"),)))


def test_client_that_showed_none_has_no_subject() -> None:
    """Where certificates are not required."""
    assert subject(Handshaken(shows=False)) == ""


def test_certificate_of_a_connection_is_read_once() -> None:
    """However many requests come by it; another connection has its own."""
    first, second = Handshaken((("commonName", "a"),)), Handshaken((("commonName", "b"),))
    assert [subject(one) for one in (first, second, first)] == ["CN=a", "CN=b", "CN=a"]
    assert (first.asked, second.asked) == (1, 1)
