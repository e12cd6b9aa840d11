"""The subjects of the certificates that clients show in the TLS handshake, which has checked the certificates."""

import asyncio
import weakref

from aiohttp import web

from proxy.downstream.movable import MovableConnection

SUBJECT = web.RequestKey("subject", str)  # on a request: the subject that counts, whatever its connection shows

# As RFC 4514 section 3 shortens them; other attributes keep the name that OpenSSL has for them.
_SHORT = {
    "commonName": "CN",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "domainComponent": "DC",
    "userId": "UID",
}
_ESCAPED = str.maketrans({character: f"\\{character}" for character in ',+"\\<>;='})
_subjects: "weakref.WeakKeyDictionary[object, str]" = weakref.WeakKeyDictionary()  # of connections: it takes 10 us


def subject_of(request: web.BaseRequest) -> str:
    """Return the subject of the certificate that a request's client has shown, here or to another worker."""
    if SUBJECT in request:
        return request[SUBJECT]
    connection, transport = request.protocol, request.transport
    if isinstance(connection, MovableConnection) and connection.relayed is not None:
        return connection.relayed.subject
    return shown(transport)


def shown(transport: asyncio.BaseTransport | None) -> str:
    """Return the subject of the certificate that the client of a connection has shown; "" without one.

    Its attributes stand in the order of the certificate: CN=alice,O=Example.
    """
    if transport is None:
        return ""
    ssl_object = transport.get_extra_info("ssl_object")
    if ssl_object is None:
        return ""
    subject = _subjects.get(ssl_object)
    if subject is None:
        certificate = ssl_object.getpeercert() or {}
        subject = _subjects[ssl_object] = ",".join(
            f"{_SHORT.get(name, name)}={value.translate(_ESCAPED)}"
            for attributes in certificate.get("subject", ())
            for name, value in attributes
        )
    return subject
