"""The server of the data port: aiohttp's, but for how it refuses what it can't read.

aiohttp quotes in text/plain what it could not read, which may be a key, and says 400 of everything. Here a refusal has
the status that HTTP has for it and the shape of the dialect that is spoken at the request's path.
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

UNSPOKEN = web.RequestKey("unspoken", HttpVersion)  # on a request: the version of HTTP it is in, if that is not spoken
SPOKEN = "HTTP/1.1 and HTTP/1.0 are spoken here"
_LINGERING_S = 2.0
_RESETS_S = (0.001, 0.01, 0.1, 0.4, 1.5)  # one after the other: a round trip, however long
_UNREAD = "UNKNOWN"  # the method of the request that aiohttp makes up for one that it could not read
_VERSION = re.compile(rb" HTTP/([0-9]{1,9})(?:\.[0-9]+)?\s*$")
# What llhttp says is one of its constants; what follows it quotes the request.
_KINDS: tuple[tuple[type[HttpProcessingError], str], ...] = (
    (InvalidHeader, "a header is malformed"),
    (InvalidURLError, "its target is malformed"),
    (BadHttpMethod, "its method is none that is known"),
    (BadStatusLine, "its first line is malformed"),
)
_CONSTANT = re.compile(r"[A-Za-z][A-Za-z' /-]*")


class Listener(web.Server):
    """Makes the connections of the data port."""

    def __init__(
        self,
        handler: Any,
        error_body: Callable[[str, str, ProxyError], bytes],
        *,
        header_bytes: int,
        max_headers: int,
        **options: Any,
    ) -> None:
        """`handler` answers requests.

        `error_body` is told of those that can't be read, by method and target, and returns what they are answered.
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
        """Answer a request that could not be read, of which this is the beginning."""
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
    """Return what is wrong with a request, without a word of it."""
    for kind, what in _KINDS:
        if isinstance(error, kind):
            return what
    said = error.message.partition("\n")[0].rstrip(".:")
    return said if _CONSTANT.fullmatch(said) else "it is malformed"


class _Refused(web.StreamResponse):
    """A response that was written, on a connection that takes what its client still sends: else a reset destroys it.

    RFC 9112 section 9.6.
    """

    def __init__(self, transport: asyncio.Transport | None) -> None:
        super().__init__()
        self._connection = transport

    @property
    def keep_alive(self) -> bool | None:
        return False

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Nothing: the head was written."""
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Say that no more comes, and wait for the client to close; its leaving cancels this."""
        if self._connection is not None and self._connection.can_write_eof():
            self._connection.write_eof()
            await asyncio.sleep(_LINGERING_S)


class Connection(RequestHandler):
    """One connection of a client."""

    __slots__ = ("_refuse", "beginning")

    def __init__(self, listener: Listener, **options: Any) -> None:
        super().__init__(listener, **options)
        self._refuse = listener.refuse
        self.beginning = b""  # of a request, its first line and a little more, until its head is read

    def data_received(self, data: bytes) -> None:
        if b"\n" not in self.beginning and not self._request_in_progress:
            self.beginning += data
        super().data_received(data)
        if self._messages and self._request_in_progress:
            self._spoil()

    def eof_received(self) -> bool:  # type: ignore[override]  # what asyncio asks for
        """Keep the connection of a client that waits for an answer and may have ended only its own side (half-close).

        One that has closed altogether says the same, but answers with a reset what is written to it.
        """
        request, transport = self._current_request, self.transport
        if request is None or transport is None or request.version < HttpVersion11 or not request.content.is_eof():
            return False
        begun = request.get(RESPONSE)
        if begun is None:
            transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")  # may be sent at any time (RFC 9110 section 15.2)
        elif not begun.probe():
            return False
        self.close()  # when it has its answer
        self._look_for_reset(_RESETS_S)
        return True

    def _look_for_reset(self, waits_s: Sequence[float]) -> None:
        """Close the connection if it was reset, which the loop does not notice before something is written again."""
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
        """Let the request in progress hear that the rest of its body can't be read: aiohttp has it wait for ever."""
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
            self.close()  # and pass over what comes
            read = f"{request.method} {request.raw_path} HTTP/1.1\n"
            return self._refuse(request, self.beginning if request.method == _UNREAD else read.encode(), exc)
        return super().handle_error(request, status, exc, message)
