"""Requests whose heads were parsed before: most clients send one head again and again, but for its Content-Length.

Parsing it and making a reader of a body that is already here are a fifth of what a small request costs. What is found
here is what aiohttp's parser made of the same bytes, so that no head is understood in two ways.
"""

from typing import Any, NamedTuple

from aiohttp import EMPTY_PAYLOAD
from aiohttp.hdrs import CONTENT_LENGTH
from multidict import CIMultiDict, CIMultiDictProxy

_KNOWN = 256  # heads; a new one takes the place of the oldest
_MAX_HEAD_BYTES = 4096
_SPELLINGS = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")
_MAX_DIGITS = 9
_BLANK_LINE = b"\r\n\r\n"


class WholeBody:
    """A request's body that came with its head: as much of aiohttp's StreamReader as is used of a complete body."""

    __slots__ = ("_data", "total_bytes")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.total_bytes = len(data)

    def is_eof(self) -> bool:
        """Return True: no more will come."""
        return True

    def at_eof(self) -> bool:
        """Return whether everything was read."""
        return not self._data

    def exception(self) -> BaseException | None:
        """Return None: nothing can fail any more."""
        return None

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        """Do nothing: nobody waits for more."""

    def set_read_chunk_size(self, n: int) -> None:
        """Do nothing: everything is here. aiohttp's own way to read a body calls this."""

    def read_nowait(self) -> bytes:
        """Return what was not read yet."""
        data, self._data = self._data, b""
        return data

    async def readany(self) -> bytes:
        """Return what was not read yet; b"" at the end."""
        return self.read_nowait()


class _Known(NamedTuple):
    """What was parsed of a head."""

    message: Any  # a RawRequestMessage of aiohttp
    length: bytes  # the value of its Content-Length
    place: int  # of the Content-Length among its headers


class KnownHeads:
    """The heads of requests that came more than once, for one port."""

    def __init__(self) -> None:
        self._known: dict[bytes, _Known] = {}  # by the head without its length
        self._seen: set[int] = set()  # hashes of heads that came once

    def find(self, data: bytes) -> tuple[Any, Any] | None:
        """Return the message and the body of a read that is a request with a known head and its body; else None.

        The read must begin where a request begins.
        """
        end = data.find(_BLANK_LINE) + 4
        begins, ends = _length(data, end)
        if not begins:
            return None
        head = data[:begins] + data[ends:end]
        known = self._known.get(head)
        if known is None:
            return None
        length, message = data[begins:ends], known.message
        if int(length) != len(data) - end:
            return None
        if length != known.length:
            message = _with_length(message, known.place, length)
            self._known[head] = _Known(message, length, known.place)
        return message, WholeBody(data[end:]) if end < len(data) else EMPTY_PAYLOAD

    def note(self, data: bytes, message: Any, body: Any) -> None:
        """Note what the parser has made of a read that is one request: `message`, and `body`, which is complete.

        A head is kept when it comes for the second time: not that of a client which sends each of them once.
        """
        end = data.find(_BLANK_LINE) + 4
        begins, ends = _length(data, end)
        if not begins or end > _MAX_HEAD_BYTES or body.total_bytes != len(data) - end:
            return
        head = data[:begins] + data[ends:end]
        if hash(head) not in self._seen:
            if len(self._seen) >= _KNOWN:
                self._seen.clear()
            self._seen.add(hash(head))
            return
        if message.upgrade or message.should_close:  # what follows is not a request
            return
        places = [place for place, (name, _) in enumerate(message.raw_headers) if name.lower() == b"content-length"]
        if len(places) == 1 and message.raw_headers[places[0]][1] == data[begins:ends]:
            while len(self._known) >= _KNOWN:
                del self._known[next(iter(self._known))]
            self._known[head] = _Known(message, data[begins:ends], places[0])

    def forget(self) -> None:
        """Forget all heads, because others are allowed now."""
        self._known.clear()
        self._seen.clear()


def _length(data: bytes, end: int) -> tuple[int, int]:
    """Return where the value of the Content-Length begins and ends in a head; (0, 0) if it is not plainly there."""
    for spelling in _SPELLINGS:
        at = data.find(spelling, 0, end)
        if at >= 0:
            begins = at + len(spelling)
            ends = data.find(b"\r", begins)
            return (begins, ends) if ends - begins <= _MAX_DIGITS and data[begins:ends].isdigit() else (0, 0)
    return 0, 0


def _with_length(message: Any, place: int, length: bytes) -> Any:
    """Return a message with another Content-Length."""
    raw = message.raw_headers
    name = raw[place][0]
    headers = CIMultiDict(message.headers)
    headers[CONTENT_LENGTH] = length.decode()
    raw_headers = (*raw[:place], (name, length), *raw[place + 1 :])
    return message._replace(headers=CIMultiDictProxy(headers), raw_headers=raw_headers)
