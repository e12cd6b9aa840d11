"""Finds streams that other processes own: the handlers then find them in the hub, as they find this process's own.

Handlers are wrapped here, in one place; without a store none is. A stream that is here is found without waiting. By a
key the store is always asked, since another node may have a newer stream under it.
"""

import asyncio
import functools
import re
import time
from collections.abc import Callable
from typing import Any

from aiohttp import web

from proxy.access.callers import Caller
from proxy.access.response_ids import LONGEST, GivenIds
from proxy.dialects import table
from proxy.server.following.follow_many import MOST_STREAMS
from proxy.server.routes import Handler
from proxy.store.claims import Claims
from proxy.store.entries import HEADER, SEAL, START, Entry, Record, UnreadableError, is_kept, read_header, read_seal
from proxy.store.node import Node
from proxy.store.outbox import DELETED, given, named, note_given, owned, responded
from proxy.store.settings import StoreConfig
from proxy.store.store import Store, StoreError, Undecipherable
from proxy.stream.endings import Ending
from proxy.stream.hub import Hub
from proxy.stream.stream import Stream
from proxy.stream.vitals import Vitals
from proxy.telemetry.stream_object import describe
from proxy.wire import json_text
from proxy.wire.errors import ProxyError, StoreUnavailable

_IDENT = re.compile("st_[a-z2-7]{26}")  # as the hub makes them: nothing else is asked of the store
_POLL_S = 0.25  # for the next stream under a key, while a follower waits
_LOOK_AGAIN = (2, 6, 16)  # after so many flushes: a busy owner may be late
_END_S = 5.0  # for the end of a stream that was cancelled at another node
_LISTED = 1000  # streams of other nodes in a list, at most


class Directory:
    """Finds streams of other nodes, by id, by key and by caller, and has them ended or deleted."""

    def __init__(self, node: Node, hub: Hub, config: StoreConfig, given: GivenIds | None = None) -> None:
        """`given`: the ids of responses that callers were given; None: of no use."""
        self._given = given
        if given is not None:
            given.on_given = self._give
        self._node = node
        self._hub = hub
        self._required = config.required
        self._acks_stored = config.ack == "stored"
        self.claims = Claims(node.store, node.id, node.leases, node.replicas.find)

    def near(self, handler: Handler) -> Handler:
        """Return a handler of requests that name streams, which are found first if they are elsewhere."""

        async def serve(request: web.BaseRequest, caller: Caller, **names: str) -> web.StreamResponse:
            # More than may be named are refused by the handler, and not looked for before.
            idents = [names["ident"]] if "ident" in names else request.query.getall("stream", ())[:MOST_STREAMS]
            await asyncio.gather(*map(self._bring, idents))
            for key in [names["key"]] if "key" in names else request.query.getall("key", ())[:MOST_STREAMS]:
                if not await self._bring_by_key(caller, key) and "wait" in request.query:
                    return await self._serve_next(functools.partial(handler, request, caller, **names), caller, key)
            return await handler(request, caller, **names)

        return serve

    def near_response(self, handler: Handler) -> Handler:
        """Return a handler of requests that name a response, by the id of its stream or by the upstream's."""

        async def serve(request: web.BaseRequest, caller: Caller, ident: str, **more: str) -> web.StreamResponse:
            if caller.owns_streams:
                await self._bring_response(caller, ident)
            return await handler(request, caller, ident=ident, **more)

        return serve

    def _give(self, caller: bytes, ident: str, upstream: str) -> None:
        """Have other nodes know that a caller was given a response."""
        if caller and len(ident) <= LONGEST:
            self._node.publisher.put(note_given(caller.hex(), ident, upstream))

    async def is_deleted(self, caller: bytes, ident: str) -> bool:
        """Return whether a caller has deleted a response of this id, at whichever node."""
        try:
            return await self._node.store.values([given(caller.hex(), ident)]) == [DELETED]
        except StoreError:
            self._node.publisher.note_error()
            return False

    async def made_by(self, caller: bytes, ident: str) -> str | None:
        """Return the upstream that made a caller's response, at whichever node; None if none is known.

        Nothing of it is remembered here, since a response may be deleted at another node.
        """
        if self._given is None or not caller or len(ident) > LONGEST:
            return None
        try:
            for flushes in (_LOOK_AGAIN[0], 0):  # it may have been given a moment ago
                (upstream,) = await self._node.store.values([given(caller.hex(), ident)])
                if upstream is not None:
                    return None if upstream == DELETED else upstream.decode()
                await asyncio.sleep(flushes * self._node.publisher.flush_s)
        except StoreError:
            self._node.publisher.note_error()
        return None

    async def _bring_response(self, caller: Caller, ident: str) -> None:
        """Have the stream of a response found in the hub, if the store has one. Raises: StoreUnavailable."""
        if ident.startswith("st_"):
            await self._bring(ident)
            return
        try:
            for flushes in (_LOOK_AGAIN[0], 0):  # not for long: the upstream may know it
                (value,) = await self._node.store.values([responded(caller.digest.hex(), ident)])
                if value is not None:
                    break
                await asyncio.sleep(flushes * self._node.publisher.flush_s)
        except Undecipherable as error:
            raise _unreadable(error) from None
        except StoreError:
            self._node.publisher.note_error()
            return
        if value is not None:
            await self._bring(value.decode())

    async def _serve_next(self, serve: Callable[[], Any], caller: Caller, key: str) -> web.StreamResponse:
        """Serve a follower that waits for the next stream under a key, and look for that meanwhile."""
        looking = asyncio.create_task(self._look_for(caller, key))
        try:
            response: web.StreamResponse = await serve()
            return response
        finally:
            looking.cancel()

    async def _look_for(self, caller: Caller, key: str) -> None:
        while not await self._is_there(caller, key):
            await asyncio.sleep(_POLL_S)

    async def _is_there(self, caller: Caller, key: str) -> bool:
        """Return whether a stream under a key is found now; what fails may succeed the next time."""
        try:
            return await self._bring_by_key(caller, key)
        except ProxyError:
            return False

    async def _bring(self, ident: str) -> bool:
        """Have a stream found in the hub, if there is one; return whether it is. Raises: StoreUnavailable."""
        if not _IDENT.fullmatch(ident):
            return False
        if self._hub.has(ident) and ident not in self._hub.replicas and not self._acks_stored:
            return True
        try:
            return await self._found(ident)
        except Undecipherable as error:
            raise _unreadable(error) from None
        except StoreError:
            self._node.publisher.note_error()
            if self._hub.has(ident):
                return True
            raise StoreUnavailable("the store that may have this stream can't be reached") from None

    async def _found(self, ident: str) -> bool:
        """Return whether there is such a stream; one that has just begun is in the store in a moment."""
        for flushes in _LOOK_AGAIN:
            if await self._node.replicas.find(ident, own=self._hub.has(ident)) is not None:
                return True
            await asyncio.sleep(flushes * self._node.publisher.flush_s)
        return await self._node.replicas.find(ident, own=self._hub.has(ident)) is not None

    async def _bring_by_key(self, caller: Caller, key: str) -> bool:
        """Have the caller's newest stream under a key found in the hub; return whether there is one."""
        if not caller.owns_streams:
            return False
        try:
            (value,) = await self._node.store.values([named(caller.digest.hex(), key)])
        except Undecipherable as error:
            raise _unreadable(error) from None
        except StoreError:
            self._node.publisher.note_error()
            return self._hub.keys.find(key, caller.digest) is not None
        if value is None:
            return self._hub.keys.find(key, caller.digest) is not None
        ident = value.decode()
        if await self._bring(ident) and ident in self._hub.replicas:  # of a stream of its own the hub knows itself
            stream = self._hub.find(ident, None)
            if stream.info.caller == caller.digest:
                self._hub.keys.point(key, stream)
        return self._hub.keys.find(key, caller.digest) is not None

    async def listed(self, caller: bytes) -> list[dict[str, Any]]:
        """Return the descriptions of a caller's streams that are not found here, but elsewhere."""
        try:
            idents = sorted(await self._node.store.members(owned(caller.hex())))
            elsewhere = [ident for ident in idents if not self._hub.has(ident)][:_LISTED]
            described = await asyncio.gather(*(self._described(ident) for ident in elsewhere))
        except StoreError:
            self._node.publisher.note_error()
            return []
        return [one for one in described if one is not None]

    async def _described(self, ident: str) -> dict[str, Any] | None:
        store = self._node.store
        first, (last,) = await store.entries(ident, START, 1), await store.last([ident])
        if not first or last is None or first[0].id != HEADER:
            return None
        try:
            record = read_header(first[0])
            if record.node == self._node.id or not is_kept(last):
                return None  # what this node no longer has, and what is not kept
            return _description(record, last)
        except UnreadableError as error:
            raise _unreadable(error) from None

    async def stored(self, stream: Stream) -> Stream:
        """Return what clients of a stream of this node are to follow: with `ack = "stored"` its replica.

        Raises: StoreUnavailable.
        """
        if not self._acks_stored or stream.id in self._hub.replicas or not stream.info.caller:
            return stream
        if not await self._bring(stream.id):
            raise StoreUnavailable("the store does not have this stream yet; only what it has is sent (store.ack)")
        replica = self._hub.find(stream.id, None)
        while not replica.upstream and not replica.sealed:
            await asyncio.sleep(self._node.publisher.flush_s / 2)
        return replica

    async def end(self, stream: Stream) -> None:
        """Wait until a stream that was told to stop has ended: at another node that takes a moment.

        Raises: StoreUnavailable.
        """
        if stream.sealed:
            return
        ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        stream.when_sealed(lambda ending: None if ended.done() else ended.set_result(ending))
        await asyncio.wait([ended], timeout=_END_S)
        if not stream.sealed:
            raise StoreUnavailable("the process that has this stream, or the store, could not be reached")

    async def delete(self, stream: Stream, *idents: str) -> None:
        """Delete a stream that has ended, wherever it is, and the ids of its response. Raises: StoreUnavailable."""
        try:
            await self._node.delete(stream, [note_given(stream.info.caller.hex(), ident, "") for ident in idents])
        except StoreError:
            self._node.publisher.note_error()
            raise StoreUnavailable("the store that has this stream can't be reached") from None

    async def claim(self, name: bytes, asked: bytes, ident: str) -> Stream | None:
        """Claim a name for a stream that is about to begin; see Claims. Raises: StoreUnavailable, KeyReused."""
        try:
            return await self.claims.claim(name, asked, ident)
        except Undecipherable as error:
            raise _unreadable(error) from None
        except StoreError:
            self._node.publisher.note_error()
            if self._required:
                raise StoreUnavailable("the store that is asked first (store.required) can't be reached") from None
            return None


def _unreadable(error: Exception) -> StoreUnavailable:
    """Return what a client is told that asks for what the store has, and this process can't read."""
    return StoreUnavailable(str(error))


def _description(record: Record, last: Entry) -> dict[str, Any]:
    """Return what the store knows of a stream, in the shape of `describe`: its log is not read for a list."""
    info = record.info
    seal = read_seal(last) if last.id == SEAL else None
    if seal is not None and seal.summary:
        described: dict[str, Any] = json_text.read(seal.summary)
        return described
    ended = None if seal is None else {"reason": seal.ending.reason, "message": seal.ending.message}
    at = (0, 0) if last.id.seq == 0 or seal is not None else last.id
    return {
        "id": info.id,
        "object": "stream",
        "created": info.created_at,
        "state": "open" if seal is None else seal.ending.state,
        "ending": ended,
        "route": info.route,
        "upstream": None,
        "upstream_request_id": None,
        "trace_id": info.w3c_trace_id,
        "key": info.key,
        "answer": None,
        "model": record.model,
        "time_to_first_token_s": None,
        "events": at[0],
        "first_seq": 1,
        "bytes": at[1],
        "finish_reason": None,
        "usage": None,
        "followers": [],
        "followers_elsewhere": 0,
    }


def connected(config: StoreConfig, hub: Hub) -> Node | None:
    """Return the node that this process is among those that share the configured store; None without a store."""
    url = config.url.get_secret_value()
    if not url:
        return None

    def make(record: Record) -> Stream:
        return hub.adopt(record.info, Vitals(table.dialect(record.dialect), time.monotonic(), record.model))

    return Node(
        _store(url, config),
        lease_s=config.lease_s,
        flush_s=config.flush_ms / 1000,
        summary=_summary,
        make=make,
        drop=hub.drop,
        forget=hub.forget,
        keeps=hub.keeps,
    )


def _store(url: str, config: StoreConfig) -> Store:
    """Return the store at a URL, whose content is encrypted if there are keys."""
    from proxy.store.redis_client import RedisConnections  # needs the extra `redis`
    from proxy.store.redis_store import RedisStore

    connections = RedisConnections(url)
    secret = config.secret.get_secret_value().encode()
    if not config.encryption_keys:
        return RedisStore(connections, secret)
    from proxy.store.cipher import Cipher  # needs the extra `encryption`
    from proxy.store.encrypted_store import EncryptedStore

    return EncryptedStore(connections, Cipher(config.key_bytes), secret)


def use_keys(node: Node, config: StoreConfig) -> None:
    """Have the store of a node use other keys from now on; it has some already."""
    from proxy.store.encrypted_store import EncryptedStore

    if isinstance(node.store, EncryptedStore):
        node.store.cipher.use(config.key_bytes)


def _summary(stream: Stream) -> bytes:
    """Return the description of a stream that has ended, without those who follow it at this moment."""
    return json_text.written({**describe(stream), "followers": []})
