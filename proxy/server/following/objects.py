"""Responses as objects with ids: fetched, resumed, cancelled and deleted by the paths of their API.

The upstream has none of this, or only a part. What a stream's log and its reader hold is enough for all of it, as long
as the stream is kept. What is not kept here is asked of the upstream, if the request goes there with its caller's key.
"""

from collections import OrderedDict

from aiohttp import web

from proxy.access.callers import Caller
from proxy.access.response_ids import LONGEST, GivenIds, find_response, item_ids, response_id
from proxy.dialects.dialect import Objects
from proxy.dialects.route import Route
from proxy.server.directory import Directory
from proxy.server.following.follow import Follow
from proxy.server.following.place import find_place
from proxy.server.pass_through import PassThrough
from proxy.server.response_object import answer_document, answer_object
from proxy.stream.hub import Hub
from proxy.stream.log import NO_FRAME, FrameLog
from proxy.stream.stream import Stream
from proxy.wire.errors import BadRequest, NumberBeyond, OffsetGone, UnknownResponse

_DELETED = 10_000  # ids that are remembered, so that they don't pass upstream
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False, "": False}


class ObjectRequests:
    """The handlers of the paths below a generation's, each with the id of a response."""

    def __init__(
        self,
        hub: Hub,
        follow: Follow,
        passing: PassThrough,
        given: GivenIds | None,
        directory: Directory | None = None,
    ) -> None:
        """`given`: the ids of responses that callers were given.

        None: there is one upstream, and their own keys go there, so it knows what is theirs. `directory` finds streams
        of other processes; None: there are no others.
        """
        self._hub = hub
        self._follow = follow
        self._passing = passing
        self._given = given
        self._directory = directory
        self._deleted: OrderedDict[tuple[bytes, str], None] = OrderedDict()

    async def fetch(self, route: Route, request: web.BaseRequest, caller: Caller, ident: str) -> web.StreamResponse:
        """GET {ident}: the object as it is now; with `stream=true` its events, after number `starting_after`."""
        streams = _boolean(request, "stream")
        stream = self._find(route, caller, ident)
        if stream is None and streams:
            raise _unknown(ident)
        if stream is None:
            return await self.other(route, request, caller, ident)
        if not streams or stream.kept_head is not None:
            return answer_object(stream)
        offset = await find_place(stream, lambda: self._offset(route, stream, request))
        return await self._follow.events_after(request, stream, offset)

    async def cancel(self, route: Route, request: web.BaseRequest, caller: Caller, ident: str) -> web.StreamResponse:
        """POST {ident}/cancel: end the response, if it goes on, and return its object."""
        stream = self._find(route, caller, ident)
        if stream is None:
            return await self.other(route, request, caller, ident)
        if stream.writer is not None and stream.outcome is None:
            await self._stop(stream)
        return answer_object(stream)

    async def delete(self, route: Route, request: web.BaseRequest, caller: Caller, ident: str) -> web.StreamResponse:
        """DELETE {ident}: end the response, if it goes on, and forget it."""
        stream = self._find(route, caller, ident)
        if stream is None:
            return await self.other(route, request, caller, ident)
        await self._stop(stream)
        names, items = {ident, stream.id, response_id(stream) or ident}, item_ids(stream)
        self._hub.forget(stream)
        if self._directory is not None:
            await self._directory.delete(stream, *names, *items)
        objects = _objects(route)
        for name in names:
            self._deleted[caller.digest, name] = None
        if self._given is not None:
            self._given.remove(caller.digest, {*names, *items})
        while len(self._deleted) > _DELETED:
            self._deleted.popitem(last=False)
        return answer_document(objects.deleted(ident))

    async def other(
        self, route: Route, request: web.BaseRequest, caller: Caller, ident: str, more: str = ""
    ) -> web.StreamResponse:
        """Any other request about one: pass it upstream, if its caller may name it."""
        if len(ident) > LONGEST:
            raise _too_long(ident)
        if await self._is_deleted(caller.digest, ident):
            raise _unknown(ident)
        upstream = "" if self._given is None else await self._upstream_of(self._given, route, caller.digest, ident)
        return await self._passing.serve(route, request, caller, alone=upstream)

    async def _is_deleted(self, caller: bytes, ident: str) -> bool:
        """Return whether a caller has deleted the response of an id, here or at another node."""
        if (caller, ident) in self._deleted:
            return True
        return self._directory is not None and await self._directory.is_deleted(caller, ident)

    async def _upstream_of(self, given: GivenIds, route: Route, caller: bytes, ident: str) -> str:
        """Return the upstream that made a response, "" if none is known. Raises: UnknownResponse."""
        made_by = given.find(caller, route.dialect, ident)
        if made_by is None and self._directory is not None:
            made_by = await self._directory.made_by(caller, ident)
        return given.allowed(ident, made_by)

    def knows(self, caller: bytes, ident: str) -> bool:
        """Return whether a caller's response of this id runs, is kept or was deleted here, or was given to the caller.

        Or one with an item of this id. Asked where several workers serve one machine.
        """
        return (caller, ident) in self._deleted or self.made_by(caller, ident) is not None

    def made_by(self, caller: bytes, ident: str) -> str | None:
        """Return the upstream that made a caller's response, or an item of it; "" if that is not known yet.

        None, if nothing of this id was made here.
        """
        if self._given is not None and (made_by := self._given.made_by(caller, ident)) is not None:
            return made_by
        mine = (one for one in self._hub if one.info.caller == caller and one.dialect.objects is not None)
        found = (one.upstream for one in mine if find_response((one,), caller, one.dialect, ident, or_item=True))
        return next(found, None)

    async def _stop(self, stream: Stream) -> None:
        """Cancel a stream, if it runs, and wait until it has ended."""
        stream.cancel()
        if self._directory is not None:
            await self._directory.end(stream)

    def _find(self, route: Route, caller: Caller, ident: str) -> Stream | None:
        """Return the stream of a response of the caller's, by its own id or by the upstream's.

        Raises: UnknownResponse, if it can't be an id.
        """
        if len(ident) > LONGEST:
            raise _too_long(ident)
        return find_response(self._hub.found(), caller.digest, route.dialect, ident) if caller.owns_streams else None

    def _offset(self, route: Route, stream: Stream, request: web.BaseRequest) -> int:
        """Return the offset of the first event to send. Raises: BadRequest, NumberBeyond, OffsetGone."""
        text = request.query.get("starting_after", "-1")
        if not (text == "-1" or (text.isascii() and text.isdecimal() and len(text) <= 18)):
            raise BadRequest(f"starting_after {text[:60]!r} is not the sequence number of an event")
        number, log, objects = int(text), stream.log, _objects(route)
        offset = _offset_after(log, objects, number)
        if offset == log.start > 0:
            raise OffsetGone("the events after this number are gone in part", log.start + 1)
        if offset == log.end and number > _last_number(log, objects):
            return _offset_beyond(log, number)
        return offset


def _offset_after(log: FrameLog, objects: Objects, number: int) -> int:
    """Return the offset after the last frame with at most this number. The numbers in a log never fall."""
    low, high = log.start, log.end
    while low < high:
        middle = at = (low + high) // 2
        stated = None
        while at >= low and (stated := objects.number(log.frame(at))) is None:
            at -= 1
        if stated is None or stated <= number:
            low = middle + 1
        else:
            high = at
    return low


def _offset_beyond(log: FrameLog, number: int) -> int:
    """Return the offset of a client whose last event has a higher number than all in the log. Raises: NumberBeyond."""
    if log.is_cut_short and number != NO_FRAME:  # an event that is lost: it is told so
        return log.end
    if log.ending is None or (number == NO_FRAME and not log.is_cut_short):
        raise NumberBeyond(f"starting_after {number} is beyond the events there are")
    return log.ending_seq  # it has had the event with which the proxy ended a failed response, too


def _last_number(log: FrameLog, objects: Objects) -> int:
    """Return the number of the last frame that has one; -1 without any."""
    numbers = (objects.number(log.frame(at)) for at in reversed(range(log.start, log.end)))
    return next((number for number in numbers if number is not None), -1)


def _objects(route: Route) -> Objects:
    objects = route.dialect.objects
    assert objects is not None  # else these handlers are not served
    return objects


def _boolean(request: web.BaseRequest, name: str) -> bool:
    text = request.query.get(name, "")
    if text.lower() not in _BOOLEANS:
        raise BadRequest(f"{name} {text[:60]!r} is neither true nor false")
    return _BOOLEANS[text.lower()]


def _unknown(ident: str) -> UnknownResponse:
    return UnknownResponse(f"no response of yours is running or kept here under the id {ident[:100]!r}")


def _too_long(ident: str) -> UnknownResponse:
    return UnknownResponse(f"no response has an id of {len(ident)} characters; {LONGEST} are allowed")
