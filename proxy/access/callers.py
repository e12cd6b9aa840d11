"""Who the caller is, and what else lets a request have a stream. Keys are compared and kept as digests; none reaches
a log or a metric, and no token does.
"""

import copy
import functools
import hashlib
import hmac
import math
import time
from collections.abc import Sequence
from secrets import token_bytes

from aiohttp import web

from proxy.access.capabilities import INFO, PARAMETER, READ, Capabilities, Capability, cookie, url
from proxy.access.pages import Pages
from proxy.stream.hub import Hub
from proxy.stream.stream import Stream
from proxy.wire.errors import (
    ExpiredCapability,
    InvalidCapability,
    MissingRight,
    RequestError,
    Unauthorised,
    UnknownStream,
)


class Auth:
    """Tells callers apart, and what goes upstream in `Authorization`."""

    def __init__(
        self,
        *,
        digests: Sequence[str] | None = None,
        upstream_key: str = "",
        secrets: Sequence[str] = (),
        ttl_s: int = 3600,
        trusted_origins: Sequence[str] = (),
        origins: Sequence[str] = (),
    ) -> None:
        """`digests` are those of the keys that callers may have, as SHA-256 in hex; None: whatever key a caller brings.

        `upstream_key` is sent upstream instead of the caller's. `secrets` sign and verify capabilities, which last
        `ttl_s` seconds. Pages of the `trusted_origins` may use the cookie that holds one. Pages of the `origins` may
        use a key of ours.
        """
        self._own_keys = digests is not None
        self._digests = [bytes.fromhex(digest) for digest in digests or ()]
        self._secret = token_bytes(16)  # so that a caller's digest tells nothing outside this process
        self.caller = functools.lru_cache(maxsize=4096)(self._caller)
        # None: the caller's own goes upstream. Empty: none does.
        self.upstream_authorization = _authorization(upstream_key)
        self.capabilities = Capabilities(secrets)
        self._ttl_s = ttl_s
        self._trusted_with_cookies = trusted_origins
        self.pages = Pages(origins)

    def towards(self, upstream_key: str) -> "Auth":
        """Return the same for another upstream. Keys of ours are not shown to it, if it has none of its own."""
        other = copy.copy(self)
        other.upstream_authorization = _authorization(upstream_key)
        if self._own_keys and other.upstream_authorization is None:
            other.upstream_authorization = b""
        return other

    def follow_url(self, ident: str) -> str:
        """Return where a stream can be followed, and its numbers be had, by anybody for a while."""
        capability = Capability(ident, (READ, INFO), int(time.time()) + self._ttl_s)
        return url(capability, self.capabilities.sign(capability))

    def granted(self, request: web.BaseRequest, hub: Hub, ident: str, right: str) -> tuple[Stream, float]:
        """Return a stream of the caller's, or one the request has a capability for; and until when, in monotonic s.

        A caller needs no capability for streams of its own: what else it brings is not looked at.
        Raises: UnknownStream, Unauthorised, InvalidCapability, ExpiredCapability, MissingRight.
        """
        authorization = request.headers.get("Authorization", "")
        find = hub.find_readable if right in (READ, INFO) else hub.find
        refused: RequestError | None = None
        if authorization or not self.capabilities:
            try:
                return find(ident, self.caller(authorization)), math.inf
            except RequestError as error:
                refused = error
        capability = self._capability(request, authorization)
        if capability is None:
            if refused is not None:
                raise refused
            return find(ident, self.caller(authorization)), math.inf
        if capability.ident != ident:
            raise UnknownStream(f"no stream {ident!r} of yours is running or kept")
        if right not in capability.rights:
            raise MissingRight(f"this token is for: {', '.join(capability.rights)}; not for: {right}")
        return hub.find(ident, None), time.monotonic() + capability.expires_at - time.time()

    def _capability(self, request: web.BaseRequest, authorization: str) -> Capability | None:
        """Return what the token that comes with a request is for; None without one.

        Raises: InvalidCapability, ExpiredCapability.
        """
        token = self._token(request, authorization) if self.capabilities else None
        if token is None:
            return None
        capability = self.capabilities.verify(token)
        if capability is None:
            raise InvalidCapability("the token was not given here, or is not as it was given")
        if capability.expires_at <= time.time():
            raise ExpiredCapability(f"the token expired at {capability.expires_at}, in Unix seconds")
        return capability

    def _token(self, request: web.BaseRequest, authorization: str) -> str | None:
        """Return the token in the query, else in Authorization, else in the cookie; None without one."""
        token = request.query.get(PARAMETER)
        if token is not None:
            return token
        bearer = _bearer(authorization)
        if bearer and self.capabilities.verify(bearer) is not None:  # else it is somebody's key
            return bearer
        return cookie(request.headers.get("Cookie", "")) if self._is_cookie_meant(request) else None

    def _is_cookie_meant(self, request: web.BaseRequest) -> bool:
        """Tell whether the page that asks may use the cookies: browsers send them for any page, WebSockets too."""
        origin = request.headers.get("Origin")
        if origin is None or origin in self._trusted_with_cookies:
            return True
        return origin.partition("://")[2] == request.headers.get("Host", "").lower()

    def _caller(self, authorization: str) -> bytes:
        """Return the digest of the caller with this Authorization header.

        Raises: Unauthorised, in mode keys, for a key that is not listed; MissingRight, for a capability's token.
        """
        bearer = _bearer(authorization)
        if bearer and self.capabilities.verify(bearer) is not None:
            raise MissingRight("a token is for one stream, and for what it names; this takes a key")
        if self._own_keys:
            given = hashlib.sha256(_encoded(bearer or "")).digest()
            if bearer is None or not any(hmac.compare_digest(given, d) for d in self._digests):
                raise Unauthorised("the Authorization header holds no key that is known here")
        raw = _encoded(authorization.strip() if bearer is None else bearer)
        return hashlib.blake2b(raw, digest_size=16, key=self._secret).digest()


def _bearer(authorization: str) -> str | None:
    """Return what an Authorization header of the scheme Bearer holds."""
    scheme, _, key = authorization.strip().partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _authorization(key: str) -> bytes | None:
    return f"Bearer {key}".encode() if key else None
