"""The servers of both ports: aiohttp's, with error responses of our own, and a limit on requests that begin at once.

aiohttp answers every request that it can't parse with 400, and quotes in text/plain what it could not parse, which may
be a key. Here the response has the status that HTTP defines for the error, and the error format of the API at the
request's path.
"""

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from aiohttp import HttpVersion10, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import HttpProcessingError

from proxy.downstream.client_connections import ClientConnections
from proxy.downstream.connection import ERROR_TO_SEND, LINGERING_S, UNPARSED, Connection
from proxy.downstream.known_heads import KnownHeads, WholeBody
from proxy.downstream.request import Request
from proxy.downstream.request_errors import NOT_ALLOWED, unparsable, unsupported
from proxy.downstream.response import Downstream
from proxy.machine import head
from proxy.stream.turns import Turns
from proxy.wire.errors import ProxyError
from proxy.wire.http import Headers

_log = logging.getLogger("streamtee.http")
_BURST, _BURST_S = 64, 0.02  # this many requests may begin within so many seconds; the others wait for their turns


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
        host_error: Callable[[str | None], ProxyError | None],
        turns: Turns,
        urgent: bytes,
        is_admin: bool,
        connection_class: type[Connection] = Connection,
    ) -> None:
        """`handler` responds to requests.

        `error_body` returns the response body for a request that can't be parsed, from its method, target and error.
        A request whose first bytes are `urgent` begins at once, however many others do.
        `connection_class`: the class of the clients' connections.
        `host_error` returns the error for a request with this Host header, or None if the host is accepted.
        """
        super().__init__(handler)
        self.loop = self._loop
        self.respond = handler
        self.made: set[Connection] = set()
        self.clients = clients
        self.heads = KnownHeads()
        self.turns = turns
        self.urgent = urgent
        self.is_admin = is_admin
        self._connection_class = connection_class
        self._error_body = error_body
        self.header_bytes = header_bytes
        self.max_headers = max_headers
        self._host_error = host_error
        self._burst = 0
        self._burst_until = 0.0

    def __call__(self) -> Any:
        """Make a Connection."""
        return self._connection_class(self)

    @property
    def connections(self) -> list[Any]:
        """The connections that have not ended, or whose task has not."""
        return list(self.made)

    def pre_shutdown(self) -> None:
        """Have every connection read no more requests."""
        for connection in self.made:
            connection.close()

    async def shutdown(self, timeout: float | None = None) -> None:
        """Close every connection after its response, or after so many seconds."""
        await asyncio.gather(*(connection.shutdown(timeout) for connection in self.made))

    def may_begin(self, now: float) -> bool:
        """Count a request, and return whether it may begin at once; if not, it must wait for its turn."""
        if now > self._burst_until:
            self._burst_until = now + _BURST_S
            self._burst = 0
        self._burst += 1
        return self._burst <= _BURST

    def has_begun(self) -> None:
        """Note that a request which waited has begun; when no other waits, the count starts again.

        So at a high rate one request of 64 waits for a turn of the event loop. If the count only started again after
        the 20 ms, every request until then would wait.
        """
        if not self.turns.are_waited_for:
            self._burst = 0

    def log_fault(self, request: web.BaseRequest, fault: BaseException) -> None:
        """Log an exception that no handler should raise."""
        if not isinstance(fault, HttpProcessingError):  # it quotes the headers, which may hold a key
            _log.error("an exception escaped from a request's handler", exc_info=fault)

    def new_request(self, message: Any, payload: Any, protocol: Any, task: Any) -> web.BaseRequest:
        """Make the request of a head that aiohttp has parsed, or has failed to, and have its connection begin it."""
        memo: dict[object, Any] | None = payload.head.memo if type(payload) is WholeBody else None
        if memo is not None and self in memo:  # such a head was accepted before
            request = Request(message, payload, protocol, task, self._loop)
            protocol.begin(request, was_parsed=True)
            return request
        method, major = message.method, message.version.major
        was_parsed = method != UNPARSED
        error: ProxyError | None = None
        if major != 1 or message.chunked or method in NOT_ALLOWED:  # most requests need no call
            error = unsupported(message)
        if major != 1:
            message = message._replace(version=HttpVersion10, should_close=True)
        if error is None and was_parsed:
            error = self._host_error(message.headers.get("Host"))
        request = Request(message, payload, protocol, task, self._loop)
        protocol.begin(request, was_parsed=was_parsed)
        if error is not None:
            request[ERROR_TO_SEND] = error
        elif memo is not None:
            memo[self] = True
        return request

    def refuse_unparsable(
        self, request: web.BaseRequest, beginning: bytes, error: HttpProcessingError
    ) -> web.StreamResponse:
        """Respond to a request that could not be parsed; `beginning` is the first part of it."""
        line, newline, _ = beginning.partition(b"\n")
        refusal = unparsable(
            error, line, complete=bool(newline), header_bytes=self.header_bytes, max_headers=self.max_headers
        )
        headers, body = self._error_response(line, refusal)
        downstream = Downstream(request, refusal.status)
        downstream.start(HTTPStatus(refusal.status).phrase.encode(), headers, framed=True)
        downstream.close(body)
        return _LingeringResponse(request.transport)

    def error_bytes(self, beginning: bytes, error: ProxyError) -> bytes:
        """Return a whole error response, for a client of whose request no more than `beginning` has come."""
        headers, body = self._error_response(beginning.partition(b"\n")[0], error)
        headers.append((b"Connection", b"close"))
        return head(b"HTTP/1.1 %d %b" % (error.status, HTTPStatus(error.status).phrase.encode()), headers) + body

    def _error_response(self, line: bytes, error: ProxyError) -> tuple[Headers, bytes]:
        """Return the headers and body of an error response, in the format of the API at the path in a first line."""
        words = line.decode("latin-1").split(" ")
        body = self._error_body(words[0], words[1] if len(words) > 1 else "", error)
        headers = [(b"Content-Type", b"application/json; charset=utf-8"), (b"Content-Length", b"%d" % len(body))]
        if error.retry_after_s is not None:
            headers.append((b"Retry-After", b"%d" % error.retry_after_s))
        return headers, body


class _LingeringResponse(web.StreamResponse):
    """An error response that has been written, on a connection that still reads what its client sends.

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
            await asyncio.sleep(LINGERING_S)
