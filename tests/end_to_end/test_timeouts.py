"""Time-outs of models that think: what is a sign of life, how each is told, and what followers hear meanwhile."""

import asyncio
import itertools
import json

import pytest

from proxy.wire.websocket import PING
from tests.event_loops import GUARD_S, on_one_loop, until
from tests.event_streams import DONE, FINISH, blocks, chunk_frame
from tests.frames import ASK, heard
from tests.http_client import Answer, request
from tests.proxy_under_test import CHAT, Serve, Tee, begun, chat_body
from tests.stage import Stage, Turn
from tests.websocket_client import opened, rest

pytestmark = on_one_loop  # the watch is tested on both
ROLE = chunk_frame("").replace(b'"content": ""', b'"role": "assistant", "content": ""')
COMMENT = b": thinking\n\n"
BEAT = b":\n"


def thought(text: str) -> bytes:
    """Return a frame of reasoning."""
    return chunk_frame().replace(
        b'{"content": "word"}', b'{"content": null, "reasoning_content": "%b"}' % text.encode()
    )


async def chatter(turn: Turn, *parts: bytes) -> None:
    """Have the upstream say these parts in turn, again and again, until the proxy has closed the connection."""
    async with asyncio.timeout(GUARD_S):
        for part in itertools.cycle(parts):
            if turn.left.is_set():
                return
            turn.chunk(part)
            await asyncio.sleep(0.01)


async def outlast_idle(tee: Tee, stage: Stage) -> None:
    """Wait until two silent answers, one after the other, have run into the idle time-out."""
    for _ in range(2):
        client = await tee.send("GET", "/v1/models")
        (await stage.next()).say(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{")
        await (await client.answer()).read()


async def ended_by(tee: Tee, answer: Answer, reason: str) -> str:
    """See that a stream ended by a time-out, and nothing else did; return what is told of it."""
    info = await tee.wait_ended(answer.stream_id)
    assert (info["state"], info["ending"]["reason"]) == ("failed", reason)
    ended = "streamtee_streams_ended_total"
    assert await tee.metric(ended, ending=reason) == await tee.metric(ended) == 1
    return str(info["ending"]["message"])


async def refused_by(tee: Tee, answer: Answer, reason: str) -> str:
    """See that a generation was refused for a time-out; return what is told of it."""
    assert answer.status == 504
    error = (await answer.json())["error"]
    assert error["code"] == "upstream_timeout"
    assert await tee.metric("streamtee_streams_ended_total", ending=reason) == 1
    return str(error["message"])


async def test_no_connection_in_time_is_told(perform: Serve, stage: Stage) -> None:
    """504 with the number, under an ending of its own; the stream that has the connection goes on."""
    tee = await perform(upstream={"max_connections": 1}, timeouts={"connect_s": 0.1})
    answer, turn = await begun(tee, stage, frames=1)
    assert "0.1 s" in await refused_by(tee, await tee.chat(), "timeout_connect")
    turn.end(DONE)
    await answer.read()


async def test_no_answer_in_time_is_told(perform: Serve, stage: Stage) -> None:
    """The head is what is waited for."""
    tee = await perform(timeouts={"first_byte_s": 0.1})
    assert "0.1 s" in await refused_by(tee, await tee.chat(), "timeout_first_byte")


async def test_time_out_without_an_answer_is_told_where_the_answer_would_be(perform: Serve, stage: Stage) -> None:
    """A detached request that found no connection: its document is a 504, its WebSocket closes with 4504."""
    tee = await perform(upstream={"max_connections": 1}, timeouts={"connect_s": 0.1})
    first, turn = await begun(tee, stage, frames=1)
    promised = await tee.chat("Prefer: respond-async")
    await tee.wait_ended(promised.stream_id)
    refused = await tee.follow(promised.stream_id, "mode=json")
    assert (refused.status, (await refused.json())["error"]["code"]) == (504, "upstream_timeout")
    async with opened(tee, promised.stream_id) as socket:
        assert (await rest(socket))[1] == (4504, "timeout_connect")
    turn.end(DONE)
    await first.read()


@pytest.mark.parametrize("frame", [ROLE, COMMENT, BEAT, b": in pieces"], ids=["role", "comment", "line", "pieces"])
@pytest.mark.fault("upstream", "before_token")
async def test_stream_without_a_token_ends_in_time(perform: Serve, stage: Stage, frame: bytes) -> None:
    """Role chunks and comments are no token, however many come; raw never looks complete, events say why."""
    tee = await perform(timeouts={"first_token_s": 0.2})
    answer, turn = await begun(tee, stage)
    follower = await tee.follow(answer.stream_id)
    await chatter(turn, frame)
    await answer.read()
    assert answer.end != "whole"
    last = (await follower.read()).rpartition(b"data: ")[2].partition(b"\n")[0]
    error = json.loads(last)["error"]
    assert error["code"] == "timeout_first_token"
    assert "0.2 s" in error["message"] == await ended_by(tee, answer, "timeout_first_token")
    assert await tee.metric("streamtee_no_first_token_total", ending="timeout_first_token") == 1
    async with opened(tee, answer.stream_id) as socket:
        assert (await rest(socket))[1] == (4504, "timeout_first_token")


async def test_reasoning_is_a_token(perform: Serve, stage: Stage) -> None:
    """A model that thinks aloud is not late; the limit is for its first word only."""
    tee = await perform(timeouts={"first_token_s": 0.2})
    answer, turn = await begun(tee, stage)
    turn.chunk(ROLE)
    turn.chunk(thought("hm"))
    late, other = await begun(tee, stage)
    await late.read()
    assert late.end != "whole"
    other.done.set()
    turn.end(FINISH, DONE)
    assert blocks(await answer.read())[-1] == DONE


async def test_answer_without_stream_owes_no_token(perform: Serve, stage: Stage) -> None:
    """What is read whole has none; nor has another route."""
    tee = await perform(timeouts={"first_token_s": 0.1})
    chat = await tee.send("POST", CHAT, body=chat_body(stream=False))
    other = await tee.send("GET", "/v1/models")
    turns = [await stage.next(), await stage.next()]
    for turn in turns:
        turn.say(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{")
    answers = [await chat.answer(), await other.answer()]
    late, last = await begun(tee, stage)
    await late.read()
    last.done.set()
    for turn, answer in zip(turns, answers, strict=True):
        turn.say(b"}")
        assert await answer.read() == b"{}"
        turn.done.set()


@pytest.mark.parametrize("begins", [b"", chunk_frame("word"), thought("hm")], ids=["early", "late", "thinking"])
@pytest.mark.parametrize("frame", [COMMENT, COMMENT * 2, BEAT], ids=["comment", "comments", "line"])
async def test_comments_do_not_hold_off_the_idle_time_out(
    perform: Serve, stage: Stage, frame: bytes, begins: bytes
) -> None:
    """A gateway's keep-alive says nothing of the model behind it."""
    tee = await perform(timeouts={"idle_s": 0.2})
    answer, turn = await begun(tee, stage)
    if begins:
        turn.chunk(begins)
    await chatter(turn, frame)
    assert await ended_by(tee, answer, "timeout_idle") == "the upstream sent nothing but comments for 0.2 s"


LARGE = [bytes([byte]) for byte in chunk_frame("x" * 1000)]


@pytest.mark.parametrize(
    "parts",
    [[ROLE], [COMMENT + chunk_frame()], [chunk_frame(), BEAT], LARGE],
    ids=["role", "led", "between", "pieces"],
)
async def test_whatever_else_comes_holds_off_the_idle_time_out(
    perform: Serve, stage: Stage, parts: list[bytes]
) -> None:
    """Role chunks, a comment that leads a chunk or stands between two, a large frame in pieces: the model is at it."""
    tee = await perform(timeouts={"idle_s": 0.3})
    answer, turn = await begun(tee, stage)
    chatting = asyncio.create_task(chatter(turn, *parts))
    await outlast_idle(tee, stage)
    assert (await tee.info(answer.stream_id))["state"] == "open"
    await tee.ask("DELETE", f"/v1/streams/{answer.stream_id}")
    await chatting


async def test_comments_keep_a_shared_event_stream_open(perform: Serve, stage: Stage) -> None:
    """Event servers are silent for as long as nothing happens; a comment is how they say that they are there."""
    routes = [{"path": "/events", "share": "url"}]
    tee = await perform(timeouts={"idle_s": 0.2, "first_token_s": 0.1}, routes=routes)
    client = await tee.send("GET", "/events")
    turn = await stage.next()
    turn.begin()
    await client.answer()
    chatting = asyncio.create_task(chatter(turn, COMMENT))
    await outlast_idle(tee, stage)
    assert not turn.left.is_set()
    await client.leave()
    await chatting


async def test_exchange_that_a_slow_client_holds_up_is_not_late(perform: Serve, stage: Stage) -> None:
    """While the log is full of what its originator has yet to read, the silence is the proxy's own."""
    tee = await perform(timeouts={"idle_s": 0.2}, limits={"log_bytes": 1 << 16})
    client = await tee.connect(receive_bytes=4096)
    client.send(request("POST", CHAT, body=chat_body()))
    turn = await stage.next()
    turn.begin()
    answer = await client.answer()
    client.stall()
    stream = next(iter(tee.proxy.hub))
    filling = asyncio.create_task(fill(turn))
    await until(lambda: stream.full)
    await outlast_idle(tee, stage)
    assert stream.log.ending is None
    client.read_on()
    await answer.read()
    await filling
    assert (await tee.wait_ended(answer.stream_id))["state"] == "complete"


async def fill(turn: Turn) -> None:
    """Have the upstream say ten megabytes, as fast as the proxy takes them, and the end."""
    frame = chunk_frame("x" * 10_000)
    for _ in range(1000):
        await turn.pour(b"%x\r\n%b\r\n" % (len(frame), frame))
    turn.end(DONE)


async def test_all_who_listen_hear_heartbeats_while_the_model_thinks(perform: Serve, stage: Stage) -> None:
    """The originator in mode events, followers by id and by key, a WebSocket by its ping; raw hears nothing."""
    tee = await perform(streams={"heartbeat_s": 0.3})
    early = await tee.follow("keys/deep", "wait=10")
    client = await tee.send_chat("Stream-Key: deep", "Stream-Mode: events")
    turn = await stage.next()
    await early.until(BEAT * 2)  # upstream has not answered
    turn.begin()
    answer = await client.answer()
    follower = await tee.follow(answer.stream_id)
    raw = await tee.follow(answer.stream_id, "mode=raw")
    socket = await tee.send("GET", f"/v1/streams/{answer.stream_id}", *ASK)
    assert (await socket.answer()).status == 101
    for one in (answer, follower):
        await one.until(BEAT * 2)
    await early.until(BEAT * 4)
    assert heard(bytes(socket.buffer))[0] == (PING, b"")
    turn.end(chunk_frame("at last"), FINISH, DONE)
    for one in (answer, follower, early):
        beats, _, text = (await one.read()).partition(b"data: ")
        assert beats.replace(BEAT, b"") == b""
        assert b"at last" in text
    assert await raw.read() == chunk_frame("at last") + FINISH + DONE


async def test_client_that_stops_amid_its_upload_is_not_blamed_on_the_upstream(perform: Serve, stage: Stage) -> None:
    """While the client is waited for, the time to the first byte does not run: its own time-out ends the exchange."""
    tee = await perform(timeouts={"first_byte_s": 0.05}, clients={"body_s": 0.5})
    client = await tee.connect()
    client.send(request("POST", "/v1/files", "Content-Length: 11") + b"first", method="POST")
    turn = await stage.next()
    answer = await client.answer()
    assert answer.status == 408
    await turn.wait_left()
