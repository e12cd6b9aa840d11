"""TLS towards an upstream: whose certificates are trusted, and which certificate is shown to it."""

import ssl

from proxy.pem import load_authorities, load_pair


def client_context(ca_file: str, certificate: str, key: str) -> ssl.SSLContext | None:
    """Return the context for connections to an upstream; None, if nothing is configured: the system's CAs.

    `ca_file`: the only CAs that are trusted; "": the system's. `certificate`, `key`: what the upstream is shown; an
    empty `key` is in the file of the certificate. Raises: OSError.
    """
    if not (ca_file or certificate):
        return None
    if ca_file:
        load_authorities(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ca_file)  # says what is wrong, before the next line
    context = ssl.create_default_context(cafile=ca_file or None)
    if certificate:
        load_pair(context, certificate, key)
    return context
