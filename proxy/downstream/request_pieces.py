"""Cuts what a client sent in one read into its requests, and makes the parser that they are passed to one by one.

That parser is aiohttp's. Where it can't parse one of several, it drops those before it, too.
"""

from collections.abc import Iterator
from typing import Any, Final

from aiohttp import web
from aiohttp.http import HttpRequestParser

QUEUED: Final = 32  # requests that may wait on a connection; then the parser stops
_READ_BYTES: Final = 256 * 1024  # of a body that nobody takes, until reading is paused
_HEAD_END: Final = b"\r\n\r\n"
_LINE_ENDS: Final = (b"\n", b"\r\n", b"\r\n")  # one is the last of a head, if the last read ended within the end of it
_PIECES: Final = 64  # aiohttp's parser stops at 32 requests; more pieces would take long, and hold other clients up


def pieces(data: bytes) -> Iterator[bytes]:
    """Yield a read in pieces, each of which ends where a head may end; the last one has all that is left.

    It does no harm to cut a body there, too. Where a body ends need not be known: its request is known by its head.
    No piece is empty, unless the read is.
    """
    at = 0
    for line_end in _LINE_ENDS:
        if data.startswith(line_end, at):
            yield data[at : at + len(line_end)]
            at += len(line_end)
    for _ in range(_PIECES):
        end = data.find(_HEAD_END, at) + len(_HEAD_END)
        if end < len(_HEAD_END):
            break
        yield data[at:end]
        at = end
    if at < len(data) or not data:
        yield data[at:]


def new_parser(connection: Any) -> HttpRequestParser:
    """Return aiohttp's parser for a connection: it makes the readers of bodies, which pause and resume its reading."""
    return HttpRequestParser(
        connection,
        connection.loop,
        _READ_BYTES,
        max_line_size=connection.max_field_size,
        max_field_size=connection.max_field_size,
        max_headers=connection.max_headers,
        payload_exception=web.RequestPayloadError,
        auto_decompress=False,  # a compressed request is passed on as it is
        max_msg_queue_size=QUEUED,
    )
