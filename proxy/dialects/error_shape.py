"""The format of errors that OpenAI's clients read; the proxy also uses it where the API is unknown."""

from typing import Any

import orjson

from proxy.wire.errors import ProxyError, RequestError


def error_body(error: ProxyError) -> dict[str, Any]:
    """Return the JSON body of an error response."""
    kind = "invalid_request_error" if isinstance(error, RequestError) else "server_error"
    return {"error": {"message": error.message, "type": kind, "param": None, "code": error.code}}


def error_data(message: str, code: str) -> bytes:
    """Return the data of the event that ends a failed stream."""
    return orjson.dumps({"error": {"message": message, "type": "stream_error", "code": code}})
