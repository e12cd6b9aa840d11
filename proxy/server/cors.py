"""CORS: lets pages of other origins send requests and read responses (the Fetch standard, section "CORS protocol").

Wraps the routes, so that every response has its headers, errors too; while CORS is off, it is not there and costs
nothing. Preflights are answered here, whatever the route, since they carry no key. Which streams a page may access is
not decided here: it is a client like any other.
"""

import re
from collections.abc import Iterable

from aiohttp import web

from proxy.access.settings import CorsConfig
from proxy.dialects import table
from proxy.downstream.response import EXTRA
from proxy.server.headers import ALLOWED, EXPOSED
from proxy.server.json_responses import refuse
from proxy.server.routes import Routes
from proxy.telemetry.metrics import Metrics
from proxy.wire.errors import OriginNotAllowed
from proxy.wire.http import Headers

METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
_VARY = (b"Vary", b"Origin")


class Cors:
    """Serves the routes to pages of the configured origins, too."""

    def __init__(self, config: CorsConfig, routes: Routes, metrics: Metrics, key_headers: Iterable[str] = ()) -> None:
        """`key_headers`: names of further headers that hold keys; a page may send them."""
        self._routes = routes
        self._metrics = metrics
        self._max_age_s = config.max_age_s
        self._allowed = ALLOWED | {name.lower() for name in key_headers}
        self._listed = {origin: _allowance(origin, config.credentials) for origin in config.origins}
        self._of_apis = re.compile(f"stream-[a-z0-9-]+|{table.request_headers()}").fullmatch
        self._anyone = self._listed.get("*")

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Respond to a preflight, or have the routes respond; add the CORS headers to either response."""
        origin = request.headers.get("Origin")
        headers = self._headers(origin)
        request[EXTRA] = headers
        if request.method == "OPTIONS" and origin is not None and "Access-Control-Request-Method" in request.headers:
            response = await self._preflight(request, origin)
        else:
            response = await self._routes(request)
        if isinstance(response, web.Response):  # any other has sent its head already, through a Downstream
            for name, value in headers:
                response.headers.add(name.decode(), value.decode())
        return response

    def allows(self, origin: str) -> bool:
        """Return whether a page of this origin may send requests."""
        return self._anyone is not None or origin in self._listed

    def _headers(self, origin: str | None) -> Headers:
        """Return the headers to add to a response."""
        if origin is None:
            return [_VARY]
        return self._listed.get(origin) or self._anyone or [_VARY]

    async def _preflight(self, request: web.BaseRequest, origin: str) -> web.StreamResponse:
        """Respond to a preflight: 403 for an origin that is not configured, 404 for a path that is not served."""
        headers = request.headers
        endpoint, _ = self._routes.find(headers["Access-Control-Request-Method"], request.raw_path)
        if endpoint.name == "none":
            return await self._routes(request)
        if not self.allows(origin):
            error = OriginNotAllowed(f"the origin {origin[:200]!r} is not one that may ask here")
            self._metrics.rejected[error.kind] += 1
            self._metrics.requests[endpoint.name, "OPTIONS", error.status] += 1
            return refuse(error, endpoint.dialect)
        asked = (name.strip() for name in headers.get("Access-Control-Request-Headers", "").split(","))
        allowed = [name for name in asked if name.lower() in self._allowed or self._of_apis(name.lower())]
        self._metrics.requests[endpoint.name, "OPTIONS", 204] += 1
        return web.Response(
            status=204,
            headers={
                "Access-Control-Allow-Methods": METHODS,
                "Access-Control-Max-Age": str(self._max_age_s),
                **({"Access-Control-Allow-Headers": ", ".join(allowed)} if allowed else {}),
            },
        )


def _allowance(origin: str, credentials: bool) -> Headers:
    allowed = [
        _VARY,
        (b"Access-Control-Allow-Origin", origin.encode()),
        (b"Access-Control-Expose-Headers", EXPOSED.encode()),
    ]
    return [*allowed, (b"Access-Control-Allow-Credentials", b"true")] if credentials else allowed
