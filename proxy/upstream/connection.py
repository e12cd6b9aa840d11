"""One connection to an upstream. It parses one response after the other, and passes the body on with every read.

The parser is httptools (llhttp); reads that are as most are pass without it (`machine`): its callbacks take longer
than all else that is done for them. A read from the socket reaches the log in the same iteration of the event loop:
there is no task, future or timer for a read. Hot path: `Connection.data_received`.
"""

import asyncio
import contextlib
import os
import select
import socket
from collections.abc import Callable
from functools import partial
from time import monotonic
from types import SimpleNamespace
from typing import Any, Final, Protocol

import aiohttp
import httptools

from proxy.machine import CHUNKED, Transport, chunked_body, direct, events, lost, response_head
from proxy.wire.errors import Garbled, Truncated, Unreachable, UpstreamError
from proxy.wire.http import Headers, with_one_length

TakeEvents = Callable[[list[bytes], bytes, float], bool]
"""Takes a read that consists of complete events: their frames, their chunks, and its time in monotonic seconds.

If it returns False, it has done nothing, and the read is passed to `received` instead.
"""

TakeEvent = Callable[[bytes, float], bool]
"""Takes a read that is one chunk with one event, unparsed, and its time in monotonic seconds.

If it returns False, it has done nothing, and the read is passed to TakeEvents instead.
"""

LONG_READ: Final = 64 * 1024  # bytes; a read of this size does not take the fast path
_MAX_HEAD_BYTES: Final = 256 * 1024
_SWITCHING: Final = 101
_CHUNKED_HEAD: Final = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Receiver(Protocol):
    """The receiver of a response's body."""

    def received(self, data: bytes, at: float) -> None:
        """Take the body bytes of one read; `at` is its time in monotonic seconds."""

    def ended(self, data: bytes, at: float, error: UpstreamError | None) -> None:
        """Take the last bytes, and the error if the body is incomplete. Called once, and last."""

    def failed(self, fault: Exception) -> None:
        """Take the exception that one of the methods above raised. The receiver is called no more for this body."""


class Served(Protocol):
    """An exchange, as the connection that reads its response uses it: the methods are called by the connection."""

    status: int
    reason: bytes
    headers: Headers
    is_head_request: bool
    switches: bool
    """Whether its request asked to switch to another protocol (RFC 9110 section 7.8)."""

    @property
    def framed(self) -> bool:
        """True when the response's head states where its body ends."""

    def responds(self, status: int) -> None:
        """Note that the head has been received."""

    def arrived(self) -> None:
        """Note that more of the body, or its end, has been received and there is no receiver."""

    def ends(self, error: UpstreamError | None) -> None:
        """Note that the response has ended."""

    def receiver_failed(self, receiver: Receiver, fault: Exception) -> None:
        """Note that the receiver has raised an exception."""


class Connection:
    """One connection to an upstream, from its first request to its close.

    It has at most one exchange at a time. It implements asyncio.Protocol without inheriting from it: a compiled class
    with an interpreted base is slower by 0.3 us a read, and event loops need only the methods.
    """

    __slots__ = (
        "_body",
        "_head_bytes",
        "_lent",
        "_poll",
        "_writable",
        "at_chunk",
        "exchange",
        "idle_since",
        "is_unparsed",
        "on_events",
        "over",
        "parser",
        "paused",
        "read_at",
        "receiver",
        "reusable",
        "switched",
        "take_event",
        "take_events",
        "transport",
        "writer",
    )

    transport: Any  # asyncio.Transport; uvloop's is not derived from it
    writer: Transport  # what requests are written to

    def __init__(self, lent: aiohttp.connector.Connection | None = None) -> None:
        """Wrap a connection `lent` by aiohttp; without one, `connection_made` must follow."""
        self._lent = lent
        self.exchange: Served | None = None
        self.receiver: Receiver | None = None
        self._body = b""  # what no receiver has taken
        self.take_event: TakeEvent | None = None  # the receiver's, as the next
        self.take_events: TakeEvents | None = None
        self.on_events: TakeEvents | None = None  # the same if the next read begins at a chunk, else None
        self.at_chunk = False  # the last read that was parsed ended where a chunk ends, so that the next begins one
        self.parser: httptools.HttpResponseParser | None = _new_parser()  # None: closed
        self._poll: Callable[[int], Any] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._head_bytes = 0
        self.is_unparsed = False  # the parser has not seen the head of the response in progress, which is chunked
        self.read_at = 0.0
        self.idle_since = 0.0
        self.over = False  # the complete response is parsed
        self.reusable = False  # the connection stays open after the response
        self.paused = False
        self.switched = False  # to another protocol: every byte belongs to the receiver
        if lent is not None and lent.transport is not None:
            self.connection_made(lent.transport)
            self.transport.set_protocol(self)

    @property
    def usable(self) -> bool:
        return not self.transport.is_closing()

    @property
    def quiet(self) -> bool:
        """True when neither data nor an end of file waits to be read. Asks the kernel, which knows before the loop."""
        if self._poll is None:
            poll = select.poll()
            poll.register(self.transport.get_extra_info("socket"), select.POLLIN)
            self._poll = poll.poll
        return not self._poll(0)

    def begin(self, exchange: Served) -> None:
        """Serve an exchange from now on."""
        self.exchange = exchange
        self.over = self.reusable = self.at_chunk = self.is_unparsed = False
        self.take_event = self.take_events = self.on_events = None
        self._head_bytes = 0
        self.read_at = monotonic()

    def take(self) -> bytes:
        """Return and remove the body bytes that no receiver has taken."""
        body, self._body = self._body, b""
        return body

    def kept(self) -> bytes:
        """Return the body bytes that no receiver has taken, and keep them."""
        return self._body

    def put(self, body: bytes) -> None:
        """Replace the kept body bytes."""
        self._body = body

    def pause(self) -> None:
        if not self.paused and self.usable:
            self.paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.paused and self.usable:
            self.paused = False
            self.read_at = monotonic()
            self.transport.resume_reading()

    def write(self, data: bytes) -> bool:
        """Send bytes of the protocol that was switched to; return whether there is room for more."""
        if self.usable:
            self.writer.write(data)
        return self.writable

    @property
    def writable(self) -> bool:
        """Whether there is room for more of what is written."""
        return self._writable is None

    def on_writable(self, resume: Callable[[], object]) -> None:
        """Call `resume` once, when there is room for more, or the connection is lost."""
        if self._writable is None:
            resume()
        else:
            self._writable.add_done_callback(lambda _: resume())

    def forget_exchange(self) -> None:
        """Drop all references to the exchange, its receiver and their stream."""
        self.exchange = self.receiver = None
        self.take_event = self.take_events = self.on_events = None
        self._body = b""

    def close(self) -> None:
        """Close the connection at once, even if a part of a request has not been sent yet; safe at any time."""
        self.forget_exchange()
        self.parser = None
        self.transport.abort()  # not close(): that waits for an upstream that has stopped reading
        if self._lent is not None:
            self._lent.close()

    async def drained(self) -> None:
        """Wait until the transport has room for more of a request."""
        if self._writable is not None:
            await asyncio.shield(self._writable)

    def _read_rest(self) -> None:
        """Read what came before the connection was reset; event loops drop it if they notice the reset while writing.

        This way the error response of a server that closes without reading the complete request is not lost. Not
        possible with TLS, because only the event loop can decrypt.
        """
        if self.transport.get_extra_info("ssl_object") is not None:
            return
        number = self.transport.get_extra_info("socket").fileno()
        if number >= 0:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as sock:
                while self.exchange is not None and (data := sock.recv(LONG_READ)):
                    self._parse(data, self.read_at)

    # asyncio.Protocol

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.writer = direct(transport)

    def data_received(self, data: bytes) -> None:
        self.read_at = at = monotonic()
        take_events, receiver = self.on_events, self.receiver
        try:
            if take_events is not None and len(data) < LONG_READ:
                take_event = self.take_event
                if take_event is not None and take_event(data, at):
                    return
                # Without llhttp, in one call instead of nine, each of which costs a microsecond of cold memory.
                frames = events(data)
                if frames and take_events(frames, data, at):
                    return
            self._parse(data, at)
        except Exception as fault:
            exchange = self.exchange
            if receiver is None or exchange is None:
                raise
            exchange.receiver_failed(receiver, fault)

    def _parse(self, data: bytes, at: float) -> None:
        parser = self.parser
        if parser is None:
            if self.switched:
                self._pass_on(data, at)
            return
        if self.is_unparsed:
            found = chunked_body(data, 0)
            if found is not None:
                self._take_body(found[0], at, is_last=found[1])
                return
        elif self._take_response(data, at):
            return
        _parsed.connection = self
        if _parsed.pieces:  # none may be left, whatever was raised: they are of another connection
            _parsed.pieces.clear()
        if self.is_unparsed:  # the parser goes on from here
            parser.feed_data(_CHUNKED_HEAD)
            self.is_unparsed = False
        try:
            parser.feed_data(data)
        except (httptools.HttpParserUpgrade, httptools.HttpParserError) as exc:
            self._body += _parsed.body()
            _parsed.chunks.clear()
            is_switch = isinstance(exc, httptools.HttpParserUpgrade)
            if is_switch and self._switch(data, exc.args[0]):
                return
            if not self.over:
                if self._reparse(data, at):
                    return
                what = "protocol switched" if is_switch else str(exc)
                self._fail(Garbled(f"the upstream's response is not valid HTTP: {what}"))
                return
            self.reusable = False  # bytes after the response, in its last read
        pieces, chunks = _parsed.pieces, _parsed.chunks
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        # The read ends with a chunk if the last callback was the end of one and the last byte is its LF: were this the
        # LF after the size of another chunk, the last callback would be that chunk's beginning.
        self.at_chunk = bool(chunks) and not chunks[-1] and not self.over and data.endswith(b"\n")
        self.on_events = self.take_events if self.at_chunk else None
        chunks.clear()
        receiver = self.receiver
        if receiver is not None and not self.over:
            if body:
                receiver.received(body, at)
            return
        if body and self.exchange is not None:
            self._body += body
        if self.over:
            self._conclude()
        else:
            self._watch_head(len(data))

    def _take_response(self, data: bytes, at: float) -> bool:
        """Take a response's head, and what came of its body, without the parser; return False if that has to do it."""
        exchange = self.exchange
        if exchange is None or exchange.status or self._head_bytes or exchange.is_head_request or exchange.switches:
            return False
        found = response_head(data)
        if found is None:
            return False
        status, reason, headers, length, begin = found
        is_chunked = length == CHUNKED
        body = chunked_body(data, begin) if is_chunked else (data[begin:], True)
        if body is None or not (is_chunked or len(data) - begin == length):
            return False
        exchange.reason, exchange.headers = reason, headers
        self.reusable, self.is_unparsed = True, not body[1]
        exchange.responds(status)
        self._take_body(body[0], at, is_last=body[1])
        return True

    def _take_body(self, body: bytes, at: float, *, is_last: bool) -> None:
        """Take a read of complete chunks, whose bodies these are."""
        if is_last:
            self.over, self.is_unparsed, self.on_events, self.at_chunk = True, False, None, False
            self._body += body
            self._conclude()
            return
        if body:
            self.at_chunk, self.on_events = True, self.take_events
        receiver = self.receiver
        if receiver is None:
            self._body += body
            if self.exchange is not None:
                self.exchange.arrived()
        elif body:
            receiver.received(body, at)

    def _reparse(self, data: bytes, at: float) -> bool:
        """Parse a refused response again with one Content-Length, if its head repeats the same; return whether it does.

        Only if the complete head is in this read, as it almost always is: heads are not kept for this rare case.
        """
        exchange = self.exchange
        if exchange is None or exchange.status or self._head_bytes or (whole := with_one_length(data)) is None:
            return False
        self.parser = _new_parser()
        exchange.headers.clear()
        exchange.reason = b""
        self._parse(whole, at)
        return True

    def _switch(self, data: bytes, start: int) -> bool:
        """Switch to another protocol from `start` on, if the response agreed to that; return whether it did."""
        exchange = self.exchange
        if exchange is None or exchange.status != _SWITCHING:
            return False
        self.switched, self.parser = True, None
        self._body += data[start:]
        return True

    def _pass_on(self, data: bytes, at: float) -> None:
        """Pass a read after the switch to another protocol on to the receiver, or keep it until there is one."""
        self._body += data
        if self.receiver is not None:
            self.receiver.received(self.take(), at)

    def eof_received(self) -> bool:
        return False  # the transport closes; connection_lost gets the reason

    def connection_lost(self, exc: Exception | None) -> None:
        lost(self.writer)
        if self._lent is not None and self._lent.protocol is not None:
            self._lent.protocol.connection_lost(exc)
        self._wake()
        if exc is not None and self.exchange is not None:
            self._read_rest()
        exchange = self.exchange
        if exchange is None:
            self.parser = None
            return
        if self.over:
            return
        if exchange.status and not exchange.framed and exc is None:
            self.over = True  # close-delimited (RFC 9112 section 6.3, rule 8)
            self._conclude()
        elif exchange.status or self._head_bytes:
            self._fail(Truncated("the upstream's response broke off"))
        else:
            self._fail(Unreachable("the upstream closed the connection before it responded"))

    def pause_writing(self) -> None:
        if self._writable is None:
            self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        self._wake()

    def take_interim(self, exchange: Served, status: int, *, switches: bool) -> None:
        """Take the head of an interim response (RFC 9110 section 15.2), after which another follows."""
        if status < 100:
            self._fail(Garbled(f"the upstream's response has the status {status}, which HTTP does not have"))
        elif status == _SWITCHING and exchange.switches and switches:
            exchange.responds(status)
        else:
            exchange.headers.clear()
            exchange.reason = b""

    # Endings

    def _conclude(self) -> None:
        exchange = self.exchange
        if exchange is None:  # bytes without a request: the connection must be closed (RFC 9112 section 9.2)
            self.close()
        else:
            exchange.ends(None)

    def _fail(self, error: UpstreamError) -> None:
        if self.exchange is None:
            self.close()
        else:
            self.exchange.ends(error)

    def _watch_head(self, size: int) -> None:
        exchange = self.exchange
        if exchange is None:
            self.close()
        elif not exchange.status:
            self._head_bytes += size
            if self._head_bytes > _MAX_HEAD_BYTES:
                self._fail(Garbled(f"the upstream's response head is larger than {_MAX_HEAD_BYTES} bytes"))
        else:
            exchange.arrived()

    def _wake(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None


class _Parsed:
    """The read that is being parsed: what httptools calls while it is fed.

    One for all connections, since one read is parsed after the other. httptools keeps the methods that it calls, so
    that each connection with its own would be ten objects more for the garbage collector to look at.
    """

    __slots__ = ("chunks", "connection", "pieces")

    connection: Connection  # which has read it

    def __init__(self) -> None:
        self.pieces: list[bytes] = []  # of the body
        self.chunks: list[bool] = []  # True for each chunk that began, False for each that ended

    def body(self) -> bytes:
        """Return and remove the bytes of the body."""
        body = b"".join(self.pieces)
        self.pieces.clear()
        return body

    def on_message_begin(self) -> None:
        if self.connection.over or self.connection.exchange is None:
            raise ValueError("bytes after the response")  # feed_data's caller gets it as a parser error

    def on_status(self, status: bytes) -> None:
        exchange = self.connection.exchange
        if exchange is not None and not exchange.status:
            exchange.reason += status

    def on_header(self, name: bytes, value: bytes) -> None:
        exchange = self.connection.exchange
        if exchange is not None and not exchange.status:  # else it is a trailer (RFC 9110 section 6.5.1)
            exchange.headers.append((name, value))

    def on_headers_complete(self) -> None:
        connection = self.connection
        exchange, parser = connection.exchange, connection.parser
        if exchange is None or parser is None or connection.is_unparsed:
            return
        status = parser.get_status_code()
        if status < 200:
            connection.take_interim(exchange, status, switches=parser.should_upgrade())
            return
        connection.reusable = parser.should_keep_alive()
        exchange.responds(status)
        if exchange.is_head_request:
            connection.over = True
            connection.parser = _new_parser()  # the old one expects a body

    def on_message_complete(self) -> None:
        connection = self.connection
        exchange, parser = connection.exchange, connection.parser
        if exchange is not None and exchange.status not in (0, _SWITCHING) and parser is not None:
            connection.over = True
            connection.reusable = parser.should_keep_alive()  # to be asked now: llhttp resets it with the next byte


_parsed: Final = _Parsed()
_CALLED: Final = SimpleNamespace(
    on_message_begin=_parsed.on_message_begin,
    on_status=_parsed.on_status,
    on_header=_parsed.on_header,
    on_headers_complete=_parsed.on_headers_complete,
    on_message_complete=_parsed.on_message_complete,
    # Called for each chunk. Being built-in functions, they take 0.2 us less than methods.
    on_body=_parsed.pieces.append,
    on_chunk_header=partial(_parsed.chunks.append, True),
    on_chunk_complete=partial(_parsed.chunks.append, False),
)


def _new_parser() -> httptools.HttpResponseParser:
    parser = httptools.HttpResponseParser(_CALLED)
    # Chunks override a length (RFC 9112 section 6.3), and spaces may stand behind a chunk's size (section 7.1.1).
    parser.set_dangerous_leniencies(lenient_chunked_length=True, lenient_spaces_after_chunk_size=True)
    return parser
