"""Generations: which requests are, and which answers are streams."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from unittest import mock

import pytest
from aiohttp import StreamReader, web
from aiohttp.test_utils import make_mocked_request

from proxy.access.callers import Caller
from proxy.dialects import chat as dialects
from proxy.dialects.route import Route
from proxy.server.app import Proxy
from proxy.stream.endings import COMPLETE
from proxy.tools.fake.qwen import FakeQwen
from tests.complaints import no_complaints
from tests.event_loops import until
from tests.event_streams import DONE, FINISH, chunk_frame, stamped
from tests.http_client import KEY, zipped
from tests.proxy_under_test import CHAT, Tee, begun, chat_body, configured, teed
from tests.stage import Stage

SPOKEN = b": hello\n\n" + chunk_frame("one") + FINISH + DONE


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_only_post_generates(tee: Tee, fake: FakeQwen, method: str) -> None:
    """Other methods at a generation's path pass through."""
    answer = await tee.ask(method, CHAT)
    assert answer.status == 200
    assert answer.header("stream-id") is None
    assert fake.requests[0].method == method


async def test_mode_of_the_answer_is_chosen(tee: Tee, fake: FakeQwen) -> None:
    """Raw unless it is asked for otherwise."""
    raw = await tee.chat()
    assert await raw.read() == bytes(fake.requests[0].sent)
    events = await tee.chat("Stream-Mode: events")
    assert await events.read() == stamped(bytes(fake.requests[1].sent), events.epoch)


@pytest.mark.parametrize(
    "headers",
    [
        ("Content-Type: text/event-stream",),
        ("Content-Type: text/event-stream;charset=UTF-8",),
        ("Content-Type: Text/Event-Stream ; charset=utf-8",),
        (),
        ("Content-Type: application/json",),
        ("Content-Type: text/plain; charset=utf-8",),
        ("Content-Type: application/octet-stream",),
        ("Content-Type: text/event-stream", "Content-Encoding: identity"),
        ("Content-Type: text/event-stream", "Content-Encoding: none"),
        ("Content-Type: text/event-stream", "content-encoding: "),
        ("Content-Type: text/event-stream", "Content-Encoding: Identity, none", "Content-Encoding: identity"),
        ("Content-Type: text/plain", "Content-Encoding: identity"),
    ],
)
@pytest.mark.parametrize("status", ["200 OK", "201 Created", "203 Transformed"])
@pytest.mark.parametrize("mode", ["raw", "events", "text"])
async def test_answer_that_begins_as_event_streams_do_is_a_stream(
    stage: Stage, status: str, headers: tuple[str, ...], mode: str
) -> None:
    """Whatever its type says, if its status is one of success, and nothing of it is compressed."""
    async with teed(stage.url) as tee:
        client = await tee.send_chat(f"Stream-Mode: {mode}")
        turn = await stage.next()
        await turn.body()
        turn.reply(status, *headers, body=SPOKEN)
        answer = await client.answer()
        assert f"{answer.status} {answer.reason.decode()}" == status
        body = await answer.read()
        assert body == {"raw": SPOKEN, "events": stamped(SPOKEN, answer.epoch), "text": b"one"}[mode]
        named = dict(header.partition(": ")[::2] for header in headers)
        kind = named.get("Content-Type")
        if mode == "text":
            kind = "text/plain;charset=UTF-8"
        elif mode == "events" and "event-stream" not in (kind or "").lower():
            kind = "text/event-stream;charset=UTF-8"
        assert (answer.header("content-type"), answer.header("content-encoding")) == (kind, None)
        assert await tee.metric("streamtee_streams_ended_total", ending="complete") == 1
        assert answer.end == "whole"


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        ("200 OK", ["Content-Type: application/json"], b'{"data": 1}'),
        ("200 OK", ["Content-Type: application/json"], b'\n\n {"data": 1}'),
        ("200 OK", ["Content-Type: text/plain"], b"dat"),
        ("200 OK", ["Content-Type: text/plain"], b"database: none"),
        ("200 OK", [], b"\xef\xbb"),
        ("200 OK", [], b""),
        ("200 OK", ["Content-Type: text/event-stream", "Content-Encoding: gzip"], zipped(DONE)),
        ("200 OK", ["Content-Type: text/event-stream", "Content-Encoding: identity, br"], b"x"),
        ("200 OK", ["Content-Encoding: gzip", "Content-Encoding: identity"], DONE),
        ("400 Bad Request", ["Content-Type: text/event-stream"], DONE),
        ("500 Oh No", ["Content-Type: text/event-stream"], DONE),
        ("302 Found", ["Content-Type: text/event-stream"], DONE),
    ],
)
async def test_any_other_answer_is_none(stage: Stage, status: str, headers: list[str], body: bytes) -> None:
    """It comes back as it is."""
    async with teed(stage.url) as tee:
        client = await tee.send_chat()
        turn = await stage.next()
        await turn.body()
        turn.reply(status, *headers, body=body)
        answer = await client.answer()
        assert f"{answer.status} {answer.reason.decode()}" == status
        assert await answer.read() == body
        assert answer.header("stream-id") is None
        assert await tee.listed() == []
        assert answer.end == "whole"


async def test_answer_of_another_type_is_awaited_no_longer_than_its_beginning(stage: Stage) -> None:
    """A space that holds a connection open before a document passes at once; a part of a field's name tells nothing."""
    async with teed(stage.url) as tee:
        client = await tee.send_chat()
        turn = await stage.next()
        await turn.body()
        turn.say(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        turn.chunk(b" ")
        answer = await client.answer()
        await answer.until(b" ")
        turn.end(b"{}")
        assert await answer.read() == b" {}"
        client = await tee.send_chat()
        turn = await stage.next()
        await turn.body()
        turn.say(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        for byte in b"data":
            turn.chunk(bytes((byte,)))
        turn.end(b": [DONE]\n\n")
        answer = await client.answer()
        assert (await answer.read(), answer.stream_id[:3]) == (DONE, "st_")


@pytest.mark.parametrize("how", ["client", "upstream"])
async def test_answer_whose_beginning_never_comes_is_given_up(stage: Stage, how: str) -> None:
    """When its client leaves, or when it breaks off: then as what it is, no stream."""
    async with teed(stage.url) as tee:
        client = await tee.send_chat()
        turn = await stage.next()
        turn.say(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nda")
        await until(lambda: any(one.status for one in tee.proxy.upstreams.by_name["default"].pool.active))
        if how == "client":
            await client.leave()
            await turn.wait_left()
        else:
            turn.close()
            answer = await client.answer()
            assert (await answer.read(), answer.end) == (b"da", "reset")


async def test_stream_with_a_length_is_a_stream(stage: Stage) -> None:
    """Its length is the upstream's framing, not ours; too little of it is a truncation."""
    async with teed(stage.url) as tee:
        client = await tee.send_chat()
        turn = await stage.next()
        await turn.body()
        turn.say(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 100\r\n\r\n: half\n\n")
        answer = await client.answer()
        assert answer.header("content-length") is None
        await answer.until(b"half")
        turn.close()
        await answer.read()
        assert answer.end != "whole"


async def test_refused_stream_lets_go_of_its_upstream(stage: Stage) -> None:
    """If the upstream was asked for a stream that there is no room for, it is not left to speak to nobody."""
    async with teed(stage.url, limits={"streams": 1}) as tee:
        _, first = await begun(tee, stage)
        client = await tee.send_chat()
        asked, refused = asyncio.create_task(stage.next()), asyncio.create_task(client.wait_bytes(bool))
        await asyncio.wait({asked, refused}, return_when=asyncio.FIRST_COMPLETED)
        if asked.done():
            asked.result().begin()
            await asked.result().wait_left()
        asked.cancel()
        await refused
        assert (await client.answer()).status == 503
        assert not first.left.is_set()


# The handler by itself: no server, no client


@asynccontextmanager
async def unserved(stage: Stage) -> AsyncIterator[Proxy]:
    """Make the handlers of a proxy that does not listen, in front of the stage."""
    with no_complaints():
        proxy = Proxy(configured(stage.url))
        try:
            yield proxy
        finally:
            await proxy.stop()


async def accepted(proxy: Proxy, key: str) -> web.StreamResponse:
    """Have the handler take a generation under an Idempotency-Key, whose client will come for it later."""
    payload = StreamReader(mock.Mock(_reading_paused=False), 1 << 16, loop=asyncio.get_running_loop())
    payload.feed_data(chat_body())
    payload.feed_eof()
    asked = {"Authorization": f"Bearer {KEY}", "Prefer": "respond-async", "Idempotency-Key": key}
    # Compiled code takes nothing but None for what these return.
    protocol = mock.Mock(**{"hold_body.return_value": None, "release_body.return_value": None})
    request = make_mocked_request(
        "POST", CHAT, headers={**asked, "Content-Length": "1"}, payload=payload, protocol=protocol
    )
    route = Route("chat", "/v1/", "/compatible-mode/v1/", dialects.CHAT)
    response = await proxy.route_table.generations.generate(route, request, Caller(b"somebody"))
    assert response.status == 202
    return response


async def test_requests_under_one_key_are_one_call(stage: Stage) -> None:
    """The upstream is asked once; who comes later is told that it is the same stream."""
    async with unserved(stage) as proxy:
        first, second, other = [await accepted(proxy, key) for key in ("a", "a", "b")]
        assert second.headers["Stream-Id"] == first.headers["Stream-Id"] != other.headers["Stream-Id"]
        assert [one.headers.get("Idempotency-Replayed") for one in (first, second, other)] == [None, "true", None]
        assert {(await stage.next()).method for _ in range(2)} == {b"POST"}
        assert proxy.hub.running == 2


async def test_answer_that_is_no_stream_is_found_under_its_key(stage: Stage) -> None:
    """With its head and all of its body in the log."""
    async with unserved(stage) as proxy:
        first = await accepted(proxy, "a")
        turn = await stage.next()
        await turn.body()
        turn.reply("201 Created", "Content-Type: application/json", body=b"{}")
        stream = proxy.hub.find(first.headers["Stream-Id"], None)
        await until(lambda: stream.log.ending is not None)
        assert stream.log.ending is COMPLETE
        assert stream.kept_head is not None
        assert (stream.kept_head.status, b"".join(stream.log.frames)) == (201, b"{}")
        again = await accepted(proxy, "a")
        assert again.headers["Stream-Id"] == first.headers["Stream-Id"]
        assert len(stage.turns) == 1


@pytest.mark.parametrize("refuse", [lambda turn: turn.reply("400 Bad Request"), lambda turn: turn.close()])
async def test_failure_is_kept_for_those_it_was_promised_and_found_by_no_retry(stage: Stage, refuse: Any) -> None:
    """A refusal, or an upstream that breaks off: the next request under the same key asks again."""
    async with unserved(stage) as proxy:
        first = await accepted(proxy, "a")
        turn = await stage.next()
        await turn.body()
        refuse(turn)
        stream = proxy.hub.find(first.headers["Stream-Id"], None)
        await until(lambda: stream.log.ending is not None)
        assert stream.log.ending is not COMPLETE
        again = await accepted(proxy, "a")
        assert again.headers["Stream-Id"] != first.headers["Stream-Id"]
        await stage.next()
        assert proxy.hub.find(first.headers["Stream-Id"], None) is stream
