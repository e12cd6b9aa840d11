"""Heads that come again are found without being parsed, and are what the parser would make of them."""

import asyncio
import itertools
from typing import Any

import pytest
from aiohttp import EMPTY_PAYLOAD, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser
from aiohttp.http_exceptions import HttpProcessingError

from proxy.downstream.known_heads import _KNOWN, KnownHeads
from tests.downstream.ports import Turned, port
from tests.event_loops import GUARD_S, until
from tests.http_client import request
from tests.proxy_under_test import CHAT, Tee, chat_body
from tests.stage import Stage

LINES = [
    b"Content-Length: %d", b"content-length: %d", b"CONTENT-LENGTH: %d", b"Content-Length:%d", b"Content-Length: 0%d",
    b"Content-Length: +%d", b"Content-Length: %d ", b"X: Content-Length: %d", b"X: 1\n\nContent-Length: %d",
    b" Content-Length: %d", b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", b"Expect: 100-continue",
    b"Connection: close", b"Connection: Upgrade\r\nUpgrade: websocket", b"Host: a", b"X-Y: \xff", b"Accept: */*",
]  # fmt: skip
BODIES = [b"", b"{}", b"0123456789", b"\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"x" * 120]


async def parsed(data: bytes) -> tuple[Any, Any] | None:
    """Return what aiohttp's parser makes of a read that is one request."""
    loop = asyncio.get_running_loop()
    parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16, payload_exception=web.RequestPayloadError)
    try:
        messages, _, tail = parser.feed_data(data)
    except HttpProcessingError:
        return None
    return messages[0] if len(messages) == 1 and messages[0][1].is_eof() and not tail else None


def told(message: Any, body: Any) -> tuple[Any, ...]:
    """Return all that a request is made of."""
    fields = (message.method, message.path, message.version, message.raw_headers, message.should_close, message.url)
    exists = body is not EMPTY_PAYLOAD  # to aiohttp, no other is the body of a request without one
    return *fields, list(message.headers.items()), message.chunked, message.upgrade, exists, body.read_nowait()


async def noted(heads: KnownHeads, data: bytes) -> None:
    """Have a read parsed and noted as a connection does it."""
    found = await parsed(data)
    if found is not None:
        heads.note(data, *found)


@pytest.mark.parametrize("first", LINES)
async def test_head_that_is_known_is_what_the_parser_makes_of_it(first: bytes) -> None:
    """Whatever its headers are, and however long the bodies; a head after which no request follows is not known."""
    known = 0
    for second, third in itertools.permutations(LINES, 2):
        heads = KnownHeads()
        for body in BODIES:
            stated = [line % len(body) if b"%" in line else line for line in (first, second, third)]
            data = b"\r\n".join([b"POST /a?b HTTP/1.1", *stated, b"", body])
            found = heads.find(data)
            if found is not None:
                expected = await parsed(data)
                assert expected is not None, data
                assert not expected[0].upgrade, data
                assert not expected[0].should_close, data
                assert told(*found) == told(*expected)
                known += 1
            await noted(heads, data)
    assert known or first not in LINES[:2]


async def test_head_is_known_from_its_third_request_on() -> None:
    """And with each other length; clients that send a head once leave nothing behind."""
    heads = KnownHeads()
    for body in (b"{}", b"{} "):
        assert heads.find(request("POST", "/a", body=body)) is None
        await noted(heads, request("POST", "/a", body=body))
    for body in (b"{}", b"0123456789", b"0123456789"):
        found = heads.find(request("POST", "/a", body=body))
        assert found is not None
        assert (found[0].headers["Content-Length"], found[1].read_nowait()) == (str(len(body)), body)
    heads.forget()
    assert heads.find(request("POST", "/a", body=b"{}")) is None


@pytest.mark.parametrize(
    ("plain", "other"),
    [
        (b"{}", b"{}P"), (b"{}", b"{"), (b"{}", b""), (b"\r\n\r\n{}", b"\r\n\r\n"),
        (b": 2\r", b": +2\r"), (b": 2\r", b":  2\r"), (b": 2\r", b": 2 \r"), (b": 2\r", b": 0_2\r"),
        (b": 2\r", b": \r"), (b": 2\r", b": 2\n"), (b": 2\r", b": 2,2\r"),
    ],
)  # fmt: skip
async def test_read_that_is_not_one_whole_request_is_left_to_the_parser(plain: bytes, other: bytes) -> None:
    """Bytes that are missing, or that follow, or a length that is not plainly written."""
    heads, whole = KnownHeads(), request("POST", "/a", body=b"{}")
    for _ in range(2):
        await noted(heads, whole)
    assert heads.find(whole) is not None
    assert whole.count(plain) == 1
    assert heads.find(whole.replace(plain, other)) is None


async def test_heads_that_are_kept_are_limited_in_number() -> None:
    """The oldest goes; so a client with ever new heads takes no memory."""
    heads = KnownHeads()
    for number in range(_KNOWN + 1):
        for _ in range(2):
            await noted(heads, request("POST", f"/{number}", body=b"{}"))
    assert len(heads._known) == _KNOWN
    assert heads.find(request("POST", "/0", body=b"{}")) is None
    assert heads.find(request("POST", "/1", body=b"{}")) is not None


async def test_requests_of_one_connection_with_one_head_get_their_own_answers(stage: Stage, tee: Tee) -> None:
    """Of several lengths, in pieces in between, and two in one read."""
    client = await tee.connect()
    bodies = [chat_body(n="x" * size) for size in (1, 1, 1, 20, 3, 3, 200, 1)]
    asked = [request("POST", CHAT, "Content-Type: application/json", body=body) for body in bodies]
    for number, body in enumerate(bodies):
        if number == 4:
            client.send(asked[number][:50])
            await tee.metrics()  # so long that the first piece has been read
            client.send(asked[number][50:])
        elif number == 6:
            client.send(asked[6] + asked[7])
        elif number < 7:
            client.send(asked[number])
        turn = await stage.next()
        assert await turn.body() == body
        turn.reply("200 OK", body=b'{"said":%d}' % number)
        answer = await client.answer()
        assert (answer.status, await answer.read()) == (200, b'{"said":%d}' % number)


@pytest.mark.parametrize("way", ["read", "text", "json", "post", "release"])
async def test_request_with_a_known_head_is_read_in_all_ways_that_aiohttp_has(way: str) -> None:
    """Not only in ours: the admin port of several workers reads forms by aiohttp's."""
    said: list[object] = []

    async def answer(asked: web.BaseRequest) -> web.StreamResponse:
        said.append(await getattr(asked, way)())
        return web.Response()

    async with port(answer) as one, asyncio.timeout(GUARD_S):
        client = await one.connect()
        for _ in range(3):
            client.send(request("POST", "/a", "Content-Type: application/x-www-form-urlencoded", body=b"12"))
            assert (await client.answer()).status == 200
    assert len(said) == 3
    assert said[0] == said[2]


async def test_body_that_looks_like_a_known_request_is_still_a_body(stage: Stage, tee: Tee) -> None:
    """Also when the response was sent before all of it came: else a client could have others' requests misread."""
    client, known = await tee.connect(), request("POST", CHAT, "Content-Type: application/json", body=chat_body())
    for _ in range(3):
        client.send(known)
        turn = await stage.next()
        await turn.body()
        turn.reply("200 OK", body=b"{}")
        await (await client.answer()).read()
    other = await tee.connect()
    other.send(request("POST", "/nowhere", f"Content-Length: {2 * len(known)}"))
    refused = await other.answer()
    await refused.read()
    for piece in (known, known, request("GET", "/healthz")):
        other.send(piece)
        await tee.metrics()  # so long that it has been read
    healthy = await other.answer()
    await healthy.read()
    assert (refused.status, healthy.status) == (404, 200)


async def test_body_that_looks_like_a_known_request_is_still_a_body_when_reads_wait_for_their_turns() -> None:
    """The head of its request may be parsed in one turn, and its body in the next, the request before having begun."""
    served: list[tuple[str, bytes]] = []

    async def answer(asked: web.BaseRequest) -> web.StreamResponse:
        served.append((asked.path, await asked.read()))
        return web.Response()

    known = request("POST", "/known", body=b"{}")
    async with port(answer) as one, asyncio.timeout(GUARD_S):
        client = await one.connect()
        turned = await Turned.of(one)
        for _ in range(3):
            turned.read(known)
            turned.turn()
            await (await client.answer()).read()
        turned.read(request("GET", "/before"))
        turned.turn()
        turned.read(request("POST", "/after", f"Content-Length: {len(known)}"))
        await (await client.answer()).read()
        turned.turn()
        turned.read(known)
        await until(lambda: turned.connection.current is not None)
        turned.turn()
        await (await client.answer()).read()
    assert served[3:] == [("/before", b""), ("/after", known)]
