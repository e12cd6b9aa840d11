"""HTTP/1.1 words: which headers end at a hop, and how a body is framed. Sources: RFC 9110 and RFC 9112."""

import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

Headers = list[tuple[bytes, bytes]]
RawHeaders = Iterable[tuple[bytes, bytes]]

# RFC 9110 section 7.6.1: meant for this connection only, never forwarded. One reason a row.
HOP_BY_HOP: dict[bytes, str] = {
    b"connection": "RFC 9110 7.6.1, with every field that it names",
    b"keep-alive": "RFC 2068 19.7.1.1",
    b"proxy-connection": "never standard, but sent",
    b"proxy-authenticate": "RFC 9110 11.7.1: between a proxy and its client",
    b"proxy-authorization": "RFC 9110 11.7.2: credentials for this proxy",
    b"te": "RFC 9110 10.1.4",
    b"trailer": "RFC 9110 6.6.2: trailers are not forwarded",
    b"transfer-encoding": "RFC 9112 6.1: framing is made anew on each side",
    b"upgrade": "RFC 9110 7.8",
}
LAST_CHUNK = b"0\r\n\r\n"

_ABSOLUTE_FORM = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")
_MARKED = 1  # of a header's verdict, in which 0 is that it crosses
_ENDS = 2
_NAMING = 4  # it is Connection
_NAMING_NONE = frozenset((b"keep-alive", b"close", b"Keep-Alive", b""))  # the values it has, but for a few
_NAMES, _NAME_BYTES = 256, 64  # remembered: clients choose them


class Head(NamedTuple):
    """The head of a response: status, reason and headers, as they came."""

    status: int
    reason: bytes
    headers: list[tuple[bytes, bytes]]

    @property
    def framed(self) -> bool:
        """Tell whether it says where its body ends, other than by chunks, or that there is none."""
        return self.status in (204, 304) or any(name.lower() == b"content-length" for name, _ in self.headers)

    @property
    def is_event_stream(self) -> bool:
        """Tell whether it says that an event stream follows."""
        kinds = [value for name, value in self.headers if name.lower() == b"content-type"]
        return bool(kinds) and kinds[-1].lower().startswith(b"text/event-stream")


class EndToEnd:
    """Tells the headers that may cross from those that end here: at every hop, or because they are in `but`.

    Names come spelt in few ways: each spelling is judged once and remembered, 0.12 us a header where lower() and two
    tables take 0.3. A whole head is not remembered: it holds keys, and to find it costs as much as to judge it anew.
    """

    __slots__ = ("_but", "_marked", "_verdicts")

    def __init__(self, but: Iterable[bytes] = (), marked: Iterable[bytes] = ()) -> None:
        """`but`: names that don't cross; `marked`: names that `parted` tells of. All in lower case."""
        self._but = frozenset(but)
        self._marked = frozenset(marked)
        self._verdicts: dict[bytes, int] = {}

    def of(self, headers: Collection[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Return the headers that may cross, in order and as they are."""
        return self.parted(headers)[0]

    def parted(self, headers: Collection[tuple[bytes, bytes]]) -> tuple[list[tuple[bytes, bytes]], bool]:
        """Return the same, and whether a marked one was there: that crosses, or that `but` names."""
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
            if len(self._verdicts) >= _NAMES:  # not the oldest one out: who fills it sends nothing but new ones
                self._verdicts.clear()
            self._verdicts[name] = verdict
        return verdict

    def _unnamed(self, headers: Collection[tuple[bytes, bytes]]) -> tuple[list[tuple[bytes, bytes]], bool]:
        """Do the same where Connection names headers: they end here, too."""
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
    """Return the bytes of a message's head, blank line included."""
    return b"\r\n".join([start_line, *map(b": ".join, headers), b"\r\n"])


def chunk(data: bytes) -> bytes:
    """Frame data as one chunk (RFC 9112 section 7.1). Data must not be empty: that would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def origin_form(target: str) -> str:
    """Drop scheme and host of an absolute-form target (RFC 9112 section 3.2.2): neither steers anything here."""
    return target if target.startswith("/") else _ABSOLUTE_FORM.sub("", target, count=1)
