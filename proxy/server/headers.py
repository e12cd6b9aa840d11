"""Our header names, and those of HTTP that we read, set or keep: the one table, and what is derived from it.

Handlers spell a name where they read or set it; which of them go where is said here alone.
"""

from enum import Flag, auto

from proxy.dialects.credentials import KEY_HEADERS


class Use(Flag):
    """What a header name is to us."""

    OPTION = auto()
    """Of a request: the options of a generation may be in it."""
    KEPT = auto()
    """Of a request: ours to read, or made anew; it does not go upstream."""
    KEPT_OF_GENERATIONS = auto()
    """Of a generation: the same."""
    ALLOWED = auto()
    """Of a request: a page of another origin may send it."""
    SET = auto()
    """Of an answer that is passed on: set by us, so the upstream's does not count."""
    SET_OF_STREAMS = auto()
    """Of an answer that is a stream: the same."""
    NOT_SHARED = auto()
    """Of an answer that all clients of a URL share: true at one moment only, ours to set, or of one client."""
    EXPOSED = auto()
    """Of an answer: a page of another origin may read it."""


_OPTION = Use.OPTION | Use.KEPT | Use.ALLOWED
_FOUND = Use.SET | Use.SET_OF_STREAMS | Use.EXPOSED
_LOCATION = Use.SET_OF_STREAMS | Use.NOT_SHARED | Use.EXPOSED  # of a redirect it is the upstream's
TABLE = {
    "Stream-Id": _FOUND | Use.NOT_SHARED,
    "Stream-Mode": _OPTION | Use.EXPOSED,
    "Stream-Key": _OPTION,
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
    # Kept here, since behind one key of ours two callers' keys would be one.
    "Idempotency-Key": Use.OPTION | Use.KEPT_OF_GENERATIONS | Use.ALLOWED,
    "Idempotency-Replayed": _FOUND,
    "Prefer": Use.OPTION | Use.ALLOWED,
    "Preference-Applied": Use.EXPOSED,
    "traceparent": Use.OPTION | Use.ALLOWED,
    "Retry-After": Use.EXPOSED,
    "x-request-id": Use.ALLOWED | Use.EXPOSED,
    "x-should-retry": Use.EXPOSED,
    "Host": Use.KEPT,
    "Expect": Use.KEPT,
    "Content-Length": Use.KEPT | Use.SET_OF_STREAMS | Use.NOT_SHARED,
    # Identity is asked for: a compressed stream has no frames.
    "Accept-Encoding": Use.KEPT_OF_GENERATIONS,
    "Content-Encoding": Use.SET_OF_STREAMS,  # a stream is in no content coding, whatever a header of it says
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
    """Return the names that have a use, as they are written."""
    return tuple(name for name, uses in TABLE.items() if use in uses)


def lower(use: Use) -> frozenset[bytes]:
    """Return the names that have a use in lower case, as `EndToEnd` takes them."""
    return frozenset(name.lower().encode() for name in names(use))


OPTIONS = lower(Use.OPTION)
KEPT = lower(Use.KEPT)
KEPT_OF_GENERATIONS = KEPT | lower(Use.KEPT_OF_GENERATIONS)
SET = lower(Use.SET)
SET_OF_STREAMS = lower(Use.SET_OF_STREAMS)
NOT_SHARED = lower(Use.NOT_SHARED)
EXPOSED = ", ".join(names(Use.EXPOSED))
ALLOWED = frozenset(name.lower() for name in names(Use.ALLOWED))
