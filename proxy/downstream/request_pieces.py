"""Cuts what a client sent in one read into its requests, for a read in which aiohttp could not parse one of several.

Its parser then drops those before the malformed one, too. They are complete, and have to be answered first.
"""

from collections.abc import Iterator
from typing import Any, Final

from aiohttp import web
from aiohttp.http import HttpRequestParser

_HEAD_END: Final = b"\r\n\r\n"
_PIECES: Final = 64  # aiohttp's parser stops at 32 requests; more pieces would take long, and hold other clients up


def pieces(data: bytes) -> Iterator[bytes]:
    """Yield a read in pieces, each of which ends where a head may end; the last one has all that is left.

    It does no harm to cut a body there, too. Where a body ends need not be known: its request is known by its head.
    """
    at = 0
    for _ in range(_PIECES):
        end = data.find(_HEAD_END, at) + len(_HEAD_END)
        if end < len(_HEAD_END):
            break
        yield data[at:end]
        at = end
    yield data[at:]


def new_parser(connection: Any) -> HttpRequestParser:
    """Return a parser like the one that aiohttp made for a connection, which after an error parses nothing more."""
    return HttpRequestParser(
        connection,
        connection._loop,
        connection._read_bufsize,
        max_line_size=connection.max_line_size,
        max_field_size=connection.max_field_size,
        max_headers=connection.max_headers,
        payload_exception=web.RequestPayloadError,
        auto_decompress=False,
        max_msg_queue_size=connection._max_msg_queue_size,
    )
