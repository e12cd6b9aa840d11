"""Streams of any caller, for operators: listed, described, followed, cancelled and shared.

The paths are those of the data port with `/admin` in place of `/v1`. Callers must not see this; it is for operators.
"""

import time

from aiohttp import web

from proxy.access.callers import Caller
from proxy.access.grants import Grants
from proxy.server.following.control import read_terms
from proxy.server.following.follow import Follow
from proxy.server.json_responses import answer
from proxy.stream.hub import Hub
from proxy.telemetry.overview import Overview
from proxy.telemetry.stream_object import describe_to_operators, stream_headers


class AllStreams:
    """The handlers of `/admin/streams`."""

    def __init__(self, hub: Hub, follow: Follow, grants: Grants, overview: Overview) -> None:
        self._hub = hub
        self._overview = overview
        self._follow = follow
        self._grants = grants

    async def listed(self, request: web.BaseRequest, caller: Caller) -> web.Response:
        """GET /admin/streams"""
        streams = [describe_to_operators(stream) for stream in self._hub]
        return answer({"object": "list", "data": streams, "has_more": False})

    async def follow(self, request: web.BaseRequest, caller: Caller, ident: str) -> web.StreamResponse:
        """GET /admin/streams/{ident}: in any mode and from any cursor, as on the data port."""
        return await self._follow.stream(request, self._hub.find(ident, None))

    async def head(self, request: web.BaseRequest, caller: Caller, ident: str) -> web.Response:
        """HEAD /admin/streams/{ident}"""
        return web.Response(headers=stream_headers(self._hub.find(ident, None)))

    async def info(self, request: web.BaseRequest, caller: Caller, ident: str) -> web.Response:
        """GET /admin/streams/{ident}/info"""
        return answer(self._overview.detail(self._hub.find(ident, None), time.monotonic()))

    async def cancel(self, request: web.BaseRequest, caller: Caller, ident: str) -> web.Response:
        """POST /admin/streams/{ident}/cancel; idempotent. The stream has ended when the response is sent."""
        stream = self._hub.find(ident, None)
        stream.cancel()
        return answer(self._overview.detail(stream, time.monotonic()))

    async def share(self, request: web.BaseRequest, caller: Caller, ident: str) -> web.Response:
        """POST /admin/streams/{ident}/share: issue a token, for a URL of the data port."""
        stream = self._hub.find(ident, None)
        self._grants.check_signs()
        rights, expires_in_s = await read_terms(request, self._grants.ttl_s)
        return answer(self._grants.share(stream.id, rights, expires_in_s))
