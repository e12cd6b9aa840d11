"""Admission of requests: who sent a request, what it may access, and whether the limits leave room for it.

`Routes` has each request admitted when its path has been found (`admit`), and gives its handler the caller. Handlers
call the other checks: `admit_generation` when the options of a generation have been read, `find` for a stream that a
path names, and `admit_follower` just before the response to a follower begins.

If callers have limits, `Routes` also has each handler behind `limited`, which keeps those that need no body; readers
of bodies check the rest by `account`. Without, handlers are as they are, and a request costs nothing more.

A new kind of caller is made in `callers`; a new requirement of a route is a member of `Needs` and a case of `admit`.
"""

import functools
import math
from collections.abc import Awaitable, Callable, Iterable
from enum import Enum

from aiohttp import web

from proxy.access.account import PLACE, Account
from proxy.access.accounts import Accounts
from proxy.access.callers import Caller, Callers
from proxy.access.capabilities import INFO, READ
from proxy.access.certificates import subject_of
from proxy.access.grants import Grants
from proxy.dialects.dialect import Dialect
from proxy.downstream.response import ALLOWANCE
from proxy.stream.hub import ANYONE, Hub
from proxy.stream.stream import Stream
from proxy.wire.errors import RequestError, UnknownStream

Handler = Callable[..., Awaitable[web.StreamResponse]]


class Needs(Enum):
    """What a route requires of a caller."""

    NOTHING = 0
    """Nothing: the health check, and paths that are not served."""
    CAPABILITY = 1
    """A stream of the caller's own, or a capability for the stream; `Admission.find` checks it."""
    UPSTREAM = 2
    """Permission to send requests upstream."""
    IDENTITY = 3
    """An identified caller: only such a caller can have streams of its own."""


class Admission:
    """Decides whether a request may be served, and for which caller."""

    def __init__(
        self,
        callers: Callers,
        grants: Grants,
        hub: Hub,
        *,
        shares_bodies: bool = False,
        accounts: Accounts | None = None,
        has_certificates: bool = False,
    ) -> None:
        """`shares_bodies`: identical generation requests of one caller share one upstream call while it runs.

        `accounts`: those of callers with limits, if there are any. `has_certificates`: clients may show certificates.
        """
        self.accounts = accounts
        self._has_certificates = has_certificates
        self._callers = callers
        self._grants = grants
        self._hub = hub
        self._shares_bodies = shares_bodies

    def admit(self, request: web.BaseRequest, needs: Needs) -> Caller:
        """Return the caller of a request. Raises: Unauthorised, MissingRight, Drained.

        While the process drains, nothing new is sent upstream; running streams can still be followed and cancelled.
        """
        if self._has_certificates:
            caller = self._callers.caller_with(request.headers, subject_of(request))
        else:
            caller = self._callers.caller(request.headers)
        if needs is Needs.UPSTREAM:
            if not caller.may_send:
                caller.check_may_send()
            self._hub.check_draining()
        elif needs is Needs.IDENTITY:
            caller.check_owns_streams()
        return caller

    def account(self, caller: Caller) -> Account | None:
        """Return the account of a caller, which has its limits; None if it has none."""
        return None if self.accounts is None or not caller.name else self.accounts.of(caller.digest)

    def limited(self, handler: Handler, name: str, dialect: Dialect, needs: Needs) -> Handler:
        """Return the handler of a route as it is called for callers with limits; `name` is that of the route."""
        if needs is Needs.NOTHING:
            return handler
        serve = self._serve_limited if needs is Needs.UPSTREAM else self._serve_known
        return functools.partial(serve, handler, name, dialect)

    async def _serve_known(
        self, handler: Handler, name: str, dialect: Dialect, request: web.BaseRequest, caller: Caller, **named: str
    ) -> web.StreamResponse:
        """Call a handler for a caller whose account may not have been opened yet."""
        if self.accounts is not None and caller.name:
            self.accounts.account(caller.name, caller.digest)
        return await handler(request, caller, **named)

    async def _serve_limited(
        self, handler: Handler, name: str, dialect: Dialect, request: web.BaseRequest, caller: Caller, **named: str
    ) -> web.StreamResponse:
        """Call a handler that sends a request upstream, if the limits of the caller leave room for it.

        Raises: NotAllowedForKey, LimitReached.
        """
        if self.accounts is None or not caller.name:
            return await handler(request, caller, **named)
        account = self.accounts.account(caller.name, caller.digest)
        account.check_route(name)
        if "ident" in named:  # about a response that there is: a caller may end one when nothing is left of its limits
            return await handler(request, caller, **named)
        looks_up = _looks_up(request, dialect)
        try:
            place = await account.place(looks_up=looks_up)
            if self.accounts.sums is not None:
                await self.accounts.sums.confirm(account, place, looks_up=looks_up)
        finally:  # a request that is refused is told so, too
            request[ALLOWANCE] = account.headers(dialect)
        PLACE.set(place)
        try:
            return await handler(request, caller, **named)
        finally:
            PLACE.set(None)  # the next request of the connection runs in the same task
            place.give_back()
            self.accounts.freed(account)

    def admit_generation(
        self, caller: Caller, idempotent: bool, named: bool, follows: bool, at_once: bool, shares_bodies: bool = True
    ) -> bool:
        """Check a generation request against the limits; return whether it may share an upstream call.

        `idempotent`: it has an Idempotency-Key. `named`: it has a Stream-Key. `follows`: its client waits for the
        response. `at_once`: its body is here, so the handler reserves its places in the hub next, which checks the
        limits; they are not checked here then, unless the request shares a call. `shares_bodies`: it may share a call
        with identical requests, where that is configured. If the body is yet to come, call this before reading it.
        Raises: Unauthorised, if the request needs an identified caller; Overloaded.
        """
        if idempotent or named or not (follows or self._grants):  # else nobody could fetch the response later
            caller.check_owns_streams()
        shares = idempotent or (self._shares_bodies and shares_bodies and caller.owns_streams)
        if at_once and not shares:
            return False
        if not shares:  # a request that joins a running call begins no stream
            self._hub.check_room()
        if follows:
            self._hub.check_room_to_follow()
        return shares

    async def admit_follower(self, stream: Stream | None = None, *, followers: int = 1) -> None:
        """Check the limits on followers, in all and of this stream. Call this before the response begins.

        Nothing may wait between this and the follower that is attached then. Raises: Overloaded, LimitReached.
        """
        if self.accounts is not None and stream is not None:
            await self.accounts.make_room((stream,))
        self._hub.check_room_to_follow(stream, followers)
        if self.accounts is not None and stream is not None:
            self.accounts.check_followers((stream,))

    async def admit_caller(self, caller: Caller, mode: str) -> None:
        """Check that a caller may have its streams in a mode, and follow one more, if there are to be more.

        Raises: NotAllowedForKey, LimitReached.
        """
        account = self.account(caller)
        if account is not None:
            account.check_mode(mode)
            while not account.has_room(1 + self._hub.keys.waiting(caller.digest)):
                await account.ask_room(1 + self._hub.keys.waiting(caller.digest))
            account.check_followers(1 + self._hub.keys.waiting(caller.digest))

    async def admit_view(self, streams: Iterable[Stream], mode: str) -> None:
        """Check that streams may be sent in a mode, and all of them to one more client each.

        Raises: NotAllowedForKey, LimitReached.
        """
        if self.accounts is not None:
            viewed = list(streams)
            await self.accounts.make_room(viewed)
            self.accounts.check_view(viewed, mode)

    def find(self, request: web.BaseRequest, caller: Caller, ident: str, right: str) -> tuple[Stream, float]:
        """Return a stream that the request may access, and when the access ends, in monotonic seconds.

        For a stream of the caller's own, a token in the request is ignored, valid or not.
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
        """Return a stream of the caller's own, or, for reading only, one that is open to everybody."""
        if right in (READ, INFO) and caller.may_send:
            try:
                return self._hub.find(ident, ANYONE)
            except UnknownStream:
                pass
        caller.check_owns_streams()
        return self._hub.find(ident, caller.digest)


def _looks_up(request: web.BaseRequest, dialect: Dialect) -> bool:
    """Return whether a request to an API looks something up, such as a list of models: no stream begins with it."""
    return request.method in ("GET", "HEAD") and dialect.frames.has_text and "Upgrade" not in request.headers
