"""The headers in which requests show a key, whichever API they are for, and how a key is written in one.

What is sent in any of them is a secret: it tells callers apart, and goes to no upstream that has a key of ours.
"""

AUTHORIZATION = "Authorization"
KEY_HEADERS = (AUTHORIZATION, "x-api-key", "api-key")


def key_header(name: str, key: str) -> tuple[bytes, bytes]:
    """Return the header that shows a key: in Authorization as the scheme Bearer has it (RFC 6750), else as it is."""
    return name.encode(), (f"Bearer {key}" if name.lower() == AUTHORIZATION.lower() else key).encode()


def shown_key(value: str) -> str:
    """Return the key that the value of such a header shows; another scheme than Bearer is a part of it."""
    scheme, _, key = value.strip().partition(" ")
    return key.strip() if scheme.lower() == "bearer" else value.strip()
