"""The server of the data port: aiohttp's, but with its own error responses to requests that can't be parsed.

aiohttp responds with 400 to all of them, and quotes in text/plain what it could not parse, which may be a key. Here the
response has the status that HTTP defines for the error, and the error format of the API at the request's path.
"""

import asyncio
import re
import select
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any

from aiohttp import HttpVersion, HttpVersion10, HttpVersion11, web
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

from proxy.downstream.response import RESPONSE, Downstream
from proxy.wire.errors import BadRequest, HeadersTooLarge, ProxyError, TargetTooLong, VersionNotSupported

UNSPOKEN = web.RequestKey("unspoken", HttpVersion)  # on a request: its version of HTTP, if not supported
SPOKEN = "the request's version of HTTP is not supported; HTTP/1.1 and HTTP/1.0 are"
_LINGERING_S = 2.0
_RESETS_S = (0.001, 0.01, 0.1, 0.4, 1.5)  # successive waits, for round trips of any length
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
    """The server of the data port, which creates a Connection for each client."""

    def __init__(
        self,
        handler: Any,
        error_body: Callable[[str, str, ProxyError], bytes],
        *,
        header_bytes: int,
        max_headers: int,
        **options: Any,
    ) -> None:
        """`handler` responds to requests.

        `error_body` returns the response body for a request that can't be parsed, from its method, target and error.
        """
        super().__init__(handler, request_factory=self._begin, **options)
        self._error_body = error_body
        self._header_bytes = header_bytes
        self._max_headers = max_headers

    def __call__(self) -> "Connection":
        return Connection(
            self,
            loop=self._loop,
            max_line_size=self._header_bytes,
            max_field_size=self._header_bytes,
            max_headers=self._max_headers,
            **self._kwargs,
        )

    def _begin(self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        if message.method != _UNREAD:
            protocol.beginning = b""
        if message.version.major == 1:
            return self._make_request(message, payload, protocol, writer, task)
        answerable = message._replace(version=HttpVersion10, should_close=True)
        request = self._make_request(answerable, payload, protocol, writer, task)
        request[UNSPOKEN] = message.version
        return request

    def refuse(self, request: web.BaseRequest, beginning: bytes, error: HttpProcessingError) -> web.StreamResponse:
        """Respond to a request that could not be parsed; `beginning` is the first part of it."""
        line, ended, _ = beginning.partition(b"\n")
        words = line.decode("latin-1").split(" ")
        refusal = self._refusal(error, line, complete=bool(ended))
        body = self._error_body(words[0], words[1] if len(words) > 1 else "", refusal)
        downstream = Downstream(request, refusal.status)
        headers = [(b"Content-Type", b"application/json; charset=utf-8"), (b"Content-Length", b"%d" % len(body))]
        downstream.start(HTTPStatus(refusal.status).phrase.encode(), headers, framed=True)
        downstream.close(body)
        return _Refused(request.transport)

    def _refusal(self, error: HttpProcessingError, line: bytes, *, complete: bool) -> ProxyError:
        allowed = f"{self._header_bytes} bytes (limits.header_bytes)"
        if isinstance(error, LineTooLong) and not (complete and len(line) <= self._header_bytes):
            return TargetTooLong(f"the request target is longer than {allowed}")
        if isinstance(error, LineTooLong):
            return HeadersTooLarge(f"a header is longer than {allowed}")
        if error.message.startswith("Too many headers"):
            return HeadersTooLarge(f"there are more than {self._max_headers} headers (limits.headers)")
        version = _VERSION.search(line)
        if version is not None and int(version[1]) > 1:
            return VersionNotSupported(SPOKEN)
        return BadRequest(f"the request could not be read: {_what(error)}")


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

    __slots__ = ("_refuse", "beginning")

    def __init__(self, listener: Listener, **options: Any) -> None:
        super().__init__(listener, **options)
        self._refuse = listener.refuse
        self.beginning = b""  # the first line of a request and a little more, until its head is parsed

    def data_received(self, data: bytes) -> None:
        if b"\n" not in self.beginning and not self._request_in_progress:
            self.beginning += data
        super().data_received(data)
        if self._messages and self._request_in_progress:
            self._spoil()

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio expects a bool
        """Keep the connection if the client waits for a response and may have closed only its own side (half-close).

        A client that has closed completely looks the same here, but responds with a reset to what is written to it.
        """
        request, transport = self._current_request, self.transport
        if request is None or transport is None or request.version < HttpVersion11 or not request.content.is_eof():
            return False
        begun = request.get(RESPONSE)
        if begun is None:
            transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")  # may be sent at any time (RFC 9110 section 15.2)
        elif not begun.probe():
            return False
        self.close()  # after the response
        self._look_for_reset(_RESETS_S)
        return True

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
        error = getattr(self._messages[-1][0], "exc", None)
        request = self._current_request
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
            return self._refuse(request, self.beginning if request.method == _UNREAD else read.encode(), exc)
        return super().handle_error(request, status, exc, message)
