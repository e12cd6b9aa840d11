"""Finds the call that a retry continues, for clients whose retries are not marked as such.

Coding agents send a request again when a stream breaks off, without an Idempotency-Key. A client is lost if its
connection closed before it had been sent the end of its response. The call of a lost client runs on for a while, and
the next request of the same caller, route and meaning (the same body, compared as JSON) reads it from its start,
whether it is running or complete. A lost call is read by one request only. A request whose like is still being read by
its own client is no retry, and is sent upstream. Off by default (`generations.attach_retries_s`).
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from time import monotonic

import orjson
from aiohttp import web

from proxy.downstream.response import RESPONSE
from proxy.server.generations.shared_calls import Call, digest
from proxy.stream.endings import COMPLETE
from proxy.stream.stream import Stream
from proxy.stream.subscription import Subscription
from proxy.upstream.on_disconnect import OnDisconnect
from proxy.wire.json_text import is_deep

NOTICE_S = 0.05  # for the end of a connection to be noticed, if the retry arrives at the same moment


def meaning_of(caller: bytes, route: str, target: bytes, body: bytes, steering: Iterable[bytes]) -> bytes:
    """Return a digest that a request and its retries have in common: bodies are compared as JSON values, if possible.

    Codex writes the keys of an object in another order each time.
    """
    return digest([caller, route.encode(), target, _sorted(body), *steering])


def _sorted(body: bytes) -> bytes:
    try:
        if not is_deep(body):
            return orjson.dumps(orjson.loads(body), option=orjson.OPT_SORT_KEYS)
    except (ValueError, TypeError):  # what orjson can't read, or can't write
        pass
    return b"as it is: " + hashlib.sha256(body).digest()


class Reading:
    """One request that reads a call: knows whether its client has been sent the end of the response."""

    __slots__ = ("_request", "subscription")

    def __init__(self, request: web.BaseRequest) -> None:
        self._request = request
        self.subscription: Subscription | None = None  # once the client follows the stream

    def had_all(self, stream: Stream) -> bool:
        """Return whether the client has been sent all of the stream; call it when the request is over."""
        begun = self._request.get(RESPONSE)
        if begun is not None and begun.ended:
            return True
        follower, reader = self.subscription, stream.vitals.reader
        # Some clients disconnect at the last event, before the response has ended.
        return follower is not None and follower.offset == stream.log.end and (reader.ended or reader.finished)


class LostCalls:
    """The calls whose clients were lost, by the meaning of their requests, and the number of those being read."""

    def __init__(self, attach_s: float, now: Callable[[], float] = monotonic) -> None:
        """`attach_s`: for how many seconds after the loss a retry finds a call; 0: none is kept here."""
        self.policy = OnDisconnect(attach_s)
        self._attach_s = attach_s
        self._now = now
        self._lost: dict[bytes, list[tuple[Call, float]]] = {}  # with the time until which a retry finds it
        self._meanings: dict[str, bytes] = {}  # by stream id, of those in `_lost`
        self._read: Counter[bytes] = Counter()
        self._notified: dict[bytes, list[asyncio.Future[None]]] = {}

    def __bool__(self) -> bool:
        return self._attach_s > 0

    async def take(self, meaning: bytes) -> Call | None:
        """Return a lost call for a request of this meaning, and remove it here, so that no other request finds it."""
        call = self._take(meaning)
        if call is None and self._read[meaning]:
            lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._notified.setdefault(meaning, []).append(lost)
            await asyncio.wait([lost], timeout=NOTICE_S)
            call = self._take(meaning)
        return call

    def begin(self, meaning: bytes) -> None:
        """Note that the call of a request of this meaning is being read by its client."""
        self._read[meaning] += 1

    def end(self, meaning: bytes, call: Call, *, lost: bool) -> None:
        """Note that the client of a request no longer reads its call; the call is kept if the client was `lost`."""
        self._read[meaning] -= 1
        if not self._read[meaning]:
            del self._read[meaning]
        if lost and not call.promised:
            self._lost.setdefault(meaning, []).append((call, self._now() + self._attach_s))
            self._meanings[call.stream.id] = meaning
        for waiting in self._notified.pop(meaning, ()):
            if not waiting.done():
                waiting.set_result(None)

    def meanings(self) -> set[bytes]:
        """Return the meanings of requests whose calls are lost, or being read and may be lost yet."""
        return {*self._lost, *self._read}

    def forget(self, stream: Stream) -> None:
        """Forget the call of a stream that is no longer kept."""
        meaning = self._meanings.pop(stream.id, None)
        if meaning is not None:
            self._put(meaning, [one for one in self._lost[meaning] if one[0].stream is not stream])

    def _take(self, meaning: bytes) -> Call | None:
        fit = [one for one in self._lost.get(meaning, ()) if one[1] > self._now() and _can_be_read(one[0].stream)]
        self._put(meaning, fit[1:])
        if not fit:
            return None
        return fit[0][0]

    def _put(self, meaning: bytes, calls: list[tuple[Call, float]]) -> None:
        for call, _ in self._lost.pop(meaning, ()):
            self._meanings.pop(call.stream.id, None)
        if calls:
            self._lost[meaning] = calls
            self._meanings |= {call.stream.id: meaning for call, _ in calls}


def _can_be_read(stream: Stream) -> bool:
    """Return whether a stream is held from its start, and is running or complete."""
    outcome = stream.outcome
    return not stream.log.start and (outcome is None or outcome.reason == COMPLETE.reason)
