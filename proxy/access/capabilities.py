"""Capabilities: signed tokens. Whoever holds one has the rights it names, to one stream, until it expires.

A token is `base64url(id|rights|expiry).base64url(HMAC-SHA256)`, without padding (RFC 4648 section 5); the signature
covers the encoded first part. Encoded signatures are compared, so that no other encoding of a token is accepted.
Knows no stream and no clock. A token is a secret like a key: it must not reach a log, a metric or the upstream.
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
    """The rights to one stream that a token grants, until `expires_at` in Unix seconds."""

    ident: str
    rights: tuple[str, ...]
    expires_at: int


class Capabilities:
    """Signs capabilities and verifies tokens. False as a condition if no secret is configured."""

    def __init__(self, secrets: Sequence[str]) -> None:
        """The first secret signs; a token signed with any of them is accepted."""
        self.use(secrets)

    def use(self, secrets: Sequence[str]) -> None:
        """Sign and verify with these secrets from now on."""
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
    """Return the path and query at which the stream can be followed with a token."""
    return f"/v1/streams/{capability.ident}?{PARAMETER}={token}"


def cookie(header: str) -> str | None:
    """Return the first token in a Cookie header: the cookie with the longest path (RFC 6265 section 5.4)."""
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
    """Return headers without the token's cookie; other cookies are kept, and a Cookie header left empty is dropped."""
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
    """Read the first part of a token whose signature is valid; None if `sign` would not have written it so."""
    try:
        match = _BODY.fullmatch(urlsafe_b64decode(body + b"==").decode())
    except ValueError:
        return None
    if match is None:
        return None
    capability = Capability(match[1], tuple(match[2].split(",")), int(match[3]))
    known = all(right in RIGHTS for right in capability.rights)
    return capability if known and _written(capability) == body else None
