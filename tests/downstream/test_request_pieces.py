"""Several requests in one read, of which one can't be read: those before it are answered."""

import pytest

from proxy.downstream.request_pieces import _PIECES, pieces
from tests.downstream.refusals import SECRET
from tests.http_client import request
from tests.proxy_under_test import CHAT, Tee, chat_body
from tests.stage import Stage

GET, POST = request("GET", "/a"), request("POST", "/b", body=b"{}\r\n\r\n{}")
CHUNKED = request("POST", "/c", "Transfer-Encoding: chunked")
CHUNKS = b"2\r\n{}\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (GET + GET, [GET, GET]),
        (POST + GET, [POST[:-8], POST[-8:-2], POST[-2:] + GET]),
        (GET + b"garbage\r\n", [GET, b"garbage\r\n"]),
        (POST[:-5], [POST[:-8], POST[-8:-5]]),
        (CHUNKED + CHUNKS + GET[:5], [CHUNKED, CHUNKS, GET[:5]]),
        (GET + b"\r\n\r\n" * 10_000, [GET, *[b"\r\n\r\n"] * (_PIECES - 1), b"\r\n\r\n" * (10_001 - _PIECES)]),
        (b"\n" + GET, [b"\n", GET]),
        (b"\r\n" + GET, [b"\r\n", GET]),
        (b"\n\r\n" + GET, [b"\n", b"\r\n", GET]),
        (b"\r\n\r\n" + GET, [b"\r\n", b"\r\n", GET]),
        (b"\0", [b"\0"]),
        (b"", [b""]),
    ],
)
def test_read_is_cut_where_heads_may_end(data: bytes, expected: list[bytes]) -> None:
    """Also within a body, and where the last read ended within the end of a head.

    Nothing is lost or repeated, and a client can't have a read cut into many thousand pieces.
    """
    found = list(pieces(data))
    assert found == expected
    assert b"".join(found) == data


GARBAGE = [b"garbage " + SECRET.encode() + b"\r\n\r\n", b"\0\1\2", b"FOO /x HTTP/1.1\r\nHost: x\r\n\r\n"]


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("chunked", [False, True])
async def test_what_can_not_be_read_after_requests_takes_none_of_them_with_it(
    tee: Tee, stage: Stage, garbage: bytes, chunked: bool
) -> None:
    """Though all came in one read: each complete request is answered, then the rest is refused."""
    client = await tee.connect()
    asked = request("POST", CHAT, body=chat_body())
    if chunked:
        body = chat_body()
        asked = request("POST", CHAT, "Transfer-Encoding: chunked") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    client.send(request("GET", "/healthz") + asked + garbage)
    healthy = await client.answer()
    await healthy.read()
    turn = await stage.next()
    assert await turn.body() == chat_body()
    turn.reply("200 OK", body=b'{"said":1}')
    answer = await client.answer()
    assert (healthy.status, answer.status, await answer.read()) == (200, 200, b'{"said":1}')
    refusal = await client.answer()
    assert SECRET.encode() not in await refusal.read()
    assert (refusal.status, await client.wait_gone()) == (400, "fin")
