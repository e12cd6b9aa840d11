"""HTTP/1.1 words: which headers end at a hop, and how a body is framed. Sources: RFC 9110 and RFC 9112."""

from collections.abc import Iterable
from typing import NamedTuple

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


class Head(NamedTuple):
    """The head of a response: status, reason and headers, as they came."""

    status: int
    reason: bytes
    headers: list[tuple[bytes, bytes]]

    @property
    def framed(self) -> bool:
        """Tell whether it says where its body ends, other than by chunks, or that there is none."""
        return self.status in (204, 304) or any(name.lower() == b"content-length" for name, _ in self.headers)


def end_to_end(headers: RawHeaders, but: frozenset[bytes] = frozenset()) -> list[tuple[bytes, bytes]]:
    """Return the headers that may cross, in order and as they are, less those named (in lower case) in `but`."""
    kept: list[tuple[bytes, bytes]] = []
    named: set[bytes] = set()
    for name, value in headers:
        lower = name.lower()
        if lower == b"connection":
            named.update(token.strip() for token in value.lower().split(b","))
        elif lower not in HOP_BY_HOP and lower not in but:
            kept.append((name, value))
    named -= {b"close", b"keep-alive", b""}
    return [h for h in kept if h[0].lower() not in named] if named else kept


def head(start_line: bytes, headers: RawHeaders) -> bytes:
    """Return the bytes of a message's head, blank line included."""
    lines = [start_line]
    lines += [b"%b: %b" % header for header in headers]
    lines.append(b"\r\n")
    return b"\r\n".join(lines)


def chunk(data: bytes) -> bytes:
    """Frame data as one chunk (RFC 9112 section 7.1). Data must not be empty: that would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)
