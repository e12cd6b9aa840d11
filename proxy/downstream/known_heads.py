"""Requests whose heads were parsed before: most clients send one head again and again, but for its Content-Length.

Parsing it and making a reader of a body that is already here are a fifth of what a small request costs. What is found
here is what aiohttp's parser made of the same bytes, so that no head is understood in two ways.
"""

from typing import Any, Final

from aiohttp.hdrs import CONTENT_LENGTH
from multidict import CIMultiDict, CIMultiDictProxy

_KNOWN: Final = 256  # heads; a new one takes the place of the oldest
_MAX_HEAD_BYTES: Final = 4096
_SPELLINGS: Final[tuple[bytes, ...]] = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")
_MAX_DIGITS: Final = 9
_BLANK_LINE: Final = b"\r\n\r\n"


class WholeBody:
    """A request's body that came with its head: as much of aiohttp's StreamReader as is used of a complete body."""

    __slots__ = ("_data", "head", "total_bytes")

    def __init__(self, data: bytes, head: "KnownHead") -> None:
        self._data = data
        self.head = head
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


class KnownHead:
    """A head that came more than once: its bytes, and what aiohttp's parser made of them."""

    __slots__ = ("after", "before", "is_kept", "length", "memo", "message", "place")

    def __init__(self, before: bytes, after: bytes, length: bytes, message: Any, place: int) -> None:
        """`before` and `after`: the bytes around the value of its Content-Length, which is `length` in `message`.

        `place`: of the Content-Length among its headers.
        """
        self.before = before
        self.after = after
        self.length = length
        self.message = message  # a RawRequestMessage of aiohttp
        self.place = place
        self.is_kept = True
        self.memo: dict[object, Any] = {}
        """What was made of the head alone, whatever its length: by whoever made it, who may use it again."""

    def request(self, data: bytes, begins: int, ends: int) -> tuple[Any, WholeBody] | None:
        """Return the message and the body of a read with this head and the complete body; None if it is not complete.

        `begins` and `ends`: where the digits of the length are in the read.
        """
        length, body = data[begins:ends], data[ends + len(self.after) :]
        if length != self.length:
            if not length.isdigit():
                return None
            self.message, self.length = _with_length(self.message, self.place, length), length
        if not body or int(length) != len(body):  # without a body, aiohttp's parser makes a request with another reader
            return None
        return self.message, WholeBody(body, self)


class KnownHeads:
    """The heads of requests that came more than once, for one port."""

    def __init__(self) -> None:
        self._known: dict[bytes, KnownHead] = {}  # by the head without its length
        self._seen: set[int] = set()  # hashes of heads that came once
        self._latest: KnownHead | None = None  # which was looked up last

    def find(self, data: bytes, last: KnownHead | None = None) -> tuple[Any, WholeBody] | None:
        """Return the message and the body of a read that is a request with a known head and its body; else None.

        The read must begin where a request begins. `last`: the head that came last on the same connection, which most
        clients send again. The first on a connection is often that of another one's first.
        """
        if last is None:
            last = self._latest
        # By slices: half of what `startswith` takes compiled modules.
        if last is not None and last.is_kept and data[: len(last.before)] == last.before:
            begins = len(last.before)
            ends = data.find(b"\r", begins, begins + _MAX_DIGITS + 1)
            if ends >= 0 and data[ends : ends + len(last.after)] == last.after:
                return last.request(data, begins, ends)
        end = data.find(_BLANK_LINE) + 4
        begins, ends = _length(data, end)
        if not begins:
            return None
        known = self._known.get(data[:begins] + data[ends:end])
        if known is None:
            return None
        self._latest = known
        return known.request(data, begins, ends)

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
        length = data[begins:ends]
        if len(places) == 1 and message.raw_headers[places[0]][1] == length:
            while len(self._known) >= _KNOWN:
                self._known.pop(next(iter(self._known))).is_kept = False
            self._known[head] = KnownHead(data[:begins], data[ends:end], length, message, places[0])

    def forget(self) -> None:
        """Forget all heads, because others are allowed now."""
        for known in self._known.values():
            known.is_kept = False
        self._known.clear()
        self._seen.clear()
        self._latest = None


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
