"""TLS towards an upstream: whose certificates are trusted, and which certificate is shown to it."""

import ssl


def client_context(ca_file: str, certificate: str, key: str) -> ssl.SSLContext | None:
    """Return the context for connections to an upstream; None, if nothing is configured: the system's CAs.

    `ca_file`: the only CAs that are trusted; "": the system's. `certificate`, `key`: what the upstream is shown; an
    empty `key` is in the file of the certificate. Raises: OSError.
    """
    if not (ca_file or certificate):
        return None
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
        if certificate:
            context.load_cert_chain(certificate, key or None)
    except OSError as error:
        raise OSError(f"the files {ca_file or certificate} of an upstream's TLS can't be used: {error}") from None
    return context
