"""Requests about what a response would be made of: how many tokens that has, and a shorter form of it.

They name earlier responses as requests for responses do, so with a key of ours they keep to the same ids.
"""

import json
from typing import Any

import openai
import pytest

from proxy.tools.fake.qwen import FakeQwen
from tests.event_loops import on_one_loop
from tests.proxy_under_test import PROMPT, Serve, Tee
from tests.stage import Stage, staged

PATH = "/v1/responses"
PREFIXES = ["/v1", "/compatible-mode/v1", "/api/v2/apps/protocols/compatible-mode/v1"]
ASKED = ["input_tokens", "compact"]
ALICE, BOB = "Authorization: Bearer sk-alice", "Authorization: Bearer sk-bob"
MADE = json.dumps({"object": "response", "id": "made", "output": [{"id": "msg_0"}]}).encode()


def body_of(**more: Any) -> bytes:
    return json.dumps({"model": "qwen3.7-plus", "input": PROMPT, **more}).encode()


async def passed(tee: Tee, stage: Stage, path: str, body: bytes) -> bytes:
    """Have Alice ask; check that the upstream is asked the same with our key, and its answer sent back."""
    client = await tee.send("POST", path, ALICE, body=body)
    turn = await stage.next()
    assert (await turn.body(), turn.all("authorization")) == (body, [b"Bearer sk-ours"])
    turn.reply("200 OK", "Content-Type: application/json", body=MADE)
    answer = await client.answer()
    assert (answer.status, await answer.read()) == (200, MADE)
    return turn.target


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("prefix", PREFIXES)
async def test_key_of_ours_is_enough(prefix: str, asked: str, perform: Serve, stage: Stage) -> None:
    """At each path of the API, for the one that the upstream has; other requests there name no response of his."""
    tee = await perform(upstream={"key": "sk-ours"})
    target = await passed(tee, stage, f"{prefix}/responses/{asked}?a=b", body_of())
    assert target == f"/compatible-mode/v1/responses/{asked}?a=b".encode()
    assert (await tee.ask("GET", f"{prefix}/responses/{asked}", ALICE)).status == 404
    assert (await tee.ask("POST", f"{prefix}/responses/{asked}/more", ALICE, body=body_of())).status == 404
    assert stage.idle


@pytest.mark.parametrize("asked", ASKED)
async def test_with_a_key_of_ours_only_what_was_given_is_named(asked: str, perform: Serve, stage: Stage) -> None:
    """The upstream would count, or retell, what others said."""
    tee = await perform(upstream={"key": "sk-ours"})
    await passed(tee, stage, PATH, body_of())
    own = [
        body_of(previous_response_id="made"),
        body_of(conversation={"id": "made"}),
        body_of(input=[{"type": "item_reference", "id": "msg_0"}]),
    ]
    for body in own:
        await passed(tee, stage, f"{PATH}/{asked}", body)
        refused = await tee.ask("POST", f"{PATH}/{asked}", BOB, body=body)
        assert (refused.status, (await refused.json())["error"]["code"]) == (404, "response_not_found")
    for body, status in ((b"not JSON", 400), (body_of(input=[{"file_id": "file-1"}]), 403)):
        assert (await tee.ask("POST", f"{PATH}/{asked}", ALICE, body=body)).status == status
    assert stage.idle


@pytest.mark.parametrize("asked", ASKED)
async def test_with_the_callers_key_the_body_is_not_looked_into(asked: str, perform: Serve, stage: Stage) -> None:
    """The upstream knows whose its responses are."""
    tee = await perform()
    client = await tee.send("POST", f"{PATH}/{asked}", ALICE, body=b"not JSON")
    turn = await stage.next()
    assert (await turn.body(), turn.all("authorization")) == (b"not JSON", [b"Bearer sk-alice"])
    turn.reply("400 Bad Request", body=b"{}")
    assert (await client.answer()).status == 400


async def test_upstream_that_made_a_response_is_asked_about_it(perform: Serve, stage: Stage) -> None:
    """No other knows it."""
    async with staged() as coding:
        tee = await perform(
            upstreams={"coding": {"url": f"{coding.url}/v1"}}, models=[{"name": "coder-*", "upstream": "coding"}]
        )
        for asked, named in (("", {}), ("/input_tokens", {"previous_response_id": "made", "model": "other"})):
            client = await tee.send("POST", PATH + asked, ALICE, body=body_of(**{"model": "coder-1", **named}))
            turn = await coding.next()
            await turn.body()
            turn.reply("200 OK", "Content-Type: application/json", body=MADE)
            await (await client.answer()).read()
    assert stage.idle


@on_one_loop
async def test_sdk_counts_and_compacts(serve: Serve, fake: FakeQwen) -> None:
    """With no key but ours."""
    tee = await serve(upstream={"key": "sk-ours"})
    async with openai.AsyncOpenAI(base_url=f"{tee.proxy.url}/v1", api_key="sk-alice", max_retries=0) as client:
        counted = await client.responses.input_tokens.count(model="qwen3.7-plus", input=PROMPT)
        compacted = await client.responses.compact(model="qwen3.7-plus", input=PROMPT)
    assert counted.input_tokens == compacted.usage.input_tokens > 0
    assert [item.type for item in compacted.output] == ["compaction"]
    assert {dict(request.headers)[b"Authorization"] for request in fake.requests} == {b"Bearer sk-ours"}
