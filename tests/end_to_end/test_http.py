"""What HTTP asks of a proxy, and what it forbids."""

import pytest

from tests.http_client import request
from tests.proxy_under_test import CHAT, Serve, chat_body
from tests.stage import Stage


@pytest.mark.parametrize("path", [CHAT, "/v1/models"])
async def test_trailers_become_no_headers(perform: Serve, stage: Stage, path: str) -> None:
    """Also when they come with the head, in one read (RFC 9110 section 6.5.1)."""
    tee = await perform()
    client = await tee.send("POST", path, body=chat_body())
    turn = await stage.next()
    await turn.body()
    turn.say(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
        b"Set-Cookie: a=b\r\nContent-Type: text/html\r\nContent-Encoding: gzip\r\nContent-Length: 7\r\n\r\n"
    )
    turn.done.set()
    answer = await client.answer()
    assert await answer.read() == b"{}"
    assert answer.header("content-type") == "application/json"
    for name in ("set-cookie", "content-encoding", "content-length"):
        assert answer.header(name) is None


@pytest.mark.parametrize("status", ["099", "000", "42"])
async def test_status_that_is_none_is_a_bad_gateway(perform: Serve, stage: Stage, status: str) -> None:
    """It could not be passed on."""
    tee = await perform()
    client = await tee.send("GET", "/v1/models")
    turn = await stage.next()
    turn.say(f"HTTP/1.1 {status} x\r\nContent-Length: 2\r\n\r\n{{}}".encode())
    turn.done.set()
    assert (await client.answer()).status == 502
    await turn.wait_left()


@pytest.mark.parametrize("path", ["/v1/models", "/healthz", "/nowhere"])
async def test_trace_is_not_answered(perform: Serve, stage: Stage, path: str) -> None:
    """It would tell the client what goes upstream; 405 says what is answered."""
    tee = await perform()
    answer = await tee.ask("TRACE", path)
    assert answer.status == 405
    assert "GET" in (answer.header("allow") or "")
    assert not stage.turns


@pytest.mark.parametrize("path", [CHAT, "/v1/files"])
@pytest.mark.parametrize("coding", ["gzip, chunked", "gzip,chunked", "deflate, gzip, chunked"])
async def test_transfer_coding_that_is_not_spoken_is_refused(
    perform: Serve, stage: Stage, path: str, coding: str
) -> None:
    """Without its name the upstream would take what is compressed for what is not (RFC 9112 section 6.1)."""
    tee = await perform()
    client = await tee.connect()
    client.send(request("POST", path, f"Transfer-Encoding: {coding}") + b"3\r\nabc\r\n0\r\n\r\n")
    assert (await client.answer()).status == 501
    assert not stage.turns


@pytest.mark.parametrize("close", ["Connection: close", "connection: Close", "Connection: x, close"])
@pytest.mark.parametrize("body", [b"", b"{}"])
async def test_bytes_behind_the_last_request_are_passed_over(
    perform: Serve, stage: Stage, close: str, body: bytes
) -> None:
    """The request that asks to close the connection is answered (RFC 9112 section 9.6)."""
    tee = await perform()
    client = await tee.connect()
    client.send(request("POST", "/v1/files", close, body=body) + b"GET /v1/other HTTP/1.1\r\nHo")
    turn = await stage.next()
    assert await turn.body() == body
    turn.reply("200 OK", body=b"{}")
    answer = await client.answer()
    assert (answer.status, await answer.read()) == (200, b"{}")
    await client.wait_gone()
    assert len(stage.turns) == 1


@pytest.mark.parametrize("behind", [b"GARBAGE\r\n\r\n", b"GET /healthz HTTP/1.0\r\n\r\n", b"\r\n", b"\0"])
async def test_bytes_behind_a_request_of_http_1_0_are_passed_over(perform: Serve, behind: bytes) -> None:
    """It is the last one of its connection, too, without saying so."""
    client = await (await perform()).connect()
    client.send(b"GET /healthz HTTP/1.0\r\n\r\n" + behind)
    answer = await client.answer()
    assert (answer.status, await answer.read()) == (200, b'{"status":"ok"}')
    await client.wait_gone()


async def test_health_answers_head(perform: Serve) -> None:
    """As probes ask."""
    tee = await perform()
    assert (await tee.ask("HEAD", "/healthz")).status == 200
