"""Protection from web pages: any page that a user visits can send requests to a proxy on the user's machine or network.

Two attacks are prevented, by which a page could use a key of the proxy's own. A page whose host name resolves to the
proxy's address (DNS rebinding) has that name in Host: `Hosts` refuses unknown names. A page of another origin has its
origin in Origin: `Pages` refuses unknown origins. Browsers send its request without a preflight if a form could send
it, which is not so with JSON (the Fetch standard, "CORS protocol"); so only JSON is accepted.
"""

import ipaddress
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from aiohttp import web

from proxy.access.callers import Caller
from proxy.wire.errors import BadRequest, HostNotServed, OriginNotAllowed, ProxyError, UnsupportedMediaType

_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]+)(?::[0-9]{0,5})?")  # RFC 9110 section 7.2
_REMEMBERED: Final = 256
_LONGEST_NAME: Final = 300  # a name has 253 characters, and a port may follow; longer ones are not remembered
_BODILESS: Final[tuple[str, ...]] = ("GET", "HEAD", "OPTIONS", "DELETE")


class Hosts:
    """The host names that a port serves."""

    def __init__(self, listen_host: str, names: Sequence[str]) -> None:
        """`names` are served besides the usual ones; without any, a port not on loopback serves every name."""
        self._names = frozenset(name.lower() for name in names)
        self._any = not names and not is_loopback(listen_host)
        self._served: dict[str, bool] = {}

    def error(self, host: str | None) -> ProxyError | None:
        """Return the error for a request with this Host header; None if the host is served.

        A `host` of None is a request without the header, which HTTP/1.0 allows.
        """
        if host is None or self._served.get(host) or self._serves(host):  # saves a call for each request
            return None
        if not _HOST.fullmatch(host):
            return BadRequest("the Host header is not HOST or HOST:PORT")
        return HostNotServed(
            f"this server is not {host[:100]!r}; a port of the loopback interface answers for localhost, addresses,"
            " names without a dot, and the names in `hosts` of its configuration"
        )

    def _serves(self, host: str) -> bool:
        if len(host) > _LONGEST_NAME:
            return self._is_served(host)
        served = self._served.get(host)
        if served is None:
            if len(self._served) >= _REMEMBERED:
                self._served.clear()
            served = self._served[host] = self._is_served(host)
        return served

    def _is_served(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match[1].lower().removesuffix(".")
        if self._any or name in self._names:
            return True
        # No page has these as its own: a name that leads to an attacker's server has a dot.
        return "." not in name or name.endswith(".localhost") or _is_address(name)


class Pages:
    """The web pages that may send requests which use a key of the proxy's own."""

    def __init__(self, origins: Sequence[str]) -> None:
        """`origins`: the origins whose pages may, besides the proxy's own; "*": all."""
        self._origins = frozenset(origins)

    def only(
        self, handler: Callable[..., Awaitable[web.StreamResponse]]
    ) -> Callable[..., Awaitable[web.StreamResponse]]:
        """Return a handler that calls `check` first."""

        async def serve(request: web.BaseRequest, *given: Any, **named: str) -> web.StreamResponse:
            self.check(request)
            return await handler(request, *given, **named)

        return serve

    def changing(
        self, handler: Callable[..., Awaitable[web.StreamResponse]]
    ) -> Callable[..., Awaitable[web.StreamResponse]]:
        """Return a handler of a request that changes a caller's streams, for which a page must show the caller's key.

        A caller without one is known by what a browser sends for any page: its address, or its certificate.
        """

        async def serve(request: web.BaseRequest, caller: Caller, **named: str) -> web.StreamResponse:
            if not caller.shows_key:
                self._check_origin(request, bodiless=True)
            return await handler(request, caller, **named)

        return serve

    def check(self, request: web.BaseRequest) -> None:
        """Raises: OriginNotAllowed, for a page that may not; UnsupportedMediaType, for a body that is not JSON."""
        bodiless = request.method in _BODILESS and not request.body_exists
        if not self._check_origin(request, bodiless=bodiless):
            return
        kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if not bodiless and kind != "application/json":
            raise UnsupportedMediaType(f"a web page must send application/json here, not {kind[:100]!r}")

    def _check_origin(self, request: web.BaseRequest, *, bodiless: bool) -> bool:
        """Return whether a request is a page's. Raises: OriginNotAllowed, for a page that may not send it."""
        headers = request.headers
        origin = headers.get("Origin")
        cross_site = headers.get("Sec-Fetch-Site", "").lower() == "cross-site"
        if origin is None and not cross_site:
            return False
        if not self._is_allowed(origin, headers.get("Host", "")) if origin is not None else bodiless:
            raise OriginNotAllowed(
                f"a page of the origin {str(origin)[:200]!r} may not send requests here; cors.origins in the"
                " configuration lists those that may"
            )
        return True

    def _is_allowed(self, origin: str, host: str) -> bool:
        return "*" in self._origins or origin in self._origins or origin.partition("://")[2] == host.lower()


def is_loopback(host: str) -> bool:
    """Return whether an address to listen on can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
