"""HTTP/1.1: which headers a proxy forwards, and how a body is framed. Sources: RFC 9110 and RFC 9112."""

import operator
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import compress
from typing import Final, TypeVar

_What = TypeVar("_What")
Headers = list[tuple[bytes, bytes]]
RawHeaders = Iterable[tuple[bytes, bytes]]

# RFC 9110 section 7.6.1: meant for one connection only, never forwarded. Each row gives the reason.
HOP_BY_HOP: Final[dict[bytes, str]] = {
    b"connection": "RFC 9110 7.6.1, with every field that it names",
    b"keep-alive": "RFC 2068 19.7.1.1",
    b"proxy-connection": "never standard, but sent",
    b"proxy-authenticate": "RFC 9110 11.7.1: between a proxy and its client",
    b"proxy-authorization": "RFC 9110 11.7.2: credentials for this proxy",
    b"te": "RFC 9110 10.1.4",
    b"trailer": "RFC 9110 6.6.2: trailers are not forwarded",
    b"transfer-encoding": "RFC 9112 6.1: each side frames the body itself",
    b"upgrade": "RFC 9110 7.8",
}
_LENGTH: Final = b"content-length:"
LAST_CHUNK: Final = b"0\r\n\r\n"

_ABSOLUTE_FORM: Final = re.compile(r"https?://[^/?#]*", re.IGNORECASE)  # others are not served
_NAMING_NONE: Final = frozenset((b"keep-alive", b"close", b"Keep-Alive", b""))  # its usual values, which name no header
_SHAPES: Final = 256  # heads whose names are remembered, since clients choose them
_NAMES: Final = 64  # of a head that is remembered
_NAMES_BYTES: Final = 2048  # of all of them
_name_of: Final = operator.itemgetter(0)
_map: Final = map  # compiled modules look up what is built in at each use: 250 instructions


@dataclass(init=False)  # not a NamedTuple: to make one takes compiled modules ten times as long
class Head:
    """The head of a response: status, reason and headers, as they were received."""

    status: int
    reason: bytes
    headers: list[tuple[bytes, bytes]]
    names: tuple[bytes, ...] | None  # of the headers, if whoever made this knows them

    def __init__(
        self,
        status: int,
        reason: bytes,
        headers: list[tuple[bytes, bytes]],
        names: tuple[bytes, ...] | None = None,
    ) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self.names = names

    @property
    def framed(self) -> bool:
        """Return whether the head gives the length of the body, or rules out that there is one."""
        return self.status in (204, 304) or any(name.lower() == b"content-length" for name, _ in self.headers)

    @property
    def is_event_stream(self) -> bool:
        """Return whether the body is declared to be an event stream."""
        kinds = [value for name, value in self.headers if name.lower() == b"content-type"]
        return bool(kinds) and kinds[-1].lower().startswith(b"text/event-stream")


class _Shape:
    """What the names in a head say of it: which headers are kept, and whether a marked one is present."""

    __slots__ = ("is_marked", "kept", "naming")

    def __init__(self, kept: list[bool], naming: list[int], is_marked: bool) -> None:
        """`naming`: the places of the headers that can name others which are not kept either."""
        self.kept = kept
        self.naming = naming
        self.is_marked = is_marked


class EndToEnd:
    """A filter that keeps end-to-end headers and drops hop-by-hop headers and those listed in `but`.

    Clients and upstreams have few sets of names, so what is to be done with each set is remembered; a head takes 0.5 us
    then, however many headers it has. Complete heads are not remembered: they contain keys.
    """

    __slots__ = ("_but", "_marked", "_shapes")

    def __init__(self, but: Iterable[bytes] = (), marked: Iterable[bytes] = ()) -> None:
        """`but`: names that are not forwarded; `marked`: names that `parted` reports. All in lower case."""
        self._but = frozenset(but)
        self._marked = frozenset(marked)
        self._shapes: dict[tuple[bytes, ...], _Shape] = {}

    def of(
        self, headers: Collection[tuple[bytes, bytes]], names: tuple[bytes, ...] | None = None
    ) -> list[tuple[bytes, bytes]]:
        """Return the headers that may be forwarded, unchanged and in order; `names`: theirs, if the caller has them."""
        return self.parted(headers, names)[0]

    def parted(
        self, headers: Collection[tuple[bytes, bytes]], names: tuple[bytes, ...] | None = None
    ) -> tuple[list[tuple[bytes, bytes]], bool]:
        """Return the same headers, and whether a marked header was present, forwarded or dropped because of `but`."""
        if names is None:
            names = names_of(headers)
        shape = self._shapes.get(names)
        if shape is None:
            shape = self._judge(names)
        if shape.naming:
            listed = list(headers)
            for place in shape.naming:
                if listed[place][1] not in _NAMING_NONE:
                    return self._unnamed(headers)
        return list(compress(headers, shape.kept)), shape.is_marked

    def _judge(self, names: tuple[bytes, ...]) -> _Shape:
        lower = [name.lower() for name in names]
        naming = [place for place, name in enumerate(lower) if name == b"connection"]
        kept = [name not in HOP_BY_HOP and name not in self._but for name in lower]
        shape = _Shape(kept, naming, not self._marked.isdisjoint(lower))
        remember(self._shapes, names, shape)
        return shape

    def _unnamed(self, headers: Collection[tuple[bytes, bytes]]) -> tuple[list[tuple[bytes, bytes]], bool]:
        """Return the result of `parted` if Connection names other headers, which are then not forwarded either."""
        named: set[bytes] = set()
        for name, value in headers:
            if name.lower() == b"connection":
                named.update(token.strip() for token in value.lower().split(b","))
        named -= {b"close", b"keep-alive", b""}
        named.add(b"connection")
        kept, marked = self.parted([header for header in headers if header[0].lower() not in named])
        left = named & self._but & self._marked
        return kept, marked or any(name.lower() in left for name, _ in headers)


def names_of(headers: RawHeaders) -> tuple[bytes, ...]:
    """Return the names of headers, in their order."""
    return tuple(_map(_name_of, headers))


def remember(shapes: dict[tuple[bytes, ...], _What], names: tuple[bytes, ...], what: _What) -> None:
    """Remember what the names in a head say, unless they take much memory; others are forgotten if they are many."""
    if len(names) <= _NAMES and sum(map(len, names)) <= _NAMES_BYTES:
        if len(shapes) >= _SHAPES:  # Not an LRU cache: a client that fills it sends only new names anyway
            shapes.clear()
        shapes[names] = what


def chunk(data: bytes) -> bytes:
    """Return data as one chunk (RFC 9112 section 7.1). Data must not be empty: an empty chunk ends the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def with_one_length(response: bytes) -> bytes | None:
    """Return a response that repeats its length with the length stated once (RFC 9112 section 6.3); None: it does not.

    Lengths that differ, or are not numbers, are not repetitions. `response` must contain the complete head.
    """
    head, blank, body = response.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    stated = [line[len(_LENGTH) :] for line in lines if line[: len(_LENGTH)].lower() == _LENGTH]
    lengths = [length.strip() for length in b",".join(stated).split(b",")]
    if not blank or len(lengths) < 2 or len(set(lengths)) > 1 or not lengths[0].isdigit():
        return None
    others = [line for line in lines if line[: len(_LENGTH)].lower() != _LENGTH]
    return b"%b\r\nContent-Length: %b\r\n\r\n%b" % (b"\r\n".join(others), lengths[0], body)


def origin_form(target: str) -> str:
    """Return a target without the scheme and host of an absolute form (RFC 9112 section 3.2.2), which are not used."""
    if target.startswith("/"):
        return target
    before = _ABSOLUTE_FORM.match(target)  # Not sub, which looks for it from each character on: 8 s for 60 KB
    return target if before is None else target[before.end() :]
