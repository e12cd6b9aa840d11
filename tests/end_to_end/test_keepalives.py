"""Keepalives to the client that asked: after the upstream's head, in mode raw, too, and before it."""

import json

import pytest

from tests.cuts import messages
from tests.event_loops import on_one_loop
from tests.event_streams import DONE, chunk_frame
from tests.message_events import PING, STOP, delta, event, finish, start
from tests.proxy_under_test import CHAT, NATIVE, RESPONSES, Serve, chat_body, native_body, response_body
from tests.stage import Stage

BEAT = b":\n"
MESSAGE = json.dumps({"model": "m", "max_tokens": 9, "stream": True, "messages": [{"role": "user", "content": "x"}]})
ASKED = {
    "chat": (CHAT, chat_body()),
    "responses": (RESPONSES, response_body()),
    "messages": ("/v1/messages", MESSAGE.encode()),
    "native": (NATIVE, native_body()),
}
BEFORE = {"keepalive_before_head_s": 0.1}
AFTER = {"client_keepalive_s": 0.2}


@on_one_loop
async def test_client_that_asked_hears_a_comment_in_raw_between_events(perform: Serve, stage: Stage) -> None:
    """Through the bypass, too; never within an event of which the upstream has sent a part; what is due is unharmed."""
    tee = await perform(streams=AFTER)
    client = await tee.send_chat()
    turn = await stage.next()
    await turn.body()
    turn.begin()
    turn.chunk(one := chunk_frame("one"))
    turn.chunk(two := chunk_frame("two"))
    answer = await client.answer()
    await answer.until(two + BEAT)
    turn.chunk(chunk_frame("three")[:9])
    await answer.bytes(len(answer.body) + 4)
    turn.end(chunk_frame("three")[9:], DONE)
    whole = await answer.read()
    assert whole.replace(b"\n\n:\n", b"\n\n").replace(BEAT, b"") == one + two + chunk_frame("three") + DONE
    assert [said.data for said in messages(whole)] == [
        said.data for said in messages(one + two + chunk_frame("three") + DONE)
    ]


@on_one_loop
async def test_client_of_messages_hears_a_ping_in_raw(perform: Serve, stage: Stage) -> None:
    """Before the message begins a comment, after its end nothing."""
    tee = await perform(streams=AFTER)
    client = await tee.send("POST", "/v1/messages", body=MESSAGE.encode())
    turn = await stage.next()
    await turn.body()
    turn.begin()
    answer = await client.answer()
    await answer.until(BEAT)
    turn.chunk(start() + delta("a"))
    await answer.until(delta("a") + PING)
    turn.end(finish(output_tokens=1), STOP)
    assert (await answer.read()).replace(PING, b"").replace(BEAT, b"") == start() + delta("a") + finish(
        output_tokens=1
    ) + STOP


@on_one_loop
@pytest.mark.parametrize("mode", ["raw", "events"])
async def test_client_of_messages_hears_empty_deltas_of_the_open_block(perform: Serve, stage: Stage, mode: str) -> None:
    """Where configured: Claude Code counts no pings; between two blocks there is nothing else."""
    tee = await perform(streams={**AFTER, "empty_events": True})
    client = await tee.send("POST", "/v1/messages", f"Stream-Mode: {mode}", body=MESSAGE.encode())
    turn = await stage.next()
    await turn.body()
    turn.begin()
    turn.chunk(start() + event("content_block_start", index=0, content_block={"type": "text", "text": ""}))
    answer = await client.answer()
    await answer.until(b'"delta":{"type":"text_delta","text":""}}\n\n')
    turn.chunk(delta("a") + event("content_block_stop", index=0))
    await answer.until(PING)
    turn.end(finish(output_tokens=1), STOP)
    said = messages(await answer.read())
    assert [m.data for m in said if b'"text":"a"' in m.data] == [messages(delta("a"))[0].data]
    assert answer.end == "whole"


@on_one_loop
async def test_followers_and_texts_hear_nothing_of_it(perform: Serve, stage: Stage) -> None:
    """A follower in mode raw has the upstream's bytes, and so has a client that asked for text."""
    tee = await perform(streams=AFTER | {"heartbeat_s": 0.3})
    client = await tee.send_chat()
    turn = await stage.next()
    await turn.body()
    turn.begin()
    turn.chunk(one := chunk_frame("one"))
    answer = await client.answer()
    raw, text = [await tee.follow(answer.stream_id, f"mode={mode}") for mode in ("raw", "text")]
    await answer.until(one + BEAT * 2)
    turn.end(DONE)
    assert await raw.read() == one + DONE
    assert await text.read() == b"one"


@on_one_loop
@pytest.mark.parametrize("mode", ["raw", "events", "chat"])
@pytest.mark.parametrize("api", ASKED)
async def test_stream_begins_before_its_upstream_answers(perform: Serve, stage: Stage, api: str, mode: str) -> None:
    """With 200, a comment each time, and the id by which it is found; then it goes on as ever."""
    path, body = ASKED[api]
    tee = await perform(streams=BEFORE)
    client = await tee.send("POST", path, f"Stream-Mode: {mode}", "X-DashScope-SSE: enable", body=body)
    turn = await stage.next()
    answer = await client.answer()
    assert answer.status == 200
    assert answer.header("content-type") == "text/event-stream;charset=UTF-8"
    await answer.until(BEAT * 2)
    assert (await tee.info(answer.stream_id))["state"] == "open"
    await turn.body()
    turn.begin()
    turn.end(chunk_frame("one"), DONE)
    whole = (await answer.read()).lstrip(BEAT)
    follower = await tee.follow(answer.stream_id, f"mode={mode}")
    assert await follower.read() == whole
    assert answer.end == follower.end


@on_one_loop
@pytest.mark.parametrize("mode", ["raw", "events"])
@pytest.mark.parametrize("api", ASKED)
async def test_refusal_after_that_is_the_error_event_of_the_api(
    perform: Serve, stage: Stage, api: str, mode: str
) -> None:
    """With the upstream's reason, in mode raw, too; the response ends properly."""
    path, body = ASKED[api]
    tee = await perform(streams=BEFORE)
    client = await tee.send("POST", path, f"Stream-Mode: {mode}", "X-DashScope-SSE: enable", body=body)
    turn = await stage.next()
    answer = await client.answer()
    await answer.until(BEAT)
    await turn.body()
    turn.reply("429 Too Many", body=b'{"error":{"message":"SLOWER","code":"limit_requests"}}')
    whole = await answer.read()
    assert answer.end == "whole"
    [said] = messages(whole)
    told = json.loads(said.data)
    error = (told.get("response") or told).get("error") or told
    assert "429" in error["message"]
    assert "SLOWER" in error["message"]


@on_one_loop
@pytest.mark.parametrize(
    ("api", "status", "told"),
    [
        ("messages", 400, "invalid_request_error"),
        ("messages", 429, "rate_limit_error"),
        ("messages", 500, "api_error"),
        ("responses", 400, "invalid_prompt"),
        ("responses", 429, "refused"),
    ],
)
async def test_refusal_after_that_says_whether_to_ask_again(
    perform: Serve, stage: Stage, api: str, status: int, told: str
) -> None:
    """As the status would have: Codex and Claude Code go by the code, or the type, of the error."""
    path, body = ASKED[api]
    tee = await perform(streams=BEFORE)
    client = await tee.send("POST", path, "Stream-Mode: events", body=body)
    turn = await stage.next()
    answer = await client.answer()
    await answer.until(BEAT)
    await turn.body()
    turn.reply(f"{status} Refused", body=b"<html>")
    [said] = messages(await answer.read())
    error = json.loads(said.data)
    assert told == (error["error"]["type"] if api == "messages" else error["response"]["error"]["code"])


@on_one_loop
async def test_client_that_there_is_no_room_for_after_that_is_told_by_an_event(perform: Serve, stage: Stage) -> None:
    """No second head comes: the response goes on as the stream that it began as, to an error and its end."""
    limits = {"followers_per_stream": 1}
    tee = await perform(streams=BEFORE, generations={"share": "body"}, limits=limits)
    first = await tee.send_chat()
    turn = await stage.next()
    await turn.body()
    second = await (await tee.send_chat()).answer()
    await second.until(b":")
    turn.begin()
    turn.chunk(chunk_frame())
    said = await second.read()
    assert (second.status, second.end) == (200, "whole")
    assert b'"code":"overloaded"' in said
    assert b"HTTP/1.1" not in said
    assert not second.client.buffer
    turn.end(DONE)
    assert (await (await first.answer()).read()).endswith(DONE)


async def test_upstream_that_breaks_after_that_is_an_error_event(perform: Serve, stage: Stage) -> None:
    """By the word of the ending; and it is asked again by nobody."""
    tee = await perform(streams=BEFORE)
    client = await tee.send_chat()
    turn = await stage.next()
    answer = await client.answer()
    await answer.until(BEAT)
    await turn.body()
    turn.close()
    [said] = messages(await answer.read())
    assert json.loads(said.data)["error"]["code"].startswith("upstream_")


@on_one_loop
@pytest.mark.parametrize(("more", "mode"), [({"stream": False}, "raw"), ({}, "text"), ({}, "json")])
async def test_who_asks_for_no_stream_of_events_is_answered_with_the_upstreams_status(
    perform: Serve, stage: Stage, more: dict[str, bool], mode: str
) -> None:
    """Nothing is sent before it."""
    tee = await perform(streams={"keepalive_before_head_s": 0.05})
    other = await tee.send_chat()  # its head comes later than theirs would have come
    client = await tee.send_chat(f"Stream-Mode: {mode}", **more)
    turns = [await stage.next(), await stage.next()]
    await (await other.answer()).until(BEAT * 3)
    assert not client.buffer
    for turn in turns:
        await turn.body()
        turn.reply("400 Bad Request", body=b'{"error":{"message":"no"}}')
    assert (await client.answer()).status == 400


@on_one_loop
async def test_client_that_leaves_while_it_waits_ends_the_call(perform: Serve, stage: Stage) -> None:
    """As one does that was sent nothing yet."""
    tee = await perform(streams=BEFORE)
    client = await tee.send_chat()
    turn = await stage.next()
    await (await client.answer()).until(BEAT)
    await client.leave()
    await turn.wait_left()
