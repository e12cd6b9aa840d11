"""The errors of requests that aiohttp could not parse, and of those that no path serves.

No message quotes the request, which may hold a key; only an unsupported transfer coding is named.
"""

import re
from typing import Any, Final

from aiohttp.http_exceptions import (
    BadHttpMethod,
    BadStatusLine,
    HttpProcessingError,
    InvalidHeader,
    InvalidURLError,
    LineTooLong,
)

from proxy.wire.errors import (
    BadRequest,
    CodingNotSupported,
    HeadersTooLarge,
    MethodNotAllowed,
    ProxyError,
    TargetTooLong,
    VersionNotSupported,
)

_UNSUPPORTED_VERSION: Final = "the request's version of HTTP is not supported; HTTP/1.1 and HTTP/1.0 are"
# TRACE would show the client what is sent upstream (RFC 9110 section 9.3.8).
NOT_ALLOWED: Final[tuple[str, ...]] = ("TRACE", "CONNECT")
_VERSION: Final = re.compile(rb" HTTP/([0-9]{1,9})(?:\.[0-9]+)?\s*$")
_MESSAGES: Final[tuple[tuple[type[HttpProcessingError], str], ...]] = (
    (InvalidHeader, "a header is malformed"),
    (InvalidURLError, "its target is malformed"),
    (BadHttpMethod, "its method is unknown"),
    (BadStatusLine, "its first line is malformed"),
)
# The first line of an llhttp message is one of its constants; the lines after it quote the request.
_CONSTANT: Final = re.compile(r"[A-Za-z][A-Za-z' /-]*")


def unsupported(message: Any) -> ProxyError | None:
    """Return the error of a parsed head whose version, transfer coding or method is supported at no path, if any."""
    major = message.version.major
    if major != 1:
        return (BadRequest if major == 0 else VersionNotSupported)(_UNSUPPORTED_VERSION)
    if message.chunked:
        coding = message.headers.get("Transfer-Encoding", "")
        if coding.strip().lower() != "chunked":
            return CodingNotSupported(f"the transfer coding {coding[:100]!r} is not supported, only chunked is")
    if message.method in NOT_ALLOWED:
        return MethodNotAllowed(f"the method {message.method} is not allowed at any path")
    return None


def unparsable(
    error: HttpProcessingError, line: bytes, *, complete: bool, header_bytes: int, max_headers: int
) -> ProxyError:
    """Return the error for a request that aiohttp could not parse.

    `line` is the request's first line, or what came of it if it is not `complete`.
    """
    allowed = f"{header_bytes} bytes (limits.header_bytes)"
    if isinstance(error, LineTooLong) and not (complete and len(line) <= header_bytes):
        return TargetTooLong(f"the request target is longer than {allowed}")
    if isinstance(error, LineTooLong):
        return HeadersTooLarge(f"a header is longer than {allowed}")
    if error.message.startswith("Too many headers"):
        return HeadersTooLarge(f"there are more than {max_headers} headers (limits.headers)")
    version = _VERSION.search(line)
    if version is not None and int(version[1]) > 1:
        return VersionNotSupported(_UNSUPPORTED_VERSION)
    return BadRequest(f"the request could not be read: {_reason(error)}")


def _reason(error: HttpProcessingError) -> str:
    """Return what is wrong with a request, without quoting it."""
    for kind, message in _MESSAGES:
        if isinstance(error, kind):
            return message
    first_line = error.message.partition("\n")[0].rstrip(".:")
    return first_line if _CONSTANT.fullmatch(first_line) else "it is malformed"
