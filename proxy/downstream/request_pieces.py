"""Cuts what a client sent in one read into its requests, for a read in which aiohttp could not parse one of several.

Its parser then drops those before the malformed one, too. They are complete, and have to be answered first.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

from aiohttp import web
from aiohttp.http import HttpRequestParser

_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = re.compile(rb"\ncontent-length:[ \t]*([0-9]{1,18})[ \t]*\r", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"\ntransfer-encoding:", re.IGNORECASE)


def pieces(data: bytes) -> Iterator[bytes]:
    """Yield the heads and bodies in a read one by one; after the head of a chunked body, line by line."""
    while (end := data.find(_HEAD_END)) >= 0:
        end += len(_HEAD_END)
        head, data = data[:end], data[end:]
        yield head
        if _CHUNKED.search(head):
            yield from data.splitlines(keepends=True)
            return
        length = _LENGTH.search(head)
        if length is not None and int(length[1]):
            yield data[: int(length[1])]
            data = data[int(length[1]) :]
    yield data


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
