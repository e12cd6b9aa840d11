"""The proxy's own responses: JSON, and errors in the dialect of the route."""

from typing import Any

import orjson
from aiohttp import web

from proxy.dialects.dialect import Dialect
from proxy.wire.errors import Drained, MethodNotAllowed, OffsetGone, ProxyError, UpgradeRequired


def answer(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Return a JSON response."""
    return web.Response(
        body=orjson.dumps(body),
        status=status,
        headers=headers,
        content_type="application/json",
        charset="utf-8",
    )


def refuse(error: ProxyError, dialect: Dialect) -> web.Response:
    """Return an error response."""
    headers: dict[str, str] = {}
    body = dialect.frames.error_body(error)
    if error.status == 409 or error.retried:  # OpenAI's SDKs would retry, which can't help here
        headers["x-should-retry"] = "false"
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, OffsetGone):
        body["earliest"] = error.earliest
    if isinstance(error, UpgradeRequired):  # RFC 6455 section 4.2.2
        headers |= {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    if isinstance(error, MethodNotAllowed):  # RFC 9110 section 15.5.6
        headers["Allow"] = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
    response = answer(body, error.status, headers)
    if isinstance(error, Drained):  # the next request of this connection would be refused, too
        response.force_close()
    return response
