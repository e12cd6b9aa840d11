"""One connection of a client: from one request to the next, what the client sends, and what it does not send in time.

One task responds to all requests of a connection (`start`). Beside it: the time-outs of clients (`client_connections`
has the timer), requests that wait for their turns, and clients that close within a request.
"""

import asyncio
import contextlib
import select
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Any, Protocol

from aiohttp import EMPTY_PAYLOAD, HttpVersion10, HttpVersion11, StreamReader, web, web_protocol
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict, CIMultiDictProxy

from proxy.downstream.client_connections import ClientConnections, ClientTimeouts
from proxy.downstream.client_protocol import NOTHING, RESUMES_AT, ClientProtocol, Malformed
from proxy.downstream.known_heads import KnownHead, KnownHeads, WholeBody
from proxy.downstream.request_pieces import pieces
from proxy.downstream.response import RESPONSE, Written, reset
from proxy.downstream.unsent import unsent_in_kernel
from proxy.machine import Transport, direct, lost
from proxy.stream.turns import Turns
from proxy.wire.errors import Overloaded, ProxyError, RequestTimeout

ERROR_TO_SEND = web.RequestKey("error", ProxyError)  # on a request: the error to respond with, whatever its path
UNPARSED = "UNKNOWN"  # the method of the request that aiohttp creates for one that it could not parse
LINGERING_S = 2.0  # a connection is still read for so long after an error response
_REST_S = 10.0  # the rest of a request's body is read for so long after the response
_RESETS_S = (0.001, 0.01, 0.1, 0.4, 1.5)  # successive waits for a reset, for round trips of any length
_NO_HEADERS: CIMultiDictProxy[str] = CIMultiDictProxy(CIMultiDict())
_aiohttps: Any = (
    web_protocol  # its type says NamedTuple, which compiled modules insist on; its parser's messages are none
)
_UNPARSED_MESSAGE: Any = _aiohttps.ERROR
_NO_MESSAGE: Any = _UNPARSED_MESSAGE._replace(headers=_NO_HEADERS, raw_headers=())
_BLANK_LINE = b"\r\n\r\n"


class Port(Protocol):
    """What a connection needs of the listener of its port."""

    clients: ClientConnections
    heads: KnownHeads
    turns: Turns
    urgent: bytes
    is_admin: bool
    header_bytes: int
    max_headers: int
    loop: asyncio.AbstractEventLoop
    made: "set[Connection]"
    """Its connections that have not ended, or whose task has not."""
    respond: Callable[[Any], Awaitable[Any]]
    """Responds to a request."""

    def new_request(self, message: Any, body: Any, connection: "Connection", task: Any) -> Any:
        """Make a request of its head, its body and the task that responds to it, and have the connection begin it."""

    def log_fault(self, request: web.BaseRequest, fault: BaseException) -> None:
        """Log an exception that no handler should raise."""

    def may_begin(self, now: float) -> bool:
        """Count a request, and return whether it may begin at once; if not, it must wait for its turn."""

    def has_begun(self) -> None:
        """Note that a request which waited has begun."""

    def refuse_unparsable(
        self, request: web.BaseRequest, beginning: bytes, error: HttpProcessingError
    ) -> web.StreamResponse:
        """Respond to a request that could not be parsed."""

    def error_bytes(self, beginning: bytes, error: ProxyError) -> bytes:
        """Return a whole error response, for a client of whose request no more than `beginning` has come."""


class Connection(ClientProtocol):
    """One connection of a client, whose requests it passes to the handler one after another."""

    __slots__ = (
        "_answered",
        "_closing",
        "_ends_request",
        "_has_ended",
        "_head_began_at",
        "_held",
        "_held_bytes",
        "_idle_since",
        "_is_settled",
        "_last_head",
        "_port",
        "_queued_bytes",
        "_received_at",
        "_within_head",
        "beginning",
        "current",
        "is_responding",
        "peer",
        "remote",
        "taken_at",
        "unsent_bytes",
        "writer",
    )

    remote: str | None  # the client's address
    peer: Any  # its transport, also when `transport` is None
    writer: Transport  # what responses are written to

    def __init__(self, port: Port) -> None:
        super().__init__(port.loop, port.header_bytes, port.max_headers)
        self._port = port
        self.current: web.BaseRequest | None = (
            None  # the request in progress: from the end of its head to that of its response
        )
        self.beginning = b""  # the first line of a request and a little more, until its head is parsed
        self._held = b""  # bytes of a request that waits for its turn to begin
        self._held_bytes = 0  # of the request's body, kept in memory
        self._answered = False  # whether at least one request has been
        self._within_head = False
        self._last_head: KnownHead | None = None  # that of the last request that had a known one
        self._ends_request = True  # the last read ended where a request ends: see `_note_end`
        self._has_ended = False  # the client has closed its sending side: what came before is still answered
        self._head_began_at = self._received_at = self._idle_since = self.taken_at = monotonic()
        self._is_settled = False  # a response is in progress, and nothing but its bytes can be late any more
        self._closing = False  # whether it is about to be closed, after an error response or by `cut`
        self.unsent_bytes = self._queued_bytes = 0
        self.is_responding = False  # to a request, until the rest of its body is read, too

    # From one request to the next

    def connection_made(self, transport: Any) -> None:
        self.peer = transport
        self.writer = direct(transport)
        super().connection_made(transport)
        peername = transport.get_extra_info("peername")
        self.remote = str(peername[0] if isinstance(peername, tuple) else peername) if peername is not None else None
        self._port.made.add(self)
        self._port.clients.arrived(self, admin=self._port.is_admin)

    def connection_lost(self, exc: BaseException | None) -> None:
        lost(self.writer)
        if self._held_bytes:
            self.release_body()
        self._port.clients.gone(self)
        if exc is not None:
            exc.with_traceback(None)  # that of a failed write would keep the stream's frames in memory
        task, request = self._task, self.current
        super().connection_lost(exc)
        if task is None or not self.is_responding:
            self._port.made.discard(self)
        else:
            if request is not None:
                request._cancel(exc or ConnectionResetError("the client has disconnected"))
            task.cancel()
            task.add_done_callback(lambda _: self._port.made.discard(self))
        self.current = None  # the request refers to this connection: else they would be a reference cycle

    def begin(self, request: web.BaseRequest, *, was_parsed: bool) -> None:
        """Note that the head of a request has come, and whether it could be parsed."""
        if was_parsed:
            self.beginning = b""
        self.current = request
        self._within_head = False
        self._port.clients.idle.pop(self, None)
        if self._messages:
            self._fail_unparsable_body()

    def answered(self, request: web.BaseRequest) -> None:
        """Note that the response to a request has ended."""
        self.current, self._is_settled = None, False
        self._answered = True
        self._idle_since = monotonic()
        if not self._port.is_admin and self.transport is not None:
            self._port.clients.idle[self] = None
        if self._held_bytes:
            self.release_body()
        content = request.content
        if not content.is_eof() and isinstance(content.exception(), RequestTimeout):
            content.feed_eof()  # else aiohttp would wait for the rest

    async def start(self) -> None:
        """Respond to one request after another: the connection's task, which begins with the first."""
        while not self._force_close:
            if not self._messages:
                if self._has_ended and not self.holds_bytes:
                    break
                self._waiter = self.loop.create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None
                if not self._messages:  # it was closed
                    return
                continue
            message: Any
            body: Any
            message, body = self._messages.popleft()
            is_partial = type(body) is not WholeBody and not body.is_eof()
            if self._parser is not None and not is_partial:
                self._parser.message_consumed()
            if self._buffer_paused and len(self._messages) <= RESUMES_AT:
                self._resume_if_drained()
            if is_partial and self._has_ended:
                break
            malformed: Any = None
            if isinstance(message, Malformed):
                message, malformed = _UNPARSED_MESSAGE, message.exc
            # No name refers to the task here: a traceback refers to this frame, and the task to that.
            request = self._port.new_request(message, body, self, self._task)
            del message, body  # the request has them, until they are dropped
            if not await self._respond(request, malformed):
                break
            if is_partial:
                self._note_completed()
        if not self._force_close:
            self._close, self._task = True, None  # what waits, or still comes, begins no other task
            if self.transport is not None:
                self.transport.close()

    def _note_completed(self) -> None:
        """Tell the parser that a request waits no more whose body was incomplete when it began.

        The parser stops when 32 requests wait, and counts each once it is complete. aiohttp never tells it of these, so
        it would count one too many from then on, and stop before reading is paused: for ever, since none goes on.
        """
        if self._parser is not None:
            self._parser.message_consumed()
        if self._messages:
            self.data_received(b"")  # it may have stopped meanwhile

    async def _respond(self, request: Any, malformed: HttpProcessingError | None) -> bool:
        """Respond to a request, which may be one that could not be parsed; return whether another one may follow."""
        is_cut = False
        self.is_responding = True
        try:
            response = await self._response(request, malformed)
            if type(response) is Written and not self._upgraded:  # so it needs nothing of aiohttp
                self.answered(request)
            else:
                is_cut = await self._send(request, response)
            keeps = bool(response.keep_alive)
            if not (is_cut or request.content.is_eof()):
                await self._read_rest(request.content)
        except ConnectionError:
            return False  # the client has disconnected
        except Exception as fault:
            self._port.log_fault(request, fault)
            self.force_close()
            return False
        except BaseException:
            self.force_close()
            raise
        finally:
            self.is_responding = False
            request._task = None  # else they were a reference cycle
        return keeps and not (is_cut or self._close or self._force_close)

    async def _response(self, request: Any, malformed: HttpProcessingError | None) -> Any:
        """Have a request answered; return the response. What no handler should raise becomes an error response."""
        if malformed is not None:
            return self._refuse(request, malformed)
        try:
            return await self._port.respond(request)
        except web.HTTPException as raised:
            return raised
        except Exception as fault:
            if isinstance(fault, HttpProcessingError):
                return self._refuse(request, fault)
            if isinstance(fault, ConnectionError) and (self.transport is None or self.transport.is_closing()):
                raise  # the client has disconnected
            self._port.log_fault(request, fault)
            if request.writer.output_size or request.get(RESPONSE) is not None:
                reset(self.peer)  # a body that ends with the connection would look complete
                raise ConnectionError("a part of a response was sent") from None
            response = web.Response(status=504 if isinstance(fault, TimeoutError) else 500)
            response.force_close()
            return response

    def _refuse(self, request: Any, error: HttpProcessingError) -> web.StreamResponse:
        """Respond to a request, or to its body, that could not be parsed."""
        self.close()  # after the response; ignores further requests
        read = f"{request.method} {request.raw_path} HTTP/1.1\n"
        return self._port.refuse_unparsable(
            request, self.beginning if request.method == UNPARSED else read.encode(), error
        )

    async def _send(self, request: Any, response: web.StreamResponse) -> bool:
        """Send a response that is aiohttp's; return whether the client has disconnected."""
        if self._upgraded:
            self._refuse_switch()
        try:
            await response.prepare(request)
            await response.write_eof()
        except ConnectionError:
            return True
        finally:
            self.writer = direct(self.peer)  # which asks the transport first: what aiohttp has written may wait in it
            self.answered(request)
        return False

    async def _read_rest(self, content: StreamReader) -> None:
        """Read what the client still sends of its request, for some time, so that it can read the response first."""
        if not self._force_close:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_REST_S):
                    while not content.is_eof():
                        await content.readany()
        if not content.is_eof():
            self.close()

    def hold_body(self, size_bytes: int) -> None:
        """Count bytes of the body that are kept in memory, until the response ends. Raises: RateLimited."""
        self._port.clients.hold_body(size_bytes)
        self._held_bytes += size_bytes

    def release_body(self) -> None:
        """Count the bytes of the body no longer as held."""
        self._port.clients.body_bytes -= self._held_bytes
        self._held_bytes = 0

    # What the client sends

    def data_received(self, data: bytes) -> None:
        if self._held and data:  # nothing overtakes what waits
            self._held += data
            return
        request = self.current
        if request is not None:
            self._receive_more(data, request.content)
            return
        if not data:  # aiohttp asks to parse the bytes it has kept: many requests came at once
            self._ends_request = False
            self._port.turns.wait(self._parse_rest)
            return
        if self.is_responding:  # it was answered, and the rest of its body is read
            self._ends_request = False
            self._feed_pieces(data)
            return
        self._received_at = now = monotonic()
        if not self._within_head:
            self._head_began_at, self._within_head = now, True
        if self._port.may_begin(now) or data.startswith(self._port.urgent):
            self._parse(data)
        else:
            self._port.turns.wait(self._parse_held)
            self._held = data

    def _receive_more(self, data: bytes, body: StreamReader) -> None:
        """Pass to aiohttp's parser what comes while a request is in progress: of its body, or the next request."""
        before = body.total_bytes
        if data:
            self._received_at = monotonic()
            if body.is_eof():
                self._head_began_at, self._within_head = self._received_at, True
        self._feed_pieces(data)
        if data:
            is_last = not self._messages
            is_whole = is_last and body.total_bytes - before == len(data)
            self._note_end(data, body if is_last else self._messages[-1][1], is_whole=is_whole)
        if self._messages and self.current is not None:
            self._fail_unparsable_body()

    def _parse(self, data: bytes) -> None:
        """Pass a head, and the bytes that came with it, to aiohttp's parser, unless the head is known."""
        if self._close:
            return
        begins = self._ends_request and not self._messages
        if begins and self._begin_known(data):
            return
        if 10 not in self.beginning:  # an LF; the number takes a fifth of the time of b"\n"
            self.beginning += data
        self._feed_pieces(data)
        body: Any = self._messages[-1][1] if self._messages else None
        is_whole = begins and body is not None and data.find(_BLANK_LINE) + 4 + body.total_bytes == len(data)
        self._note_end(data, body, is_whole=is_whole)
        if is_whole and self._ends_request and body.total_bytes:
            self._port.heads.note(data, *self._messages[0])

    def _feed_pieces(self, data: bytes) -> None:
        """Pass a read to aiohttp's parser, piece by piece up to what is malformed.

        With that the parser drops the requests that came before it in the same bytes; they are complete, and have to be
        answered. To it, all that follows a request with `Connection: close`, or of HTTP/1.0, is malformed; RFC 9112
        section 9.6 has it ignored, which it is, as no request is answered after that one.
        """
        for piece in pieces(data):
            self._feed(piece)
            if self._messages and isinstance(self._messages[-1][0], Malformed):
                return

    def _begin_known(self, data: bytes) -> bool:
        """Begin the request of a read if its head is known; return whether it is."""
        found = self._port.heads.find(data, self._last_head)
        if found is None:
            return False
        self._last_head = found[1].head
        self._add(*found)
        return True

    def _note_end(self, data: bytes, body: Any, *, is_whole: bool) -> None:
        """Note whether a read ended where a request ends, so that the parser has nothing of it, nor of a next one.

        `body`: that of the last request that was parsed; None: it is not known here. `is_whole`: the read has nothing
        but bytes of it. The parser is never within a head after a blank line, but may be within a body.
        """
        ended = body is not None and body.is_eof() and (is_whole or data.endswith(_BLANK_LINE))
        self._ends_request = ended and not (self._upgraded or self._buffer_paused)

    def _parse_held(self) -> None:
        held, self._held = self._held, b""
        request = self.current
        if request is None:
            self._parse(held)
        else:  # it has begun meanwhile, and these bytes come after its head
            self._receive_more(held, request.content)
        self._port.has_begun()
        self._end_if_over()

    def _end_if_over(self) -> None:
        """End the connection if its client has ended its side, and what waited was not a whole head."""
        if self._has_ended and self.current is None and not (self._messages or self.holds_bytes):
            self.peer.close()

    @property
    def holds_bytes(self) -> bool:
        """Return whether bytes of a next request were read, and not given to the parser yet."""
        return bool(self._held)

    def _parse_rest(self) -> None:
        self._feed(b"")

    def eof_received(self) -> bool:
        """Keep the connection if the client waits for a response and may have closed only its sending side.

        A client that has closed both sides looks the same, but answers the next byte that is written to it with a
        reset. So a byte without a meaning is written, where HTTP/1.1 allows one; to a client of HTTP/1.0 the next byte
        of the response is written. Within a response with a Content-Length no such byte is allowed, and the next one
        may be long in coming, so there the client is taken for gone.
        """
        transport, request = self.transport, self.current
        if request is None and not (self._messages or self.holds_bytes):
            return False  # as most connections end
        if transport is None or transport.is_closing() or transport.get_extra_info("ssl_object") is not None:
            return False  # asyncio closes a connection by TLS with either side, whatever is returned
        if self._upgraded:
            return False  # a WebSocket ends with a close frame; without one it has failed (RFC 6455 section 7.1.5)
        if request is None and not self._messages:
            self._has_ended = True  # a request waits for its turn
            return True
        asked: Any
        asked, body = self._messages[0] if request is None else (request, request.content)
        self._has_ended = True
        if not body.is_eof():
            return False
        begun = None if request is None else request.get(RESPONSE)
        if begun is not None and begun.has_length:
            return False
        if begun is not None:
            begun.probe()
        elif getattr(asked, "version", HttpVersion10) >= HttpVersion11:  # an error has none
            self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")  # may be sent at any time (RFC 9110 section 15.2)
        self._look_for_reset(_RESETS_S)
        return True

    # Time-outs, and the end of the connection

    def check(self, now: float, timeouts: ClientTimeouts) -> None:
        """End the connection or its request if the client has exceeded a time-out. `clients` calls this regularly."""
        if self._is_settled and not (self.unsent_bytes or self.peer.get_write_buffer_size()):
            return
        self._note_unsent(now)
        if self.unsent_bytes and timeouts.write_s and now - self.taken_at >= timeouts.write_s:
            self.cut("write", clean=False)
        elif self._closing:
            if now - self._idle_since >= LINGERING_S:
                self.peer.abort()
        elif self.current is not None:
            self._check_body(self.current, now, timeouts.body_s)
            self.drop_parsed(self.current)
        elif self._within_head:
            if timeouts.head_s and now - self._head_began_at >= timeouts.head_s:
                late = RequestTimeout(f"the head of the request did not come within {timeouts.head_s:g} s")
                self._send_error("head", late)
        else:
            allowed_s = timeouts.keepalive_s if self._answered else timeouts.head_s
            if allowed_s and now - self._idle_since >= allowed_s:
                self.cut("keepalive" if self._answered else "head", clean=True)

    def _check_body(self, request: web.BaseRequest, now: float, body_s: float) -> None:
        if request.content.is_eof() or not body_s:
            return
        if not self.peer.is_reading():  # reading is paused, since the upstream takes no more for now
            self._received_at = now
        elif now - self._received_at >= body_s:
            if request.get(RESPONSE) is not None or request.content.exception() is not None:
                self.cut("body", clean=False)
                return
            self._received_at = now
            self._port.clients.cuts["body"] += 1
            message = f"nothing of the request's body came for {body_s:g} s"
            request.content.set_exception(RequestTimeout(message))
            self.close()  # after the error response

    def drop_parsed(self, request: Any) -> None:
        """Drop what was parsed of a request whose response has begun: 5 KB, for a stream that may go on for an hour.

        The parser has the headers, too, until the next request begins. So it is dropped, unless that may have begun to
        come: what a new parser then read as the beginning of a request might be the value of a header (smuggling).
        """
        if request.get(RESPONSE) is None or request._headers is _NO_HEADERS or not request.content.is_eof():
            return
        if self._messages or self._within_head or self._held or self._upgraded or not self._ends_request:
            return
        request._message = _NO_MESSAGE
        request._headers = request.headers = _NO_HEADERS
        request._payload = request.content = EMPTY_PAYLOAD
        request._cache.clear()
        self._parser, self._messages = None, NOTHING
        self._is_settled = True

    def _note_unsent(self, now: float) -> None:
        """Note how many bytes wait to be sent, here and in the kernel, and when the client last took some."""
        unsent = self.peer.get_write_buffer_size()
        if unsent:
            queued = unsent_in_kernel(self.peer)
            if not self.unsent_bytes or unsent < self.unsent_bytes or queued < self._queued_bytes:
                self.taken_at = now
            self._queued_bytes = queued
        self.unsent_bytes = unsent

    def cut(self, reason: str, *, clean: bool) -> None:
        """Close the connection; if not `clean`, by a reset, so that no response looks complete."""
        self._port.clients.cuts[reason] += 1
        self._closing, self._is_settled = True, False
        if clean:
            self.peer.close()
        else:
            reset(self.peer)

    def reject(self) -> None:
        """Refuse a connection that has just been accepted, with an error response, since descriptors have run out."""
        self._send_error("no_descriptor", Overloaded("this server has no file descriptor left for another connection"))
        self.peer.close()

    @property
    def is_busy(self) -> bool:
        """Return whether a request is in progress or about to begin, or bytes wait to be sent.

        Always False on the admin port.
        """
        if self._port.is_admin:
            return False
        is_asked = self.current is not None or self._messages or self.holds_bytes
        return bool(is_asked) or self.peer.get_write_buffer_size() > 0

    def end_request(self, error: ProxyError) -> None:
        """End the request in progress, if any: with this error, or by breaking off the response if it has begun.

        Called again for the same request, it does nothing.
        """
        request = self.current
        if request is None or self._port.is_admin or ERROR_TO_SEND in request:
            return
        begun = request.get(RESPONSE)
        if begun is None or not begun.ended:
            request[ERROR_TO_SEND] = error
            request.task.cancel()  # the handler; `Routes` then sends the error

    def _send_error(self, reason: str, error: ProxyError) -> None:
        """Send an error response where no head of a request has been parsed; `check` closes after LINGERING_S."""
        self._port.clients.cuts[reason] += 1
        self._closing, self._idle_since = True, monotonic()
        self.writer.write(self._port.error_bytes(self.beginning, error))
        if self.peer.can_write_eof():
            self.peer.write_eof()
        self.close()

    def _look_for_reset(self, waits_s: Sequence[float]) -> None:
        """Close the connection if the client has reset it; the event loop would notice only at the next write."""
        transport = self.transport
        if transport is None:
            return
        poll = select.poll()
        poll.register(transport.get_extra_info("socket"), 0)
        if poll.poll(0):
            transport.abort()
        elif waits_s:
            self.loop.call_later(waits_s[0], self._look_for_reset, waits_s[1:])

    def _fail_unparsable_body(self) -> None:
        """Fail the request in progress if its body can't be parsed: aiohttp would let its handler wait for ever."""
        last, request = self._messages[-1][0], self.current
        if isinstance(last, Malformed) and request is not None and not request.content.is_eof():
            request.content.set_exception(last.exc)
