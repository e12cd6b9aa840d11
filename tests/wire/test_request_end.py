"""Where a request ends in the bytes of its connection, however these are cut."""

import pytest

from proxy.wire.request_end import RequestEnd
from tests.cuts import cuts

BODY = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'5\r\nhello\r\n3;ext="a"\r\na\r\n\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n'
)
REQUESTS = {
    "no body": b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n",
    "no header": b"GET /a HTTP/1.1\r\n\r\n",
    "blank lines before": b"\r\n\r\nGET /a HTTP/1.1\r\nHost: x\r\n\r\n",
    "length": BODY,
    "length 0": b"POST /a HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    "spelling": b"POST /a HTTP/1.1\r\ncontent-LENGTH:  5 \r\n\r\nhello",
    "a header like it": b"GET /a HTTP/1.1\r\nX-Content-Length: 5\r\nX: Content-Length: 7\r\n\r\n",
    "chunked": CHUNKED,
    "no trailer": CHUNKED.replace(b"Trailer: x\r\n", b""),
}
NEXT = b"GET /next HTTP/1.1\r\n\r\n"


def read(pieces: list[bytes]) -> tuple[int, bool]:
    """Return how many bytes of all pieces belong to the request, and whether it has ended."""
    end, taken = RequestEnd(), 0
    for piece in pieces:
        if end.ended:
            break
        taken += end.feed(piece)
    return taken, end.ended


@pytest.mark.parametrize("name", REQUESTS)
def test_request_ends_before_the_next_one_however_it_is_cut(name: str) -> None:
    """Whole, byte by byte, and at each place."""
    request = REQUESTS[name]
    for cut in cuts(request, NEXT):
        assert read(cut.reads) == (len(request), True), cut


@pytest.mark.parametrize("name", REQUESTS)
def test_request_that_is_not_whole_has_not_ended(name: str) -> None:
    """All of its bytes are its own."""
    part = REQUESTS[name][:-1]
    for cut in cuts(part, b""):
        assert read(cut.reads) == (len(part), False), cut


def test_chunk_without_a_size_never_ends() -> None:
    """The parser refuses it, and its connection is closed."""
    assert read([b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n0\r\n\r\n" + NEXT])[1] is False


@pytest.mark.parametrize(
    ("before", "piece", "after"),
    [
        (b"", b"\r\n", b"GET /a HTTP/1.1\r\n\r\n"),
        (CHUNKED[:48], b"0", b"5\r\nhello\r\n0\r\n\r\n"),
        (CHUNKED[:48] + b"5;", b"e", b"\r\nhello\r\n0\r\n\r\n"),
        (CHUNKED[:48] + b"0\r\nTrailer: ", b"x", b"\r\n\r\n"),
    ],
)
def test_what_may_come_without_end_is_not_kept(before: bytes, piece: bytes, after: bytes) -> None:
    """It would be copied with each read: a client held the other ones up for seconds with 40 MB of blank lines."""
    end = RequestEnd()
    end.feed(before)
    for _ in range(100):
        assert end.feed(piece * 100) == len(piece) * 100
        assert len(end._line) + len(end._head or b"") < 200
    assert end.has_begun == (before != b"")
    assert (end.feed(after + NEXT), end.ended) == (len(after), True)
