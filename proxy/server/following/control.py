"""Control of streams, by id or by key: showing, listing, cancelling, deleting and sharing them.

A client that acts on a key may mean a stream that is no longer the newest: with `If-Match` it says which one it
means, the stream's id being a strong entity tag (RFC 9110 section 13.1.1).
"""

import re
from collections.abc import Iterable
from typing import Any, Final

import orjson
from aiohttp import web

from proxy.access.admission import Admission
from proxy.access.callers import Caller
from proxy.access.capabilities import CANCEL, INFO, READ, RIGHTS
from proxy.access.grants import Grants
from proxy.downstream.request_body import read_body
from proxy.server.directory import Directory
from proxy.server.following.request import seconds
from proxy.server.json_responses import answer
from proxy.stream.hub import Hub
from proxy.stream.stream import Stream
from proxy.telemetry.stream_object import describe, stream_headers
from proxy.wire.errors import BadRequest, OtherStream, UnknownStream

_TAG: Final = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_TAGS: Final = re.compile(rf"{_TAG}(?:\s*,\s*{_TAG})*")
_SHARE_BYTES: Final = 4096


class Control:
    """The handlers of `/v1/streams` and `/v1/keys`, except for following."""

    def __init__(self, hub: Hub, admission: Admission, grants: Grants, directory: Directory | None = None) -> None:
        """`directory` finds streams of other processes; None: there are no others."""
        self._hub = hub
        self._admission = admission
        self._grants = grants
        self._directory = directory

    async def listed(
        self, request: web.BaseRequest, caller: Caller, near: Iterable[tuple[float, dict[str, Any]]] = ()
    ) -> web.StreamResponse:
        """GET /v1/streams: the caller's own, newest first.

        `near`: those of other workers of this machine; when each began, and its description.
        """
        if self._directory is None:
            return answer_list([*streams_of(self._hub, caller.digest), *near])
        here = [
            (stream.vitals.started_at, describe(stream))
            for stream in self._hub.found()
            if stream.info.caller == caller.digest
        ]
        mine = {one["id"]: one for _, one in sorted([*here, *near], key=lambda one: -one[0])}
        elsewhere = {one["id"]: one for one in await self._directory.listed(caller.digest)}
        listed = sorted((elsewhere | mine).values(), key=lambda one: -one["created"])
        return answer({"object": "list", "data": listed, "has_more": False})

    # By id

    async def head(self, request: web.BaseRequest, caller: Caller, ident: str) -> web.StreamResponse:
        """HEAD /v1/streams/{ident}"""
        return web.Response(headers=stream_headers(self._find(request, caller, ident, READ)))

    async def info(self, request: web.BaseRequest, caller: Caller, ident: str) -> web.StreamResponse:
        """GET /v1/streams/{ident}/info"""
        return answer(describe(self._find(request, caller, ident, INFO)))

    async def cancel(self, request: web.BaseRequest, caller: Caller, ident: str) -> web.StreamResponse:
        """POST /v1/streams/{ident}/cancel; idempotent. The stream has ended when the response is sent."""
        stream = self._find(request, caller, ident, CANCEL)
        seconds(request.query.get("wait"), "wait", 0)
        await self._stop(stream)
        return answer(describe(stream))

    async def delete(self, request: web.BaseRequest, caller: Caller, ident: str) -> web.StreamResponse:
        """DELETE /v1/streams/{ident}: cancel and forget. Only for the stream's own caller."""
        stream = self._find(request, caller, ident, "delete")
        await self._stop(stream)
        self._hub.forget(stream)
        if self._directory is not None:
            await self._directory.delete(stream)
        return answer({"id": stream.id, "object": "stream.deleted", "deleted": True})

    async def share(self, request: web.BaseRequest, caller: Caller, ident: str) -> web.StreamResponse:
        """POST /v1/streams/{ident}/share: issue a token. Only for the stream's own caller, not for a token's holder."""
        stream = self._find(request, caller, ident, "share")
        self._grants.check_signs()
        rights, expires_in_s = await read_terms(request, self._grants.ttl_s)
        return answer(self._grants.share(stream.id, rights, expires_in_s), headers={"Cache-Control": "no-store"})

    # By key

    async def head_by_key(self, request: web.BaseRequest, caller: Caller, key: str) -> web.StreamResponse:
        """HEAD /v1/keys/{key}"""
        stream = self._newest(caller, key)
        return web.Response(headers={**stream_headers(stream), "ETag": _tag(stream)})

    async def info_by_key(self, request: web.BaseRequest, caller: Caller, key: str) -> web.StreamResponse:
        """GET /v1/keys/{key}"""
        stream = self._newest(caller, key)
        return answer(describe(stream), headers={"ETag": _tag(stream), "Cache-Control": "no-store"})

    async def cancel_by_key(self, request: web.BaseRequest, caller: Caller, key: str) -> web.StreamResponse:
        """POST /v1/keys/{key}/cancel, as by id."""
        stream = self._newest(caller, key)
        seconds(request.query.get("wait"), "wait", 0)
        if "If-Match" in request.headers:
            _check_match(stream, ",".join(request.headers.getall("If-Match")).strip())
        await self._stop(stream)
        return answer(describe(stream), headers={"ETag": _tag(stream)})

    async def _stop(self, stream: Stream) -> None:
        """Cancel a stream, if it runs, and wait until it has ended."""
        stream.cancel()
        if self._directory is not None:
            await self._directory.end(stream)

    def _find(self, request: web.BaseRequest, caller: Caller, ident: str, right: str) -> Stream:
        return self._admission.find(request, caller, ident, right)[0]

    def _newest(self, caller: Caller, key: str) -> Stream:
        stream = self._hub.keys.find(key, caller.digest)
        if stream is None:
            raise UnknownStream(f"no stream of yours is running or kept under the key {key!r}")
        return stream


def streams_of(hub: Hub, caller: bytes) -> list[tuple[float, dict[str, Any]]]:
    """Return when each of a caller's streams began, in monotonic seconds, and its description."""
    return [(stream.vitals.started_at, describe(stream)) for stream in hub if stream.info.caller == caller]


def answer_list(streams: Iterable[tuple[float, dict[str, Any]]]) -> web.Response:
    """Return the list of streams, newest first."""
    described = [stream for _, stream in sorted(streams, key=lambda one: -one[0])]
    return answer({"object": "list", "data": described, "has_more": False})


async def read_terms(request: web.BaseRequest, ttl_s: int) -> tuple[tuple[str, ...], int]:
    """Return the rights that a request to share asks for, in the order of RIGHTS, and for how many seconds.

    Raises: BadRequest.
    """
    body = await read_body(request, _SHARE_BYTES)
    try:
        asked = orjson.loads(body) if body.strip() else {}
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error.msg}") from None
    if not isinstance(asked, dict) or not asked.keys() <= {"rights", "expires_in"}:
        raise BadRequest('the body is not a JSON object of "rights" and "expires_in" alone')
    rights, expires_in_s = asked.get("rights", [READ, INFO]), asked.get("expires_in", ttl_s)
    if not isinstance(rights, list) or not rights or any(right not in RIGHTS for right in rights):
        raise BadRequest(f"rights is not a list of one or more of: {', '.join(RIGHTS)}")
    if type(expires_in_s) is not int or expires_in_s < 1:  # not isinstance: True is an int
        raise BadRequest("expires_in is not a whole number of seconds, 1 or more")
    return tuple(right for right in RIGHTS if right in rights), expires_in_s


def _tag(stream: Stream) -> str:
    return f'"{stream.id}"'


def _check_match(stream: Stream, if_match: str) -> None:
    """Check an If-Match header against a stream. Raises: BadRequest, OtherStream."""
    if if_match == "*":
        return
    if not _TAGS.fullmatch(if_match):
        raise BadRequest('If-Match takes stream ids in double quotes, as in "st_...", or *')
    if _tag(stream) not in re.findall(_TAG, if_match):  # weak tags keep their W/, so they never match
        raise OtherStream(f"the newest stream under this key is {stream.id}, and not among those in If-Match")
