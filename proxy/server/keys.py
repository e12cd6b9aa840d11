"""Control by key: what is told of a caller's newest stream under a `Stream-Key`, and its cancelling.

A client that acts on a key may mean a stream that is no longer the newest: with `If-Match` it says which one it
means, the stream's id being a strong entity tag (RFC 9110 section 13.1.1).
"""

import re

from aiohttp import web

from proxy.access.callers import Auth
from proxy.server.follow import stop
from proxy.server.follow_request import seconds
from proxy.server.json_responses import answer
from proxy.stream.hub import Hub
from proxy.stream.stream import Stream
from proxy.telemetry.stream_object import describe, stream_headers
from proxy.wire.errors import BadRequest, OtherStream, UnknownStream

_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_TAGS = re.compile(rf"{_TAG}(?:\s*,\s*{_TAG})*")


class Keys:
    """The handlers of `/v1/keys/{key}`, but for following."""

    def __init__(self, hub: Hub, auth: Auth) -> None:
        self._hub = hub
        self._auth = auth

    async def info(self, request: web.BaseRequest, key: str) -> web.StreamResponse:
        """GET /v1/keys/{key}"""
        stream = self._newest(request, key)
        return answer(describe(stream), headers={"ETag": _tag(stream), "Cache-Control": "no-store"})

    async def head(self, request: web.BaseRequest, key: str) -> web.StreamResponse:
        """HEAD /v1/keys/{key}"""
        stream = self._newest(request, key)
        return web.Response(headers={**stream_headers(stream), "ETag": _tag(stream)})

    async def cancel(self, request: web.BaseRequest, key: str) -> web.StreamResponse:
        """POST /v1/keys/{key}/cancel; idempotent. The end is there before the answer, whatever `wait` allows."""
        stream = self._newest(request, key)
        seconds(request.query.get("wait"), "wait", 0)
        if "If-Match" in request.headers:
            _check_match(stream, ",".join(request.headers.getall("If-Match")).strip())
        stop(stream)
        return answer(describe(stream), headers={"ETag": _tag(stream)})

    def _newest(self, request: web.BaseRequest, key: str) -> Stream:
        caller = self._auth.caller(request.headers.get("Authorization", ""))
        stream = self._hub.find_key(key, caller)
        if stream is None:
            raise UnknownStream(f"no stream of yours is running or kept under the key {key!r}")
        return stream


def _tag(stream: Stream) -> str:
    return f'"{stream.id}"'


def _check_match(stream: Stream, wanted: str) -> None:
    """Raises: BadRequest, OtherStream."""
    if wanted == "*":
        return
    if not _TAGS.fullmatch(wanted):
        raise BadRequest('If-Match takes stream ids in double quotes, as in "st_...", or *')
    if _tag(stream) not in re.findall(_TAG, wanted):  # a weak tag keeps its W/, so that it is never equal
        raise OtherStream(f"the newest stream under this key is {stream.id}, and not among those in If-Match")
