"""HTTP/1.1: which headers a proxy forwards, and how a body is framed. Sources: RFC 9110 and RFC 9112."""

import re
from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

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
# The verdict on a header is 0 if it is forwarded and needs no more attention, otherwise a combination of these:
_MARKED: Final = 1  # `parted` reports its presence; by itself this does not keep it from being forwarded
_ENDS: Final = 2  # it is not forwarded
_NAMING: Final = 4  # it is Connection, which can name other headers that are not forwarded
_NAMING_NONE: Final = frozenset((b"keep-alive", b"close", b"Keep-Alive", b""))  # its usual values, which name no header
_NAMES, _NAME_BYTES = 256, 64  # limits of what is remembered, since clients choose the names


class Head(NamedTuple):
    """The head of a response: status, reason and headers, as they were received."""

    status: int
    reason: bytes
    headers: list[tuple[bytes, bytes]]

    @property
    def framed(self) -> bool:
        """Return whether the head gives the length of the body, or rules out that there is one."""
        return self.status in (204, 304) or any(name.lower() == b"content-length" for name, _ in self.headers)

    @property
    def is_event_stream(self) -> bool:
        """Return whether the body is declared to be an event stream."""
        kinds = [value for name, value in self.headers if name.lower() == b"content-type"]
        return bool(kinds) and kinds[-1].lower().startswith(b"text/event-stream")


class EndToEnd:
    """A filter that keeps end-to-end headers and drops hop-by-hop headers and those listed in `but`.

    Header names come in few spellings, so the verdict on each spelling is remembered: 0.12 us a header, where lower()
    and two look-ups take 0.3. Complete heads are not remembered: they contain keys, and looking one up costs as much
    as filtering it again.
    """

    __slots__ = ("_but", "_marked", "_verdicts")

    def __init__(self, but: Iterable[bytes] = (), marked: Iterable[bytes] = ()) -> None:
        """`but`: names that are not forwarded; `marked`: names that `parted` reports. All in lower case."""
        self._but = frozenset(but)
        self._marked = frozenset(marked)
        self._verdicts: dict[bytes, int] = {}

    def of(self, headers: Collection[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Return the headers that may be forwarded, unchanged and in order."""
        return self.parted(headers)[0]

    def parted(self, headers: Collection[tuple[bytes, bytes]]) -> tuple[list[tuple[bytes, bytes]], bool]:
        """Return the same headers, and whether a marked header was present, forwarded or dropped because of `but`."""
        kept: list[tuple[bytes, bytes]] = []
        seen = 0
        verdicts = self._verdicts
        for header in headers:
            try:
                verdict = verdicts[header[0]]
            except KeyError:
                verdict = self._judge(header[0])
            if not verdict:
                kept.append(header)
            elif verdict == _NAMING:
                if header[1] not in _NAMING_NONE:
                    return self._unnamed(headers)
            else:
                seen |= verdict
                if not verdict & _ENDS:
                    kept.append(header)
        return kept, seen & _MARKED != 0

    def _judge(self, name: bytes) -> int:
        lower = name.lower()
        verdict = _MARKED if lower in self._marked else 0
        if lower == b"connection":
            verdict = _NAMING
        elif lower in HOP_BY_HOP or lower in self._but:
            verdict |= _ENDS
        if len(name) <= _NAME_BYTES:
            if len(self._verdicts) >= _NAMES:  # Not an LRU cache: a client that fills it sends only new names anyway
                self._verdicts.clear()
            self._verdicts[name] = verdict
        return verdict

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


def head(start_line: bytes, headers: RawHeaders) -> bytes:
    """Return the bytes of a message's head, including the blank line."""
    return b"\r\n".join([start_line, *map(b": ".join, headers), b"\r\n"])


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
