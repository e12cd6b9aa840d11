"""Requests that can't be read: what is said of them, in whose words, and that nothing of them is quoted."""

import pytest

from tests.downstream.refusals import LIMIT, LONG, PATHS, SECRET, code, refused
from tests.http_client import request
from tests.proxy_under_test import CHAT, NATIVE, Tee, chat_body
from tests.stage import Stage


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "headers",
    [
        (f"Authorization: Bearer {LONG}",),
        (f"Cookie: a={LONG}",),
        (f"{LONG}: 1",),
        tuple(f"X-{number}: {SECRET}" for number in range(40)),
    ],
)
async def test_headers_beyond_a_limit_are_refused_as_such(tee: Tee, path: str, headers: tuple[str, ...]) -> None:
    """With 431, in the shape of the API that is spoken at the path (RFC 6585 section 5)."""
    answer = await refused(tee, request("GET", path, *headers))
    assert (answer.status, answer.reason) == (431, b"Request Header Fields Too Large")
    assert code(answer, path) == "headers_too_large"
    assert str(LIMIT if len(headers) == 1 else 30).encode() in answer.body
    assert await tee.metric("streamtee_rejected_total", reason="headers_too_large") == 1


async def test_head_that_comes_in_pieces_is_refused_in_its_dialect(tee: Tee) -> None:
    """Its first line came long before the header that is too long."""
    whole = request("POST", NATIVE, f"Authorization: Bearer {LONG}", body=b"{}")
    answer = await refused(tee, whole[:1], whole[1:30], whole[30:80], whole[80:9000], whole[9000:])
    assert (answer.status, code(answer, NATIVE)) == (431, "headers_too_large")


async def test_refusal_reaches_a_client_that_still_sends(tee: Tee) -> None:
    """What it sends is taken until it has closed: else a reset would overtake the refusal (RFC 9112 section 9.6)."""
    answer = await refused(tee, request("GET", "/v1/models", f"Cookie: {SECRET}{'x' * 20_000_000}"))
    assert answer.status == 431


@pytest.mark.parametrize("path", [CHAT, NATIVE])
async def test_target_beyond_the_limit_is_refused_as_such(tee: Tee, path: str) -> None:
    """With 414 (RFC 9112 section 3)."""
    for rest in ("", " HTTP/1.1\r\nHost: x\r\n\r\n"):
        answer = await refused(tee, f"GET {path}?key={LONG}{rest}".encode())
        assert answer.status == 414
        assert str(LIMIT).encode() in answer.body


async def test_headers_within_the_limits_pass(tee: Tee, stage: Stage) -> None:
    """To the last byte, and upstream."""
    long = "x" * (LIMIT - 100)
    client = await tee.send(
        "POST", f"/v1/files?{long}", f"Cookie: {long}", *(f"X-{n}: 1" for n in range(20)), body=b"1"
    )
    turn = await stage.next()
    assert turn.all("cookie") == [long.encode()]
    turn.reply("200 OK")
    assert (await client.answer()).status == 200


@pytest.mark.parametrize("path", [CHAT, NATIVE, "/nowhere"])
@pytest.mark.parametrize(
    ("version", "status"),
    [
        ("HTTP/2.0", 505),
        ("HTTP/2", 505),
        ("HTTP/2.1", 505),
        ("HTTP/3.0", 505),
        ("HTTP/3", 505),
        ("HTTP/10.0", 505),
        ("HTTP/11", 505),
        ("HTTP/1.2", 400),
        ("HTTP/1.", 400),
        ("HTTP/0.9", 400),
        ("http/1.1", 400),
        ("HTTP/x", 400),
        ("HTTP/1.1 x", 400),
        ("", 400),
    ],
)
async def test_later_version_is_not_supported(tee: Tee, path: str, version: str, status: int) -> None:
    """505 for HTTP/2.0 and later; what is no version of HTTP is malformed."""
    client = await tee.connect()
    client.send(f"GET {path}?t={SECRET} {version}".rstrip().encode() + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
    answer = await client.answer()
    await answer.read()
    assert answer.status == status
    assert answer.head.startswith((b"HTTP/1.1 ", b"HTTP/1.0 "))
    assert code(answer, path)
    assert SECRET.encode() not in answer.body


async def test_preface_of_http_2_is_not_supported(tee: Tee) -> None:
    """Of a client that knows beforehand that HTTP/2 is spoken (RFC 9113 section 3.4)."""
    assert (await refused(tee, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")).status == 505


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nno colon " + SECRET.encode() + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + SECRET.encode() + b"\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + SECRET.encode() + b" : x\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: " + SECRET.encode() + b"\r\n\r\n",
        b"GET /" + SECRET.encode() + b"\x7f\xff HTTP/1.1 \r\nHost: x\r\n\r\n",
        b"FOO /" + SECRET.encode() + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET " + SECRET.encode() + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        SECRET.encode() + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + SECRET.encode(),
        b"\x00",
    ],
)
async def test_anything_else_malformed_is_a_bad_request(tee: Tee, data: bytes) -> None:
    """Told in OpenAI's shape, without a word of it."""
    answer = await refused(tee, data)
    assert (answer.status, code(answer, "/v1/")) == (400, "bad_request")


async def test_request_after_another_is_refused_in_its_own_dialect(tee: Tee, stage: Stage) -> None:
    """Also on a connection that has had a body, and after an answer."""
    client = await tee.connect()
    client.send(request("POST", CHAT, body=chat_body()))
    turn = await stage.next()
    await turn.body()
    turn.reply("200 OK", body=b"{}")
    answer = await client.answer()
    assert await answer.read() == b"{}"
    client.send(request("POST", NATIVE, f"Authorization: Bearer {LONG}", body=b"{}"))
    answer = await client.answer()
    await answer.read()
    assert answer.status == 431
    assert code(answer, NATIVE)


@pytest.mark.parametrize("path", [CHAT, NATIVE, "/v1/files", "/api/v1/tasks"])
@pytest.mark.parametrize("spoilt", [b"zz\r\n", b"-1\r\n", b"3\r\nabcdef\r\n", b"fffffffffffffffff\r\n"])
async def test_body_that_can_not_be_read_is_a_bad_request(tee: Tee, stage: Stage, path: str, spoilt: bytes) -> None:
    """Also when its beginning could: nobody waits for the rest, neither the client nor the upstream."""
    client = await tee.connect()
    client.send(request("POST", path, "Transfer-Encoding: chunked") + b"2\r\n{}\r\n")
    await (await tee.ask("GET", "/healthz")).read()
    turn = await stage.next() if path in ("/v1/files", "/api/v1/tasks") else None
    client.send(spoilt)
    answer = await client.answer()
    await answer.read()
    assert answer.status == 400
    assert code(answer, path) == "bad_request"
    assert await client.wait_gone() == "fin"
    if turn is not None:
        await turn.wait_left()
