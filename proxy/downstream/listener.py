"""The servers of both ports: aiohttp's, but with their own error responses, and time-outs for clients.

aiohttp responds with 400 to all of them, and quotes in text/plain what it could not parse, which may be a key. Here the
response has the status that HTTP defines for the error, and the error format of the API at the request's path.
"""

import asyncio
import re
import select
from collections.abc import Callable, Sequence
from http import HTTPStatus
from time import monotonic
from typing import Any

from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import (
    BadHttpMethod,
    BadStatusLine,
    HttpProcessingError,
    InvalidHeader,
    InvalidURLError,
    LineTooLong,
)
from aiohttp.web_protocol import RequestHandler

from proxy.downstream.client_connections import ClientConnections, ClientTimeouts
from proxy.downstream.response import RESPONSE, Downstream, Written, reset
from proxy.downstream.unsent import unsent_in_kernel
from proxy.stream.turns import Turns
from proxy.wire.errors import (
    BadRequest,
    CodingNotSupported,
    HeadersTooLarge,
    MethodNotAllowed,
    Overloaded,
    ProxyError,
    RequestTimeout,
    TargetTooLong,
    VersionNotSupported,
)
from proxy.wire.http import Headers, head

REFUSED = web.RequestKey("error", ProxyError)  # on a request: why it gets an error response, whatever its path
_LINGERING_S = 2.0
_RESETS_S = (0.001, 0.01, 0.1, 0.4, 1.5)  # successive waits, for round trips of any length
_BURST, _BURST_S = 64, 0.02  # requests that may begin within so many seconds; the others wait for their turns
_FOR_EVER_S = 365 * 24 * 3600.0
_SUPPORTED = "the request's version of HTTP is not supported; HTTP/1.1 and HTTP/1.0 are"
_NEVER_ANSWERED = ("TRACE", "CONNECT")  # TRACE would show the client what goes upstream (RFC 9110 section 9.3.8)
_CLOSE = re.compile(rb" http/1\.0\r\n|\nconnection:[^\n]*\bclose\b")  # the request is the last one of its connection
_UNREAD = "UNKNOWN"  # the method of the request that aiohttp creates for one that it could not parse
_VERSION = re.compile(rb" HTTP/([0-9]{1,9})(?:\.[0-9]+)?\s*$")
# The first line of llhttp's messages is a constant; the lines after it quote the request.
_KINDS: tuple[tuple[type[HttpProcessingError], str], ...] = (
    (InvalidHeader, "a header is malformed"),
    (InvalidURLError, "its target is malformed"),
    (BadHttpMethod, "its method is unknown"),
    (BadStatusLine, "its first line is malformed"),
)
_CONSTANT = re.compile(r"[A-Za-z][A-Za-z' /-]*")


class Listener(web.Server):
    """The server of a port, which creates a Connection for each client."""

    def __init__(
        self,
        handler: Any,
        error_body: Callable[[str, str, ProxyError], bytes],
        *,
        header_bytes: int,
        max_headers: int,
        clients: ClientConnections,
        host_objection: Callable[[str | None], ProxyError | None],
        turns: Turns,
        urgent: bytes,
        is_admin: bool,
        **options: Any,
    ) -> None:
        """`handler` responds to requests.

        `error_body` returns the response body for a request that can't be parsed, from its method, target and error.
        A request that begins with `urgent` never waits for its turn.
        `host_objection` returns the error for a request with this Host header, or None if the host is accepted.
        """
        # aiohttp's own timer would be one for each connection: ours stands for it.
        super().__init__(handler, request_factory=self._begin, keepalive_timeout=_FOR_EVER_S, **options)
        self.clients = clients
        self.turns = turns
        self.urgent = urgent
        self.is_admin = is_admin
        self._error_body = error_body
        self.header_bytes = header_bytes
        self.max_headers = max_headers
        self._host_objection = host_objection
        self._burst = 0
        self._burst_until = 0.0

    def __call__(self) -> "Connection":
        return Connection(
            self,
            loop=self._loop,
            max_line_size=self.header_bytes,
            max_field_size=self.header_bytes,
            max_headers=self.max_headers,
            **self._kwargs,
        )

    def may_begin(self, now: float) -> bool:
        """Tell whether a request may begin at once: of many that come in one turn of the loop, the rest wait."""
        if now > self._burst_until:
            self._burst_until = now + _BURST_S
            self._burst = 0
        self._burst += 1
        return self._burst <= _BURST

    def has_begun(self) -> None:
        """Note that a request which waited has begun: when none waits any more, others may begin at once again.

        So at a high rate one of 64 waits; without this, all until the 20 ms are over, for a turn of the loop each.
        """
        if not self.turns.are_waited_for:
            self._burst = 0

    def _begin(self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        method, major = message.method, message.version.major
        error: ProxyError | None = None
        if major != 1:
            error = (BadRequest if major == 0 else VersionNotSupported)(_SUPPORTED)
            message = message._replace(version=HttpVersion10, should_close=True)
        elif message.chunked or method in _NEVER_ANSWERED:
            error = _objection(message)
        if error is None and method != _UNREAD:
            error = self._host_objection(message.headers.get("Host"))
        request = web.BaseRequest(message, payload, protocol, writer, task, self._loop)
        protocol.begin(request, was_read=method != _UNREAD)
        if error is not None:
            request[REFUSED] = error
        return request

    def refuse(self, request: web.BaseRequest, beginning: bytes, error: HttpProcessingError) -> web.StreamResponse:
        """Respond to a request that could not be parsed; `beginning` is the first part of it."""
        line, ended, _ = beginning.partition(b"\n")
        refusal = self._refusal(error, line, complete=bool(ended))
        headers, body = self._told(line, refusal)
        downstream = Downstream(request, refusal.status)
        downstream.start(HTTPStatus(refusal.status).phrase.encode(), headers, framed=True)
        downstream.close(body)
        return _Refused(request.transport)

    def refusal(self, beginning: bytes, error: ProxyError) -> bytes:
        """Return the whole answer to a request that is not there, of which this is the beginning."""
        headers, body = self._told(beginning.partition(b"\n")[0], error)
        headers.append((b"Connection", b"close"))
        return head(b"HTTP/1.1 %d %b" % (error.status, HTTPStatus(error.status).phrase.encode()), headers) + body

    def _told(self, line: bytes, error: ProxyError) -> tuple[Headers, bytes]:
        """Return headers and body of a refusal, in the dialect that is spoken at the path of a first line."""
        words = line.decode("latin-1").split(" ")
        body = self._error_body(words[0], words[1] if len(words) > 1 else "", error)
        headers = [(b"Content-Type", b"application/json; charset=utf-8"), (b"Content-Length", b"%d" % len(body))]
        if error.retry_after_s is not None:
            headers.append((b"Retry-After", b"%d" % error.retry_after_s))
        return headers, body

    def _refusal(self, error: HttpProcessingError, line: bytes, *, complete: bool) -> ProxyError:
        allowed = f"{self.header_bytes} bytes (limits.header_bytes)"
        if isinstance(error, LineTooLong) and not (complete and len(line) <= self.header_bytes):
            return TargetTooLong(f"the request target is longer than {allowed}")
        if isinstance(error, LineTooLong):
            return HeadersTooLarge(f"a header is longer than {allowed}")
        if error.message.startswith("Too many headers"):
            return HeadersTooLarge(f"there are more than {self.max_headers} headers (limits.headers)")
        version = _VERSION.search(line)
        if version is not None and int(version[1]) > 1:
            return VersionNotSupported(_SUPPORTED)
        return BadRequest(f"the request could not be read: {_what(error)}")


def _objection(message: Any) -> ProxyError | None:
    """Return why a request of this coding or method is answered nowhere."""
    if message.chunked:
        coding = message.headers.get("Transfer-Encoding", "")
        if coding.strip().lower() != "chunked":
            return CodingNotSupported(f"the transfer coding {coding[:100]!r} is not spoken here, only chunked")
    if message.method in _NEVER_ANSWERED:
        return MethodNotAllowed(f"{message.method} is not answered here")
    return None


def _what(error: HttpProcessingError) -> str:
    """Return what is wrong with a request, without quoting it."""
    for kind, what in _KINDS:
        if isinstance(error, kind):
            return what
    said = error.message.partition("\n")[0].rstrip(".:")
    return said if _CONSTANT.fullmatch(said) else "it is malformed"


class _Refused(web.StreamResponse):
    """A response that has been written, on a connection that still reads what its client sends.

    Closing at once would cause a reset, which can destroy the response (RFC 9112 section 9.6).
    """

    def __init__(self, transport: asyncio.Transport | None) -> None:
        super().__init__()
        self._connection = transport

    @property
    def keep_alive(self) -> bool | None:
        return False

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Do nothing: the head has been written."""
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Close the sending side, and wait for the client to close, which cancels this method."""
        if self._connection is not None and self._connection.can_write_eof():
            self._connection.write_eof()
            await asyncio.sleep(_LINGERING_S)


class Connection(RequestHandler):
    """One connection of a client."""

    __slots__ = (
        "_answered",
        "_head_at",
        "_heard_at",
        "_held",
        "_held_bytes",
        "_idle_at",
        "_listener",
        "_over",
        "_queued_bytes",
        "_within_head",
        "beginning",
        "current",
        "peer",
        "taken_at",
        "unsent_bytes",
    )

    peer: asyncio.Transport  # also when aiohttp has let go of it

    def __init__(self, listener: Listener, **options: Any) -> None:
        super().__init__(listener, **options)
        self._listener = listener
        self.current: web.BaseRequest | None = None  # from the end of its head to the end of its response
        self.beginning = b""  # the first line of a request and a little more, until its head is parsed
        self._held = b""  # bytes that were read and wait for their turn
        self._held_bytes = 0  # of bodies, in memory
        self._answered = False  # at least one request
        self._within_head = False
        self._head_at = self._heard_at = self._idle_at = self.taken_at = monotonic()
        self._over = False  # an error response was sent or is being sent, and the connection is about to be closed
        self.unsent_bytes = self._queued_bytes = 0

    # From one request to the next

    def connection_made(self, transport: Any) -> None:
        self.peer = transport
        super().connection_made(transport)
        self._listener.clients.arrived(self, admin=self._listener.is_admin)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.release_body()
        self._listener.clients.gone(self)
        if exc is not None:
            exc.with_traceback(None)  # of a failed write: it would keep the frames of the stream that was being written
        super().connection_lost(exc)
        self.current = None  # it refers back to this

    def begin(self, request: web.BaseRequest, *, was_read: bool) -> None:
        """Note that the head of a request has come; it `was_read`, or could not be parsed."""
        if was_read:
            self.beginning = b""
        self.current = request
        self._within_head = False
        self._listener.clients.idle.pop(self, None)
        if self._messages:
            self._spoil()

    def log_access(self, request: web.BaseRequest, response: web.StreamResponse, time: float | None) -> None:
        """Note that a response has ended: aiohttp calls this after each."""
        self.current = None
        self._answered = True
        self._idle_at = monotonic()
        clients = self._listener.clients
        clients.idle[self] = None
        if self._held_bytes:
            self.release_body()
        content = request.content
        if not content.is_eof() and isinstance(content.exception(), RequestTimeout):
            content.feed_eof()  # else aiohttp would wait for the rest

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """End a response: one that was written already has no more to do, which saves two coroutines a request."""
        if type(resp) is not Written or self._upgraded:
            return await super().finish_response(request, resp, start_time)
        request._finish()
        self.log_access(request, resp, start_time)
        return resp, False

    def hold_body(self, size_bytes: int) -> None:
        """Count bytes of the body that are kept in memory, until the response ends. Raises: RateLimited."""
        self._listener.clients.hold_body(size_bytes)
        self._held_bytes += size_bytes

    def release_body(self) -> None:
        """Count none of them any more."""
        self._listener.clients.body_bytes -= self._held_bytes
        self._held_bytes = 0

    # What the client sends

    def data_received(self, data: bytes) -> None:
        request = self.current
        if request is not None:
            if data:
                self._heard_at = monotonic()
                if request.content.is_eof():
                    self._head_at, self._within_head = self._heard_at, True
            super().data_received(data)
            if self._messages and self.current is not None:
                self._spoil()
            return
        if not data:  # aiohttp reads on in what it has: requests of which many came at once
            self._listener.turns.wait(self._refill)
            return
        self._heard_at = now = monotonic()
        if not self._within_head:
            self._head_at, self._within_head = now, True
        if 10 not in self.beginning:  # an LF; the number takes a fifth of the time of b"\n"
            self.beginning += data
        if self._held or not (self._listener.may_begin(now) or data.startswith(self._listener.urgent)):
            if not self._held:
                self._listener.turns.wait(self._feed_held)
            self._held += data
        else:
            self._feed(data)

    def _feed(self, data: bytes) -> None:
        """Have a head be read, and what came with it.

        One that asks to close the connection, or is of HTTP/1.0, by itself: what is behind its message is an error to
        the parser, which would then forget the message, too (RFC 9112 section 9.6: it is passed over).
        """
        end = data.find(b"\r\n\r\n") + 4
        if 4 <= end < len(data):
            lower = data[:end].lower()
            if (lower.find(b"close") >= 0 or lower.find(b" http/1.0") >= 0) and _CLOSE.search(lower):
                super().data_received(data[:end])
                data = data[end:]
        super().data_received(data)

    def _feed_held(self) -> None:
        held, self._held = self._held, b""
        self._feed(held)
        self._listener.has_begun()

    def _refill(self) -> None:
        super().data_received(b"")

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Read on, if reading was paused: aiohttp calls this after each read of a body, and would parse nothing anew.

        Twice a request, 1.5 us each.
        """
        if self._reading_paused or self._buffer_paused:
            super().resume_reading(resume_parser)

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio expects a bool
        """Keep the connection if the client waits for a response and may have closed only its own side (half-close).

        A client that has closed completely looks the same here, but responds with a reset to what is written to it: to
        a byte without a meaning, where HTTP has one to send, else to the next byte of the response. Within a response
        with a length there is none to send, and the next may be long in coming: there it is taken for gone.
        """
        if self._upgraded:
            return False  # a WebSocket ends with a close frame: this one has failed (RFC 6455 section 7.1.5)
        if self._held:
            return True  # a request waits to be begun
        request, transport = self.current, self.transport
        if request is None or transport is None or not request.content.is_eof():
            return False
        begun = request.get(RESPONSE)
        if begun is not None and begun.has_length:
            return False
        if begun is not None:
            begun.probe()
        elif request.version >= HttpVersion11:
            transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")  # may be sent at any time (RFC 9110 section 15.2)
        self.close()  # after the response
        self._look_for_reset(_RESETS_S)
        return True

    # What it does not do in time

    def check(self, now: float, timeouts: ClientTimeouts) -> None:
        """End the connection, or refuse its request, if the client is late."""
        self._look_at_unsent(now)
        if self.unsent_bytes and timeouts.write_s and now - self.taken_at >= timeouts.write_s:
            self.cut("write", clean=False)
        elif self._over:
            if now - self._idle_at >= _LINGERING_S:
                self.peer.abort()
        elif self.current is not None:
            self._check_body(self.current, now, timeouts.body_s)
        elif self._within_head:
            if timeouts.head_s and now - self._head_at >= timeouts.head_s:
                late = RequestTimeout(f"the head of the request did not come within {timeouts.head_s:g} s")
                self._refuse("head", late)
        else:
            allowed_s = timeouts.keepalive_s if self._answered else timeouts.head_s
            if allowed_s and now - self._idle_at >= allowed_s:
                self.cut("keepalive" if self._answered else "head", clean=True)

    def _check_body(self, request: web.BaseRequest, now: float, body_s: float) -> None:
        if request.content.is_eof() or not body_s:
            return
        if not self.peer.is_reading():  # it is held back: the upstream takes no more
            self._heard_at = now
        elif now - self._heard_at >= body_s:
            if request.get(RESPONSE) is not None or request.content.exception() is not None:
                self.cut("body", clean=False)
                return
            self._heard_at = now
            self._listener.clients.cuts["body"] += 1
            message = f"nothing of the request's body came for {body_s:g} s"
            request.content.set_exception(RequestTimeout(message))
            self.close()  # when that is said

    def _look_at_unsent(self, now: float) -> None:
        """Note what waits for the client to take it, here and in the system, and whether it took some."""
        unsent = self.peer.get_write_buffer_size()
        if unsent:
            queued = unsent_in_kernel(self.peer)
            if not self.unsent_bytes or unsent < self.unsent_bytes or queued < self._queued_bytes:
                self.taken_at = now
            self._queued_bytes = queued
        self.unsent_bytes = unsent

    def cut(self, reason: str, *, clean: bool) -> None:
        """Close the connection; not `clean`: by a reset, so that no answer looks complete."""
        self._listener.clients.cuts[reason] += 1
        self._over = True
        if clean:
            self.peer.close()
        else:
            reset(self.peer)

    def turn_away(self) -> None:
        """Say that there is no room for a connection that has just come, and close it."""
        self._refuse("no_descriptor", Overloaded("this server has no file descriptor left for another connection"))
        self.peer.close()

    @property
    def is_busy(self) -> bool:
        """Return whether its request is being answered, or the answer yet to be taken; never on the admin port."""
        return not self._listener.is_admin and (self.current is not None or self.peer.get_write_buffer_size() > 0)

    def end_request(self, error: ProxyError) -> None:
        """Have the request that is being answered, if there is one, end with this error, or be broken off."""
        request = self.current
        begun = None if request is None else request.get(RESPONSE)
        if request is not None and not self._listener.is_admin and not (begun is not None and begun.ended):
            request[REFUSED] = error
            request.task.cancel()  # the handler, which routes.py answers for

    def _refuse(self, reason: str, error: ProxyError) -> None:
        """Answer what has not become a request, and close when the client has, or soon."""
        self._listener.clients.cuts[reason] += 1
        self._over, self._idle_at = True, monotonic()
        self.peer.write(self._listener.refusal(self.beginning, error))
        if self.peer.can_write_eof():
            self.peer.write_eof()
        self.close()

    def _look_for_reset(self, waits_s: Sequence[float]) -> None:
        """Close the connection if it was reset, which the loop would notice only when something is written again."""
        transport = self.transport
        if transport is None:
            return
        poll = select.poll()
        poll.register(transport.get_extra_info("socket"), 0)
        if poll.poll(0):
            transport.abort()
        elif waits_s:
            self._loop.call_later(waits_s[0], self._look_for_reset, waits_s[1:])

    def _spoil(self) -> None:
        """Fail the request in progress if the rest of its body can't be parsed: aiohttp would let it wait forever."""
        error, request = getattr(self._messages[-1][0], "exc", None), self.current
        if error is not None and request is not None and not request.content.is_eof():
            request.content.set_exception(error)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if isinstance(exc, HttpProcessingError):
            self.close()  # after the response; ignores further requests
            read = f"{request.method} {request.raw_path} HTTP/1.1\n"
            return self._listener.refuse(request, self.beginning if request.method == _UNREAD else read.encode(), exc)
        return super().handle_error(request, status, exc, message)
