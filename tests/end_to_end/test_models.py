"""Models of the configuration: several plans behind one proxy, each with its key and paths, and their list."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from openai import AsyncOpenAI, NotFoundError

from tests.event_loops import on_one_loop
from tests.event_streams import chunk_frame
from tests.proxy_under_test import CHAT, NATIVE, Serve, chat_body
from tests.stage import Stage, staged

pytestmark = on_one_loop

REFUSED = b'{"error":{"code":"limit_requests","message":"m"}}'


@pytest.fixture
async def coding() -> AsyncIterator[Stage]:
    """The upstream of another plan."""
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(staged())


def plans(coding: Stage, **tables: Any) -> dict[str, Any]:
    """Return the tables of two plans, of which one serves the models that are called coder."""
    return {
        "upstream": {"key": "sk-usual"},
        "upstreams": {"coding": {"url": f"{coding.url}/v1", "key": "sk-coding"}},
        "models": [{"name": "coder-*", "upstream": "coding"}, {"name": "other", "alias_of": "qwen-plus"}],
        **tables,
    }


async def test_stream_comes_from_the_upstream_of_its_model(perform: Serve, stage: Stage, coding: Stage) -> None:
    """With that plan's key, below its path; `/info` says which it was."""
    tee = await perform(**plans(coding))
    client = await tee.send_chat(model="coder-1")
    turn = await coding.next()
    assert (turn.target, turn.all("authorization")) == (b"/v1/chat/completions", [b"Bearer sk-coding"])
    assert json.loads(await turn.body())["model"] == "coder-1"
    turn.begin()
    turn.chunk(chunk_frame("x"))
    turn.end(b"data: [DONE]\n\n")
    answer = await client.answer()
    await answer.read()
    assert (await tee.info(answer.stream_id))["upstream"] == "coding"
    assert not stage.turns


async def test_other_model_goes_the_usual_way_under_its_own_name(perform: Serve, stage: Stage, coding: Stage) -> None:
    """Only the name is replaced."""
    tee = await perform(**plans(coding))
    body = b'{ "messages":[], "model" : "other", "seed":1e999}'
    client = await tee.send("POST", CHAT, body=body)
    turn = await stage.next()
    assert turn.all("authorization") == [b"Bearer sk-usual"]
    assert await turn.body() == body.replace(b"other", b"qwen-plus")
    turn.reply("200 OK", body=b"{}")
    assert (await client.answer()).status == 200
    assert not coding.turns


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/v1/embeddings", b"/v1/embeddings"),
        ("/compatible-mode/v1/completions", b"/v1/completions"),
        ("/compatible-api/v1/reranks", b"/compatible-api/v1/reranks"),
        (NATIVE, NATIVE.encode()),
        ("/v1/responses", b"/v1/responses"),
        ("/v1/messages", b"/apps/anthropic/v1/messages"),
        ("/apps/anthropic/v1/messages/count_tokens", b"/apps/anthropic/v1/messages/count_tokens"),
    ],
)
async def test_every_api_finds_its_model(perform: Serve, coding: Stage, path: str, target: bytes) -> None:
    """What passes through, too, below the path that the API has there."""
    tee = await perform(**plans(coding))
    body = b'{"model":"coder-1","input":["a"]}'
    client = await tee.send("POST", path, "Content-Type: application/json; charset=utf-8", body=body)
    turn = await coding.next()
    assert turn.target == target
    assert await turn.body() == body
    turn.reply("200 OK", body=b"{}")
    assert (await client.answer()).status == 200


async def test_one_key_and_two_names_of_a_model_are_two_requests(perform: Serve, stage: Stage, coding: Stage) -> None:
    """Requests are compared as their client sent them."""
    tee = await perform(**plans(coding))
    first = await tee.send("POST", CHAT, "Idempotency-Key: k", body=chat_body(model="other"))
    turn = await stage.next()
    again = await tee.ask("POST", CHAT, "Idempotency-Key: k", body=chat_body(model="qwen-plus"))
    assert (again.status, (await again.json())["error"]["code"]) == (409, "idempotency_key_reused")
    turn.reply("200 OK", body=b"{}")
    assert (await first.answer()).status == 200


async def test_spare_of_a_plan_takes_over_with_its_own_key_and_path(
    perform: Serve, stage: Stage, coding: Stage
) -> None:
    """The plan of a model has spares like the usual one."""
    tables = plans(coding)
    tables["upstreams"]["coding"] |= {"spares": ["more"], "weight": 1000}
    tables["upstreams"]["more"] = {"url": f"{stage.url}/more/v1", "key": "sk-more"}
    tee = await perform(**tables, retries={"attempts": 1})
    client = await tee.send_chat(model="coder-1")
    (await coding.next()).reply("429 No", body=REFUSED)
    turn = await stage.next()
    assert (turn.target, turn.all("authorization")) == (b"/more/v1/chat/completions", [b"Bearer sk-more"])
    turn.reply("200 OK", body=b"{}")
    assert (await client.answer()).status == 200


async def test_json_larger_than_allowed_is_refused_where_its_model_decides(
    perform: Serve, stage: Stage, coding: Stage
) -> None:
    """It can't be sent on before its model is known; what is no JSON passes as it comes, with the caller's own key."""
    own = {"upstream": {"key": ""}, "upstreams": {"coding": {"url": f"{coding.url}/v1"}}}
    tee = await perform(**plans(coding, **own, limits={"body_bytes": 100}))
    refused = await tee.ask("POST", "/v1/embeddings", "Content-Type: application/json", body=b"[" * 101)
    assert refused.status == 413
    client = await tee.send("POST", "/v1/embeddings", "Content-Type: text/plain", body=b"[" * 101)
    turn = await stage.next()
    assert len(await turn.body()) == 101
    turn.reply("200 OK")
    assert (await client.answer()).status == 200


async def test_models_are_listed_from_the_configuration(perform: Serve, stage: Stage) -> None:
    """A real client lists them and asks for one; the upstream is not asked."""
    tee = await perform(upstream={"models": ["qwen3-max", "family/qwen 4"]})
    for prefix in ("/v1", "/compatible-mode/v1"):
        async with AsyncOpenAI(base_url=tee.proxy.url + prefix, api_key="sk-x", max_retries=0) as client:
            assert [model.id async for model in client.models.list()] == ["qwen3-max", "family/qwen 4"]
            assert (await client.models.retrieve("family/qwen 4")).id == "family/qwen 4"
            with pytest.raises(NotFoundError, match="there are qwen3-max, family/qwen 4") as error:
                await client.models.retrieve("gpt-4o")
            assert error.value.code == "model_not_found"
    assert not stage.turns


async def test_models_are_listed_to_those_only_who_may_ask(perform: Serve) -> None:
    """In mode keys a key is needed, as for all else."""
    tee = await perform(upstream={"models": ["qwen3-max"], "key": "sk-x"}, auth={"mode": "keys", "keys": ["0" * 64]})
    assert (await tee.ask("GET", "/v1/models")).status == 401
