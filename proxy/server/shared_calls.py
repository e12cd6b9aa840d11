"""Upstream calls that several requests share: what makes requests one, and where their call is found.

Two requests are one by their `Idempotency-Key`, or, when that is configured, by all that they ask for. A call is
found from the moment its request is here, so two at once make one upstream call; it is answered to each of them from
its start. By body it is found while it runs; by key also afterwards, for as long as its stream is kept, if it is
complete or was cancelled: what failed, or was given up when everyone had left, is asked for again.

Knows nothing of responses. Nothing here waits between looking for a call and adding it, so none of it needs a lock.
"""

import asyncio
import hashlib
from collections.abc import Iterable
from typing import NamedTuple

from proxy.stream.stream import Stream
from proxy.upstream.pump import Pump
from proxy.wire.errors import KeyReused
from proxy.wire.http import Head, RawHeaders

_SDK = b"x-dashscope-sdk-"  # who asks, not what for: a session's id among them


class Identity(NamedTuple):
    """What makes requests one: the name of their call, and a digest of what they ask for under it."""

    name: tuple[bytes, str, str | bytes]
    asked: bytes
    lasting: bool  # found after its end, too


def by_key(
    caller: bytes, route: str, key: str, target: bytes, body: bytes, headers: RawHeaders, *, native: bool
) -> Identity:
    """Identify a request by its caller, route and Idempotency-Key.

    Its target and body must then be the same, and natively the headers that choose between a stream and one answer.
    """
    streamed = native and any(
        name.lower() == b"x-dashscope-sse" or (name.lower() == b"accept" and b"text/event-stream" in value.lower())
        for name, value in headers
    )
    return Identity((caller, route, key), _digest([b"%d" % streamed, target, body]), lasting=True)


def by_body(caller: bytes, route: str, target: bytes, body: bytes, headers: RawHeaders) -> Identity:
    """Identify a request by its caller and all that steers Qwen: target, body, Accept and X-DashScope headers."""
    steering = sorted(
        b"%b: %b" % (name.lower(), value)
        for name, value in headers
        if name.lower() == b"accept" or (name.lower().startswith(b"x-dashscope-") and not name.lower().startswith(_SDK))
    )
    asked = _digest([target, body, *steering])
    return Identity((caller, route, asked), asked, lasting=False)


def _digest(parts: Iterable[bytes]) -> bytes:
    digest = hashlib.blake2b(digest_size=32)
    for part in parts:
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.digest()


class Call:
    """One upstream call that no client's leaving ends by itself, and the stream of its answer."""

    __slots__ = ("identity", "opening", "promised", "pump")
    opening: asyncio.Task[Head]
    """Opens the exchange; its result is the head of the answer. Whoever makes the call sets it."""

    def __init__(self, pump: Pump, identity: Identity | None) -> None:
        self.pump = pump
        self.identity = identity
        self.promised = False  # a client was told that it would find the answer by the stream's id

    @property
    def stream(self) -> Stream:
        return self.pump.stream

    @property
    def lasting(self) -> bool:
        """Tell whether it is found after its end, too."""
        return self.identity is not None and self.identity.lasting

    async def answered(self) -> Head:
        """Wait for the head of the answer. Whoever waits counts as a follower of the stream to come.

        Raises: UpstreamError; Cancelled, when the stream was ended on request before; Overloaded, when by us.
        """
        self.pump.awaited += 1
        try:
            head = await asyncio.shield(self.opening)
        except BaseException as error:
            self.pump.awaited -= 1
            ending = self.stream.log.ending
            if isinstance(error, asyncio.CancelledError) and self.opening.cancelled() and ending is not None:
                raise ending.as_error() from None
            self.left()
            raise
        self.pump.awaited -= 1
        return head

    def left(self) -> None:
        """Be told that a client that waited will not follow; when it was the last, the writer is told."""
        stream = self.stream
        if not self.pump.awaited and not stream.subscriptions and stream.log.ending is None:
            self.pump.last_left()


class Calls:
    """Names to calls."""

    def __init__(self) -> None:
        self._by_name: dict[tuple[bytes, str, str | bytes], Call] = {}
        self._by_stream: dict[str, Call] = {}

    def find(self, identity: Identity) -> Call | None:
        """Return the call that a request shares. Raises: KeyReused, when its name stands for another one."""
        call = self._by_name.get(identity.name)
        if call is not None and call.identity is not None and call.identity.asked != identity.asked:
            raise KeyReused(
                "this Idempotency-Key was used for a request with another body or target; a new request needs a new key"
            )
        return call

    def add(self, call: Call) -> None:
        """Let a call be found by its name, until its stream is forgotten; one without an identity is not."""
        if call.identity is not None:
            self._by_name[call.identity.name] = call
            self._by_stream[call.stream.id] = call

    def ended(self, stream: Stream) -> None:
        """Take note of a stream that has just been sealed."""
        call, ending = self._by_stream.get(stream.id), stream.log.ending
        if call is not None and not (call.lasting and ending is not None and ending.replayed):
            self.forget(stream)

    def forget(self, stream: Stream) -> None:
        """Let the call of a stream be found no more."""
        call = self._by_stream.pop(stream.id, None)
        if call is not None and call.identity is not None:
            del self._by_name[call.identity.name]
