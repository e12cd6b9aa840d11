"""The table of header names that the proxy treats specially, its own and those of HTTP, and sets derived from it.

Handlers write a name where they read or set it; which headers are forwarded, replaced or exposed is decided only here.
"""

from enum import Flag, auto

from proxy.dialects import table
from proxy.dialects.route import KEY_HEADERS


class Use(Flag):
    """How a header is treated."""

    OPTION = auto()
    """Request header: it may hold an option of a generation."""
    KEPT = auto()
    """Request header: not forwarded as it is; the proxy reads it, or writes its own."""
    KEPT_OF_GENERATIONS = auto()
    """The same, for generation requests."""
    ALLOWED = auto()
    """Request header: a page of another origin may send it."""
    SET = auto()
    """Response header: set by the proxy, so the upstream's is dropped."""
    SET_OF_STREAMS = auto()
    """The same, for responses that are streams."""
    NOT_SHARED = auto()
    """Response header: dropped from the upstream's response when all clients of a URL share it."""
    NAME = auto()
    """Request header: a name by which a stream or a call is found, of several workers in the one it belongs to."""
    EXPOSED = auto()
    """Response header: a page of another origin may read it."""


_OPTION = Use.OPTION | Use.KEPT | Use.ALLOWED
_FOUND = Use.SET | Use.SET_OF_STREAMS | Use.EXPOSED
_LOCATION = Use.SET_OF_STREAMS | Use.NOT_SHARED | Use.EXPOSED  # not SET: a redirect's is the upstream's
TABLE = {
    "Stream-Id": _FOUND | Use.NOT_SHARED,
    "Stream-Mode": _OPTION | Use.EXPOSED,
    "Stream-Key": _OPTION | Use.NAME,
    "Stream-On-Disconnect": _OPTION,
    "Stream-Retain": _OPTION,
    "Stream-Offset": Use.EXPOSED,
    "Stream-Resumed-From": Use.EXPOSED,
    "Stream-State": Use.EXPOSED,
    "Stream-Last-Seq": Use.EXPOSED,
    "Stream-Bytes": Use.EXPOSED,
    "Stream-Closed": Use.EXPOSED,
    "Stream-Follow-URL": _FOUND,
    "Location": _LOCATION,
    "Content-Location": _LOCATION,
    # Not forwarded: all callers may share one upstream key, under which equal idempotency keys would collide.
    "Idempotency-Key": Use.OPTION | Use.KEPT_OF_GENERATIONS | Use.ALLOWED | Use.NAME,
    "Idempotency-Replayed": _FOUND,
    "Stream-Retry-Attached": _FOUND,
    "Prefer": Use.OPTION | Use.ALLOWED,
    "Preference-Applied": Use.EXPOSED,
    "traceparent": Use.OPTION | Use.ALLOWED,
    "Retry-After": Use.EXPOSED,
    "x-request-id": Use.ALLOWED | Use.EXPOSED,
    "x-should-retry": Use.EXPOSED,
    "Host": Use.KEPT,
    "Expect": Use.KEPT,
    "Content-Length": Use.KEPT | Use.SET_OF_STREAMS | Use.NOT_SHARED,
    # We send `identity`: a compressed stream can't be split into frames.
    "Accept-Encoding": Use.KEPT_OF_GENERATIONS,
    "Content-Encoding": Use.SET_OF_STREAMS,  # a stream that can be read has no content coding
    "Cache-Control": Use.ALLOWED | Use.SET_OF_STREAMS | Use.NOT_SHARED,
    "X-Accel-Buffering": Use.SET_OF_STREAMS | Use.NOT_SHARED,
    "Content-Type": Use.ALLOWED,
    "Last-Event-ID": Use.ALLOWED,
    "If-Match": Use.ALLOWED,
    "User-Agent": Use.ALLOWED,
    "Age": Use.NOT_SHARED,
    "Date": Use.NOT_SHARED,
    "Set-Cookie": Use.NOT_SHARED,  # a shared response must not log anyone in
} | dict.fromkeys(KEY_HEADERS, Use.ALLOWED)


def names(use: Use) -> tuple[str, ...]:
    """Return the names that have a use, spelled as in the table."""
    return tuple(name for name, uses in TABLE.items() if use in uses)


def lower(use: Use) -> frozenset[bytes]:
    """Return the names that have a use, in lower case, as `EndToEnd` takes them."""
    return frozenset(name.lower().encode() for name in names(use))


OPTIONS = lower(Use.OPTION)
KEPT = lower(Use.KEPT)
KEPT_OF_GENERATIONS = KEPT | lower(Use.KEPT_OF_GENERATIONS)
SET = lower(Use.SET)
SET_OF_STREAMS = lower(Use.SET_OF_STREAMS)
NOT_SHARED = lower(Use.NOT_SHARED)
NAMES = names(Use.NAME)
EXPOSED = ", ".join([*names(Use.EXPOSED), *table.limit_headers()])
ALLOWED = frozenset(name.lower() for name in names(Use.ALLOWED))
