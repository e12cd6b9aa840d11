"""Anthropic's Messages through the proxy: where requests go, whose key goes along, and what their ends look like."""

import json
from typing import Any

import pytest

from tests.cuts import messages
from tests.message_events import PING, Block, event, message
from tests.proxy_under_test import PROMPT, Serve
from tests.stage import Stage, staged

MESSAGES = "/v1/messages"
UPSTREAM = b"/apps/anthropic/v1/messages"
STREAM = message([Block("thinking", ("We", " think")), Block("text", ("Hel", "lo"))])
WHOLE = b"".join(STREAM)


def body(**more: Any) -> bytes:
    asked = {"model": "qwen3-max", "max_tokens": 99, "messages": [{"role": "user", "content": PROMPT}], **more}
    return json.dumps(asked).encode()


@pytest.mark.parametrize("path", [MESSAGES, UPSTREAM.decode()])
async def test_generation_leads_upstream_and_its_stream_back(path: str, perform: Serve, stage: Stage) -> None:
    """Query, version and beta untouched, every byte as it came; counted by its row and the model that it named."""
    tee = await perform(upstream={"key": ""})
    sent = ("anthropic-version: 2023-06-01", "anthropic-beta: a-1,b-2", "x-api-key: sk-the-caller")
    client = await tee.send("POST", path + "?beta=true", *sent, body=body(stream=True))
    turn = await stage.next()
    assert (turn.target, await turn.body()) == (UPSTREAM + b"?beta=true", body(stream=True))
    assert [turn.all(line.partition(":")[0]) for line in sent] == [[b"2023-06-01"], [b"a-1,b-2"], [b"sk-the-caller"]]
    assert turn.all("authorization") == [b"Bearer sk-the-caller"]
    turn.begin()
    turn.end(PING + WHOLE + PING)
    answer = await client.answer()
    assert await answer.read() == PING + WHOLE + PING
    info = await tee.wait_ended(answer.stream_id)
    assert (info["state"], info["model"]) == ("complete", "qwen3-max")
    labels = {"route": "messages", "model": "qwen3-max"}
    assert await tee.metric("streamtee_time_to_first_token_seconds_count", **labels) == 1
    assert await tee.metric("streamtee_tokens_total", kind="completion", **labels) == 9
    assert await tee.metric("streamtee_tokens_total", kind="cached", **labels) == 3


@pytest.mark.parametrize(
    ("method", "path", "target"),
    [
        ("POST", "/v1/messages/count_tokens?beta=true", b"/a/messages/count_tokens?beta=true"),
        ("POST", "/apps/anthropic/v1/messages/count_tokens", b"/a/messages/count_tokens"),
        ("GET", "/v1/messages/batches", b"/a/messages/batches"),
        ("GET", "/v1/messages", b"/a/messages"),
        ("GET", "/apps/anthropic/v1/models", b"/apps/anthropic/v1/models"),
        ("POST", "/v1/messages_of_others", b"/compatible-mode/v1/messages_of_others"),
        ("POST", MESSAGES, b"/a/messages"),
    ],
)
async def test_all_else_below_passes_through(
    method: str, path: str, target: bytes, perform: Serve, stage: Stage
) -> None:
    """To the path that the upstream's settings name, with what the upstream says."""
    tee = await perform(upstream={"messages_path": "/a/messages"})
    client = await tee.send(method, path, body=b"{}" if method == "POST" else b"")
    turn = await stage.next()
    assert turn.target == target
    turn.reply("200 OK", "Content-Type: application/json", body=b'{"input_tokens": 9}')
    assert await (await client.answer()).read() == b'{"input_tokens": 9}'


@pytest.mark.parametrize("path", [MESSAGES, "/v1/messages/count_tokens", "/apps/anthropic/v1/messages/count_tokens"])
async def test_key_of_ours_goes_up_as_the_api_key(path: str, perform: Serve, stage: Stage) -> None:
    """In place of the caller's, in whichever header that came."""
    tee = await perform(upstream={"key": "sk-ours"})
    client = await tee.send("POST", path, "x-api-key: sk-theirs", "Authorization: Bearer sk-theirs", body=body())
    turn = await stage.next()
    assert (turn.all("x-api-key"), turn.all("authorization")) == ([b"sk-ours"], [])
    turn.reply("200 OK", "Content-Type: application/json", body=b"{}")
    await (await client.answer()).read()


async def test_spare_has_its_own_path_and_key(perform: Serve, stage: Stage) -> None:
    """When the first of two plans is throttled; below the path of the message, too."""
    async with staged() as spare:
        tee = await perform(
            upstream={"key": "sk-first", "spares": ["spare"], "weight": 1000},
            upstreams={"spare": {"url": spare.url, "key": "sk-spare", "messages_path": "/plan/messages"}},
            retries={"attempts": 1},
        )
        for path in ("", "/count_tokens"):
            client = await tee.send("POST", MESSAGES + path, body=body())
            refused = await stage.next()
            await refused.body()
            assert (refused.target, refused.all("x-api-key")) == (UPSTREAM + path.encode(), [b"sk-first"])
            refused.reply("429 No", body=b'{"type":"error","error":{"type":"rate_limit_error","message":"x"}}')
            if path:  # a body that passes through is not held, so it can't be sent again
                await (await client.answer()).read()
                continue
            turn = await spare.next()
            await turn.body()
            assert (turn.target, turn.all("x-api-key")) == (b"/plan/messages", [b"sk-spare"])
            turn.reply("200 OK", "Content-Type: application/json", body=b"{}")
            await (await client.answer()).read()


async def test_key_of_ours_opens_nothing_else_of_it(perform: Serve) -> None:
    """The refusal is in Anthropic's shape."""
    tee = await perform(upstream={"key": "sk-ours"})
    answer = await tee.ask("GET", "/apps/anthropic/v1/files")
    said = json.loads(await answer.read())
    assert (answer.status, said["type"], said["error"]["type"]) == (403, "error", "permission_error")


@pytest.mark.parametrize("mode", ["incremental", "cumulative"])
async def test_mode_without_meaning_is_refused_before_anything_is_sent(mode: str, perform: Serve, stage: Stage) -> None:
    """It says which modes there are."""
    tee = await perform()
    answer = await tee.ask("POST", MESSAGES, f"Stream-Mode: {mode}", body=body(stream=True))
    said = json.loads(await answer.read())
    assert (answer.status, said["error"]["type"]) == (400, "invalid_request_error")
    assert "coalesced" in said["error"]["message"]
    assert not stage.turns


@pytest.mark.parametrize("cut", [1, 2, len(STREAM) // 2])
async def test_stream_without_its_last_event_is_a_failure(cut: int, perform: Serve, stage: Stage) -> None:
    """Also where the response ends properly: an event that clients look for, or an HTTP error, says so."""
    tee = await perform(streams={"on_disconnect": "continue"})
    client = await tee.send("POST", MESSAGES, "Stream-Mode: events", body=body(stream=True))
    turn = await stage.next()
    turn.begin()
    turn.end(b"".join(STREAM[:-cut]))
    answer = await client.answer()
    last = messages(await answer.read())[-1]
    assert (last.type, json.loads(last.data)["error"]["code"]) == (b"error", "upstream_reset")
    assert (await tee.wait_ended(answer.stream_id))["state"] == "failed"
    document = await tee.ask("GET", f"/v1/streams/{answer.stream_id}?mode=json")
    assert (document.status, b"upstream_reset" in await document.read()) == (502, True)


async def test_error_inside_is_an_error_in_every_mode(perform: Serve, stage: Stage) -> None:
    """The upstream's own where events are sent; an HTTP error of its type where a document is."""
    tee = await perform(streams={"on_disconnect": "continue"})
    error = event("error", error={"type": "overloaded_error", "message": "Overloaded"})
    client = await tee.send("POST", MESSAGES, "Stream-Mode: events", body=body(stream=True))
    turn = await stage.next()
    turn.begin()
    turn.end(b"".join(STREAM[:4]) + error)
    answer = await client.answer()
    assert [one.type for one in messages(await answer.read())].count(b"error") == 1
    document = await tee.ask("GET", f"/v1/streams/{answer.stream_id}?mode=json")
    assert document.status == 529
    assert json.loads(await document.read())["error"]["type"] == "overloaded_error"


async def test_request_without_streaming_is_answered_from_a_stream(perform: Serve, stage: Stage) -> None:
    """When upgrades are on: with the message that its events add up to."""
    tee = await perform(generations={"upgrade": "always"})
    client = await tee.send("POST", MESSAGES, body=b'{"model":"m","seed":1e400}')
    turn = await stage.next()
    assert await turn.body() == b'{"stream":true,"model":"m","seed":1e400}'
    turn.begin()
    turn.end(WHOLE)
    answer = await client.answer()
    assert (answer.status, answer.header("content-type")) == (200, "application/json; charset=utf-8")
    said = json.loads(await answer.read())
    assert [block["type"] for block in said["content"]] == ["thinking", "text"]
    assert (said["content"][1]["text"], said["stop_reason"], said["usage"]["output_tokens"]) == ("Hello", "end_turn", 9)


async def test_document_of_a_running_stream_is_what_there_is(perform: Serve, stage: Stage) -> None:
    """202 while it runs, 200 in the end."""
    tee = await perform()
    client = await tee.send("POST", MESSAGES, body=body(stream=True))
    turn = await stage.next()
    turn.begin()
    turn.chunk(b"".join(STREAM[:8]))
    answer = await client.answer()
    await answer.bytes(len(b"".join(STREAM[:8])))
    document = await tee.ask("GET", f"/v1/streams/{answer.stream_id}?mode=json")
    assert document.status == 202
    assert json.loads(await document.read())["content"][1] == {"type": "text", "text": "Hel"}
    turn.end(b"".join(STREAM[8:]))
    document = await tee.ask("GET", f"/v1/streams/{answer.stream_id}?mode=json&wait=5")
    assert (document.status, json.loads(await document.read())["content"][1]["text"]) == (200, "Hello")
    await answer.read()


async def test_last_event_ends_the_answer_for_those_who_wait_for_nothing_else(perform: Serve, stage: Stage) -> None:
    """Mode text ends with it, though the upstream says nothing more and does not close."""
    tee = await perform()
    client = await tee.send("POST", MESSAGES, "Stream-Mode: text", body=body(stream=True))
    turn = await stage.next()
    turn.begin()
    turn.chunk(WHOLE)
    assert await (await client.answer()).read() == b"Hello"
    await turn.wait_left()


async def test_error_before_the_stream_is_the_upstreams_own(perform: Serve, stage: Stage) -> None:
    """Byte for byte."""
    tee = await perform()
    client = await tee.send("POST", MESSAGES, body=body(stream=True))
    turn = await stage.next()
    said = b'{"type":"error","error":{"type":"rate_limit_error","message":"x"},"request_id":"r"}'
    turn.reply("429 Too Many Requests", "Content-Type: application/json", "request-id: r", body=said)
    answer = await client.answer()
    assert (answer.status, await answer.read()) == (429, said)


async def test_coalesced_followers_are_sent_every_other_event_as_it_came(perform: Serve, stage: Stage) -> None:
    """A late one gets the deltas of a block as one."""
    tee = await perform()
    client = await tee.send("POST", MESSAGES, body=body(stream=True))
    turn = await stage.next()
    turn.begin()
    turn.end(WHOLE)
    answer = await client.answer()
    await answer.read()
    follower = await tee.ask("GET", f"/v1/streams/{answer.stream_id}?mode=coalesced")
    types = [json.loads(one.data)["type"] for one in messages(await follower.read())]
    had = [json.loads(one.data)["type"] for one in messages(WHOLE)]
    deltas = "content_block_delta"
    assert [kind for kind in types if kind != deltas] == [kind for kind in had if kind != deltas]
    assert (types.count(deltas), had.count(deltas)) == (3, 5)  # thinking, its signature, text


async def test_heartbeat_is_a_ping_once_the_message_has_begun(perform: Serve, stage: Stage) -> None:
    """A comment before it, and nothing after its end; the bytes of the message are in between as they came."""
    tee = await perform()
    client = await tee.send("POST", MESSAGES, "Stream-Key: k", body=body(stream=True))
    turn = await stage.next()
    turn.begin()
    turn.chunk(b": opening\n\n")
    answer = await client.answer()
    follower = await tee.ask("GET", f"/v1/streams/{answer.stream_id}?mode=events&heartbeat=0.05")
    await follower.until(b":\n:\n")
    assert b"ping" not in follower.body
    turn.chunk(STREAM[0])
    await follower.until(PING + PING)
    turn.end(b"".join(STREAM[1:]))
    had = messages(await follower.read())
    assert [one.data for one in had if one.type != b"ping"] == [one.data for one in messages(WHOLE)]
    assert had[-1].type == b"message_stop"
    assert await answer.read() == b": opening\n\n" + WHOLE


async def test_follower_by_key_that_waits_in_a_mode_without_meaning_is_let_go(perform: Serve, stage: Stage) -> None:
    """It could not be told before: its response has begun, and ends with an error that says which modes there are."""
    tee = await perform()
    follower = await tee.send("GET", "/v1/keys/k/stream?mode=incremental&wait=9")
    waiting = await follower.answer()
    client = await tee.send("POST", MESSAGES, "Stream-Key: k", body=body(stream=True))
    turn = await stage.next()
    turn.begin()
    turn.end(WHOLE)
    answer = await client.answer()
    assert await answer.read() == WHOLE
    (said,) = messages(await waiting.read())
    assert (waiting.end, said.type, b"coalesced" in said.data) == ("whole", b"error", True)
