"""What a stream said decides how it ended, for everybody: errors of every shape, the last word, and the lack of it."""

import asyncio
import json
from typing import Any

import pytest

from proxy.upstream import exchange
from tests.event_loops import on_one_loop
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.http_client import Answer, Client
from tests.message_events import STOP, delta, finish, start
from tests.proxy_under_test import CHAT, NATIVE, RESPONSES, Serve, Tee, begun, chat_body, native_body, response_body
from tests.stage import Stage, Turn
from tests.workers_under_test import COUNT, in_one_process

WORD = chunk_frame("word")
PINGS = b": keep-alive\n\n\n\n" * 9
NATIVE_WORD = (
    b"id:1\nevent:result\n:HTTP_STATUS/200\n"
    b'data:{"output":{"choices":[{"message":{"content":"word"},"finish_reason":"null"}]},"request_id":"r"}\n\n'
)
MODES = ("raw", "events", "spaced", "incremental", "coalesced", "cumulative", "chat", "text", "json")


def frame(value: Any) -> bytes:
    return b"data: %b\n\n" % json.dumps(value).encode()


def choice(**fields: Any) -> bytes:
    return frame({"choices": [{"index": 0, "delta": {}, **fields}]})


CHAT_ERRORS = {  # and the status with which mode json answers
    "error": (frame({"error": {"message": "REASON", "code": "internal_error"}}), 502),
    "error, wrong": (frame({"error": {"message": "REASON", "code": "invalid_parameter_error"}}), 400),
    "error text": (frame({"error": "REASON"}), 502),
    "error with choices": (frame({"choices": [], "error": {"message": "REASON", "code": 503}}), 503),
    "object": (frame({"object": "error", "message": "REASON", "type": "BadRequestError", "code": 400}), 400),
    "detail": (frame({"detail": "REASON"}), 502),
    "flat": (frame({"code": "DataInspectionFailed", "message": "REASON"}), 400),
    "flat, too fast": (frame({"code": "Throttling.RateQuota", "message": "REASON"}), 429),
    "in a choice": (choice(finish_reason="error", error={"code": 502, "message": "REASON"}), 502),
    "event": (b"event: error\ndata: REASON\n\n", 502),
    "event, CRLF": (b'event:error\r\ndata:{"message":"REASON"}\r\n\r\n', 502),
    "JSON": (b'{"error": {"message": "REASON", "code": 429}}\n\n', 429),
    "JSON as a tail": (b'{\n  "detail": "REASON"\n}', 502),
    "HTML": (b"<html>\n<head><title>REASON</title></head>\n<body></body></html>\n", 502),
    "text": (b"upstream connect error: REASON\n\n", 502),
}
NATIVE_ERRORS = {
    "event": (b'event:error\n:HTTP_STATUS/400\ndata:{"code":"InvalidParameter","message":"REASON"}\n\n', 400),
    "flat": (frame({"code": "Throttling", "message": "REASON", "request_id": "r"}), 429),
    "error": (frame({"error": {"message": "REASON", "code": "internal_error"}}), 502),
    "status": (b'event:result\n:HTTP_STATUS/503\ndata:{"message":"REASON"}\n\n', 503),
    "HTML": (b"<html><title>REASON</title></html>", 502),
}


async def ask(tee: Tee, stage: Stage, mode: str, body: bytes, *, native: bool = False) -> tuple[Answer, bytes]:
    """Have the upstream say a body in one chunk, and end properly; return the answer in a mode."""
    asked = native_body(incremental_output=True) if native else chat_body()
    headers = [f"Stream-Mode: {mode}", "X-DashScope-SSE: enable"]
    client = await tee.send("POST", NATIVE if native else CHAT, *headers, body=asked)
    turn = await stage.next()
    await turn.body()
    turn.begin()
    turn.end(*([body] if body else []))
    answer = await client.answer()
    return answer, await answer.read()


@on_one_loop
@pytest.mark.parametrize("comments", [b"", PINGS], ids=["", "comments"])
@pytest.mark.parametrize(
    ("native", "name"), [*((False, name) for name in CHAT_ERRORS), *((True, name) for name in NATIVE_ERRORS)]
)
async def test_error_of_any_shape_fails_the_stream_everywhere(
    perform: Serve, stage: Stage, native: bool, name: str, comments: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """With the upstream's reason: by a status in json, an error event, a break in text; in metrics, info and log."""
    tee = await perform()
    error, status = (NATIVE_ERRORS if native else CHAT_ERRORS)[name]
    word = NATIVE_WORD if native else WORD
    body = word + comments + error
    if not name.endswith("tail"):
        body += comments + (b"" if native else DONE)
    caplog.set_level("INFO", "streamtee")
    for mode in MODES:
        answer, said = await ask(tee, stage, mode, body, native=native)
        if mode == "raw":
            assert (answer.end, said) == ("whole", body)
        elif mode == "text":
            assert (answer.end, said) == ("cut", b"word")
        elif mode == "json":
            assert (answer.status, b"REASON" in said) == (status, True)
        elif mode == "chat" and native:  # the upstream's own event is no chunk
            assert said.count(b'"error":') == said.count(b"REASON") == 1
        else:
            assert said.count(b"REASON") == 1 + (b"an error: " in said)
            assert b"event:error" in said or b"event: error" in said or b'"error": ' in said or b'"error":' in said
        if answer.status == 200:
            info = await tee.info(answer.stream_id)
            assert (info["state"], info["ending"]["reason"]) == ("failed", "upstream_error")
            assert "REASON" in info["ending"]["message"]
    assert await tee.metric("streamtee_streams_ended_total", ending="upstream_error") == len(MODES)
    lines = [record.getMessage() for record in caplog.records]
    assert sum("ending=upstream_error" in line for line in lines) == (len(MODES) if COUNT == 1 else 0)  # not our log


@on_one_loop
@pytest.mark.parametrize("body", [b"", b": one\n\n: two\n\n", DONE, PINGS + DONE, b'data: {"type":"ping"}\n\n' + DONE])
async def test_stream_that_brings_nothing_is_no_success(perform: Serve, stage: Stage, body: bytes) -> None:
    """Mode raw alone ends as the upstream did."""
    tee = await perform(generations={"upgrade": "always"})
    for mode in MODES:
        answer, said = await ask(tee, stage, mode, body)
        if mode == "raw":
            assert (answer.end, said) == ("whole", body)
        elif mode == "text":
            assert (answer.end, said) == ("cut", b"")
        elif mode == "json":
            assert (answer.status, json.loads(said)["error"]["code"]) == (502, "upstream_reset")
        else:
            assert b"stream_error" in said
    client = await tee.send_chat(stream=False)
    turn = await stage.next()
    turn.begin()
    turn.end(*([body] if body else []))
    assert (await client.answer()).status == 502
    assert await tee.metric("streamtee_streams_ended_total", ending="complete") == 0


@on_one_loop
@pytest.mark.parametrize("native", [False, True])
async def test_proper_end_without_a_last_word_is_a_failure(perform: Serve, stage: Stage, native: bool) -> None:
    """Most SDKs take it for success, so every mode but raw tells of it."""
    tee = await perform()
    word = NATIVE_WORD if native else WORD
    for mode in MODES:
        answer, said = await ask(tee, stage, mode, word + PINGS, native=native)
        if mode == "raw":
            assert (answer.end, said) == ("whole", word + PINGS)
        elif mode == "text":
            assert (answer.end, said) == ("cut", b"word")
        elif mode == "json":
            assert (answer.status, b"before the answer had finished" in said) == (502, True)
        else:
            assert b"before the answer had finished" in said
    assert await tee.metric("streamtee_streams_ended_total", ending="upstream_reset") == len(MODES)


# The last word.


async def goes_on(turn: Turn) -> None:
    """Trickle comments."""
    while True:
        turn.chunk(b": still here\n\n")
        await asyncio.sleep(0.05)


async def asked_for(tee: Tee, stage: Stage, how: str) -> tuple[Client, Turn]:
    """Ask for a whole response; return the client that waits for it, and the turn that has said a word."""
    headers = [f"Stream-Mode: {how.partition(',')[0]}"] if how.startswith(("json", "text")) else []
    headers += ["Stream-Key: k"] if how.endswith("shared") else []
    client = await tee.send_chat(*headers, stream=how != "upgrade")
    turn = await stage.next()
    await turn.body()
    turn.begin()
    turn.chunk(WORD)
    if how == "poll":
        ident = (await client.answer()).stream_id
        client = await tee.send("GET", f"/v1/streams/{ident}?mode=json&wait=60")
    return client, turn


async def ends(tee: Tee, client: Client, turn: Turn, trickles: bool) -> None:
    """See a response end with its last word, though the upstream's does not."""
    turn.chunk(FINISH + DONE)
    trickling = asyncio.create_task(goes_on(turn)) if trickles else None
    async with asyncio.timeout(0.9):
        answer = await client.answer()
        assert b"word" in await answer.read()
    assert (answer.status, answer.end) == (200, "whole")
    await turn.wait_left()
    if trickling is not None:
        trickling.cancel()
    info = await tee.wait_ended(answer.stream_id)
    assert info["state"] == "complete"


@on_one_loop
@pytest.mark.parametrize("trickles", [False, True])
async def test_last_word_ends_waiting(perform: Serve, stage: Stage, trickles: bool) -> None:
    """Though the response does not end; then the upstream is closed, and the stream is complete."""
    tee = await perform(generations={"upgrade": "always"}, timeouts={"idle_s": 60, "total_s": 60})
    hows = ("json", "text", "upgrade", "poll", "json, shared")
    waiting = [await asked_for(tee, stage, how) for how in hows]
    await asyncio.gather(*(ends(tee, client, turn, trickles) for client, turn in waiting))  # all wait at once
    assert await tee.metric("streamtee_streams_ended_total", ending="complete") == len(hows)


NATIVE_FINISH = NATIVE_WORD.replace(b"null", b"stop")
RESPONSE_END = (
    b"event:response.completed\ndata:%b\n"
    % json.dumps(
        {
            "type": "response.completed",
            "sequence_number": 4,
            "response": {
                "id": "r1",
                "object": "response",
                "status": "completed",
                "output": [{"type": "message", "content": [{"type": "output_text", "text": "word"}]}],
            },
        }
    ).encode()
)
RESPONSE_WORD = b'event:response.output_text.delta\ndata:{"type":"response.output_text.delta","delta":"word"}\n\n'
MESSAGE_WORD = start() + delta("word") + finish()
UNENDED = {  # its path, what it says, and the end of it, after which the upstream says nothing more and stays open
    "[DONE]": (CHAT, WORD + FINISH, b"data: [DONE]\n"),
    "[DONE] of no line": (CHAT, WORD + FINISH, b"data: [DONE]"),
    "[DONE] in another line ending": (CHAT, WORD + FINISH, b"data: [DONE]\r\n"),
    "[DONE] with a comment": (CHAT, WORD + FINISH, b": the end\ndata:[DONE]\n"),
    "a finish reason": (NATIVE, NATIVE_WORD, NATIVE_FINISH),
    "a finish reason without its blank line": (NATIVE, NATIVE_WORD, NATIVE_FINISH[:-1]),
    "a response": (RESPONSES, RESPONSE_WORD, RESPONSE_END),
    "a response of no line": (RESPONSES, RESPONSE_WORD, RESPONSE_END[:-1]),
    "message_stop": ("/v1/messages", MESSAGE_WORD, STOP[:-1]),
    "message_stop of no line": ("/v1/messages", MESSAGE_WORD, STOP[:-2]),
}


@on_one_loop
@pytest.mark.parametrize("mode", ["json", "text", "raw"])
async def test_last_word_without_its_blank_line_ends_waiting(perform: Serve, stage: Stage, mode: str) -> None:
    """Nor does an API without a final event wait after its finish reason; raw has every byte."""
    tee = await perform(timeouts={"idle_s": 60, "total_s": 60})
    waiting = {name: await unended(tee, stage, name, mode) for name in UNENDED}
    heard = await asyncio.gather(*(heard_of(*one) for one in waiting.values()))  # all wait at once
    for (name, (_, said, end)), (status, body, how) in zip(UNENDED.items(), heard, strict=True):
        assert (status, how, b"word" in body) == (200, "whole", True), name
        assert mode != "raw" or body == said + end, name
    assert await tee.metric("streamtee_streams_ended_total", ending="complete") == len(UNENDED)


async def unended(tee: Tee, stage: Stage, name: str, mode: str) -> tuple[Client, Turn]:
    """Have a stream say its last word, without its blank line; return the client that waits, and the turn."""
    path, said, end = UNENDED[name]
    asked = native_body() if path == NATIVE else response_body() if path == RESPONSES else chat_body()
    client = await tee.send("POST", path, f"Stream-Mode: {mode}", "X-DashScope-SSE: enable", body=asked)
    turn = await stage.next()
    await turn.body()
    turn.begin()
    turn.chunk(said)
    turn.chunk(end)
    return client, turn


async def heard_of(client: Client, turn: Turn) -> tuple[int, bytes, str]:
    """Return the status and the body of a response, and how it ended."""
    async with asyncio.timeout(4):
        answer = await client.answer()
        body = await answer.read()
        await turn.wait_left()
    return answer.status, body, answer.end


@on_one_loop
async def test_what_comes_after_a_finish_reason_is_not_cut_off(perform: Serve, stage: Stage) -> None:
    """Where it was not the last word: the silence before is no end, as long as it is short, or tools are called."""
    tee = await perform(timeouts={"idle_s": 60})
    client = await tee.send("POST", NATIVE, "Stream-Mode: text", "X-DashScope-SSE: enable", body=native_body())
    turn = await stage.next()
    await turn.body()
    turn.begin()
    turn.chunk(NATIVE_WORD.replace(b"null", b"tool_calls"))
    await asyncio.sleep(2.2)  # longer than an upstream has to end after a finish reason that is the last word
    turn.end(NATIVE_FINISH.replace(b"word", b"word, again"))
    answer = await client.answer()
    assert (await answer.read(), answer.end) == (b"word, again", "whole")


@on_one_loop
async def test_others_see_what_comes_after_the_last_word(perform: Serve, stage: Stage) -> None:
    """Raw and events have every byte, and end properly when the upstream is closed."""
    tee = await perform()
    answer, turn = await begun(tee, stage)
    events = await tee.follow(answer.stream_id, "mode=events")
    text = await tee.follow(answer.stream_id, "mode=text")
    turn.chunk(WORD + DONE)
    assert (await text.read(), text.end) == (b"word", "whole")
    turn.chunk(b": after\n\n" + WORD)
    await answer.until(b"after")
    await turn.wait_left()
    assert (await answer.read(), answer.end) == (WORD + DONE + b": after\n\n" + WORD, "whole")
    assert (b"after" in await events.read(), events.end) == (True, "whole")


@in_one_process("each has connections of its own to the upstream")
@on_one_loop
async def test_upstream_that_ends_within_a_moment_keeps_its_connection(perform: Serve, stage: Stage) -> None:
    """The client of mode json has left by then, which is no reason to close it."""
    tee = await perform()
    for _ in range(2):
        client = await tee.send_chat("Stream-Mode: json")
        turn = await stage.next()
        await turn.body()
        turn.begin()
        turn.chunk(WORD + DONE)
        answer = await client.answer()
        await answer.read()
        turn.end()
        await tee.settled(lambda: stage.connections)
    assert stage.connections == 1
    assert await tee.metric("streamtee_streams_ended_total", ending="complete") == 2


@on_one_loop
async def test_error_ends_waiting_too(perform: Serve, stage: Stage) -> None:
    """What has failed does not become better."""
    tee = await perform()
    client = await tee.send_chat("Stream-Mode: json")
    turn = await stage.next()
    await turn.body()
    turn.begin()
    turn.chunk(WORD + CHAT_ERRORS["flat, too fast"][0])
    answer = await client.answer()
    assert (answer.status, b"REASON" in await answer.read()) == (429, True)
    await turn.wait_left()
    assert await tee.metric("streamtee_streams_ended_total", ending="upstream_error") == 1


def test_moment_is_short() -> None:
    """About a second: a client of mode raw that stops at the last word waits for no more."""
    assert 0.5 <= exchange._END_S <= 2
