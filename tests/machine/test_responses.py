"""The short way through a response's head and chunks, held to llhttp; in Python everything is left to that."""

from typing import Any

import httptools
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from proxy.machine import CHUNKED

_USUAL = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\n"
_STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
_LINES = (b"HTTP/1.1 200 OK", b"HTTP/1.1 429 Too Many Requests", b"HTTP/1.1 200 ", b"HTTP/1.1 599 \xe9")
_ODD_LINES = (
    b"HTTP/1.0 200 OK",
    b"HTTP/1.1 200",
    b"HTTP/1.1 100 Continue",
    b"HTTP/1.1 204 No Content",
    b"HTTP/1.1 304 Not Modified",
    b"HTTP/1.1 600 x",
    b"HTTP/1.1  200 OK",
    b"HTTP/1.1 200 O\tK",
    b"HTTP/1.1 2x0 OK",
    b"http/1.1 200 OK",
)
_HEADERS = (b"Content-Type: text/event-stream", b"x-request-id: \xc3\xa9 1", b"A_b: c:d", b"Connection: Keep-Alive")
_ODD_HEADERS = (
    b"A:b",
    b"A: b ",
    b"A:  b",
    b"A: ",
    b"A : b",
    b"A: b\tc",
    b"A: b\x01",
    b" folded",
    b"A: b\r\n\tc",
    b": x",
    b"a",
    b"A: b\n",
    b"Connection: close",
    b"Connection: keep-alive, upgrade",
    b"Upgrade: h2c",
    b"Proxy-Connection: close",
    b"proxy-connection: keep-alive",
    b"!: x",
)
_FRAMINGS = (b"Content-Length: 3", b"content-length: 000", b"Transfer-Encoding: chunked", b"transfer-encoding: Chunked")
_ODD_FRAMINGS = (
    b"A: b",
    b"Content-Length: 3\r\nContent-Length: 3",
    b"Content-Length: 3\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Content-Length: +3",
    b"Content-Length: 3, 3",
    b"Content-Length: 1234567890",
    b"Content-Length: 0x3",
)
_BODIES = (b"", b"abc", b"3\r\nabc\r\n", b"3\r\nabc\r\n0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n")
_CHUNKS = (b"3\r\nabc\r\n", b"10\r\n0123456789abcdef\r\n", b"5\r\n0\r\n\r\n\r\n", b"0\r\n\r\n")
_ODD_CHUNKS = (
    b"3;a=b\r\nabc\r\n",
    b"A\r\n0123456789\r\n",
    b"03\r\nabc\r\n",
    b"0\r\nA: b\r\n\r\n",
    b"3\r\nabc",
    b"3\r\nabcd\r\n",
    b"x",
    b"3 \r\nabc\r\n",
    b"-3\r\nabc\r\n",
    b"ffffffff\r\nabc\r\n",
)


class Parsed:
    """What llhttp makes of a read."""

    def __init__(self, data: bytes) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.reason = self.body = b""
        self.is_complete = self.keeps = False
        self.parser = httptools.HttpResponseParser(self)
        self.parser.feed_data(data)
        self.status = self.parser.get_status_code()

    def on_status(self, reason: bytes) -> None:
        self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_headers_complete(self) -> None:
        self.keeps = self.parser.should_keep_alive()

    def on_message_complete(self) -> None:
        self.is_complete = True


@pytest.mark.parametrize("line", _LINES)
@pytest.mark.parametrize("framing", _FRAMINGS)
def test_usual_head_is_read_as_llhttp_reads_it(machine: Any, line: bytes, framing: bytes) -> None:
    for headers in (_HEADERS, _HEADERS[::-1], ()):
        data = b"\r\n".join([line, *headers, framing, b"", b""])
        status, reason, read, length, end = machine.response_head(data + b"3\r\nabc\r\n")
        parsed = Parsed(data)
        assert (status, reason, read) == (parsed.status, parsed.reason, parsed.headers)
        assert end == len(data)
        assert parsed.keeps
        digits = framing.partition(b": ")[2]
        assert length == (int(digits) if digits.isdigit() else CHUNKED)


@pytest.mark.parametrize(
    "data",
    [
        *(line + b"\r\nContent-Length: 3\r\n\r\nabc" for line in _ODD_LINES),
        *(b"HTTP/1.1 200 OK\r\n" + odd + b"\r\nContent-Length: 3\r\n\r\nabc" for odd in _ODD_HEADERS),
        *(b"HTTP/1.1 200 OK\r\n" + odd + b"\r\n\r\nabc" for odd in _ODD_FRAMINGS),
        *(_USUAL[:size] for size in range(len(_USUAL))),
    ],
)
def test_any_other_head_is_left_to_llhttp(machine: Any, data: bytes) -> None:
    assert machine.response_head(data) is None


@pytest.mark.parametrize("pieces", [[], [0], [0, 1, 2], [1] * 50])
@pytest.mark.parametrize("ended", [True, False])
def test_chunks_are_read_as_llhttp_reads_them(machine: Any, pieces: list[int], ended: bool) -> None:
    data = b"".join(_CHUNKS[piece] for piece in pieces) + b"0\r\n\r\n" * ended
    parsed = Parsed(_STREAM + data)
    assert machine.chunked_body(_STREAM + data, len(_STREAM)) == (parsed.body, ended)
    assert parsed.is_complete is ended


@pytest.mark.parametrize("odd", _ODD_CHUNKS)
def test_any_other_chunk_is_left_to_llhttp(machine: Any, odd: bytes) -> None:
    assert machine.chunked_body(odd, 0) is None
    assert machine.chunked_body(_CHUNKS[0] + odd, 0) is None
    assert machine.chunked_body(b"0\r\n\r\n" + odd, 0) is None


@pytest.mark.parametrize("begin", [-1, 4])
def test_body_begins_within_the_read(machine: Any, begin: int) -> None:
    with pytest.raises(ValueError, match="begins outside"):
        machine.chunked_body(b"abc", begin)


@pytest.mark.parametrize("given_", [(), (b"",), ("", 0), (b"", 0, 0), (b"", "0")])
def test_what_is_no_read_is_refused(machine: Any, given_: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        machine.chunked_body(*given_)
    with pytest.raises(TypeError):
        machine.response_head("")


_PARTS = st.tuples(
    st.sampled_from(_LINES + _ODD_LINES),
    st.lists(st.sampled_from(_HEADERS + _ODD_HEADERS + _FRAMINGS + _ODD_FRAMINGS), max_size=5),
    st.sampled_from(_BODIES),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(parts=_PARTS, cut=st.integers(0, 300), byte=st.integers(0, 255), at=st.integers(-1, 200))
@example(parts=(_LINES[0], [_FRAMINGS[0]], b"abc"), cut=300, byte=0, at=20)
def test_what_is_read_is_what_llhttp_reads(
    machine: Any, parts: tuple[bytes, list[bytes], bytes], cut: int, byte: int, at: int
) -> None:
    """Whatever comes: with a byte replaced, and cut off anywhere."""
    line, headers, body = parts
    data = bytearray(b"\r\n".join([line, *headers, b"", body]))
    if 0 <= at < len(data):
        data[at] = byte
    read = bytes(data[:cut])
    found = machine.response_head(read)
    if found is None:
        return
    status, reason, headers, length, end = found
    parsed = Parsed(read[:end])
    assert (status, reason, headers, parsed.keeps) == (parsed.status, parsed.reason, parsed.headers, True)
    chunks = machine.chunked_body(read, end)
    if length == CHUNKED and chunks is not None:
        parsed = Parsed(read)
        assert chunks == (parsed.body, parsed.is_complete)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    pieces=st.lists(st.sampled_from(_CHUNKS + _ODD_CHUNKS), max_size=6),
    byte=st.integers(0, 255),
    at=st.integers(-1, 50),
)
def test_chunks_that_are_read_are_what_llhttp_reads(machine: Any, pieces: list[bytes], byte: int, at: int) -> None:
    data = bytearray(b"".join(pieces))
    if 0 <= at < len(data):
        data[at] = byte
    found = machine.chunked_body(bytes(data), 0)
    if found is not None:
        parsed = Parsed(_STREAM + bytes(data))
        assert found == (parsed.body, parsed.is_complete)
