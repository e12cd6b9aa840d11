"""Reads a request to follow a stream, from query and headers: a view, a cursor, a heartbeat, how long to wait."""

import math
import re
from typing import Final, NamedTuple
from urllib.parse import unquote_plus

from aiohttp import web

from proxy.downstream.response import EXTRA
from proxy.downstream.websocket import handshake
from proxy.server.configuration.settings import StreamsConfig
from proxy.stream.modes.envelopes import NOT_IN_EVENTS
from proxy.stream.modes.projection import View
from proxy.stream.modes.projections import MODES, view_of
from proxy.wire.errors import BadRequest, OriginNotAllowed
from proxy.wire.event_id import read_event_id

_CURSORS: Final[tuple[str, ...]] = ("after", "starting_after")
_LAST_EVENT_ID: Final = re.compile(r"last[-_]?event[-_]?id", re.IGNORECASE)  # as the polyfills of EventSource spell it
_SEQ_DIGITS: Final = 18


class Cursor(NamedTuple):
    """Where in a stream a follower begins: after frame number `seq` (-1: at the end), or at an offset in bytes."""

    seq: int | None = None
    epoch: str | None = None
    offset_bytes: int | None = None

    @property
    def given(self) -> bool:
        return self.seq is not None or self.offset_bytes is not None


class FollowRequest(NamedTuple):
    """A request to follow a stream, as read from query and headers, and when the access ends."""

    view: View
    cursor: Cursor
    heartbeat_s: float
    wait_s: float
    accept: bytes = b""  # the Sec-WebSocket-Accept of a WebSocket's handshake; empty: plain HTTP
    until: float = math.inf  # when its capability expires, in monotonic seconds; not read from the request


def read_follow_request(
    request: web.BaseRequest, streams: StreamsConfig, *, takes_cursor: bool = True
) -> FollowRequest:
    """Read a request to follow a stream; its cursor is another's to read if it takes none.

    Raises: UnknownMode, BadRequest, UpgradeRequired, OriginNotAllowed.
    """
    query = request.query
    seen = view_of(query.get("mode") or "events", query.get("flush_ms"), query.get("flush_bytes"))
    heartbeat_s = seconds(query.get("heartbeat"), "heartbeat", streams.heartbeat_s)
    wait_s = min(seconds(query.get("wait"), "wait", 0), streams.wait_max_s)
    start = cursor(request, seen.mode) if takes_cursor else Cursor()
    if seen.mode == "json" and start.given:
        raise BadRequest("mode json tells of the whole stream and takes no cursor")
    accept = handshake(request)
    if accept:
        _check_origin(request)
        if "offset" in query:
            raise BadRequest("offset counts bytes; a WebSocket's messages take Last-Event-ID or after")
        if seen.mode in NOT_IN_EVENTS:
            raise BadRequest(f"mode {seen.mode!r} has no events, which are the messages of a WebSocket")
        seen = seen._replace(websocket=True)
    return FollowRequest(seen, start, heartbeat_s, wait_s, accept)


def cursor(request: web.BaseRequest, mode: str) -> Cursor:
    """Read the cursor: the Last-Event-ID header, else the query. Raises: BadRequest."""
    query = request.query
    if "offset" in query:
        if not MODES[mode].in_bytes:
            in_bytes = " or ".join(f"mode={name}" for name, projection in MODES.items() if projection.in_bytes)
            raise BadRequest(f"offset counts bytes and goes with {in_bytes}; mode={mode} takes Last-Event-ID or after")
        if not query["offset"].isdecimal():
            raise BadRequest(f"offset {query['offset']!r} is not a number of bytes")
        return Cursor(offset_bytes=int(query["offset"]))
    text = last_event_id(request) or next((query[name] for name in _CURSORS if name in query), "")
    if not text:
        return Cursor()
    if text == "now":
        return Cursor(seq=-1)
    if text == "-1":
        return Cursor(seq=0)
    if text.isascii() and text.isdecimal() and len(text) <= _SEQ_DIGITS:
        return Cursor(seq=int(text))
    event_id = read_event_id(text)
    if event_id is None:
        raise BadRequest(f"cursor {text[:60]!r} is not an event id, a number, -1 or now")
    return Cursor(seq=event_id.seq, epoch=event_id.epoch)


def cursors_by_epoch(request: web.BaseRequest) -> dict[str, int] | str:
    """Return the cursors of a request for several streams; or `now` or `-1`, for all streams. Raises: BadRequest."""
    text = last_event_id(request) or request.query.get("after", "")
    if text in ("now", "-1"):
        return text
    cursors = {}
    for part in text.split(",") if text else ():
        event_id = read_event_id(part)
        if event_id is None:
            raise BadRequest(
                f"cursor {part[:60]!r} is no event id; the last id of the connection is one or more, with commas"
            )
        cursors[event_id.epoch] = event_id.seq
    return cursors


def last_event_id(request: web.BaseRequest) -> str:
    """Return the Last-Event-ID of a request: of its header, else of its query, as some polyfills can't set headers."""
    named = request.headers.get("Last-Event-ID")
    return named or next((value for name, value in request.query.items() if _LAST_EVENT_ID.fullmatch(name)), "")


def without_last_event_id(target: str) -> str:
    """Return a request target without a Last-Event-ID: it says where the client resumes, not what it requests."""
    path, mark, query = target.partition("?")
    kept = [pair for pair in query.split("&") if not _LAST_EVENT_ID.fullmatch(unquote_plus(pair.partition("=")[0]))]
    return f"{path}{mark}{'&'.join(kept)}" if kept else path


def seconds(text: str | None, name: str, default: float) -> float:
    if text is None:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86400:
        raise BadRequest(f"{name} {text[:60]!r} is not a number of seconds from 0 to 86400")
    return seconds


def _check_origin(request: web.BaseRequest) -> None:
    """Refuse a WebSocket to a page of another host, unless CORS allows its origin: browsers don't apply CORS to these.

    If the request has a cookie, which browsers send by themselves, CORS must allow credentials, too. Only hosts are
    compared, not schemes: a proxy before this one may have ended TLS (RFC 6455 section 10.2). Raises: OriginNotAllowed.
    """
    origin = request.headers.get("Origin")
    if origin is None or origin.partition("://")[2].lower() == request.headers.get("Host", "").lower():
        return
    needed = b"Access-Control-Allow-Credentials" if "Cookie" in request.headers else b"Access-Control-Allow-Origin"
    if all(name != needed for name, _ in request.get(EXTRA, ())):
        raise OriginNotAllowed(f"a page of {origin[:200]!r} may not open a WebSocket here")
