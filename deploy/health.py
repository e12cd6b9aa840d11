"""The health check of the image: asks the proxy in it for /healthz, and ends with 0 if it is well.

The address is that which the proxy listens on, as it finds it: STREAMTEE_LISTEN, or else `listen` of its file, which is
the argument. It is asked over TLS if a certificate is configured. Nothing but the standard library is imported: it runs
every few seconds.
"""

import os
import ssl
import sys
import tomllib
from http.client import HTTPConnection, HTTPSConnection, RemoteDisconnected
from typing import Any

_WITHIN_S = 2.0
_DEFAULT = "127.0.0.1:8080"


def address(listen: str) -> tuple[str, int]:
    """Return the host and the port to connect to: 0.0.0.0 and [::] are this machine's own, too."""
    host, _, port = listen.rpartition(":")
    return host.strip("[]"), int(port)


def tls(given: dict[str, Any], name: str) -> str:
    """Return a key of the table [tls], by the environment or by the file; "" if it is in neither."""
    return os.environ.get(f"STREAMTEE_TLS__{name.upper()}") or given.get("tls", {}).get(name) or ""


def connection(given: dict[str, Any]) -> HTTPConnection:
    """Return a connection to the proxy with this configuration. Not through a proxy that the environment names."""
    host, port = address(os.environ.get("STREAMTEE_LISTEN") or given.get("listen") or _DEFAULT)
    if not tls(given, "certificate"):
        return HTTPConnection(host, port, timeout=_WITHIN_S)
    # Nobody else is at this address, and the certificate is for the name by which clients know the proxy.
    return HTTPSConnection(host, port, timeout=_WITHIN_S, context=ssl._create_unverified_context())


def is_well(path: str) -> bool:
    """Return whether the proxy with this file answers. Raises: OSError, http.client.HTTPException."""
    with open(path, "rb") as file:
        given = tomllib.load(file)
    asked = connection(given)
    try:
        asked.request("GET", "/healthz")
        return asked.getresponse().status == 200
    except (ssl.SSLError, RemoteDisconnected):
        if not tls(given, "client_ca"):
            raise
        return True  # it has answered: it refuses a client without a certificate
    finally:
        asked.close()


if __name__ == "__main__":
    sys.exit(0 if is_well(sys.argv[1]) else 1)
