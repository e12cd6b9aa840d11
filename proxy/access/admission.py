"""The one door: who sent a request, what it may have, and whether there is room for it.

Each request is admitted once, where its path is found, and its handler is given the caller. What depends on more than
the path is asked here, too: by a generation when its options are known, by a follower when its response is to begin.
"""

import math
from enum import Enum

from aiohttp import web

from proxy.access.callers import Caller, Callers
from proxy.access.capabilities import INFO, READ
from proxy.access.grants import Grants
from proxy.stream.hub import ANYONE, Hub
from proxy.stream.stream import Stream
from proxy.wire.errors import RequestError, UnknownStream


class Needs(Enum):
    """What a caller must be to have an endpoint."""

    NOTHING = 0
    """Anybody: health, or where nothing is served."""
    CAPABILITY = 1
    """Anybody: the stream must be its own, or it brings a capability for it; `Admission.find` decides."""
    ASKING = 2
    """One that may ask the upstream."""
    OWNING = 3
    """One that has streams of its own."""


class Admission:
    """Admits requests."""

    def __init__(self, callers: Callers, grants: Grants, hub: Hub, *, shares_bodies: bool = False) -> None:
        """`shares_bodies`: identical generations of a caller that run at once share a call."""
        self._callers = callers
        self._grants = grants
        self._hub = hub
        self._shares_bodies = shares_bodies

    def admit(self, request: web.BaseRequest, needs: Needs) -> Caller:
        """Return the caller of a request. Raises: Unauthorised, MissingRight."""
        caller = self._callers.caller(request.headers)
        if needs is Needs.ASKING:
            caller.check_may_ask()
        elif needs is Needs.OWNING:
            caller.check_owns_streams()
        return caller

    def admit_generation(self, caller: Caller, idempotent: bool, named: bool, follows: bool) -> bool:
        """Return whether a generation shares its call with others of its caller, when there is room for it.

        `idempotent` and `named`: it has an Idempotency-Key, a Stream-Key; `follows`: its client waits for the answer.
        To be asked before the body is read. Raises: Unauthorised, for what takes streams of one's own; Overloaded.
        """
        if idempotent or named or not (follows or self._grants):  # without a token nobody could have the answer later
            caller.check_owns_streams()
        shares = idempotent or (self._shares_bodies and caller.owns_streams)
        if not shares:  # before the body is read; a call that is there already needs no more room
            self._hub.check_room()
        if follows:
            self._hub.check_room_to_follow()
        return shares

    def admit_follower(self, stream: Stream | None = None) -> None:
        """Raises: Overloaded, when too many follow all streams, or this one. To be asked before a response begins."""
        self._hub.check_room_to_follow(stream)

    def find(self, request: web.BaseRequest, caller: Caller, ident: str, right: str) -> tuple[Stream, float]:
        """Return a stream of the caller's, or one the request has a capability for; and until when, in monotonic s.

        A caller needs no capability for streams of its own: what else it brings is not looked at.
        Raises: UnknownStream, Unauthorised, InvalidCapability, ExpiredCapability, MissingRight.
        """
        refused: RequestError | None = None
        if caller.shows_key or not self._grants:
            try:
                return self._own(caller, ident, right), math.inf
            except RequestError as error:
                refused = error
        until = self._grants.until(request, ident, right)
        if until is not None:
            return self._hub.find(ident, None), until
        if refused is not None:
            raise refused
        return self._own(caller, ident, right), math.inf

    def _own(self, caller: Caller, ident: str, right: str) -> Stream:
        """Return a stream that is a caller's own, or, to be read, everybody's."""
        if right in (READ, INFO) and caller.may_ask:
            try:
                return self._hub.find(ident, ANYONE)
            except UnknownStream:
                pass
        caller.check_owns_streams()
        return self._hub.find(ident, caller.digest)
