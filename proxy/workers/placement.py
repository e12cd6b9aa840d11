"""Serves requests where they belong, by the id, the names or the URL in them: here, or at another worker.

Implements what `server.placement` asks; `owners` decides where something belongs.
Whoever has been handed a request that another worker has decided on serves it, and so no request goes in circles.
"""

import asyncio
import functools
import os
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiohttp import HttpVersion11, web
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from proxy.access.account import PLACE
from proxy.access.callers import Caller
from proxy.access.certificates import subject_of
from proxy.downstream.movable import HANDED_OVER, MovableConnection, Relayed
from proxy.server.headers import NAMES
from proxy.server.placement import Belongs, Handler, Responses, key_name
from proxy.stream.hub import Hub
from proxy.wire.errors import Overloaded
from proxy.wire.event_id import EventId
from proxy.workers import relay
from proxy.workers.follow_several import FollowSeveral
from proxy.workers.handover import LATE, OUTCOMES, TAKEN, offer
from proxy.workers.membership import Membership
from proxy.workers.names import name_of
from proxy.workers.owners import Owners
from proxy.workers.peers import Peers, quoted, socket_paths

_KEY = "Stream-Key"
_ASKED = 10_000  # shared calls whose last event older workers were asked for


class Placement:
    """Knows which worker a request belongs to, and hands it over if that is another one."""

    def __init__(self, membership: Membership, directory: Path, token: str, *, names_bodies: bool) -> None:
        """`token`: what the other workers take for that of an operator.

        `names_bodies`: the body of a generation request may be a name: so it is to be read first."""
        self.owners = Owners(membership)
        self.handovers: Counter[str] = Counter()  # by their outcome
        self.peers = Peers(directory, token)
        self.relays: set[relay.Side] = set()
        self._directory = directory
        self._names_bodies = names_bodies
        self._last_ids: dict[tuple[object, EventId], asyncio.Future[bytes]] = {}
        self._several = FollowSeveral(self.peers, lambda: self.membership.number, self.owners.of_stream, self._find_key)

    @property
    def membership(self) -> Membership:
        """Which workers there are, as this one knows it."""
        return self.owners.membership

    def attach(self, hub: Hub, responses: Responses) -> None:
        """Take what is asked about this worker."""
        self._hub = hub
        self.responses = responses

    def is_busy(self) -> bool:
        """Return whether bytes are carried here between clients and other workers."""
        return bool(self.relays)

    def metrics(self) -> Iterator[Metric]:
        """Yield what is counted here."""
        text = "Connections that were handed over to another worker: taken, or answered here with 503."
        handovers = CounterMetricFamily("streamtee_handovers", text, labels=("outcome",))
        for outcome in OUTCOMES:
            handovers.add_metric((outcome,), self.handovers[outcome])
        yield handovers
        process = GaugeMetricFamily("streamtee_worker_process", "The id of the process that a worker is.")
        process.add_metric((), os.getpid())
        yield process

    def placed(self, handler: Handler, belongs: Belongs) -> Handler:
        """Return a handler that serves a request here or hands it over."""
        serve: Any = _SERVE[belongs]
        placed: Handler = functools.partial(serve, self, handler)
        return placed

    # What requests of a route belong by

    async def _anywhere(
        self, handler: Handler, request: web.BaseRequest, caller: Caller, **named: str
    ) -> web.StreamResponse:
        owner = self.owners.another() if self.membership.is_retired else None
        if "Upgrade" in request.headers and _KEY in request.headers:  # a session, which is a stream
            owner = self.membership.owner(name_of(*key_name(caller.digest, request.headers[_KEY])))
        return await self._serve_at(owner, True, handler, request, caller, named)

    async def _later(
        self, handler: Handler, request: web.BaseRequest, caller: Caller, **named: str
    ) -> web.StreamResponse:
        """Leave it to the handler, which reads the request first: only that tells its names."""
        return await handler(request, caller, **named)

    async def _by_names(
        self, handler: Handler, request: web.BaseRequest, caller: Caller, **named: str
    ) -> web.StreamResponse:
        if self._names_bodies or any(name in request.headers for name in NAMES):
            return await handler(request, caller, **named)
        return await self._anywhere(handler, request, caller, **named)

    async def _by_stream(
        self, handler: Handler, request: web.BaseRequest, caller: Caller, **named: str
    ) -> web.StreamResponse:
        owner = self.owners.of_stream(named["ident"])
        return await self._serve_at(owner, True, handler, request, caller, named)

    async def _by_key(
        self, handler: Handler, request: web.BaseRequest, caller: Caller, **named: str
    ) -> web.StreamResponse:
        name = name_of(*key_name(caller.digest, named["key"]))
        is_here = self._hub.keys.find(named["key"], caller.digest)
        owner, decided = self.owners.of_key(name, is_here=is_here is not None)
        return await self._serve_at(owner, decided, handler, request, caller, named)

    async def _by_response(
        self, handler: Handler, request: web.BaseRequest, caller: Caller, **named: str
    ) -> web.StreamResponse:
        ident, owner = named["ident"], None
        if self._is_movable(request) and not self.responses.knows(caller.digest, ident):
            owner = self.owners.of_stream(ident)
            if owner is None:
                owner = await self._who_knows(caller.digest, ident)
        if owner is None and self.membership.is_retired and not self.responses.knows(caller.digest, ident):
            owner = self.owners.another()
        return await self._serve_at(owner, True, handler, request, caller, named)

    async def _all(
        self, handler: Handler, request: web.BaseRequest, caller: Caller, **named: str
    ) -> web.StreamResponse:
        """GET /v1/streams: those of all workers."""
        _settle(request)
        answers = await self.peers.ask_all(self.membership.others, f"/inner/streams?caller={caller.digest.hex()}")
        _check_answered(answers)
        return await handler(
            request, caller, near=[(began, stream) for theirs in answers.values() for began, stream in theirs]
        )

    async def _by_several(
        self, handler: Handler, request: web.BaseRequest, caller: Caller, **named: str
    ) -> web.StreamResponse:
        if not self._is_movable(request):
            return await handler(request, caller, **named)
        groups = await self._several.groups(request, caller)
        if len(groups) < 2:
            owner = next(iter(groups), None)
            return await self._serve_at(owner, True, handler, request, caller, named)
        _settle(request)
        return await self._several.serve(request, groups, self._hub.turns)

    # What is asked after a request has been read

    async def of_generation(
        self, request: web.BaseRequest, caller: bytes, key: str | None, shared: tuple[bytes, ...] | None, *, held: bool
    ) -> web.StreamResponse | None:
        """Hand a generation request over, if it belongs elsewhere; return None if it is to be served here.

        `key`: its Stream-Key. `shared`: by what requests share its call; `held`: this worker has such a call.
        Raises: Overloaded, if the other worker does not take it.
        """
        connection = request.protocol
        if not isinstance(connection, MovableConnection):
            return None
        named = None if key is None else name_of(*key_name(caller, key))
        if not connection.is_placed:
            call = None if shared is None else name_of(*shared)
            owner, decided = self.owners.of_generation(named, call, held=held)
        elif self.membership.is_retired and not held:  # what it was handed over for is gone
            owner, decided = self.owners.another(), True
        else:
            owner, decided = self.membership.number, True
        if owner == self.membership.number:
            connection.settle()
            if named is not None and not held:  # a new stream is the newest under its key
                self.owners.note_begun_here(named)
            return None
        return await self._hand_over(request, connection, owner, decided)

    async def named(self, caller: bytes, key: str, ident: str) -> None:
        """Tell the worker of a key that a stream of this worker has it, too, from now on. Raises: Overloaded."""
        owner = self.membership.owner(name_of(*key_name(caller, key)))
        if owner != self.membership.number:
            asked = f"caller={caller.hex()}&key={quoted(key)}&ident={ident}"
            _check_answered(await self.peers.ask_all([owner], f"/inner/named?{asked}"))

    def note_named(self, caller: bytes, key: str, ident: str) -> None:
        """Note that a stream of another worker is the newest under a key that belongs to this one."""
        self.owners.note_newest(name_of(*key_name(caller, key)), ident)

    async def last_id_before(self, name: tuple[bytes, str, str | bytes], last: EventId) -> bytes:
        """Return the upstream's id of the last event up to `last`, of a shared call that an older worker had.

        b"", if it is not known. All followers of the call come at once, most with the same event: it is asked for once.
        """
        if not self.membership.draining:
            return b""
        asking = self._last_ids.get((name, last))
        if asking is None:
            if len(self._last_ids) >= _ASKED:
                self._last_ids.clear()
            asking = self._last_ids[name, last] = asyncio.ensure_future(self._ask_last_id(name, last))
        return await asyncio.shield(asking)

    async def _ask_last_id(self, name: tuple[bytes, str, str | bytes], last: EventId) -> bytes:
        _, route, which = name
        asked = which.hex() if isinstance(which, bytes) else ""
        target = f"/inner/before?route={quoted(route)}&asked={asked}&last={bytes(last).decode()}"
        answers = await self.peers.ask_all(sorted(self.membership.draining), target)
        told = (answer["last_id"] for answer in answers.values() if answer is not None)
        return bytes.fromhex(next((one for one in told if one is not None), ""))

    async def made_by(self, caller: bytes, ident: str) -> str | None:
        """Return the upstream that made a caller's response, as another worker knows it; None if none does.

        Raises: Overloaded, if one hangs.
        """
        answers = await self._ask_of_response(caller, ident)
        told = (answer["made_by"] for answer in answers.values() if answer is not None)
        made_by: str | None = next((one for one in told if one is not None), None)
        if made_by is None:
            _check_answered(answers)
        return made_by

    async def _find_key(self, caller: bytes, key: str) -> str | None:
        """Return the id of a caller's newest stream under a key, whichever worker has it. Raises: Overloaded."""
        name, membership = name_of(*key_name(caller, key)), self.membership
        for number in self.owners.having(name):
            if number == membership.number:
                stream = self._hub.keys.find(key, caller)
                found = None if stream is None else stream.id
            elif number is None:
                continue
            else:
                target = f"/inner/key?caller={caller.hex()}&key={quoted(key)}"
                answers = await self.peers.ask_all([number], target)
                _check_answered(answers)
                found = answers[number]["id"] if answers else None
            if found is not None:
                return found
        return None

    async def _who_knows(self, caller: bytes, ident: str) -> int | None:
        """Return the worker that knows a caller's response by this id, if any does. Raises: Overloaded."""
        answers = await self._ask_of_response(caller, ident)
        for number, answer in answers.items():
            if answer is not None and answer["known"]:
                return number
        _check_answered(answers)
        return None

    async def _ask_of_response(self, caller: bytes, ident: str) -> dict[int, Any]:
        target = f"/inner/response?caller={caller.hex()}&ident={quoted(ident)}"
        return await self.peers.ask_all(self.membership.others, target)

    # Serving, or handing over

    def _is_movable(self, request: web.BaseRequest) -> bool:
        """Return whether a request may be handed over: no other worker has decided that it is to be served here."""
        connection = request.protocol
        return isinstance(connection, MovableConnection) and not connection.is_placed

    async def _serve_at(
        self,
        owner: int | None,
        decided: bool,
        handler: Handler,
        request: web.BaseRequest,
        caller: Caller,
        named: dict[str, str],
    ) -> web.StreamResponse:
        """Serve a request here, if it belongs here or to nobody; else hand it over. Raises: Overloaded."""
        connection = request.protocol
        if owner is None or owner == self.membership.number or not isinstance(connection, MovableConnection):
            _settle(request)
            return await handler(request, caller, **named)
        if connection.is_placed:
            connection.settle()
            return await handler(request, caller, **named)
        return await self._hand_over(request, connection, owner, decided)

    async def _hand_over(
        self, request: web.BaseRequest, connection: MovableConnection, owner: int, decided: bool
    ) -> web.StreamResponse:
        place = PLACE.get()
        if place is not None:
            await place.withdraw()
        outcome = await self.move(connection, owner, is_placed=decided)
        if outcome == TAKEN:
            if not request.content.is_eof():
                request.content.feed_eof()  # else aiohttp would wait for the rest
            return HANDED_OVER
        raise Overloaded(f"worker {owner} of this server, which has what is asked for, does not answer")

    async def move_anywhere(self, connection: MovableConnection) -> None:
        """Hand an idle connection over to one of the workers that begin what is new; if it takes it."""
        worker = self.owners.another()
        if worker != self.membership.number:
            await self.move(connection, worker)

    async def move(self, connection: MovableConnection, owner: int, *, is_placed: bool = False) -> str:
        """Hand a connection over to a worker; return the outcome. If it was not taken, it goes on here."""
        await connection.wait_sent()
        read = connection.let_go()
        if read is None:
            return "lost"  # the client has disconnected
        path = socket_paths(self._directory, owner)[0]
        if connection.is_encrypted:
            outcome = await self._relay(connection, path, read, is_placed=is_placed)
        else:
            told = relay.written(connection.relayed)
            outcome = await offer(path, connection.descriptor, read, is_placed=is_placed, told=told)
        self.handovers[outcome] += 1
        if outcome != TAKEN:
            connection.take_back()
        elif not connection.is_encrypted:
            connection.forget()
        return outcome

    async def _relay(self, connection: MovableConnection, path: str, read: bytes, *, is_placed: bool) -> str:
        """Hand one end of a socket pair over in place of a connection, and carry its bytes; return the outcome."""
        request = connection.current
        if request is None or request.version < HttpVersion11:
            return LATE  # by TLS, the end of a body without a length would look the same whether it is whole or not
        told = relay.written(Relayed(request.remote or "", subject_of(request)))
        ours, theirs = socket.socketpair()
        with theirs:
            outcome = await offer(path, theirs.fileno(), read, is_placed=is_placed, told=told)
        if outcome != TAKEN:
            ours.close()
            return outcome
        client, worker = relay.Side(self.relays), relay.Side(self.relays)
        relay.join(client, worker)
        connection.leave_to(client)  # and read nothing before the other side is there
        await asyncio.get_running_loop().create_connection(lambda: worker, sock=ours)
        client.begin()
        return outcome


_SERVE = {
    Belongs.ANYWHERE: Placement._anywhere,
    Belongs.GENERATION: Placement._by_names,
    Belongs.URL: Placement._later,
    Belongs.STREAM: Placement._by_stream,
    Belongs.KEY: Placement._by_key,
    Belongs.RESPONSE: Placement._by_response,
    Belongs.SEVERAL: Placement._by_several,
    Belongs.ALL: Placement._all,
}


def _settle(request: web.BaseRequest) -> None:
    connection = request.protocol
    if isinstance(connection, MovableConnection):
        connection.settle()


def _check_answered(answers: dict[int, Any]) -> None:
    """Raises: Overloaded, if a worker did not answer: what it has is not known, and is not left out silently."""
    silent = [number for number, answer in answers.items() if answer is None]
    if silent:
        raise Overloaded(f"worker {silent[0]} of this server, which may have what is asked for, does not answer")
