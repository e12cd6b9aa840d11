"""Finds where a request ends in the bytes of its connection (RFC 9112 section 6).

aiohttp's parser does not tell how many of the bytes it was given belong to a request. A connection that may be handed
to another process between two requests needs to know: the bytes after a request go along. What the parser refuses need
not be understood here, since the connection of such a request is closed.
"""

import re
from typing import Final

_BLANK_LINE: Final = b"\r\n\r\n"
_LINE_BYTES: Final = 64  # kept of a line that has not ended: more than the digits of a size, and none but these matter
_FRAMING: Final = re.compile(rb"\r\n(content-length|transfer-encoding):[ \t]*([^\r\n]*)", re.IGNORECASE)


class RequestEnd:
    """Counts the bytes of one request: its head, and its body by its length or by its chunks."""

    __slots__ = ("_head", "_is_chunked", "_is_last", "_left", "_line", "ended")

    def __init__(self) -> None:
        self.ended = False
        self._head: bytes | None = b""  # as far as it has come; None once it is complete
        self._is_chunked = False
        self._is_last = False  # the last chunk has come, and trailers may follow
        self._left = 0  # bytes of the body, or of a chunk and its line break, that are to come
        self._line = b""  # the beginning of a chunk's size, or of a trailer

    @property
    def has_begun(self) -> bool:
        """Return whether anything of the request has come, but blank lines before it."""
        return self._head != b""

    def feed(self, data: bytes) -> int:
        """Return how many of the next bytes of the connection belong to the request; fewer than all only if it ends."""
        at = 0
        if self._head is not None:
            at = self._read_head(data)
        if self._head is not None:
            return len(data)
        return self._read_chunks(data, at) if self._is_chunked else self._read_counted(data, at)

    def _read_head(self, data: bytes) -> int:
        """Return where in `data` the head ends."""
        before, came = self._head or b"", data
        if not before:
            came = data.lstrip(b"\r\n")  # blank lines before a request are ignored (section 2.2)
        head = before + came
        end = head.find(_BLANK_LINE, max(0, len(before) - 3))
        if end < 0:
            self._head = head
            return len(data)
        self._head = None
        for name, value in _FRAMING.findall(head, 0, end):
            if name.lower() == b"transfer-encoding":
                self._is_chunked = True
            elif value.strip().isdigit():
                self._left = int(value)
        return len(data) - len(came) + end + len(_BLANK_LINE) - len(before)

    def _read_counted(self, data: bytes, at: int) -> int:
        taken = min(self._left, len(data) - at)
        self._left -= taken
        self.ended = not self._left
        return at + taken

    def _read_chunks(self, data: bytes, at: int) -> int:
        """Read chunks and trailers (section 7.1) from a place in `data` on; return where they end."""
        while at < len(data) and not self.ended:
            if self._left:
                taken = min(self._left, len(data) - at)
                self._left -= taken
                at += taken
                continue
            end = data.find(b"\n", at) + 1
            self._line += data[at:end] if end else data[at:]
            at = end or len(data)
            if end:
                line, self._line = self._line.strip(), b""
                self._read_line(line)
            elif len(self._line) > _LINE_BYTES:
                self._line = b"0" + self._line.lstrip(b"0")[:_LINE_BYTES]  # the size may begin with any number of zeros
        return at

    def _read_line(self, line: bytes) -> None:
        if self._is_last:
            self.ended = not line
            return
        try:
            size = int(line.partition(b";")[0], 16)
        except ValueError:  # the parser refuses it, too
            size = 1 << 62
        self._is_last = not size
        self._left = size + 2 if size else 0
