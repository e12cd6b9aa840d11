"""Upstream calls that several requests share: which requests share one, how it is found, and how it begins.

Requests share a call if they have the same `Idempotency-Key`; or the same content, with `generations.share = "body"`;
or the same URL, on a configured route with `share = "url"`. A call is registered as soon as its request has been read,
so that two simultaneous requests make one call. By content and by URL a call is found while it runs; by key also
afterwards, while its stream is kept, if it is complete or was cancelled. A call that failed, or was closed because all
clients had disconnected, is made again.

Knows nothing of responses to clients. Nothing here waits between finding a call and adding one: no lock is needed.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Literal, NamedTuple

from proxy.server.delivery import refusal
from proxy.stream.endings import CLIENT_GONE, COMPLETE, ending_of
from proxy.stream.faults import log_fault
from proxy.stream.hub import ANYONE, Hub
from proxy.stream.stream import Stream
from proxy.upstream.exchange import Exchange
from proxy.upstream.on_disconnect import OnDisconnect
from proxy.upstream.stream_writer import StreamWriter
from proxy.wire.errors import InternalError, KeyReused, Overloaded, ProxyError, RateLimited, UpstreamError
from proxy.wire.http import Head

AWAITING_HEAD: Final = (
    "awaiting_head"  # the hold of clients that wait for the head of the response, and don't follow yet
)
_CLOSE_AT_ONCE: Final = OnDisconnect(0)

Joined = Literal["key", "body", "retry"]
"""How the call of an earlier request, which this one shares, was found."""

Ask = Callable[[], Awaitable[Exchange]]
"""Sends the request upstream; await the result for the head of the response."""

IsStream = Callable[[Exchange], Awaitable[bool]]
"""Returns whether a response is a readable event stream; it may peek at the body, but not consume it."""


class Identity(NamedTuple):
    """What makes requests share a call: an equal name, under which the digest of their content must be equal, too."""

    name: tuple[bytes, str, str | bytes]
    asked: bytes
    lasting: bool = False  # the call is found after its end, too
    endless: bool = False  # its stream has no end of its own: a later call resumes it


def by_key(caller: bytes, route: str, key: str, target: bytes, body: bytes, *, streamed: bool = False) -> Identity:
    """Identify a request by its caller, route and Idempotency-Key.

    Its target and body must then be the same, and whether its headers ask for a stream (`streamed`).
    """
    return Identity((caller, route, key), digest([b"%d" % streamed, target, body]), lasting=True)


def by_body(caller: bytes, route: str, target: bytes, body: bytes, steering: Iterable[bytes]) -> Identity:
    """Identify a request by its caller and all that its response depends on: target, body, `steering` headers."""
    asked = digest([target, body, *steering])
    return Identity((caller, route, asked), asked)


def by_url(route: str, method: str, target: bytes, body: bytes, content_type: str) -> Identity:
    """Identify a request by its URL and body alone, on a route whose streams are open to everybody."""
    asked = digest([method.encode(), target, content_type.encode("utf-8", "surrogateescape"), body])
    return Identity((ANYONE, route, asked), asked, endless=True)


def digest(parts: Iterable[bytes]) -> bytes:
    """Return a digest of all parts, in their order."""
    found = hashlib.blake2b(digest_size=32)
    for part in parts:
        found.update(b"%d:" % len(part))
        found.update(part)
    return found.digest()


class Call:
    """One upstream call that several requests may share, and the stream of its response. It may outlive its clients."""

    __slots__ = ("_hub", "attachable", "identity", "opening", "promised", "writer")
    opening: asyncio.Task[Head]
    """Opens the exchange; its result is the head of the response."""

    def __init__(self, hub: Hub, writer: StreamWriter, identity: Identity | None) -> None:
        self._hub = hub
        self.writer = writer
        self.identity = identity
        self.attachable = False  # a retry may read it if its client is lost, also after its end
        self.promised = False  # a client was sent the stream's id (202), and will fetch the response by it

    @property
    def stream(self) -> Stream:
        return self.writer.stream

    @property
    def lasting(self) -> bool:
        """Return whether it is found after its end, too."""
        return self.identity is not None and self.identity.lasting

    def begin(self, ask: Ask, is_stream: IsStream) -> None:
        """Begin the call, in a task of its own."""
        self.opening = self.writer.opening = asyncio.create_task(self._open(ask, is_stream))
        self.opening.add_done_callback(_retrieve_error)

    async def answered(self) -> Head:
        """Wait for the head of the response. The call is held open until the waiting client can have begun to follow.

        Raises: UpstreamError; Cancelled, if the stream was cancelled before; Overloaded, if the proxy ended it.
        """
        stream = self.stream
        stream.hold(AWAITING_HEAD)
        try:
            head = await asyncio.shield(self.opening)
        except BaseException as error:
            stream.release(AWAITING_HEAD)
            ending = stream.log.ending
            if isinstance(error, asyncio.CancelledError) and self.opening.cancelled() and ending is not None:
                raise ending.as_error() from None
            raise
        asyncio.get_running_loop().call_soon(stream.release, AWAITING_HEAD)
        return head

    async def _open(self, ask: Ask, is_stream: IsStream) -> Head:
        """Open the exchange and have the writer take its body. Raises: the ProxyError that has ended the stream."""
        try:
            return await self._opened(ask, is_stream)
        except (UpstreamError, RateLimited, Overloaded) as error:
            self._end(error)
            raise
        except Exception as fault:
            log_fault("the opening of a call", fault)
            unforeseen = InternalError()
            self._end(unforeseen)
            raise unforeseen from None

    def _end(self, error: UpstreamError | RateLimited | Overloaded | InternalError) -> None:
        self.writer.opening = None
        if not self.promised:
            self._hub.discard(self.stream)
        self.writer.stop(ending_of(error))

    async def _opened(self, ask: Ask, is_stream: IsStream) -> Head:
        writer = self.writer
        exchange = await ask()
        streamed = await is_stream(exchange)
        writer.opening = None
        head = exchange.head
        kept_head = None if streamed else head
        self._hub.answered(self.stream, exchange.upstream_name, exchange.request_id, kept_head)
        if streamed:
            writer.start(exchange)
        else:
            self._keep(exchange, head)
        return head

    def _keep(self, exchange: Exchange, head: Head) -> None:
        """Put a response that is not an event stream into the log, for the clients that wait for it.

        It is kept after its end if it is `promised`, or a success that retries may read. Later requests don't find an
        error response: a retry makes a new call. Followers that are already attached expect a stream; they are ended
        with the error.
        """
        stream, refused = self.stream, refusal(head)
        stream.dismiss(refused)
        good = 200 <= head.status < 300
        if not (self.promised or (good and (self.lasting or self.attachable))):
            self._hub.discard(stream)
            if not stream.wanted:
                exchange.close()
                self.writer.stop(CLIENT_GONE)
                return
            if not good or self.identity is None:  # no later request finds it, so there is nobody to wait for
                self.writer.on_disconnect = _CLOSE_AT_ONCE
        self.writer.keep(exchange, COMPLETE if good else refused._replace(clean=True))


class Calls:
    """The calls by name; an observer of their streams."""

    def __init__(self) -> None:
        self._by_name: dict[tuple[bytes, str, str | bytes], Call] = {}
        self._by_stream: dict[str, Call] = {}
        self._before: dict[tuple[bytes, str, str | bytes], Stream] = {}  # event streams that have ended

    def find(self, identity: Identity) -> Call | None:
        """Return the call that a request shares. Raises: KeyReused, if that call's request has another content."""
        call = self._by_name.get(identity.name)
        if call is not None and call.identity is not None and call.identity.asked != identity.asked:
            raise KeyReused(
                "this Idempotency-Key was used for a request with another body or target; a new request needs a new key"
            )
        return call

    def holds(self, identity: Identity) -> bool:
        """Return whether a request of this identity shares a call, or is refused because of one."""
        return identity.name in self._by_name

    def named(self) -> Iterable[tuple[bytes, str, str | bytes]]:
        """Return the names of all calls that requests may share."""
        return self._by_name.keys()

    def before(self, identity: Identity) -> Stream | None:
        """Return the stream of the last endless call with this identity, if it has ended and is kept."""
        return self._before.get(identity.name)

    def add(self, call: Call) -> None:
        """Register a call by its name, until its stream is forgotten; a call without an identity is not registered."""
        if call.identity is not None:
            self._by_name[call.identity.name] = call
            self._by_stream[call.stream.id] = call

    def answered(self, stream: Stream) -> None:
        """Unregister a call whose response is an error."""
        head = stream.kept_head
        if head is not None and not 200 <= head.status < 300:
            self.forget(stream)

    def ended(self, stream: Stream) -> None:
        """Unregister a call that has ended, unless retries are to find its response."""
        call = self._by_stream.get(stream.id)
        if call is None or call.identity is None:
            return
        ending = stream.log.ending
        name, is_event_stream = call.identity.name, stream.log.end > 0 and stream.kept_head is None
        if call.identity.endless and is_event_stream:
            del self._by_name[name]
            self._before[name] = stream
        elif not (call.lasting and ending is not None and ending.replayed):
            self.forget(stream)

    def forget(self, stream: Stream) -> None:
        """Unregister the call of a stream."""
        call = self._by_stream.pop(stream.id, None)
        if call is None or call.identity is None:
            return
        name = call.identity.name
        if self._by_name.get(name) is call:
            del self._by_name[name]
        if self._before.get(name) is stream:
            del self._before[name]


def _retrieve_error(opening: asyncio.Task[Head]) -> None:
    """Mark a failure as retrieved, so that asyncio does not log it: the stream's ending states it.

    By `result`, not `exception`: only then does the task drop the traceback, which refers to the call.
    """
    try:
        opening.result()
    except asyncio.CancelledError:
        pass
    except ProxyError as error:
        error.drop_traceback()
    except Exception:  # noqa: S110  (`_open` has logged it)
        pass
