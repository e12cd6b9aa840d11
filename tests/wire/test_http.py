"""HTTP/1.1 words: which headers cross, and how a message is framed."""

import http.client
import io
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.machine import head
from proxy.wire.http import HOP_BY_HOP, LAST_CHUNK, EndToEnd, Head, chunk, origin_form, with_one_length

# RFC 9110 section 7.6.1 and what it refers to, written down again.
ENDS_AT_A_HOP = [
    b"Connection", b"Keep-Alive", b"Proxy-Connection", b"Proxy-Authenticate", b"Proxy-Authorization", b"TE", b"Trailer",
    b"Transfer-Encoding", b"Upgrade",
]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "lengths"),
    [
        (b"content-length: 5\r\nCONTENT-LENGTH:5", b"Content-Length: 5"),
        (b"Content-Length: 5 ,5", b"Content-Length: 5"),
        (b"Content-Length: 5", None),
        (b"Content-Length: 5\r\nContent-Length: 6", None),
        (b"Content-Length: 5, 05", None),
        (b"Content-Length: -5, -5", None),
        (b"Content-Length: ,", None),
        (b"A: b", None),
    ],
)
def test_repeated_length_is_stated_once(given: bytes, lengths: bytes | None) -> None:
    """Equal ones alone, and nothing else of the response changes."""
    body = b"a\r\nContent-Length: 5\r\n\r\n"
    once = with_one_length(b"HTTP/1.1 200 OK\r\nX: 1\r\n%b\r\n\r\n%b" % (given, body))
    assert once == (lengths and b"HTTP/1.1 200 OK\r\nX: 1\r\n%b\r\n\r\n%b" % (lengths, body))
    assert with_one_length(b"HTTP/1.1 200 OK\r\n%b\r\n" % given) is None


@pytest.mark.parametrize("name", ENDS_AT_A_HOP)
@pytest.mark.parametrize("spelt", [bytes.title, bytes.lower, bytes.upper])
def test_hop_by_hop_header_does_not_cross(name: bytes, spelt: Callable[[bytes], bytes]) -> None:
    """However its name is spelt."""
    assert EndToEnd().of([(b"A", b"1"), (spelt(name), b"x"), (b"B", b"2")]) == [(b"A", b"1"), (b"B", b"2")]


def test_table_has_a_reason_a_row() -> None:
    """Names are in lower case, since they are looked up so, and each has its source."""
    assert set(HOP_BY_HOP) == {name.lower() for name in ENDS_AT_A_HOP}
    assert all(HOP_BY_HOP.values())


def test_end_to_end_headers_cross_as_they_are() -> None:
    """Order, spelling, repetition and bytes that are not UTF-8 stay."""
    headers = [
        (b"Content-Type", b"text/event-stream;charset=UTF-8"),
        (b"set-cookie", b"a=1"),
        (b"X-REQUEST-ID", b"\xff\xfe caf\xe9"),
        (b"set-cookie", b"b=2"),
        (b"x-empty", b""),
    ]
    assert EndToEnd().of(headers) == headers


@pytest.mark.parametrize(
    "connection",
    [b"x-one, X-Two", b"X-ONE,x-two", b" close ,\tx-one ,x-two, ", b"keep-alive, x-two, x-one, close"],
)
def test_header_that_connection_names_does_not_cross(connection: bytes) -> None:
    """RFC 9110 7.6.1: what Connection lists is for this hop, wherever the Connection header stands."""
    named = [(b"X-One", b"1"), (b"x-other", b"3"), (b"X-TWO", b"2")]
    assert EndToEnd().of([(b"Connection", connection), *named]) == [(b"x-other", b"3")]
    assert EndToEnd().of([*named, (b"connection", connection)]) == [(b"x-other", b"3")]


def test_several_connection_headers_all_count() -> None:
    """Each may name headers."""
    headers = [(b"Connection", b"x-one"), (b"x-one", b"1"), (b"x-two", b"2"), (b"connection", b"x-two"), (b"a", b"b")]
    assert EndToEnd().of(headers) == [(b"a", b"b")]


def test_headers_named_in_but_stay_behind() -> None:
    """The caller's own exceptions go by lower-case name."""
    headers = [(b"Host", b"h"), (b"Authorization", b"k"), (b"Accept", b"*/*")]
    assert EndToEnd({b"host", b"authorization"}).of(headers) == [(b"Accept", b"*/*")]


@pytest.mark.parametrize(
    ("headers", "marked"),
    [
        ([], False),
        ([(b"A", b"1")], False),
        ([(b"LENGTH", b"1")], True),
        ([(b"a", b"1"), (b"option", b"1")], True),
        ([(b"length", b"1"), (b"Connection", b"length")], False),
        ([(b"Option", b"1"), (b"Connection", b"a, option")], True),
        ([(b"a", b"1"), (b"Connection", b"option")], False),
    ],
)
def test_marked_header_is_told_of(headers: list[tuple[bytes, bytes]], marked: bool) -> None:
    """One that crosses must do so: what Connection names does not. One that stays here need not."""
    crossing = EndToEnd({b"option"}, {b"option", b"length"})
    kept = [header for header in headers if header[0] in (b"A", b"a", b"LENGTH") and headers[-1][1] != b"a, option"]
    assert crossing.parted(headers) == (kept, marked)
    assert crossing.parted(headers) == (kept, marked)  # a name that was met before is judged alike


def test_names_that_clients_think_up_are_not_all_remembered() -> None:
    """Neither many nor long ones; and what ends at a hop ends there, however many were met."""
    crossing = EndToEnd({b"host"})
    strange = [(b"x-%d" % number, b"1") for number in range(1000)] + [(b"x" * 8000, b"1")]
    assert crossing.of([*strange, (b"Host", b"h"), (b"TE", b"gzip")]) == strange
    for header in strange:
        assert crossing.of([header, (b"Host", b"h")]) == [header]
    assert 1 < len(crossing._shapes) <= 256
    assert max(sum(map(len, names)) for names in crossing._shapes) <= 2048


def test_head_is_what_a_parser_reads() -> None:
    """Start line, headers in order, blank line."""
    data = head(b"HTTP/1.1 200 OK", [(b"A", b"1"), (b"b", b"x: y"), (b"a", b"2")])
    assert data == b"HTTP/1.1 200 OK\r\nA: 1\r\nb: x: y\r\na: 2\r\n\r\n"
    parsed = http.client.parse_headers(io.BytesIO(data.partition(b"\r\n")[2]))
    assert parsed.items() == [("A", "1"), ("b", "x: y"), ("a", "2")]


def test_head_without_headers_ends_with_a_blank_line() -> None:
    """A start line and nothing else is a whole head."""
    assert head(b"GET / HTTP/1.1", []) == b"GET / HTTP/1.1\r\n\r\n"


@given(st.lists(st.binary(min_size=1, max_size=300)))
def test_chunks_are_read_back(pieces: list[bytes]) -> None:
    """A parser of its own reads the pieces out of the chunks."""
    body = io.BytesIO(b"".join(map(chunk, pieces)) + LAST_CHUNK)
    for piece in pieces:
        assert int(body.readline(), 16) == len(piece)
        assert body.read(len(piece) + 2) == piece + b"\r\n"
    assert body.read() == b"0\r\n\r\n"


def test_chunk_of_a_socket_read() -> None:
    """The size is in hexadecimal."""
    data = b"x" * 65536
    assert chunk(data) == b"10000\r\n" + data + b"\r\n"


@pytest.mark.parametrize(
    ("status", "headers", "framed"),
    [
        (200, [], False),
        (200, [(b"Transfer-Encoding", b"chunked")], False),
        (200, [(b"A", b"1"), (b"CONTENT-LENGTH", b"0")], True),
        (204, [], True),
        (304, [], True),
    ],
)
def test_head_tells_whether_it_frames_its_body(status: int, headers: list[tuple[bytes, bytes]], framed: bool) -> None:
    """By a length, or by a status that has no body (RFC 9112 section 6.3)."""
    assert Head(status, b"", headers).framed == framed


@pytest.mark.parametrize("target", ["x" * 1_000_000, "a.-+" * 250_000 + ":443", "//" + "x" * 1_000_000])
def test_long_target_is_read_once(target: str) -> None:
    """Not from each of its characters on, which takes minutes, and 8 s for the longest that a head may have."""
    assert origin_form(target) == target
    assert origin_form(f"http://x/{target}?http://y") == f"/{target}?http://y"
