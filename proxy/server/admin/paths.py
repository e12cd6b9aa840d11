"""The paths of the admin port: adds each handler to `Routes` with its method and path.

A new path is added here. README.md and docs/console.md list them all.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from aiohttp import web

from proxy.access.admission import Needs
from proxy.access.callers import Caller
from proxy.access.operators import OperatorAccess
from proxy.access.pages import Pages
from proxy.dialects import table
from proxy.downstream.response import EXTRA
from proxy.server.admin.console_files import ConsoleFiles
from proxy.server.admin.form_requests import PREFIX
from proxy.server.admin.probes import described, healthy
from proxy.server.routes import Handler, Routes
from proxy.telemetry.metrics import Metrics

_OPEN, _TOKEN = Needs.NOTHING, Needs.IDENTITY
_STREAM = "/admin/streams/{ident}"
_HEADERS = (("X-Content-Type-Options", "nosniff"), ("Cross-Origin-Resource-Policy", "same-origin"))


class Handlers(NamedTuple):
    """What responds on the admin port, but for the health check and the console's files, which are always the same."""

    metrics: Handler
    ready: Handler
    listed: Handler  # all streams; the next five are of one
    follow: Handler
    head: Handler
    info: Handler
    cancel: Handler
    share: Handler
    events: Handler
    overview: Handler
    form: Handler  # the requests of the console's form


class AdminRoutes:
    """The routes of the admin port, with the headers that keep what they return from other pages."""

    def __init__(self, access: OperatorAccess, metrics: Metrics, handlers: Handlers) -> None:
        self.routes = Routes(access.admit, metrics, table.OWN)
        self._access = access
        self._pages = Pages(())  # those of this port alone, whatever cors.origins says of the other
        self._add_paths(handlers)
        self._add_console(ConsoleFiles(access))

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Have the routes respond, and add the headers."""
        request[EXTRA] = [(name.encode(), value.encode()) for name, value in _HEADERS]
        response = await self.routes(request)
        if isinstance(response, web.Response):  # any other has sent its head already
            response.headers.update(_HEADERS)
            response.headers.setdefault("Cache-Control", "no-store")
        return response

    def _add_paths(self, handlers: Handlers) -> None:
        for method, path, handler, needs in (
            ("GET", "/metrics", handlers.metrics, _OPEN),
            ("HEAD", "/metrics", handlers.metrics, _OPEN),
            ("GET", "/readyz", handlers.ready, _OPEN),
            ("HEAD", "/readyz", handlers.ready, _OPEN),
            ("GET", "/healthz", healthy, _OPEN),
            ("HEAD", "/healthz", healthy, _OPEN),
            ("GET", "/openapi.json", self._if_token(described), _OPEN),
            ("HEAD", "/openapi.json", self._if_token(described), _OPEN),
            ("GET", "/admin/streams", handlers.listed, _TOKEN),
            ("HEAD", "/admin/streams", handlers.listed, _TOKEN),
            ("GET", _STREAM, handlers.follow, _TOKEN),
            ("HEAD", _STREAM, handlers.head, _TOKEN),
            ("GET", f"{_STREAM}/info", handlers.info, _TOKEN),
            ("POST", f"{_STREAM}/cancel", handlers.cancel, _TOKEN),
            ("POST", f"{_STREAM}/share", handlers.share, _TOKEN),
            ("GET", "/admin/events", handlers.events, _TOKEN),
            ("GET", "/admin/overview", handlers.overview, _TOKEN),
            ("POST", f"{PREFIX}/", handlers.form, _TOKEN),
        ):
            self._add(method, path, handler, needs)

    def _add_console(self, console: ConsoleFiles) -> None:
        self._add("POST", "/admin/sign-in", console.sign_in, _OPEN)
        self._add("POST", "/admin/sign-out", console.sign_out, _OPEN)
        for path, handler in (("/console", console.page), ("/console/{name}", console.file)):
            for method in ("GET", "HEAD"):  # not only for own pages: a link from a runbook may lead here
                self.routes.add(method, path, self._if_token(handler), "admin", table.OWN, _OPEN)

    def _if_token(self, handler: Handler) -> Handler:
        """Return a handler of what holds no data, so that no token is needed, but there has to be one."""

        async def serve(request: web.BaseRequest, caller: Caller, **named: str) -> web.StreamResponse:
            self._access.check_open()
            return await handler(request, caller, **named)

        return serve

    def _add(self, method: str, path: str, handler: Callable[..., Any], needs: Needs) -> None:
        self.routes.add(method, path, self._pages.only(handler), "admin", table.OWN, needs)
