"""Capabilities: signed tokens. Whoever holds one may do with one stream what it names, until it expires.

A token is `base64url(id|rights|expiry).base64url(HMAC-SHA256)`, without padding (RFC 4648 section 5); the signature is
that of the first part as it is written. Signatures are compared as text, so each token can be spelled in one way only.
Knows no stream and no clock. No token is to reach a log, a metric or the upstream: it is a key.
"""

import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import unquote_plus

READ, CANCEL, INFO = RIGHTS = ("read", "cancel", "info")
PARAMETER = "t"
COOKIE = "stream_token"

_BODY = re.compile(r"([^|]+)\|([a-z,]+)\|([0-9]{1,15})")
_COOKIE = re.compile(rf"(?:^|;)[ \t]*{COOKIE}=([^;]*)")


class Capability(NamedTuple):
    """What may be done with one stream, until `expires_at` in Unix seconds."""

    ident: str
    rights: tuple[str, ...]
    expires_at: int


class Capabilities:
    """Signs capabilities and knows its own again. False when there is nothing to sign with."""

    def __init__(self, secrets: Sequence[str]) -> None:
        """The first secret signs, all verify."""
        self._secrets = [secret.encode() for secret in secrets]

    def __bool__(self) -> bool:
        return bool(self._secrets)

    def sign(self, capability: Capability) -> str:
        """Return the token of a capability."""
        body = _written(capability)
        return f"{body.decode()}.{_signature(self._secrets[0], body).decode()}"

    def verify(self, token: str) -> Capability | None:
        """Return the capability of a token, expired or not; None when it was not signed here."""
        body, _, signature = token.encode(errors="replace").partition(b".")
        if not any(hmac.compare_digest(signature, _signature(secret, body)) for secret in self._secrets):
            return None
        return _read(body)


def url(capability: Capability, token: str) -> str:
    """Return where the stream is to be had with a token: path and query."""
    return f"/v1/streams/{capability.ident}?{PARAMETER}={token}"


def cookie(header: str) -> str | None:
    """Return the token in a Cookie header: that of the longest path, which comes first (RFC 6265 section 5.4)."""
    match = _COOKIE.search(header)
    return match and match[1].strip('" \t')


def without_parameter(target: str) -> str:
    """Return a request target without its token; the rest of the query stays as it is."""
    path, mark, query = target.partition("?")
    if not mark:
        return target
    kept = [pair for pair in query.split("&") if unquote_plus(pair.partition("=")[0]) != PARAMETER]
    return f"{path}?{'&'.join(kept)}" if kept else path


def without_cookie(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return headers without a token's cookie; the other cookies stay as they are, and a header of none goes."""
    kept = []
    for name, value in headers:
        if name.lower() == b"cookie":
            value = _COOKIE.sub("", value.decode("latin-1")).lstrip("; \t").encode("latin-1")
            if not value:
                continue
        kept.append((name, value))
    return kept


def _signature(secret: bytes, body: bytes) -> bytes:
    return urlsafe_b64encode(hmac.digest(secret, body, "sha256")).rstrip(b"=")


def _written(capability: Capability) -> bytes:
    ident, rights, expires_at = capability
    return urlsafe_b64encode(f"{ident}|{','.join(rights)}|{expires_at}".encode()).rstrip(b"=")


def _read(body: bytes) -> Capability | None:
    """Read the first part of a token whose signature is good; None for one that `sign` would not write."""
    try:
        match = _BODY.fullmatch(urlsafe_b64decode(body + b"==").decode())
    except ValueError:
        return None
    if match is None:
        return None
    capability = Capability(match[1], tuple(match[2].split(",")), int(match[3]))
    known = all(right in RIGHTS for right in capability.rights)
    return capability if known and _written(capability) == body else None
