"""The optional log of requests, one record for each when its response has ended; and the ids that requests have.

As with streams: names and numbers, never a query, a body, a key or a token; a client's own key of a stream is left out
of the path. While it is off, it is not there and costs nothing.
"""

import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web

from proxy.downstream.response import SENT
from proxy.telemetry.log_lines import log_line
from proxy.telemetry.log_records import log, record, spell

CLIENT_GONE: Final = 499  # nginx's status for a client that disconnected before its response began
REQUEST_ID: Final = "X-Request-Id"
_IDENT: Final = re.compile("[!-~]{1,128}")
_KEY: Final = re.compile("(?<=/keys/)[^/]+")
Serve = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def request_id(request: web.BaseRequest) -> str:
    """Return the id that a client, or a proxy before this one, has given a request; "" if it has none that is one."""
    ident = request.headers.get(REQUEST_ID, "")
    return ident if not ident or _IDENT.fullmatch(ident) else ""


def new_request_id() -> str:
    """Return an id for a request that has none."""
    return f"req_{secrets.token_hex(12)}"


class RequestLog:
    """Serves requests, and logs each."""

    def __init__(self, serve: Serve, client_address: Callable[[web.BaseRequest], str], *, as_fields: bool) -> None:
        """`client_address` returns the address of a request's client. `as_fields`: for a log of JSON, not as a line."""
        self._serve = serve
        self._client_address = client_address
        self._as_fields = as_fields

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Serve a request, and log it when its response has ended."""
        began_at, client = time.monotonic(), self._client_address(request)
        response: web.StreamResponse | None = None
        request[SENT] = []
        try:
            response = await self._serve(request)
            return response
        finally:
            is_elsewhere = response is not None and not response.status  # handed over to another process, which logs it
            if log.isEnabledFor(logging.INFO) and not is_elsewhere:
                self._log(_fields(request, response, client, time.monotonic() - began_at))

    def _log(self, fields: dict[str, Any]) -> None:
        if self._as_fields:
            log.handle(record("request", time.time(), fields))
            return
        words = " ".join(f"{name}={spell(None if value is None else str(value))}" for name, value in fields.items())
        log_line(f"request {words}")


def _fields(
    request: web.BaseRequest, response: web.StreamResponse | None, client: str, seconds: float
) -> dict[str, Any]:
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in request[SENT]}
    if response is not None:
        headers |= {name.lower(): value for name, value in response.headers.items()}
    return {
        "method": request.method,
        "path": _KEY.sub("*", request.raw_path.partition("?")[0]),
        "status": CLIENT_GONE if response is None else response.status,
        "duration_s": round(seconds, 3),
        "client": client or None,
        "request_id": request_id(request) or headers.get(REQUEST_ID.lower()),
        "stream": headers.get("stream-id"),
    }
