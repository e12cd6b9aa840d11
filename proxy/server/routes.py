"""Routing: finds the handler of a request, has the request admitted, and calls the handler.

For aiohttp's low-level server. Not web.Application: its router, match objects and signals take 13 us a request, half as
much as the server below them (measured by E of the load harness).
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

import aiohttp
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from proxy.access.admission import Needs
from proxy.access.callers import Caller
from proxy.dialects.dialect import Dialect
from proxy.downstream.connection import ERROR_TO_SEND, UNPARSED
from proxy.downstream.response import ALLOWANCE, RESPONSE, Downstream
from proxy.server.json_responses import refuse
from proxy.stream.faults import log_fault
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.request_log import CLIENT_GONE, REQUEST_ID, new_request_id, request_id
from proxy.wire import json_text
from proxy.wire.errors import InternalError, ProxyError, UnknownRoute
from proxy.wire.http import origin_form

Handler = Callable[..., Awaitable[web.StreamResponse]]
ANY: Final = "*"
_NO_ARGUMENTS: Final[dict[str, str]] = {}


class Endpoint(NamedTuple):
    """A handler, the label of its requests in metrics, the dialect of its errors, and what it requires of callers."""

    handler: Handler
    name: str
    dialect: Dialect
    needs: Needs


class Routes:
    """Maps paths to endpoints. Exact paths are tried first, then patterns in the order they were added.

    A pattern's `{name}` matches one segment, which is passed to the handler, unquoted, as an argument of that name;
    a pattern that ends with a slash matches all paths below it.
    """

    def __init__(
        self,
        admit: Callable[[web.BaseRequest, Needs], Caller],
        metrics: Metrics,
        dialect: Dialect,
        limited: Callable[[Handler, str, Dialect, Needs], Handler] | None = None,
    ) -> None:
        """`admit` is `Admission.admit`; `dialect` is that of errors for paths that are not served.

        `limited` is `Admission.limited`, which returns the handler that keeps limits; None: callers have none.
        """
        self._admit = admit
        self._limited = limited
        self._metrics = metrics
        self._exact: dict[tuple[str, str], Endpoint] = {}
        self._patterns: list[tuple[str, re.Pattern[str], Endpoint]] = []
        self.paths: list[tuple[str, str]] = []  # all methods and paths, as they were added
        self._nowhere = Endpoint(_unknown, "none", dialect, Needs.NOTHING)

    def add(
        self, method: str, path: str, handler: Handler, name: str, dialect: Dialect, needs: Needs = Needs.UPSTREAM
    ) -> None:
        """Serve `path` with a handler, called with the request and its caller. `method` may be ANY."""
        self.paths.append((method, path))
        if self._limited is not None:
            handler = self._limited(handler, name, dialect, needs)
        endpoint = Endpoint(handler, name, dialect, needs)
        if "{" not in path and not path.endswith("/") and method != ANY:
            self._exact[method, path] = endpoint
            return
        pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(path))
        self._patterns.append((method, re.compile(pattern + (".*" if path.endswith("/") else "")), endpoint))

    def find(self, method: str, target: str) -> tuple[Endpoint, dict[str, Any]]:
        """Return the endpoint of a request target, and the handler's arguments from its path."""
        endpoint = self._exact.get((method, target))
        if endpoint is not None:
            return endpoint, {}
        path = origin_form(target).partition("?")[0]
        endpoint = self._exact.get((method, path))
        if endpoint is not None:
            return endpoint, {}
        for served, pattern, endpoint in self._patterns:
            match = pattern.fullmatch(path) if served in (method, ANY) else None
            if match is not None:
                return endpoint, {name: unquote(value) for name, value in match.groupdict().items()}
        return self._nowhere, {}

    def refuse_unparsed(self, method: str, target: str, error: ProxyError) -> bytes:
        """Count a request that could not be parsed; return the error in the dialect of its path."""
        endpoint, _ = self.find(method, target)
        self._metrics.rejected[error.kind] += 1
        self._metrics.requests[endpoint.name, UNPARSED, error.status] += 1
        return json_text.written(endpoint.dialect.frames.error_body(error))

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Admit a request, call its handler, and count it; respond to a ProxyError in the endpoint's dialect."""
        method, target = request.method, request.raw_path
        endpoint, arguments = self._exact.get((method, target)), _NO_ARGUMENTS
        if endpoint is None:
            endpoint, arguments = self.find(method, target)
        handler, name, dialect, needs = endpoint
        status = CLIENT_GONE
        try:
            if request._state and ERROR_TO_SEND in request:
                raise request[ERROR_TO_SEND]
            caller = self._admit(request, needs)
            response = await (handler(request, caller, **arguments) if arguments else handler(request, caller))
            status = response.status
        except ProxyError as error:
            self._metrics.rejected[error.kind] += 1
            response = _cut(request, error, dialect)
            status = response.status
            error.drop_traceback()
        except (
            OSError,
            aiohttp.ClientError,
            HttpProcessingError,
        ):  # the client disconnected, or sent what can't be parsed
            raise
        except Exception as fault:
            log_fault(f"the answer to a request of {name}", fault)
            response = _cut(request, InternalError(), dialect)
            status = response.status
        except asyncio.CancelledError:
            begun = request.get(RESPONSE)
            status = CLIENT_GONE if begun is None else begun.status
            if ERROR_TO_SEND not in request:
                raise
            response = self._ended(request, dialect)
            status = response.status
        finally:
            if status:  # not handed over to another process, which counts it
                self._metrics.requests[name, method, status] += 1
        if self._limited is not None and isinstance(response, web.Response):  # any other has sent its head
            for header, value in request.get(ALLOWANCE, ()):
                response.headers[header.decode()] = value.decode()
        if not request.content.is_eof():  # aiohttp reads the rest; the task that sent it upstream ends in another turn
            await self._turn(request)
        return response

    async def _turn(self, request: web.BaseRequest) -> None:
        """Let the event loop turn. If `Connection.end_request` ends the request meanwhile, it has its response."""
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            if ERROR_TO_SEND not in request:
                raise
            _uncancel()

    def _ended(self, request: web.BaseRequest, dialect: Dialect) -> web.StreamResponse:
        """Return the response to a request whose handler was cancelled by `Connection.end_request`."""
        _uncancel()
        error = request[ERROR_TO_SEND]
        self._metrics.rejected[error.kind] += 1
        return _cut(request, error, dialect)


def _uncancel() -> None:
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()


def _cut(request: web.BaseRequest, error: ProxyError, dialect: Dialect) -> web.StreamResponse:
    """Return an error response, or, if the response has begun already, break it off and return it."""
    begun: Downstream | None = request.get(RESPONSE)
    if begun is None:
        response = refuse(error, dialect)
        response.headers[REQUEST_ID] = request_id(request) or new_request_id()
        return response
    if not begun.ended:
        begun.abort(b"")
    return begun.response


async def _unknown(request: web.BaseRequest, caller: Caller) -> web.StreamResponse:
    path = request.raw_path.partition("?")[0]
    raise UnknownRoute(f"nothing is served at {request.method} {path[:100]}")
