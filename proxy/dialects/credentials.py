"""The headers that carry API keys, whichever API a request is for, and how a key is written in one.

Their values are secrets: they identify callers, and are never sent to an upstream that is given the proxy's own key.
"""

AUTHORIZATION = "Authorization"
KEY_HEADERS = (AUTHORIZATION, "x-api-key", "api-key")


def key_header(name: str, key: str) -> tuple[bytes, bytes]:
    """Return a header with a key: with the scheme Bearer (RFC 6750) in Authorization, the bare key in others."""
    return name.encode(), (f"Bearer {key}" if name.lower() == AUTHORIZATION.lower() else key).encode()


def shown_key(value: str) -> str:
    """Return the key in the value of such a header, without `Bearer`; any other scheme counts as a part of the key."""
    scheme, _, key = value.strip().partition(" ")
    return key.strip() if scheme.lower() == "bearer" else value.strip()
