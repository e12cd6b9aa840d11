"""Mode chat through the whole proxy: for the client that asked, for followers, by WebSocket, and in openai-python."""

import json
from typing import Any

import pytest
from openai import AsyncOpenAI, AsyncStream, OpenAIError
from openai.types.chat import ChatCompletionChunk

from tests.answers import joined
from tests.cuts import messages
from tests.dialects.response_events import message, numbered, response
from tests.event_loops import on_one_loop
from tests.http_client import KEY, Answer
from tests.message_events import STOP, delta, finish, start
from tests.proxy_under_test import NATIVE, RESPONSES, Serve, Tee, native_body, response_body
from tests.stage import Stage
from tests.websocket_client import opened, rest

MESSAGE = {"model": "qwen-plus", "max_tokens": 99, "stream": True, "messages": [{"role": "user", "content": "x"}]}
ASKED = {
    "responses": (RESPONSES, response_body()),
    "messages": ("/v1/messages", json.dumps(MESSAGE).encode()),
    "native": (NATIVE, native_body()),
}
CONTENT = (0, "content", -1)


async def ask(tee: Tee, api: str, *headers: str) -> Answer:
    path, body = ASKED[api]
    return await tee.ask("POST", path, "X-DashScope-SSE: enable", *headers, body=body)


@pytest.mark.parametrize("api", ASKED)
async def test_client_that_asked_is_told_in_chunks(api: str, serve: Serve) -> None:
    """As Server-sent events with ids of ours, the same that a follower gets later, from any of them on."""
    tee = await serve()
    answer = await ask(tee, api, "Stream-Mode: chat")
    whole = await answer.read()
    assert answer.header("content-type").startswith("text/event-stream")
    assert answer.header("stream-mode") == "chat"
    assert messages(whole)[-1].data == b"[DONE]"
    text = await (await tee.follow(answer.stream_id, "mode=text")).read()
    assert joined(whole)[CONTENT] == text.decode()
    assert await (await tee.follow(answer.stream_id, "mode=chat")).read() == whole
    for one in [one for one in messages(whole) if one.id]:
        again = await tee.follow(answer.stream_id, "mode=chat", f"Last-Event-ID: {one.id.decode()}")  # type: ignore[union-attr]
        if one.data == b"[DONE]":
            assert again.status == 204
        else:
            assert whole.endswith(await again.read())


@pytest.mark.parametrize("api", ASKED)
async def test_openai_python_follows_every_api(api: str, serve: Serve) -> None:
    """In chunks of its own type; a stream that was cut off raises its error."""
    tee = await serve()
    whole = await ask(tee, api)
    cut = await ask(tee, api, "Fake-Fault: cut_mid_chunk; after=6")
    for answer in (whole, cut):
        await answer.read()
    text = await (await tee.follow(whole.stream_id, "mode=text")).read()
    async with AsyncOpenAI(base_url=f"{tee.proxy.url}/v1", api_key=KEY, max_retries=0) as client:
        said, last = await heard(client, whole.stream_id)
        assert said == text.decode()
        assert last[0] in ("stop", "length")
        assert last[1].total_tokens > 0
        with pytest.raises(OpenAIError):
            await heard(client, cut.stream_id)


async def heard(client: AsyncOpenAI, ident: str) -> tuple[str, tuple[Any, Any]]:
    """Return the content that the SDK hears, its finish reason and its usage."""
    said, reason, usage = "", None, None
    stream = await client.get(
        f"/streams/{ident}?mode=chat",
        cast_to=ChatCompletionChunk,
        stream=True,
        stream_cls=AsyncStream[ChatCompletionChunk],
    )
    async for chunk in stream:
        for choice in chunk.choices:
            said += choice.delta.content or ""
            reason = choice.finish_reason or reason
        usage = chunk.usage or usage
    return said, (reason, usage)


@pytest.mark.parametrize("api", ASKED)
async def test_websocket_is_sent_the_same_events(api: str, serve: Serve) -> None:
    """One a message, and a close code for the end."""
    tee = await serve()
    answer = await ask(tee, api)
    await answer.read()
    events = messages(await (await tee.follow(answer.stream_id, "mode=chat")).read())
    async with opened(tee, answer.stream_id, "mode=chat") as socket:
        told, closed = await rest(socket)
    assert [one["data"].encode() for one in told] == [one.data for one in events]
    assert closed == (1000, "complete")


@on_one_loop
async def test_heartbeat_is_a_comment_whatever_the_api(perform: Serve, stage: Stage) -> None:
    """Not a ping of the API's own: a client of chunks would take that for one."""
    tee = await perform(streams={"heartbeat_s": 1})
    client = await tee.send("POST", "/v1/messages", body=json.dumps(MESSAGE).encode())
    turn = await stage.next()
    await turn.body()
    turn.begin()
    turn.chunk(start())
    answer = await client.answer()
    follower = await tee.follow(answer.stream_id, "mode=chat")
    assert (await follower.until(b"\n\n:\n")).startswith(b"data: ")
    turn.end(delta("a") + finish(output_tokens=1) + STOP)
    assert messages(await follower.read())[-1].data == b"[DONE]"


@on_one_loop
async def test_response_is_told_while_it_runs(perform: Serve, stage: Stage) -> None:
    """Each word with the frame that brought it."""
    frames = numbered(response(message(0, ["Hel", "lo"])), by_dashscope=True)
    tee = await perform()
    client = await tee.send("POST", RESPONSES, "Stream-Mode: chat", body=response_body())
    turn = await stage.next()
    await turn.body()
    turn.begin()
    answer = await client.answer()
    for frame in frames:
        turn.chunk(frame)
        if b"output_text.delta" in frame:
            word: str = json.loads(messages(frame)[0].data)["delta"]
            assert CONTENT in joined(await answer.until(word.encode() + b'"'))
    turn.end()
    assert joined(await answer.read())[CONTENT] == "Hello"
