"""One document for a whole stream: mode json, and requests without streaming that are served by a streamed call."""

import json
from typing import Any

import openai
import pytest

from proxy.tools.fake.qwen import FakeQwen
from tests.event_loops import on_one_loop
from tests.event_streams import chunk_frame
from tests.http_client import KEY, Client
from tests.proxy_under_test import CHAT, NATIVE, Serve, Tee, begun, chat_body, faked, native_body, teed
from tests.stage import EVENT_STREAM, Stage, Turn

FIXED = {"id", "created", "request_id"}  # what no two answers have in common
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
UPGRADE = {"upgrade": "always"}


def plain(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document without what no two answers have in common. No text beside tool calls is "" or null."""
    for choice in document.get("choices", ()):
        choice["message"]["content"] = choice["message"]["content"] or None
    return {key: value for key, value in document.items() if key not in FIXED}


# Following


@on_one_loop
async def test_document_of_an_ended_stream_is_the_whole_answer(serve: Serve) -> None:
    """As one chat.completion, and as often as it is asked for."""
    tee = await serve()
    first = await tee.chat(stream_options={"include_usage": True})
    raw = await first.read()
    for _ in range(2):
        answer = await tee.follow(first.stream_id, "mode=json")
        assert (answer.status, answer.header("content-type")) == (200, "application/json; charset=utf-8")
        document = await answer.json()
        assert document["object"] == "chat.completion"
        assert document["usage"]["total_tokens"] > 0
        said = "".join(
            choice["delta"].get("content") or ""
            for line in raw.split(b"\n\n")
            if line.startswith(b"data: {")
            for choice in json.loads(line[6:])["choices"]
        )
        assert document["choices"][0]["message"]["content"] == said != ""


@on_one_loop
async def test_document_of_a_running_stream_is_what_there_is_so_far(perform: Serve, stage: Stage) -> None:
    """With 202; asking again and again is no follower's leaving."""
    tee = await perform()
    first, turn = await begun(tee, stage)
    turn.chunk(chunk_frame("Hello"))
    await first.until(b"Hello")
    for _ in range(3):
        answer = await tee.follow(first.stream_id, "mode=json")
        assert answer.status == 202
        assert (await answer.json())["choices"][0]["message"]["content"] == "Hello"
    assert (await tee.info(first.stream_id))["state"] == "open"
    turn.end(b"data: [DONE]\n\n")
    await first.read()


@on_one_loop
async def test_long_poll_is_answered_when_the_stream_ends(perform: Serve, stage: Stage) -> None:
    """With the whole document, not before, and not only when the time is up."""
    tee = await perform()
    first, turn = await begun(tee, stage)
    turn.chunk(chunk_frame("Hello"))
    await first.until(b"Hello")
    poll = await tee.send("GET", f"/v1/streams/{first.stream_id}?mode=json&wait=60")
    turn.end(chunk_frame(" world"), b"data: [DONE]\n\n")
    answer = await poll.answer()
    assert answer.status == 200
    assert (await answer.json())["choices"][0]["message"]["content"] == "Hello world"


@on_one_loop
async def test_document_by_key_may_be_asked_for_first(perform: Serve, stage: Stage) -> None:
    """It waits for the stream to begin, and then for its end."""
    tee = await perform()
    poll = await tee.send("GET", "/v1/keys/k/stream?mode=json&wait=60")
    first, turn = await begun(tee, stage, "Stream-Key: k")
    turn.end(chunk_frame("Hello"), b"data: [DONE]\n\n")
    answer = await poll.answer()
    assert answer.status == 200
    assert (await answer.json())["choices"][0]["message"]["content"] == "Hello"
    await first.read()


@on_one_loop
async def test_document_takes_no_cursor(serve: Serve) -> None:
    """It is of the whole stream."""
    tee = await serve()
    first = await tee.chat()
    await first.read()
    assert (await tee.follow(first.stream_id, "mode=json&after=1")).status == 400


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [("reset; after=3", 502, "upstream_reset"), ("error_inside; after=3", 400, "data_inspection_failed")],
)
@on_one_loop
async def test_document_of_a_failed_stream_is_an_error(serve: Serve, fault: str, status: int, code: str) -> None:
    """The upstream's own, if it told one (law 7)."""
    tee = await serve()
    first = await tee.chat(fault=fault)
    await first.read()
    answer = await tee.follow(first.stream_id, "mode=json")
    assert (answer.status, (await answer.json())["error"]["code"]) == (status, code)


@on_one_loop
async def test_post_in_mode_json_is_answered_with_a_document(serve: Serve) -> None:
    """A client that can't read streams has one asked for all the same."""
    tee = await serve()
    answer = await tee.chat("Stream-Mode: json")
    assert (answer.status, answer.header("stream-mode")) == (200, "json")
    assert (await answer.json())["object"] == "chat.completion"
    assert (await tee.info(answer.stream_id))["state"] == "complete"


@pytest.mark.parametrize("mode", ["coalesced", "incremental", "cumulative", "text"])
@on_one_loop
async def test_post_in_any_mode_has_its_content_type(serve: Serve, mode: str) -> None:
    """text/plain for text, which is all that some transports read."""
    tee = await serve()
    answer = await tee.chat(f"Stream-Mode: {mode}")
    kind = "text/plain;charset=UTF-8" if mode == "text" else EVENT_STREAM
    assert answer.all("content-type") == [kind.encode()]
    assert answer.header("stream-mode") == mode
    assert await answer.read()


# Upgrading

REQUESTS: dict[str, dict[str, Any]] = {
    "text": {},
    "choices": {"n": 3},
    "tools": {"tools": TOOLS},
    "logprobs": {"logprobs": True, "top_logprobs": 2},
}


@pytest.mark.parametrize("asked", REQUESTS.values(), ids=list(REQUESTS))
@on_one_loop
async def test_upgraded_answer_is_what_the_upstream_answers_without_streaming(
    fake: FakeQwen, asked: dict[str, Any]
) -> None:
    """Field by field, but for what no two answers have in common; the upstream is asked for a stream, and once."""
    bodies = []
    for upgrade in ("never", "always"):
        async with teed(fake.url, generations={"upgrade": upgrade}) as tee:
            answer = await tee.chat(**asked, stream=False)
            assert answer.status == 200
            bodies.append(await answer.json())
    assert plain(bodies[1]) == plain(bodies[0])
    assert [json.loads(one.body)["stream"] for one in fake.requests] == [False, True]


@pytest.mark.parametrize("parameters", [{}, {"result_format": "message"}, {"incremental_output": False}])
@on_one_loop
async def test_upgraded_native_answer_is_what_the_upstream_answers_without_streaming(
    fake: FakeQwen, parameters: dict[str, Any]
) -> None:
    """Whether it sends increments or all so far."""
    bodies = []
    for upgrade in ("never", "always"):
        async with teed(fake.url, generations={"upgrade": upgrade}) as tee:
            answer = await tee.ask("POST", NATIVE, body=native_body(**parameters))
            assert answer.status == 200
            bodies.append(await answer.json())
    assert plain(bodies[1]) == plain(bodies[0])
    assert [one.header("x-dashscope-sse") for one in fake.requests] == ["", "enable"]


@pytest.mark.parametrize("upgrade", ["never", "always", "auto"])
@on_one_loop
async def test_model_that_only_streams_answers_all_the_same(serve: Serve, fake: FakeQwen, upgrade: str) -> None:
    """`auto` asks again when it is told so; without an upgrade the refusal passes through."""
    tee = await serve(generations={"upgrade": upgrade})
    answer = await tee.chat(model="qwq-plus", stream=False)
    assert answer.status == (400 if upgrade == "never" else 200)
    document = await answer.json()
    assert len(fake.requests) == (2 if upgrade == "auto" else 1)
    if upgrade != "never":
        message = document["choices"][0]["message"]
        assert message["reasoning_content"]
        assert message["content"]


@on_one_loop
async def test_auto_leaves_other_answers_alone(serve: Serve, fake: FakeQwen) -> None:
    """Those that need no stream, and refusals for another reason."""
    tee = await serve(generations={"upgrade": "auto"})
    assert (await tee.chat(stream=False)).status == 200
    refused = await tee.chat(fault="status; status=400", stream=False)
    assert (refused.status, len(fake.requests)) == (400, 2)


@on_one_loop
async def test_requests_with_streaming_are_not_upgraded(serve: Serve, fake: FakeQwen) -> None:
    """Their bytes go up as they came."""
    tee = await serve(generations=UPGRADE)
    answer = await tee.chat()
    assert answer.header("content-type") == EVENT_STREAM
    await answer.read()
    assert fake.requests[0].body == chat_body()


@on_one_loop
async def test_upgraded_answer_that_breaks_off_is_an_error(serve: Serve) -> None:
    """A client without streaming never sees half an answer (law 7)."""
    tee = await serve(generations=UPGRADE)
    answer = await tee.chat(fault="reset; after=3", stream=False)
    assert (answer.status, (await answer.json())["error"]["code"]) == (502, "upstream_reset")


async def upgraded(tee: Tee, stage: Stage) -> tuple[Client, Turn]:
    """Have a client ask for a document, and the upstream begin the stream that it is made from."""
    client = await tee.send("POST", CHAT, body=chat_body(stream=False))
    turn = await stage.next()
    turn.begin("content-type: text/event-stream")
    return client, turn


@on_one_loop
async def test_client_that_leaves_an_upgraded_request_ends_it(perform: Serve, stage: Stage) -> None:
    """Nobody else follows, so upstream is closed, and nothing more is paid for."""
    tee = await perform(generations=UPGRADE)
    client, turn = await upgraded(tee, stage)
    turn.chunk(chunk_frame("Hello"))
    await tee.wait_followers(1)
    await client.leave()
    await turn.wait_left()


@on_one_loop
async def test_keepalive_is_white_space_before_the_document(perform: Serve, stage: Stage) -> None:
    """So that nothing on the way takes a model that thinks for a dead one; clients' JSON parsers pass over it."""
    tee = await perform(generations=UPGRADE | {"keepalive_s": 0.01})
    client, turn = await upgraded(tee, stage)
    answer = await client.answer()
    await answer.until(b"   ")
    turn.end(chunk_frame("Hello"), b"data: [DONE]\n\n")
    body = await answer.read()
    assert body.lstrip(b" ").startswith(b"{")
    assert json.loads(body)["choices"][0]["message"]["content"] == "Hello"


@on_one_loop
async def test_failure_after_a_keepalive_breaks_the_answer_off(perform: Serve, stage: Stage) -> None:
    """Its status has left: a proper end would look like an answer (law 7)."""
    tee = await perform(generations=UPGRADE | {"keepalive_s": 0.01})
    client, turn = await upgraded(tee, stage)
    answer = await client.answer()
    await answer.until(b" ")
    turn.reset()
    await answer.read()
    assert answer.end != "whole"


async def test_openai_client_without_streaming_uses_a_model_that_only_streams() -> None:
    """It sees a chat.completion, with reasoning and usage."""
    async with faked() as fake, teed(fake.url, generations={"upgrade": "auto"}) as tee:
        client = openai.AsyncOpenAI(base_url=f"{tee.proxy.url}/v1", api_key=KEY, max_retries=0)
        done = await client.chat.completions.create(model="qwq-plus", messages=[{"role": "user", "content": "Why?"}])
        assert done.choices[0].message.content
        assert done.usage is not None
        assert done.usage.completion_tokens
        await client.close()


# Usage


@pytest.mark.parametrize("asks", [False, True])
@on_one_loop
async def test_usage_is_counted_also_when_nobody_asked_for_it(fake: FakeQwen, asks: bool) -> None:
    """Whoever did not ask does not get its chunk: then all frames are those of a stream without it."""
    more = {"stream_options": {"include_usage": True}} if asks else {}
    async with teed(fake.url) as tee:
        without = await (await tee.chat(**more)).read()
    async with teed(fake.url, generations={"include_usage": True}) as tee:
        answer = await tee.chat(**more)
        body = await answer.read()
        assert (body.count(b"\n\n"), b'"choices":[]' in body) == (without.count(b"\n\n"), asks)
        assert (await tee.wait_ended(answer.stream_id))["usage"]["completion"] > 0
        assert await tee.metric("streamtee_tokens_total", kind="completion") > 0
    assert json.loads(fake.requests[1].body)["stream_options"] == {"include_usage": True}


@on_one_loop
async def test_usage_that_comes_with_other_frames_is_taken_out_alone(perform: Serve, stage: Stage) -> None:
    """However the bytes are cut: the frames beside it stay, and so does the proper end."""
    tee = await perform(generations={"include_usage": True})
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}\n\n'
    first, turn = await begun(tee, stage)
    turn.chunk(chunk_frame("a") + usage + b"data: [DONE]\n\n")
    turn.end()
    assert await first.read() == chunk_frame("a") + b"data: [DONE]\n\n"
    info = await tee.wait_ended(first.stream_id)
    assert (info["state"], info["usage"]["completion"], info["events"]) == ("complete", 2, 2)
