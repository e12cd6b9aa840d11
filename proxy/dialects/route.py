"""A path prefix that is served, the request targets it stands for upstream, and the headers that carry API keys.

The values of these headers are secrets: they identify callers, and are never sent to an upstream that is given the
proxy's own key.
"""

import functools
import re
from dataclasses import dataclass
from typing import Final

from proxy.dialects.dialect import Dialect
from proxy.wire.errors import BadRequest
from proxy.wire.http import RawHeaders, origin_form

# Also between characters that only some servers treat as the limits of a segment.
_DOT_SEGMENT: Final = re.compile(
    r"(?:^|/|%2f|\\|%5c)(?:\.|%2e){1,2}(?:/|%2f|\\|%5c|;|%3b|#|%23|%3f|%00|$)", re.IGNORECASE
)

_REMEMBERED_CHARS: Final = 1000  # of a target: a thousand longer ones would take much memory

AUTHORIZATION: Final = "Authorization"
PROTOCOL: Final = "Sec-WebSocket-Protocol"
_KEY_PROTOCOL: Final = "openai-insecure-api-key."  # as OpenAI's SDKs send a key from a web page
KEY_HEADERS: Final[tuple[str, ...]] = (AUTHORIZATION, "x-api-key", "api-key")


@dataclass(frozen=True, eq=False)  # the cache compares it by identity, which takes 1 us less than by its fields
class Route:
    """A path prefix that is served, its dialect, and the path it stands for upstream."""

    name: str  # the label in metrics
    prefix: str
    upstream_prefix: str
    dialect: Dialect
    steering: str = ""
    """A regular expression for the names, in lower case, of request headers that influence the response."""
    key_header: str = AUTHORIZATION
    """The header in which the upstream expects its key."""

    def steered_by(self, headers: RawHeaders) -> list[bytes]:
        """Return the headers that influence the response, normalised: sorted, and their names in lower case."""
        steers = re.compile(self.steering.encode()).fullmatch
        return sorted(b"%b: %b" % (lower, value) for name, value in headers if steers(lower := name.lower()))

    def target(self, raw_path: str) -> bytes:
        """Return the request target for the upstream, with its query and its escapes unchanged.

        The host in an absolute-form target is dropped. Raises: BadRequest, for dot segments.
        """
        if len(raw_path) > _REMEMBERED_CHARS:
            return self._made(raw_path)
        return self._remembered(raw_path)

    @functools.lru_cache(maxsize=1024)  # noqa: B019  (routes live as long as the process)
    def _remembered(self, raw_path: str) -> bytes:
        return self._made(raw_path)

    def _made(self, raw_path: str) -> bytes:
        raw = origin_form(raw_path)
        path = raw.partition("?")[0]
        if not path.startswith(self.prefix) or _DOT_SEGMENT.search(path):
            raise BadRequest(f"the request target has dot segments or is not below {self.prefix}; neither is allowed")
        return (self.upstream_prefix + raw[len(self.prefix) :]).encode("utf-8", "surrogateescape")


def key_header(name: str, key: str) -> tuple[bytes, bytes]:
    """Return a header with a key: with the scheme Bearer (RFC 6750) in Authorization, the bare key in others."""
    return name.encode(), (f"Bearer {key}" if name.lower() == AUTHORIZATION.lower() else key).encode()


def shown_key(value: str) -> str:
    """Return the key in the value of such a header, without `Bearer`; any other scheme counts as a part of the key."""
    scheme, *key = value.split(maxsplit=1) or [""]
    return "".join(key).strip() if scheme.lower() == "bearer" else value.strip()


def protocol_keys(protocols: str) -> list[str]:
    """Return the keys in a Sec-WebSocket-Protocol header: web pages can set no other header of a WebSocket."""
    return [one.removeprefix(_KEY_PROTOCOL) for one in offered(protocols) if one.startswith(_KEY_PROTOCOL)]


def without_keys(protocols: str) -> list[str]:
    """Return the protocols in such a header that are no keys."""
    return [one for one in offered(protocols) if not one.startswith(_KEY_PROTOCOL)]


def offered(protocols: str) -> list[str]:
    """Return the protocols in such a header, in order (RFC 6455 section 4.1)."""
    return [one.strip() for one in protocols.split(",") if one.strip()]
