"""Retries of lost clients that name nothing: which request reads which call, over real sockets."""

import asyncio
import json
from typing import Any

import pytest
from openai import AsyncOpenAI

from proxy.server.generations import retries
from proxy.server.generations.retries import meaning_of
from tests.event_loops import GUARD_S, until
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.http_client import KEY, Answer
from tests.proxy_under_test import CHAT, PROMPT, Tee, begun, teed
from tests.stage import Stage, Turn

ATTACH = {"generations": {"attach_retries_s": 60}}
ATTACHED = "stream-retry-attached"
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}\n\n'
WORDS = [chunk_frame(f"word {number}") for number in range(1, 5)]


def reordered(body: bytes) -> bytes:
    """Return the same JSON, its keys in another order and spaced otherwise."""
    return json.dumps(dict(reversed(json.loads(body).items())), indent=1).encode()


def asked(**more: Any) -> bytes:
    body = {"model": "qwen3-max", "stream": True, "metadata": {"a": 1, "b": [1, 2]}, "messages": [{"content": PROMPT}]}
    return json.dumps({**body, **more}).encode()


async def lost(tee: Tee, stage: Stage, *headers: str, body: bytes = asked(), frames: int = 2) -> Turn:
    """Have a client ask, read so many frames, and lose its connection; the proxy has noticed."""
    client = await tee.send("POST", CHAT, *headers, body=body)
    turn = await stage.next()
    await turn.body()
    if frames:
        turn.begin()
        answer = await client.answer()
    for frame in WORDS[:frames]:
        turn.chunk(frame)
        await answer.until(frame)
    await client.leave()
    await until(lambda: bool(tee.proxy.lost_calls._lost))
    return turn


async def again(tee: Tee, *headers: str, body: bytes = asked()) -> Answer:
    return await tee.ask("POST", CHAT, *headers, body=body)


@pytest.mark.parametrize("frames", [0, 1, 2])
async def test_lost_client_reads_its_call_again(stage: Stage, frames: int) -> None:
    """From its start, whatever the order of keys, and whatever on_disconnect says; one call, one bill."""
    async with teed(stage.url, **ATTACH) as tee:
        turn = await lost(tee, stage, "Stream-On-Disconnect: cancel", frames=frames)
        if not frames:
            turn.begin()
        retry = await again(tee, body=reordered(asked()))
        assert retry.header(ATTACHED) == "true"
        turn.chunk(b"".join(WORDS[frames:]))
        turn.end(FINISH, USAGE, DONE)
        assert await retry.read() == b"".join([*WORDS, FINISH, USAGE, DONE])
        assert retry.end == "whole"
        assert len(stage.turns) == 1
        assert await tee.metric("streamtee_shared_requests_total", how="retry") == 1
        assert await tee.metric("streamtee_shared_tokens_total", how="retry", kind="prompt") == 7
        assert await tee.metric("streamtee_shared_tokens_total", how="retry", kind="completion") == 3


async def test_finished_call_is_read_again(stage: Stage) -> None:
    """It was complete before its client came again; once, since the next one that asks has lost nothing."""
    async with teed(stage.url, **ATTACH) as tee:
        turn = await lost(tee, stage)
        turn.end(FINISH, DONE)
        await until(lambda: not tee.proxy.hub.running)
        retry = await again(tee)
        assert (retry.header(ATTACHED), await retry.read()) == ("true", b"".join([*WORDS[:2], FINISH, DONE]))
        other = await tee.send("POST", CHAT, body=asked())
        (await stage.next()).reply("200 OK")
        assert (await other.answer()).header(ATTACHED) is None


async def test_retry_that_is_lost_too_is_read_by_the_next(stage: Stage) -> None:
    """Any number of times, in any mode."""
    async with teed(stage.url, **ATTACH) as tee:
        turn = await lost(tee, stage)
        for mode in ("raw", "events", "coalesced"):
            retry = await again(tee, f"Stream-Mode: {mode}")
            assert retry.header(ATTACHED) == "true"
            await retry.until(b"word 2")
            await retry.client.leave()
            await until(lambda: bool(tee.proxy.lost_calls._lost))
        last = await again(tee)
        turn.end(FINISH, DONE)
        assert await last.read() == b"".join([*WORDS[:2], FINISH, DONE])
        assert len(stage.turns) == 1


async def test_request_whose_predecessor_is_read_is_sent(stage: Stage) -> None:
    """It is a second one; when both are lost, each retry reads another."""
    async with teed(stage.url, **ATTACH) as tee:
        (one, first), (two, second) = [await begun(tee, stage, frames=1) for _ in range(2)]
        assert one.header(ATTACHED) is two.header(ATTACHED) is None
        assert one.stream_id != two.stream_id
        await asyncio.gather(one.client.leave(), two.client.leave())
        await until(lambda: len(tee.proxy.lost_calls._meanings) == 2)
        both = [await tee.chat() for _ in range(2)]
        assert {retry.stream_id for retry in both} == {one.stream_id, two.stream_id}
        first.end(FINISH, DONE)
        second.end(FINISH, DONE)
        assert [(await retry.read()).count(b"[DONE]") for retry in both] == [1, 1]


async def test_retry_at_the_moment_of_the_loss_is_attached(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection may be read before the end of the other's is noticed."""
    monkeypatch.setattr(retries, "NOTICE_S", GUARD_S)
    async with teed(stage.url, **ATTACH) as tee:
        answer, turn = await begun(tee, stage, frames=1)
        retry = await tee.send_chat()  # reads while the first is there
        await until(lambda: bool(tee.proxy.lost_calls._notified))
        await answer.client.leave()
        found = await retry.answer()
        assert (found.header(ATTACHED), found.stream_id) == ("true", answer.stream_id)
        turn.end(FINISH, DONE)
        assert (await found.read()).endswith(DONE)
        assert len(stage.turns) == 1


async def test_client_that_left_at_the_last_word_was_not_lost(stage: Stage) -> None:
    """As SDKs do: the response may go on. Its next request is another one."""
    async with teed(stage.url, **ATTACH) as tee:
        answer, turn = await begun(tee, stage, frames=1)
        turn.chunk(FINISH + DONE)
        await answer.until(DONE)
        await answer.client.leave()
        await until(lambda: not tee.proxy.hub.followers)
        turn.end()
        client = await tee.send_chat()
        (await stage.next()).reply("200 OK")
        assert (await client.answer()).header(ATTACHED) is None


@pytest.mark.parametrize("end", ["cancel", "reset", "delete", "error"])
async def test_call_that_was_ended_or_failed_is_made_again(stage: Stage, end: str) -> None:
    """A cancel was meant, and a failure is worth nothing."""
    async with teed(stage.url, **ATTACH) as tee:
        turn = await lost(tee, stage)
        (stream,) = tee.proxy.hub
        match end:
            case "cancel":
                await tee.ask("POST", f"/v1/streams/{stream.id}/cancel")
            case "delete":
                await tee.ask("DELETE", f"/v1/streams/{stream.id}")
            case "reset":
                turn.reset()
            case "error":
                turn.end(b'data: {"error":{"message":"blocked","code":"data_inspection_failed"}}\n\n')
        await until(lambda: stream.sealed)
        client = await tee.send("POST", CHAT, body=asked())
        (await stage.next()).reply("200 OK")
        assert (await client.answer()).header(ATTACHED) is None


@pytest.mark.parametrize(
    ("headers", "more"),
    [
        (("Authorization: Bearer another",), {}),
        (("X-DashScope-Plugin: other",), {}),
        (("Idempotency-Key: k",), {}),
        ((), {"metadata": {"a": 1, "b": [2, 1]}}),
        ((), {"temperature": 1}),
    ],
)
async def test_other_request_is_sent(stage: Stage, headers: tuple[str, ...], more: dict[str, Any]) -> None:
    """Of another caller, with another header that steers the answer, with a key, or of another meaning."""
    async with teed(stage.url, **ATTACH) as tee:
        turn = await lost(tee, stage)
        client = await tee.send("POST", CHAT, *headers, body=asked(**more))
        (await stage.next()).reply("200 OK")
        assert (await client.answer()).header(ATTACHED) is None
        turn.end()


async def test_stream_runs_no_longer_than_a_retry_may_take(stage: Stage) -> None:
    """Then the upstream is closed, as on_disconnect has it at once."""
    async with teed(stage.url, generations={"attach_retries_s": 0.05}) as tee:
        turn = await lost(tee, stage)
        await turn.wait_left()
        assert await tee.metric("streamtee_streams_ended_total", ending="client_gone") == 1


async def test_off_by_default(tee: Tee, stage: Stage) -> None:
    """The same request again is another one, and the lost one's upstream is closed."""
    answer, turn = await begun(tee, stage, frames=1)
    await answer.client.leave()
    await turn.wait_left()
    client = await tee.send_chat()
    (await stage.next()).reply("200 OK")
    assert (await client.answer()).header(ATTACHED) is None


async def test_lost_client_of_an_upgraded_answer_gets_its_document(stage: Stage) -> None:
    """The stream that its document is made of went on."""
    async with teed(stage.url, generations={"attach_retries_s": 60, "upgrade": "always"}) as tee:
        body = asked(stream=False)
        client = await tee.send("POST", CHAT, body=body)
        turn = await stage.next()
        await turn.body()
        turn.begin()
        turn.chunk(WORDS[0])
        await until(lambda: bool(next(iter(tee.proxy.hub)).subscriptions))
        await client.leave()
        await until(lambda: bool(tee.proxy.lost_calls._lost))
        retry = await tee.send("POST", CHAT, body=reordered(body))
        turn.end(FINISH, DONE)
        answer = await retry.answer()
        assert answer.header(ATTACHED) == "true"
        assert (await answer.json())["choices"][0]["message"]["content"] == "word 1"
        assert len(stage.turns) == 1


async def test_lost_client_of_a_plain_document_gets_it(stage: Stage) -> None:
    """It gave up waiting; its call did not."""
    async with teed(stage.url, **ATTACH) as tee:
        turn = await lost(tee, stage, body=asked(stream=False), frames=0)
        retry = await tee.send("POST", CHAT, body=asked(stream=False))
        await until(lambda: not tee.proxy.lost_calls._lost)
        turn.reply("200 OK", "Content-Type: application/json", body=b'{"a":1}')
        answer = await retry.answer()
        assert (answer.header(ATTACHED), await answer.read()) == ("true", b'{"a":1}')
        assert len(stage.turns) == 1


async def test_retry_that_finds_no_place_may_come_again(stage: Stage) -> None:
    """Its call is not lost by that."""
    async with teed(stage.url, **ATTACH, limits={"followers_per_stream": 1}) as tee:
        turn = await lost(tee, stage)
        (stream,) = tee.proxy.hub
        follower = await tee.follow(stream.id)
        assert (await again(tee)).status == 503
        await follower.client.leave()
        await tee.wait_followers(0)
        retry = await again(tee)
        assert (retry.status, retry.header(ATTACHED)) == (200, "true")
        turn.end(FINISH, DONE)
        assert (await retry.read()).endswith(DONE)
        assert len(stage.turns) == 1


async def test_forgotten_calls_are_let_go_of(stage: Stage) -> None:
    """What is no longer kept is not remembered either; nor is a call whose stream had gone before its client."""
    async with teed(stage.url, **ATTACH, streams={"retain_s": 0}) as tee:
        turn = await lost(tee, stage)
        turn.end(FINISH, DONE)
        await until(lambda: not list(tee.proxy.hub))
        assert not tee.proxy.lost_calls._lost
        assert not tee.proxy.lost_calls._meanings
        assert not tee.proxy.lost_calls._read


async def test_openai_client_that_is_cut_asks_again_and_gets_all(stage: Stage) -> None:
    """With its own retries, which send no key."""
    async with teed(stage.url, **ATTACH) as tee:
        client = AsyncOpenAI(base_url=f"{tee.proxy.url}/v1", api_key=KEY, max_retries=2, timeout=0.3)
        call = asyncio.create_task(
            client.chat.completions.create(model="qwen3-max", messages=[{"role": "user", "content": "x"}], stream=True)
        )
        turn = await stage.next()
        await turn.body()
        await until(lambda: tee.proxy.metrics.shared_requests["chat", "retry"] > 0)
        turn.begin()
        turn.chunk(WORDS[0])
        turn.end(FINISH, DONE)
        texts = [chunk.choices[0].delta.content async for chunk in await call]
        assert texts == ["word 1", ""]
        assert len(stage.turns) == 1
        await client.close()


def test_meaning_is_that_of_the_values() -> None:
    """Not of their order, nor of how they are written; bodies that are no JSON are compared as they are."""

    def meaning(body: bytes) -> bytes:
        return meaning_of(b"caller", "chat", b"/v1", body, [])

    assert meaning(b'{"a":1,"b":{"c":[1,2],"d":"\\u00e9"}}') == meaning('{"b": {"d":"é", "c":[1,2]}, "a":1}'.encode())
    different = [
        b'{"a":1}',
        b'{"a":"1"}',
        b'{"a":1.5}',
        b'{"a":[1]}',
        b'{"a":null}',
        b"{}",
        b"",
        b"{",
        b'{"a":NaN}',
        b"[" * 600,
    ]
    assert len({meaning(body) for body in different}) == len(different)
