"""Access to streams of other callers: checks the token that a request carries, and issues new tokens.

Knows no stream, only ids: the caller of these methods looks the stream up.
"""

import time
from collections.abc import Collection, Sequence
from typing import Any

from aiohttp import web

from proxy.access.callers import Callers
from proxy.access.capabilities import INFO, PARAMETER, READ, Capabilities, Capability, cookie, url
from proxy.wire.errors import CapabilitiesOff, ExpiredCapability, InvalidCapability, MissingRight, UnknownStream


class Grants:
    """Checks the tokens of requests, and issues new ones. False as a condition if no secret is configured."""

    def __init__(
        self,
        capabilities: Capabilities,
        callers: Callers,
        *,
        ttl_s: int = 3600,
        ttl_max_s: int = 86400,
        trusted_origins: Collection[str] = (),
    ) -> None:
        """A token is valid for `ttl_s` seconds, or for as long as the client asks, at most `ttl_max_s`.

        Pages of the `trusted_origins` may use the cookie that holds a token. `callers` reads the keys of requests.
        """
        self._capabilities = capabilities
        self._callers = callers
        self.ttl_s = ttl_s
        self._ttl_max_s = ttl_max_s
        self._trusted_with_cookies = trusted_origins

    def __bool__(self) -> bool:
        return bool(self._capabilities)

    def use(self, secrets: Sequence[str]) -> None:
        """Sign and verify tokens with these secrets from now on."""
        self._capabilities.use(secrets)

    def follow_url(self, ident: str) -> str:
        """Return a URL with a new token, with which anybody can follow the stream and read its `/info`."""
        capability = Capability(ident, (READ, INFO), int(time.time()) + self.ttl_s)
        return url(capability, self._capabilities.sign(capability))

    def check_signs(self) -> None:
        """Raises: CapabilitiesOff, if no secret is configured to sign tokens with."""
        if not self:
            raise CapabilitiesOff("streams can't be shared here: the configuration has no capabilities.secrets")

    def share(self, ident: str, rights: Sequence[str], expires_in_s: int) -> dict[str, Any]:
        """Return the JSON object of the response that hands over a new token for a stream."""
        expires_at = int(time.time()) + min(expires_in_s, self._ttl_max_s)
        capability = Capability(ident, tuple(rights), expires_at)
        token = self._capabilities.sign(capability)
        return {"url": url(capability, token), "token": token, "rights": capability.rights, "expires_at": expires_at}

    def until(self, request: web.BaseRequest, ident: str, right: str) -> float | None:
        """Return when the right that a request's token grants ends, in monotonic seconds; None without a token.

        Raises: InvalidCapability, ExpiredCapability, MissingRight; UnknownStream, for a token of another stream.
        """
        capability = self._capability(request)
        if capability is None:
            return None
        if capability.ident != ident:
            raise UnknownStream(f"no stream {ident!r} of yours is running or kept")
        if right not in capability.rights:
            raise MissingRight(f"this token is for: {', '.join(capability.rights)}; not for: {right}")
        return time.monotonic() + capability.expires_at - time.time()

    def _capability(self, request: web.BaseRequest) -> Capability | None:
        """Return the capability of the token that a request carries; None without one.

        Raises: InvalidCapability, ExpiredCapability.
        """
        token = self._token(request) if self else None
        if token is None:
            return None
        capability = self._capabilities.verify(token)
        if capability is None:
            raise InvalidCapability("the token was not issued here, or has been altered")
        if capability.expires_at <= time.time():
            raise ExpiredCapability(f"the token expired at {capability.expires_at}, in Unix seconds")
        return capability

    def _token(self, request: web.BaseRequest) -> str | None:
        """Return the token in the query, else in a header that holds keys, else in the cookie; None without one."""
        token = request.query.get(PARAMETER)
        if token is not None:
            return token
        for key in self._callers.keys(request.headers):
            if self._capabilities.verify(key) is not None:  # else it is a key, not a token
                return key
        return cookie(request.headers.get("Cookie", "")) if self._is_cookie_meant(request) else None

    def _is_cookie_meant(self, request: web.BaseRequest) -> bool:
        """Return whether the requesting page may use the cookie: browsers send it for any page, on WebSockets too."""
        origin = request.headers.get("Origin")
        if origin is None or origin in self._trusted_with_cookies:
            return True
        return origin.partition("://")[2] == request.headers.get("Host", "").lower()
