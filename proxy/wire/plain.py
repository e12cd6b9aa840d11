"""Event streams of anyone's: no generated text in them, and nothing known of their data."""

from typing import Any

import orjson

from proxy.wire.dialect import Summary, Text
from proxy.wire.errors import ProxyError, RequestError


class Plain:
    """The dialect of routes of the user's own. What it says itself has OpenAI's shape of an error."""

    name = "sse"

    def generated(self, frame: bytes) -> tuple[str | None, Text | None]:
        return None, None

    def thinking(self, frame: bytes) -> bool:
        return False

    def terminal(self, frame: bytes) -> bool:
        return False

    def summary(self, frames: list[bytes]) -> Summary:
        return Summary()

    def error_body(self, error: ProxyError) -> dict[str, Any]:
        kind = "invalid_request_error" if isinstance(error, RequestError) else "server_error"
        return {"error": {"message": error.message, "type": kind, "param": None, "code": error.code}}

    def error_frame(self, message: str, code: str, ident: bytes) -> bytes:
        error = {"error": {"message": message, "type": "stream_error", "code": code}}
        return b"event: error\ndata: %b\nid: %b\n\n" % (orjson.dumps(error), ident)
