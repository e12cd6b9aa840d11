"""Generations: what goes upstream, and that the client gets exactly what the upstream sent, however it was sent."""

import json
import re
from typing import NamedTuple

import pytest

from proxy.tools.fake.faults import FAULTS
from proxy.tools.fake.qwen import FakeQwen
from tests.event_loops import on_one_loop
from tests.event_streams import DONE, chunk_frame, stamped
from tests.http_client import HOP_BY_HOP, KEY, request, zipped
from tests.proxy_under_test import CHAT, NATIVE, Serve, begun, chat_body, native_body
from tests.stage import EVENT_STREAM, Stage

MULTIMODAL = "/api/v1/services/aigc/multimodal-generation/generation"
APP = "/api/v1/apps/an-app.id/completion"
COMPATIBLE = "/compatible-mode/v1/chat/completions"
STREAM_ID = re.compile(r"st_[a-z2-7]{26}")
SSE = "X-DashScope-SSE: enable"


class Case(NamedTuple):
    """A fault, the status it gives, and whether the body it gives looks whole."""

    fault: str
    status: int = 200
    whole: bool = True


CASES = (
    Case(""),
    Case("cut_mid_frame", whole=False),
    Case("cut_mid_chunk", whole=False),
    Case("cut_clean_half_frame", whole=False),
    Case("reset", whole=False),
    Case("reset; after=0", whole=False),
    Case("hang", whole=False),
    Case("hang_before_head", 504),
    Case("slow_first_token; seconds=0.05"),
    Case("stall; seconds=0.05"),
    Case("status; status=400", 400),
    Case("status; status=401", 401),
    Case("status; status=429", 429),
    Case("status; status=500", 500),
    Case("retry_after", 429),
    Case("error_inside"),
    Case("error_inside; after=0"),
    Case("crlf"),
    Case("cr"),
    Case("split_utf8"),
    Case("split_bytes"),
    Case("split_bytes, crlf"),
    Case("gzip"),
    Case("no_done"),
    Case("comments"),
    Case("comments, crlf"),
    Case("close_delimited"),
    Case("close_delimited; cut=reset", whole=False),
    Case("bad_chunk", whole=False),
    Case("garbage", 502),
    Case("burst"),
    Case("late_end; seconds=0.05"),
    Case("no_blank_line"),
    Case("no_blank_line, crlf"),
    Case("bom"),
    Case("huge_frame; bytes=300000"),
    Case("count; frames=200"),
    Case("count; frames=200, burst"),
    Case("openai"),
    Case("sparse"),
    Case("pings"),
    Case("spaced"),
)


def test_every_fault_of_the_fake_is_tried() -> None:
    """A fault that is added to the fake is added here, too; `endless` has a test of its own."""
    tried = {part.partition(";")[0].strip() for case in CASES for part in case.fault.split(",")}
    assert tried - {""} == set(FAULTS) - {"endless"}


@pytest.mark.parametrize("dialect", ["chat", "native", "responses"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.fault or "none")
async def test_client_gets_the_upstreams_bytes(serve: Serve, fake: FakeQwen, case: Case, dialect: str) -> None:
    """Law 1: body bytes are equal, whatever the upstream did; law 7: what broke off does not look whole."""
    tee = await serve(timeouts={"first_byte_s": 0.2, "idle_s": 0.2})
    answer = await tee.generate(dialect, fault=case.fault)
    body = await answer.read()
    assert answer.status == case.status
    if case.status in (502, 504):  # there was no response to pass on
        assert answer.end == "whole"
        return
    assert body == bytes(fake.requests[0].sent)
    assert (answer.end == "whole") == case.whole


@pytest.mark.parametrize("dialect", ["chat", "native", "responses"])
async def test_endless_stream_comes_until_the_client_leaves(serve: Serve, fake: FakeQwen, dialect: str) -> None:
    """What the client had is how the upstream's bytes begin."""
    tee = await serve()
    answer = await tee.generate(dialect, fault="endless")
    body = await answer.bytes(100_000)
    await answer.client.leave()
    await fake.wait_closed()
    assert bytes(fake.requests[0].sent).startswith(body)
    assert fake.requests[0].state == "client_gone"


@pytest.mark.parametrize("dialect", ["chat", "native", "responses"])
async def test_mode_events_gives_the_same_blocks_with_ids(serve: Serve, fake: FakeQwen, dialect: str) -> None:
    """Each block is the upstream's but for one line."""
    tee = await serve()
    for fault in ("", "crlf", "cr", "comments", "burst", "bom", "error_inside"):
        answer = await tee.generate(dialect, "Stream-Mode: events", fault=fault)
        body = await answer.read()
        assert body == stamped(bytes(fake.requests[-1].sent), answer.epoch), fault
        assert answer.end == "whole"


# Heads.


@pytest.mark.parametrize(
    ("path", "upstream", "body"),
    [
        (CHAT, COMPATIBLE, chat_body()),
        (COMPATIBLE, COMPATIBLE, chat_body()),
        (NATIVE, NATIVE, native_body()),
        (MULTIMODAL, MULTIMODAL, native_body()),
        (APP, APP, native_body()),
    ],
)
async def test_every_generation_route_gives_a_stream(
    serve: Serve, fake: FakeQwen, path: str, upstream: str, body: bytes
) -> None:
    """The routes of both dialects, a query string included, answer with a stream that can be followed."""
    tee = await serve()
    answer = await tee.ask("POST", path + "?q=%2F", SSE, body=body)
    assert await answer.read() == bytes(fake.requests[0].sent)
    assert fake.requests[0].target == upstream + "?q=%2F"
    assert await (await tee.follow(answer.stream_id, "mode=raw")).read() == answer.body


async def test_accept_chooses_a_native_stream(serve: Serve, fake: FakeQwen) -> None:
    """Streaming is the upstream's to decide: what it answers with an event stream is one."""
    tee = await serve()
    answer = await tee.ask("POST", NATIVE, "Accept: text/event-stream", body=native_body())
    assert STREAM_ID.fullmatch(answer.stream_id)
    await answer.read()


@pytest.mark.parametrize("dialect", ["chat", "native", "responses"])
async def test_stream_says_where_it_is_found(serve: Serve, fake: FakeQwen, dialect: str) -> None:
    """Stream-Id, Location and Content-Location name it; nothing between here and the client may keep or change it."""
    tee = await serve()
    answer = await tee.generate(dialect)
    assert STREAM_ID.fullmatch(answer.stream_id)
    assert answer.header("location") == answer.header("content-location") == f"/v1/streams/{answer.stream_id}"
    assert answer.header("cache-control") == "no-cache, no-transform"
    assert answer.header("x-accel-buffering") == "no"
    assert answer.header("content-type") == EVENT_STREAM
    assert answer.header("transfer-encoding") == "chunked"
    await answer.read()
    other = await tee.generate(dialect)
    await other.read()
    assert other.stream_id != answer.stream_id


async def test_streams_head_keeps_the_upstreams_headers(perform: Serve, stage: Stage) -> None:
    """End-to-end headers cross as they are; ours stand once, whatever the upstream's said; hop-by-hop ones stay."""
    tee = await perform()
    client = await tee.send_chat()
    turn = await stage.next()
    kept = [b"X-Request-Id: 1", b"set-cookie: a=1", b"Set-Cookie: b=2", b"X-Latin: caf\xe9", b"Vary: Origin"]
    turn.begin(
        *kept,
        "Cache-Control: public, max-age=60",
        "X-Accel-Buffering: yes",
        "Location: http://elsewhere.test/",
        "Stream-Id: st_of_another_proxy",
        "Connection: keep-alive, X-Named",
        "X-Named: 1",
    )
    turn.end(DONE)
    answer = await client.answer()
    names = {b"Content-Type", b"Cache-Control", b"X-Accel-Buffering", b"Stream-Id", b"Location", b"Content-Location"}
    others = [header for header in answer.headers if header[0] not in names and header[0].lower() not in HOP_BY_HOP]
    assert [b"%b: %b" % header for header in others] == kept
    assert answer.header("cache-control") == "no-cache, no-transform"
    assert STREAM_ID.fullmatch(answer.stream_id)
    assert await answer.read() == DONE


async def test_generation_request_crosses_as_it_is(perform: Serve, stage: Stage) -> None:
    """Headers with their order, case and bytes, but for ours and for the encoding asked for, which is identity."""
    tee = await perform()
    kept = [b"Content-Type: application/json", b"X-Latin: caf\xe9", b"X-Twice: 1", b"x-twice: 2", b"User-Agent: x/1"]
    client = await tee.send_chat(
        *kept,
        "Accept-Encoding: gzip, br",
        "Stream-Key: chat-42",
        "Stream-Mode: raw",
        "Stream-Retain: 10",
        "Stream-On-Disconnect: cancel",
        "TE: trailers",
        "Connection: X-Named",
        "X-Named: 1",
    )
    turn = await stage.next()
    body = chat_body()
    assert turn.head.split(b"\r\n")[0] == b"POST /compatible-mode/v1/chat/completions HTTP/1.1"
    assert [b"%b: %b" % header for header in turn.headers] == [
        b"Host: " + stage.url.removeprefix("http://").encode(),
        b"Authorization: Bearer " + KEY.encode(),
        *kept,
        b"Accept-Encoding: identity",
        b"Content-Length: %d" % len(body),
    ]
    assert await turn.body() == body
    turn.begin()
    turn.end(DONE)
    await (await client.answer()).read()


@pytest.mark.parametrize("chunked", [False, True])
async def test_request_body_crosses_byte_for_byte(serve: Serve, fake: FakeQwen, chunked: bool) -> None:
    """Spaces, key order, numbers, escapes, repeated and unknown fields: JSON is never parsed on the way up."""
    tee = await serve()
    body = (
        b'{ "stream":true,"model" : "qwen3-max", "temperature":1.50, "seed":12345678901234567890, "unknown":{"a":[1,]'
        b'}, "model":"qwen3-max","messages":[{"role":"user","content":"\\u8def \xe8\xb7\xaf"}]}\r\n '
    )
    if chunked:
        wire = b"".join(b"1\r\n%b\r\n" % bytes([byte]) for byte in body) + b"0\r\n\r\n"
        client = await tee.connect()
        client.send(request("POST", CHAT, "Transfer-Encoding: chunked") + wire)
        await (await client.answer()).read()
    else:
        await (await tee.ask("POST", CHAT, body=body)).read()
    assert fake.requests[0].body == body
    assert fake.requests[0].header("content-length") == str(len(body))


async def test_compressed_request_body_crosses_compressed(perform: Serve, stage: Stage) -> None:
    """Content-Encoding of a generation's request is end to end."""
    tee = await perform()
    body = zipped(chat_body())
    client = await tee.send("POST", CHAT, "Content-Encoding: gzip", body=body)
    turn = await stage.next()
    assert turn.all("content-encoding") == [b"gzip"]
    assert await turn.body() == body
    turn.begin()
    turn.end(DONE)
    assert await (await client.answer()).read() == DONE


# What is no stream.


@pytest.mark.parametrize("dialect", ["chat", "native", "responses"])
@pytest.mark.parametrize("status", ["400", "400_stream", "401", "403", "404", "429", "500", "503"])
async def test_refusal_passes_and_no_stream_is_kept(serve: Serve, fake: FakeQwen, status: str, dialect: str) -> None:
    """Status, type and body of an upstream's non-2xx are the client's; an SSE-framed 400 too."""
    tee = await serve()
    answer = await tee.generate(dialect, fault=f"status; status={status}")
    body = await answer.read()
    assert body == bytes(fake.requests[0].sent) != b""
    if status == "400_stream":
        assert answer.header("content-type") == EVENT_STREAM
    if dialect == "chat" or status != "400_stream":  # natively the frame comes in an HTTP 200: that is a stream
        assert answer.status == int(status.removesuffix("_stream"))
        assert answer.header("stream-id") is None
        assert await tee.listed() == []
    assert len(fake.requests) == 1


async def test_retry_after_passes(serve: Serve) -> None:
    """When to come back is the upstream's word."""
    tee = await serve()
    assert (await tee.chat(fault="retry_after; seconds=7")).header("retry-after") == "7"


@pytest.mark.parametrize("headers", [(), ("Stream-Key: k",), ("Stream-On-Disconnect: continue",)])
async def test_answer_that_is_not_streamed_passes(serve: Serve, fake: FakeQwen, headers: tuple[str, ...]) -> None:
    """A non-stream completion comes back as it is, and no stream is kept."""
    tee = await serve()
    answer = await tee.chat(*headers, stream=False)
    assert answer.header("content-type") == "application/json"
    assert answer.header("stream-id") is None
    assert answer.header("content-length") == str(len(fake.requests[0].sent))
    assert await answer.read() == bytes(fake.requests[0].sent)
    assert await tee.listed() == []


async def test_compressed_event_stream_passes_as_it_is(perform: Serve, stage: Stage) -> None:
    """An upstream that compresses although identity was asked for is no stream of ours: its bytes have no frames."""
    tee = await perform()
    client = await tee.send_chat()
    turn = await stage.next()
    turn.begin("Content-Encoding: gzip")
    body = zipped(DONE)
    turn.end(body[:5], body[5:])
    answer = await client.answer()
    assert await answer.read() == body
    assert answer.header("stream-id") is None
    assert answer.header("content-encoding") == "gzip"
    assert answer.end == "whole"


# Connections.


@pytest.mark.parametrize("dialect", ["chat", "native", "responses"])
async def test_client_of_http_1_0_gets_the_same_bytes(serve: Serve, fake: FakeQwen, dialect: str) -> None:
    """Without chunks, the end of the connection ends the body."""
    tee = await serve()
    path, body = (CHAT, chat_body()) if dialect == "chat" else (NATIVE, native_body())
    answer = await tee.ask("POST", path, SSE, body=body, version="1.0")
    assert answer.header("transfer-encoding") is None
    assert await answer.read() == bytes(fake.requests[0].sent)
    assert (answer.end, answer.client.gone) == ("whole", "fin")


@pytest.mark.parametrize("fault", ["cut_mid_frame", "cut_mid_chunk", "reset", "bad_chunk", "cut_clean_half_frame"])
async def test_client_of_http_1_0_sees_a_truncation_as_a_reset(serve: Serve, fake: FakeQwen, fault: str) -> None:
    """A FIN would end its body properly."""
    tee = await serve()
    answer = await tee.ask("POST", CHAT, f"Fake-Fault: {fault}", body=chat_body(), version="1.0")
    body = await answer.read()
    assert answer.end == "reset"
    assert bytes(fake.requests[0].sent).startswith(body)


async def test_connections_on_both_sides_serve_many_streams(serve: Serve, fake: FakeQwen) -> None:
    """A client's connection and the upstream's outlive a stream that ended properly."""
    tee = await serve()
    client = await tee.connect()
    for _ in range(3):
        client.send(request("POST", CHAT, body=chat_body(max_tokens=10)))
        answer = await client.answer()
        assert await answer.read() == bytes(fake.requests[-1].sent)
    assert len(fake.requests) == 3
    assert len(fake.connections) == 1


async def test_fresh_connection_that_breaks_is_not_retried(perform: Serve, stage: Stage) -> None:
    """Whether the upstream has begun to work on it can't be known: that is told to the client."""
    tee = await perform()
    client = await tee.send_chat()
    turn = await stage.next()
    await turn.body()
    turn.close()
    answer = await client.answer()
    assert answer.status == 502
    assert (await answer.json())["error"]["code"] == "upstream_unreachable"
    assert len(stage.turns) == 1


async def test_pooled_connection_that_breaks_within_the_head_is_not_retried(perform: Serve, stage: Stage) -> None:
    """A byte of an answer was there: the upstream has worked on it."""
    tee = await perform()
    answer, turn = await begun(tee, stage)
    turn.end(DONE)
    await answer.read()
    client = await tee.send_chat()
    turn = await stage.next()
    turn.say(b"HTTP/1.1 2")
    turn.close()
    answer = await client.answer()
    assert answer.status == 502
    assert len(stage.turns) == 2


# Reads and writes.


async def test_frame_reaches_the_client_before_the_next_is_there(perform: Serve, stage: Stage) -> None:
    """Nothing is held back: not the head, not the first frame, not one that came in two reads."""
    tee = await perform()
    client = await tee.send_chat()
    turn = await stage.next()
    turn.begin()
    answer = await client.answer()
    frames = [chunk_frame(text) for text in ("one", "two", "three")]
    turn.chunk(frames[0])
    assert await answer.until(b"one") == frames[0]
    turn.chunk(frames[1][:9])
    turn.chunk(frames[1][9:])
    await answer.bytes(len(frames[0] + frames[1]))
    turn.end(frames[2], DONE)
    assert await answer.read() == b"".join(frames) + DONE


@on_one_loop
async def test_many_streams_at_once_keep_apart(serve: Serve, fake: FakeQwen) -> None:
    """Each client gets its own stream's bytes, and no other's."""
    tee = await serve()
    clients = [await tee.send_chat(f"X-Number: {number}", max_tokens=60, seed=number) for number in range(40)]
    bodies = {number: await (await client.answer()).read() for number, client in enumerate(clients)}
    sent = {int(received.header("x-number")): bytes(received.sent) for received in fake.requests}
    assert bodies == sent
    assert len({json.loads(body.split(b"\n")[0][6:])["id"] for body in bodies.values()}) == 40
