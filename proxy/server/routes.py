"""What is served where: the table of paths, and the way from a request to its handler.

aiohttp's low-level server, and a table of our own. Not web.Application: its router, match objects and signals take
13 us a request, as much as half of the whole server below them (E of the load harness).
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from urllib.parse import unquote

import orjson
from aiohttp import web

from proxy.access.admission import Admission, Needs
from proxy.access.callers import Caller
from proxy.dialects.dialect import Dialect
from proxy.downstream.listener import REFUSED
from proxy.downstream.response import RESPONSE
from proxy.server.json_responses import refuse
from proxy.telemetry.metrics import Metrics
from proxy.wire.errors import ProxyError, UnknownRoute
from proxy.wire.http import origin_form

Handler = Callable[..., Awaitable[web.StreamResponse]]
ANY = "*"
_UNREAD = "UNKNOWN"  # the method under which requests are counted that could not be read
CLIENT_GONE = 499  # nginx's number for a client that left before its answer began


class Endpoint(NamedTuple):
    """A handler, the label its requests are counted under, the dialect its errors are told in, and whom it is for."""

    handler: Handler
    name: str
    dialect: Dialect
    needs: Needs


class Routes:
    """Paths to endpoints. Exact paths are found first, then patterns in the order they were added.

    A pattern's `{name}` stands for one segment, and is handed to the handler, unquoted, as an argument of that name;
    a pattern that ends with a slash stands for everything below it.
    """

    def __init__(self, admission: Admission, metrics: Metrics, dialect: Dialect) -> None:
        """`dialect` is that of requests for which nothing is served."""
        self._admit = admission.admit
        self._metrics = metrics
        self._exact: dict[tuple[str, str], Endpoint] = {}
        self._patterns: list[tuple[str, re.Pattern[str], Endpoint]] = []
        self._nowhere = Endpoint(_unknown, "none", dialect, Needs.NOTHING)

    def add(
        self, method: str, path: str, handler: Handler, name: str, dialect: Dialect, needs: Needs = Needs.ASKING
    ) -> None:
        """Serve `path` with a handler; `method` may be ANY. It is called with a request and its caller."""
        endpoint = Endpoint(handler, name, dialect, needs)
        if "{" not in path and not path.endswith("/") and method != ANY:
            self._exact[method, path] = endpoint
            return
        pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(path))
        self._patterns.append((method, re.compile(pattern + (".*" if path.endswith("/") else "")), endpoint))

    def find(self, method: str, target: str) -> tuple[Endpoint, dict[str, Any]]:
        """Return the endpoint of a request target, and the arguments its path holds."""
        endpoint = self._exact.get((method, target))
        if endpoint is not None:
            return endpoint, {}
        path = origin_form(target).partition("?")[0]
        endpoint = self._exact.get((method, path))
        if endpoint is not None:
            return endpoint, {}
        for wanted, pattern, endpoint in self._patterns:
            match = pattern.fullmatch(path) if wanted in (method, ANY) else None
            if match is not None:
                return endpoint, {name: unquote(value) for name, value in match.groupdict().items()}
        return self._nowhere, {}

    def refuse_unread(self, method: str, target: str, error: ProxyError) -> bytes:
        """Count a request that could not be read; return the error in the dialect of its path."""
        endpoint, _ = self.find(method, target)
        self._metrics.rejected[error.code] += 1
        self._metrics.requests[endpoint.name, _UNREAD, error.status] += 1
        return orjson.dumps(endpoint.dialect.frames.error_body(error))

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Admit and answer a request; count it, and tell a ProxyError in the endpoint's dialect."""
        method = request.method
        (handler, name, dialect, needs), arguments = self.find(method, request.raw_path)
        status = CLIENT_GONE
        try:
            if len(request) and REFUSED in request:
                raise request[REFUSED]
            caller = self._admit(request, needs)
            response = await (handler(request, caller, **arguments) if arguments else handler(request, caller))
            status = response.status
        except ProxyError as error:
            self._metrics.rejected[error.code] += 1
            response = refuse(error, dialect)
            status = error.status
            error.drop_traceback()
        except asyncio.CancelledError:
            begun = request.get(RESPONSE)
            status = CLIENT_GONE if begun is None else begun.status
            raise
        finally:
            self._metrics.requests[name, method, status] += 1
        if not request.content.is_eof():  # aiohttp reads the rest; who sent it up lets go of it in a turn of its own
            await asyncio.sleep(0)
        return response


async def _unknown(request: web.BaseRequest, caller: Caller) -> web.StreamResponse:
    path = request.raw_path.partition("?")[0]
    raise UnknownRoute(f"nothing is served at {request.method} {path[:100]}")
