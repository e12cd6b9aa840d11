"""One request to an upstream and its response: sends it, passes the body to a receiver, and checks the time-outs.

A new time-out is a field of Timeouts, a check in `Exchange.late`, an error in wire/errors.py, a row in
stream/endings.py, and a key in `settings`.
"""

import asyncio
import functools
import math
import operator
from collections.abc import AsyncIterable, Callable
from time import monotonic
from typing import Final, NamedTuple, Protocol

import aiohttp

from proxy.upstream.connection import Connection, Receiver, TakeEvent, TakeEvents
from proxy.wire.errors import (
    BadRequest,
    FirstByteTimeout,
    FirstTokenTimeout,
    Garbled,
    IdleTimeout,
    RequestError,
    TotalTimeout,
    Truncated,
    Unreachable,
    UpstreamError,
)
from proxy.wire.http import LAST_CHUNK, Head, Headers, chunk, names_of, remember

_NO_BODY: Final[tuple[int, ...]] = (204, 304)
_TRANSFER_CODINGS: Final = {b"", b"chunked", b"identity"}
# Those of the registry, and others that servers use; any other name is no coding: some write `none`, `null`, `chunked`
# or the charset here.
_CODINGS: Final = frozenset(
    b"aes128gcm br brotli bzip2 compress dcb dcz deflate exi gzip lz4 lzma pack200-gzip snappy x-bzip2 x-compress"
    b" x-deflate x-gzip x-zstd xz zstd".split()
)
_GIVEN_UP: Final = Truncated("given up")
_GIVEN_UP.blames_upstream = False
# Which headers are present, as flags: noted once when they have come, instead of searching for each of them later.
_TYPE, _ENCODING, _CODING, _LENGTH, _REQUEST_ID = 1, 2, 4, 8, 16
_NOTED: Final = {
    b"content-type": _TYPE,
    b"content-encoding": _ENCODING,
    b"transfer-encoding": _CODING,
    b"content-length": _LENGTH,
    b"x-request-id": _REQUEST_ID,
}
_DROPPED: Final[Headers] = []
_END_S: Final = 0.75  # for an upstream to end its response after the final event; checked about once a second
NOT_ENDED: Final = Truncated("the upstream did not end its response after its final event")
NOT_ENDED.blames_upstream = False


class Timeouts(NamedTuple):
    """How many seconds an upstream may take; 0 is no limit.

    `idle_s` is for the time between two reads of a body, `total_s` for the complete exchange, and `first_token_s` for
    the time from the request to the first token, which is checked only if there is a Progress that expects tokens.
    """

    connect_s: float
    first_byte_s: float
    idle_s: float
    total_s: float
    first_token_s: float = 0.0


class Progress(Protocol):
    """The progress of a body, for bodies in which not all bytes are progress: comments only keep a connection alive."""

    @property
    def fed_at(self) -> float:
        """When progress was last made, or reading began or resumed; in monotonic seconds."""

    @property
    def awaits_token(self) -> bool:
        """True while generated text is expected and none has come."""

    @property
    def ended_at(self) -> float:
        """When the final event came, after which nothing can be missing, in monotonic seconds; 0 before."""

    @property
    def enough_after_s(self) -> float:
        """How many seconds without progress now show that nothing is missing; 0: none do."""


class Pool(Protocol):
    """The pool to which exchanges return their connections."""

    name: str

    def released(self, exchange: "Exchange", connection: Connection, keep: bool) -> None:
        """Take a connection back from an exchange that has ended."""


class Exchange:
    """One request and its response at an upstream.

    Created by `ConnectionPool.open`, which returns when the response's head has been received. The body goes to the
    receiver given to `attach`, and is kept until then.
    """

    # Without __slots__, so that what few exchanges have need not be set on each. What each has is set when it is made:
    # the first 30 objects of a class decide which attributes need no dict, and they may be made in one turn.
    endless = False
    """Whether no total time-out applies."""
    request_id: bytes | None = None
    """The upstream's own."""
    on_released: Callable[[UpstreamError | None], None] | None = None
    """Called with its error, if any."""
    _sender: asyncio.Task[None] | None = None
    _arrival: asyncio.Future[None] | None = None  # set while `peek` waits for more of the body

    def __init__(self, upstream: Pool, connection: Connection, method: bytes, switches: bool = False) -> None:
        """`switches`: the request asks to switch to another protocol."""
        self._upstream = upstream
        self._connection: Connection | None = connection
        self.is_head_request = method == b"HEAD"
        self.switches = switches
        self.status = self._noted = 0
        self.reason = self._content_type = b""
        self.headers: Headers = []
        self.names: tuple[bytes, ...] = ()  # of the headers
        self.request_id = None
        self.progress: Progress | None = None  # None: every byte is progress
        self._error: UpstreamError | None = None
        self._ended = self._is_plainly_chunked = False
        self._unsent = True  # a part of the request has not been written yet
        # Set when the head has been received; None, once nobody waits for it.
        self.responded: asyncio.Future[None] | None = asyncio.get_running_loop().create_future()
        connection.begin(self)
        self._began_at = self._asked_at = connection.read_at  # which is now
        self.look_at = 0.0  # before this time, in monotonic seconds, no time-out can have expired: see `late`

    def header(self, name: bytes) -> bytes | None:
        """Return the value of the last header with this name, which is in lower case; None if there is none."""
        size = len(name)
        for given, value in reversed(self.headers):
            if len(given) == size and given.lower() == name:
                return value
        return None

    def note_headers(self) -> None:
        """Note what is needed of the headers repeatedly. To be called again when they are changed."""
        headers = self.headers
        names = names_of(headers)
        shape = _SHAPES.get(names)
        if shape is None:
            shape = _Shape(names)
            remember(_SHAPES, names, shape)
        self.names = shape.names
        self._noted = shape.noted
        self._content_type = headers[shape.kind][1] if shape.kind >= 0 else b""
        if shape.request_id >= 0:
            self.request_id = headers[shape.request_id][1]
        self._is_plainly_chunked = shape.coding >= 0 and headers[shape.coding][1] == b"chunked"

    def drop_headers(self) -> None:
        """Keep the headers no longer, unless it depends on them how the response ends: 1 KB for each that goes on."""
        if self._is_plainly_chunked:
            self.headers = _DROPPED

    @property
    def head(self) -> Head:
        return Head(self.status, self.reason, self.headers, self.names)

    @property
    def upstream_name(self) -> str:
        return self._upstream.name

    @property
    def is_event_stream(self) -> bool:
        return self._content_type.lower().startswith(b"text/event-stream")

    @property
    def is_readable_stream(self) -> bool:
        """True when the response is an event stream for an EventSource (WHATWG HTML, 9.2.3), and not compressed."""
        return self.status == 200 and self.is_event_stream and not self.is_encoded

    @property
    def is_encoded(self) -> bool:
        """True when the body has a content coding, by the name of one that changes it."""
        if not self._noted & _ENCODING:
            return False
        values = [value for name, value in self.headers if name.lower() == b"content-encoding"]
        named = b",".join(values).lower().split(b",")
        return not _CODINGS.isdisjoint(coding.partition(b";")[0].strip() for coding in named)

    @property
    def framed(self) -> bool:
        """True when the response states where its body ends; a close-delimited one does not."""
        if self.bodyless or self._is_plainly_chunked:
            return True
        coding = self.header(b"transfer-encoding") if self._noted & _CODING else None
        if coding is None:
            return self.header(b"content-length") is not None
        return coding.rstrip().lower().endswith(b"chunked")

    @property
    def bodyless(self) -> bool:
        """True when the response can't have a body (RFC 9110 section 6.4.1)."""
        return self.is_head_request or self.status in _NO_BODY

    def send(self, start: bytes, body: bytes | AsyncIterable[bytes], *, chunked: bool) -> None:
        """Write the request: its head, and its body, at once or piece by piece."""
        assert self._connection is not None
        writer = self._connection.writer
        if isinstance(body, bytes):
            writer.write(start + body if len(body) < 65536 else start)
            if len(body) >= 65536:
                writer.write(body)
            self._unsent = False
        else:
            writer.write(start)
            self._sender = asyncio.create_task(self._send_pieces(self._connection, body, chunked))

    def attach(self, receiver: Receiver, take_events: TakeEvents | None = None) -> None:
        """Pass the body to `receiver` from now on, beginning with what has been received already.

        `take_events` is called first with later reads that consist of complete events.
        """
        connection = self._connection
        if connection is None:
            _end(receiver, b"", monotonic(), self._error or _GIVEN_UP)
            return
        data = connection.take()
        if self._ended:
            at, error = connection.read_at, self._error
            self._release()
            _end(receiver, data, at, error)
            return
        connection.receiver = receiver
        connection.take_events = take_events
        connection.on_events = take_events if connection.at_chunk else None
        if data:
            try:
                receiver.received(data, connection.read_at)
            except Exception as fault:
                self.receiver_failed(receiver, fault)

    def redirect(self, take_events: TakeEvents, take_event: TakeEvent | None = None) -> None:
        """Replace the `take_events` that was given to `attach`; `take_event`, if given, is called before it."""
        connection = self._connection
        if connection is not None:
            connection.take_events = take_events
            connection.take_event = take_event
            if connection.on_events is not None:
                connection.on_events = take_events

    def take_complete(self) -> bytes | None:
        """Return the body if it is `complete`, which ends the exchange without a receiver; otherwise None."""
        connection = self._connection
        if connection is None or not self._ended or self._error is not None:
            return None
        body = connection.take()
        self._release()
        return body

    def body_so_far(self) -> bytes:
        """Return the body so far, which is kept for `attach`."""
        return b"" if self._connection is None else self._connection.kept()

    @property
    def has_ended(self) -> bool:
        """True when no more of the body will come."""
        return self._ended or self._connection is None

    async def peek(self, enough: Callable[[bytes], bool]) -> bytes:
        """Wait until `enough` returns True for the body so far, or the body has ended; return the body so far.

        The body is kept for `attach`, which must come later. Slow: it joins the body so far at every read.
        """
        while self._connection is not None:
            body = self.body_so_far()
            if self._ended or enough(body):
                return body
            self._arrival = asyncio.get_running_loop().create_future()
            await self._arrival
        return b""

    @property
    def complete(self) -> bool:
        """True when the body has been received completely and without an error."""
        return self._ended and self._error is None

    def put(self, body: bytes) -> None:
        """Replace a `complete` body."""
        if self._connection is not None:
            self._connection.put(body)

    @property
    def connection(self) -> Connection | None:
        """The connection, to write to after it was switched to another protocol; None once the exchange is over."""
        return self._connection

    def pause(self) -> None:
        """Stop reading; the idle time-out does not run meanwhile."""
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        """Continue reading."""
        if self._connection is not None:
            self._connection.resume()

    def close(self) -> None:
        """Abandon the exchange: close the connection without calling the receiver. No effect once it has ended."""
        if self._connection is not None:
            self._error = self._error or _GIVEN_UP
            self._release()

    # For the connection

    def arrived(self) -> None:
        """Wake `peek`: more of the body, or its end, has been received, and there is no receiver."""
        arrival, self._arrival = self._arrival, None
        if arrival is not None and not arrival.done():
            arrival.set_result(None)

    def responds(self, status: int) -> None:
        """Record that the head has been received."""
        self.status = status
        self.note_headers()
        if self._noted & _CODING and (self._noted & _LENGTH or not self._is_plainly_chunked):
            self._read_coding()
        responded = self.responded
        if responded is not None and not responded.done():
            responded.set_result(None)

    def ends(self, error: UpstreamError | None) -> None:
        """Record that the response has ended, and tell the receiver; one that attaches later is told then."""
        connection = self._connection
        if connection is None or self._ended:
            return
        self._ended, self._error = True, error
        receiver = connection.receiver
        responded = self.responded
        if responded is not None and not responded.done():
            responded.set_exception(error or Unreachable("the upstream sent no response"))
            self._release()
        elif receiver is not None:
            data, at = connection.take(), connection.read_at
            self._release()
            _end(receiver, data, at, error)
        elif self._arrival is not None:
            self.arrived()

    def receiver_failed(self, receiver: Receiver, fault: Exception) -> None:
        """Close the exchange, because its receiver has raised an error and so has missed a part of the body."""
        self.close()
        receiver.failed(fault)

    def late(self, now: float, timeouts: Timeouts) -> UpstreamError | None:
        """Return the error of a time-out that has expired, or of a response that does not end after its final event.

        If none has, `look_at` is set to when the first of them may: progress only puts them off. Whoever notes what
        may end the response sooner, as a final event does, or changes the time-outs, calls `look_soon`.
        """
        connection = self._connection
        if connection is None or self._ended:
            return None
        total_s, token_s, idle_s = timeouts.total_s, timeouts.first_token_s, timeouts.idle_s
        asked_at, progress = self._asked_at, self.progress
        soonest = self._began_at + total_s if total_s and not self.endless else math.inf
        if now >= soonest:
            return TotalTimeout(f"the response took longer than {total_s:g} s in all")
        if token_s and (progress is None or progress.awaits_token):
            soonest = min(soonest, min(asked_at, now) + token_s)  # it is asked later while the client sends its body
        if not self.status:
            first_s = timeouts.first_byte_s
            if first_s and now - asked_at >= first_s:
                return FirstByteTimeout(f"the upstream sent no response within {first_s:g} s")
            if asked_at <= now:  # else the proxy waits for the client
                soonest = min(soonest, asked_at + (first_s or math.inf), now + (idle_s or math.inf))
                self.look_at = soonest
            return None
        if progress is not None and progress.ended_at and now - progress.ended_at >= _END_S:
            return NOT_ENDED
        if connection.paused:  # by the proxy itself
            return None
        if token_s and progress is not None and progress.awaits_token and now - asked_at >= token_s:
            return FirstTokenTimeout(f"the upstream sent no token within {token_s:g} s")
        fed_at = connection.read_at if progress is None else progress.fed_at
        enough_s = 0.0 if progress is None else progress.enough_after_s
        if enough_s and now - fed_at >= enough_s:
            return NOT_ENDED
        if idle_s and now - fed_at >= idle_s:
            what = "nothing but comments" if connection.read_at > fed_at else "nothing"
            return IdleTimeout(f"the upstream sent {what} for {idle_s:g} s")
        if not (enough_s or (progress is not None and progress.ended_at)):
            self.look_at = min(soonest, fed_at + (idle_s or math.inf))
        return None

    def look_soon(self) -> None:
        """Have `late` called when time-outs are checked next."""
        self.look_at = 0.0

    def _read_coding(self) -> None:
        """Drop the length that a transfer coding overrides; end the exchange if the coding is not supported."""
        named = [value for name, value in self.headers if name.lower() == b"transfer-encoding"]
        if not {coding.strip().lower() for coding in b",".join(named).split(b",")} <= _TRANSFER_CODINGS:
            self.ends(Garbled("the upstream's response is in a transfer coding that was not asked for"))
        self.headers[:] = [header for header in self.headers if header[0].lower() != b"content-length"]
        self.note_headers()

    def _release(self) -> None:
        """Return the connection to the pool, which keeps or closes it."""
        connection, self._connection = self._connection, None
        assert connection is not None
        sender = self._sender
        if sender is not None and not sender.done():
            sender.cancel()
        keep = self._error is None and connection.over and connection.reusable and connection.usable
        if keep and (self._unsent or connection.transport.get_write_buffer_size()):
            keep = False  # the unsent rest of the request would be read as the next request, or come before it
        self._upstream.released(self, connection, keep)
        if self._arrival is not None:
            self.arrived()
        if self.on_released is not None:
            self.on_released(self._error)

    async def _send_pieces(self, connection: Connection, pieces: AsyncIterable[bytes], chunked: bool) -> None:
        self._asked_at = math.inf  # while the proxy waits for the client, the upstream's time-outs do not run
        try:
            async for piece in pieces:
                self._asked_at = monotonic()
                if not connection.quiet:  # read first: a server that rejects a body may reset the connection
                    await asyncio.sleep(0)
                if self.status >= 400:
                    await asyncio.get_running_loop().create_future()  # rejected: send no more; waits to be cancelled
                if piece:
                    connection.writer.write(chunk(piece) if chunked else piece)
                    await connection.drained()
                self._asked_at = math.inf
            self._asked_at = monotonic()
            if chunked:
                connection.writer.write(LAST_CHUNK)
            self._unsent = False
        except (OSError, aiohttp.ClientError, aiohttp.http_exceptions.HttpProcessingError) as error:
            error.with_traceback(None)  # the client's request keeps the error, and its frames refer to the request
            self._client_failed(BadRequest("the client did not finish its request"))
        except RequestError as error:  # the client took too long, or sent too much
            error.drop_traceback()
            self._client_failed(error)

    def _client_failed(self, fault: RequestError) -> None:
        error = Unreachable(fault.message)
        error.blames_upstream = False
        error.status, error.code = fault.status, fault.code
        self.ends(error)


class _Shape:
    """What the names in a response's head say: which headers are present, and the places of those that are read."""

    __slots__ = ("coding", "kind", "names", "noted", "request_id")

    def __init__(self, names: tuple[bytes, ...]) -> None:
        self.names = names  # the same object for all exchanges with these
        lower = [name.lower() for name in names]
        flags = [_NOTED.get(name, 0) for name in lower]
        self.noted = functools.reduce(operator.or_, flags, 0)
        self.kind = _last(flags, _TYPE)
        self.request_id = _last(flags, _REQUEST_ID)
        self.coding = _last(flags, _CODING) if flags.count(_CODING) == 1 else -1


def _last(flags: list[int], flag: int) -> int:
    """Return the last place of a flag; -1 if it is nowhere."""
    return max((place for place, one in enumerate(flags) if one == flag), default=-1)


_SHAPES: Final[dict[tuple[bytes, ...], _Shape]] = {}


def _end(receiver: Receiver, data: bytes, at: float, error: UpstreamError | None) -> None:
    """Notify a receiver that the body has ended; if it raises, notify it of its failure."""
    try:
        receiver.ended(data, at, error)
    except Exception as fault:
        receiver.failed(fault)
