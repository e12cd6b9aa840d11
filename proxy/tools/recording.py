"""Recordings of responses: how their files are written and read.

A recording is a text file of JSON objects, one a line:

    {"streamtee": "recording", "version": 1, "recorded_at": "2026-11-27T12:00:00Z", "url": "https://host/path",
     "status": 200, "reason": "OK", "headers": [["Content-Type", "text/event-stream"]], "at_s": 0.41}
    {"at_s": 0.43, "text": "data: {...}\\n\\n"}
    {"at_s": 0.47, "base64": "5Zs="}
    {"at_s": 0.90, "end": "complete"}

The first line is the head; then each read of the body, as it arrived, as `text` if it is UTF-8 by itself, else as
`base64`; and how the body ended: `complete`, or `broken`, which is also meant if the line is missing. All times are
seconds from when the request had been sent. The head has no query, no cookie, and of the request nothing, unless it was
asked for: then `"request": {"method": "POST", "text": "..."}`.
Must not know: sockets, time.
"""

from base64 import b64decode, b64encode
from collections.abc import Iterable
from typing import Any, NamedTuple

import orjson

from proxy.wire.http import HOP_BY_HOP, Headers

_VERSION = 1
_SECRET = (b"set-cookie", b"authorization", b"proxy-authenticate", b"x-api-key", b"api-key", b"stream-follow-url")


class BadRecording(ValueError):
    """A file is no recording; the message says why."""


class Piece(NamedTuple):
    """What one read of a body brought, and when, in seconds from the request."""

    at_s: float
    data: bytes


class Recording(NamedTuple):
    """A recorded response: its head, its body in the pieces that it arrived in, and how it ended."""

    status: int
    reason: str
    headers: Headers
    at_s: float  # of the head
    pieces: list[Piece]
    end_s: float
    complete: bool


def kept(headers: Headers) -> Headers:
    """Return the headers that are recorded: those of the response itself, without secrets."""
    return [one for one in headers if one[0].lower() not in HOP_BY_HOP and one[0].lower() not in _SECRET]


def head_line(
    *,
    recorded_at: str,
    url: str,
    status: int,
    reason: bytes,
    headers: Headers,
    at_s: float,
    request: dict[str, Any] | None,
) -> bytes:
    """Return the first line of a recording. `url` has no query and no credentials."""
    head: dict[str, Any] = {"streamtee": "recording", "version": _VERSION, "recorded_at": recorded_at, "url": url}
    if request is not None:
        head["request"] = request
    named = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in kept(headers)]
    return _line({**head, "status": status, "reason": reason.decode("latin-1"), "headers": named, "at_s": at_s})


def piece_line(piece: Piece) -> bytes:
    """Return the line of a piece of the body."""
    return _line({"at_s": piece.at_s, **encoded(piece.data)})


def end_line(at_s: float, *, complete: bool) -> bytes:
    """Return the last line."""
    return _line({"at_s": at_s, "end": "complete" if complete else "broken"})


def encoded(data: bytes) -> dict[str, str]:
    """Return bytes as a member of an object: as text if they are UTF-8, else in base64."""
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"base64": b64encode(data).decode()}


def read_recording(lines: Iterable[bytes]) -> Recording:
    """Read a recording. Raises: BadRecording."""
    objects = [_object(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not objects or objects[0].get("streamtee") != "recording":
        raise BadRecording("its first line is not the head of a recording")
    head, *rest = objects
    if head.get("version") != _VERSION:
        raise BadRecording(f"it is of version {head.get('version')!r}; version {_VERSION} can be read")
    ends = [one for one in rest if "end" in one]
    try:
        pieces = [Piece(float(one["at_s"]), _decoded(one)) for one in rest if "end" not in one]
        end_s = float(ends[-1]["at_s"]) if ends else (pieces[-1].at_s if pieces else float(head["at_s"]))
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in head["headers"]]
        complete = bool(ends) and ends[-1]["end"] == "complete"
        return Recording(
            int(head["status"]), str(head["reason"]), headers, float(head["at_s"]), pieces, end_s, complete
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BadRecording(f"a member is missing or of another kind: {error}") from None


def _decoded(piece: dict[str, Any]) -> bytes:
    return str(piece["text"]).encode() if "text" in piece else b64decode(piece["base64"], validate=True)


def _line(value: dict[str, Any]) -> bytes:
    return orjson.dumps(value) + b"\n"


def _object(number: int, line: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise BadRecording(f"line {number} is not JSON: {error.msg}") from None
    if not isinstance(value, dict):
        raise BadRecording(f"line {number} is not a JSON object")
    return value
