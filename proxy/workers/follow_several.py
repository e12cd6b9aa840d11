"""Following streams of several workers on one connection: `GET /v1/follow`, put together from those of each worker.

The worker that the client is connected to asks each worker for its streams on one connection, and sends their events on
as they come. Each is given a new id, since an id has the cursors of all streams of the client's connection.
Keeps laws 5 (prefix) and 7 (one ending): a worker that breaks off ends the client's connection the same way.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from proxy.access.callers import Caller
from proxy.access.certificates import subject_of
from proxy.downstream.response import Downstream
from proxy.downstream.websocket import WebSocket, handshake
from proxy.server.delivery import CACHING
from proxy.server.following.request import cursors_by_epoch
from proxy.server.placement import SUBJECT_HEADER
from proxy.stream.endings import COMPLETE, ENDINGS, INTERNAL_ERROR, Ending
from proxy.stream.faults import log_fault
from proxy.stream.modes.envelopes import closing
from proxy.stream.modes.projection import EVENT_STREAM, Span
from proxy.stream.turns import Turns
from proxy.wire.errors import Overloaded, UnknownStream
from proxy.wire.event_id import read_event_id
from proxy.wire.http import HOP_BY_HOP
from proxy.wire.websocket import TEXT, frame
from proxy.workers.peers import ANSWERED_S, Peers, quoted

Groups = Mapping[int, list[str]]
"""The ids of streams by their worker."""

_NAMED = ("stream", "key")
_CURSORS = ("after", "last-event-id", "lasteventid", "last_event_id")
_DROPPED = {name.decode() for name in HOP_BY_HOP} | {"host", "last-event-id", "content-length", SUBJECT_HEADER.lower()}
_ENDING = b'"ending":'


class FollowSeveral:
    """Delivers streams of several workers on one connection."""

    def __init__(
        self,
        peers: Peers,
        here: Callable[[], int],
        worker_of: Callable[[str], int | None],
        find_key: Callable[[bytes, str], Awaitable[str | None]],
    ) -> None:
        """`here` returns this worker's number; `worker_of` finds a stream's worker, and `find_key` a key's stream."""
        self._peers = peers
        self._here = here
        self._worker_of = worker_of
        self._find_key = find_key

    async def groups(self, request: web.BaseRequest, caller: Caller) -> Groups:
        """Return the streams that a request names, by worker. Raises: UnknownStream, for a key without a stream."""
        idents = dict.fromkeys(request.query.getall("stream", ()))
        for key in request.query.getall("key", ()):
            caller.check_owns_streams()
            ident = await self._find_key(caller.digest, key)
            if ident is None:
                raise UnknownStream(f"no stream of yours is running or kept under the key {key!r}")
            idents[ident] = None
        groups: dict[int, list[str]] = {}
        for ident in idents:  # one that is nowhere is refused here
            worker = self._worker_of(ident)
            groups.setdefault(self._here() if worker is None else worker, []).append(ident)
        return groups

    async def serve(self, request: web.BaseRequest, groups: Groups, turns: Turns) -> web.StreamResponse:
        """Deliver the streams. Whatever is to be refused for one of them is refused before anything is sent."""
        accept = handshake(request)
        headers = {**_headers(request), SUBJECT_HEADER: quoted(subject_of(request))}
        async with AsyncExitStack() as stack:
            answers = {
                worker: await self._ask(stack, worker, _query(request, idents), headers)
                for worker, idents in groups.items()
            }
            for answer in answers.values():
                if answer.status not in (200, 204):
                    return web.Response(
                        status=answer.status, body=await answer.read(), content_type="application/json", charset="utf-8"
                    )
            going = [answer for answer in answers.values() if answer.status == 200]
            if not (going or accept):
                return web.Response(status=204)
            mode = going[0].headers.get("Stream-Mode", "events") if going else "events"
            cursors = cursors_by_epoch(request)
            had = cursors if isinstance(cursors, dict) else {}
            return await _Delivery(request, accept, mode, turns, had).of(going)

    async def _ask(
        self, stack: AsyncExitStack, worker: int, query: str, headers: dict[str, str]
    ) -> aiohttp.ClientResponse:
        """Ask a worker for its streams. Raises: Overloaded."""
        session = self._peers.session(worker)
        try:
            async with asyncio.timeout(ANSWERED_S):
                asked = session.get(f"http://localhost/v1/follow?{query}", headers=headers)
                return await stack.enter_async_context(asked)
        except (aiohttp.ClientError, OSError, TimeoutError):
            raise Overloaded(f"worker {worker} of this server, which has a stream of these, does not answer") from None


class _Delivery:
    """One connection to one client, and the events of all workers on it."""

    def __init__(
        self, request: web.BaseRequest, accept: bytes, mode: str, turns: Turns, cursors: Mapping[str, int]
    ) -> None:
        """`accept`: the value that accepts the handshake of a WebSocket; b"": it is no WebSocket."""
        self._cursors = dict(cursors)  # the last seq that the client has had, by epoch
        self._worst: Ending | None = None  # of the first stream that did not end complete
        self._writing = asyncio.Lock()  # a sink notifies only one who waits
        self._socket: WebSocket | None = None
        named = [(b"Stream-Mode", mode.encode())]
        downstream = Downstream(request, 101 if accept else 200)
        if accept:
            self._socket = WebSocket(request, downstream, turns)
            self._socket.start(accept, named)
        else:
            downstream.start(b"OK", [(b"Content-Type", EVENT_STREAM), *CACHING, *named])
        self._sink: Downstream | WebSocket = self._socket or downstream

    async def of(self, answers: list[aiohttp.ClientResponse]) -> web.StreamResponse:
        """Deliver what the workers send, until all have ended or the client has left."""
        sending = [asyncio.create_task(self._send_all(answer)) for answer in answers]
        ending = asyncio.create_task(self._end_after(sending))
        try:
            await self._sink.finished()
        finally:
            for task in (*sending, ending):
                task.cancel()
            await asyncio.gather(*sending, ending, return_exceptions=True)
        return self._sink.response

    async def _end_after(self, sending: list[asyncio.Task[None]]) -> None:
        """End the connection when all workers have ended; at once if one of them breaks off."""
        try:
            await asyncio.gather(*sending)
        except Exception as error:
            if not isinstance(error, aiohttp.ClientError | OSError):
                log_fault("a connection with streams of several workers", error)
            self._sink.abort(closing(INTERNAL_ERROR) if self._socket else b"")
            return
        self._sink.close(closing(self._worst or COMPLETE) if self._socket else b"")

    async def _send_all(self, answer: aiohttp.ClientResponse) -> None:
        async for block in _blocks(answer):
            data = self._written(block)
            async with self._writing:
                while data and not self._sink.write(Span(0, 0, data)):
                    await self._wait_writable()

    async def _wait_writable(self) -> None:
        writable: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def resume() -> None:
            if not writable.done():
                writable.set_result(None)

        self._sink.on_writable(resume)
        await writable

    def _written(self, block: bytes) -> bytes:
        """Return an event as the client is sent it; comments as they are."""
        data, cursors = _fields(block)
        if not data:
            return b"" if self._socket else block
        own = [cursor for text in cursors.split(",") if (cursor := read_event_id(text)) is not None]
        for cursor in own:
            self._cursors[cursor.epoch] = cursor.seq
        if self._worst is None and _ENDING in data:
            ending = ENDINGS.get(str(orjson.loads(data).get("ending", "")), COMPLETE)
            self._worst = None if ending.reason == COMPLETE.reason else ending
        ident = ",".join(f"{epoch}-{seq}" for epoch, seq in self._cursors.items()).encode()
        if self._socket:
            return frame(TEXT, b'%b,"last_event_id":"%b"}' % (data[:-1], ident))
        return b"data: %b\nid: %b\n\n" % (data, ident)


async def _blocks(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield the blocks of an event stream that another worker wrote. Raises: ClientError, if it breaks off."""
    held = b""
    async for piece in answer.content.iter_any():
        *blocks, held = (held + piece).split(b"\n\n")
        for block in blocks:
            yield block + b"\n\n"


def _fields(block: bytes) -> tuple[bytes, str]:
    """Return the data and the id of an event; b"" and "" for comments."""
    data, ident = b"", ""
    for line in block.split(b"\n"):
        if line.startswith(b"data: "):
            data = line[6:]
        elif line.startswith(b"id: "):
            ident = line[4:].decode()
    return data, ident


def _query(request: web.BaseRequest, idents: list[str]) -> str:
    """Return the query for one worker: its own streams, with the cursors that are of these."""
    kept = [(name, value) for name, value in request.query.items() if name.lower() not in (*_NAMED, *_CURSORS)]
    cursors = cursors_by_epoch(request)
    if isinstance(cursors, str):
        kept.append(("after", cursors))
    else:
        epochs = {ident[3:9] for ident in idents}
        own = [f"{epoch}-{seq}" for epoch, seq in cursors.items() if epoch in epochs]
        kept += [("after", ",".join(own))] if own else []
    pairs = [*kept, *(("stream", ident) for ident in idents)]
    return "&".join(f"{quoted(name)}={quoted(value)}" for name, value in pairs)


def _headers(request: web.BaseRequest) -> dict[str, Any]:
    """Return the headers for the other workers: those that say who asks."""
    kept: dict[str, Any] = {}
    for name, value in request.headers.items():
        if name.lower() not in _DROPPED and not name.lower().startswith("sec-websocket-"):
            kept[name] = f"{kept[name]}, {value}" if name in kept else value
    return kept
