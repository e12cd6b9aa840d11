"""Clients that ask again with the same Idempotency-Key: they hear the same, and the upstream is asked once."""

import pytest

from proxy.tools.fake.qwen import FakeQwen
from tests.clients.langchain_model import model, streamed
from tests.clients.node import Node, Script, in_one_node
from tests.proxy_under_test import Tee
from tests.relay import relayed

pytestmark = in_one_node
AGAIN = {"Idempotency-Key": "chat-42-turn-7"}
ASKED = {"stream": True, "headers": AGAIN}


@pytest.mark.parametrize("client", ["openai", "ai_sdk"])
async def test_second_request_is_answered_with_the_first_stream(
    node: Node, fake: FakeQwen, tee: Tee, client: str
) -> None:
    """From its start; and a client of another kind may join it by GET."""
    script = Script(node, client)
    first = await script.hear(tee.proxy.url, **ASKED)
    assert len(first["text"]) > 50
    assert await script.hear(tee.proxy.url, **ASKED) == first
    assert len(fake.requests) == 1
    (stream,) = tee.proxy.hub
    followed = await Script(node, "openai").hear(tee.proxy.url, ident=stream.id)
    assert followed["text"] == first["text"]


@pytest.mark.parametrize(("client", "after_bytes"), [("openai", 0), ("openai", 100), ("ai_sdk", 100)])
async def test_retry_of_the_sdk_after_a_lost_response_costs_nothing(
    node: Node, fake: FakeQwen, tee: Tee, client: str, after_bytes: int
) -> None:
    """The connection breaks before or within the head: the SDK asks again by itself, and is given what was begun."""
    async with relayed(tee.proxy.url) as relay:
        relay.cut_each_after([after_bytes])
        heard = await Script(node, client).hear(relay.url, maxRetries=2, **ASKED)
        assert relay.event_streams == 2
    assert heard["error"] is None
    assert len(heard["text"]) > 50
    assert len(fake.requests) == 1


async def test_langchain_asks_again_for_nothing(fake: FakeQwen, tee: Tee) -> None:
    """With the key as a header of the model's."""
    llm = model(tee.proxy.url, default_headers=AGAIN)
    first, second = await streamed(llm), await streamed(llm)
    assert second.text == first.text
    assert len(first.text) > 50
    assert len(fake.requests) == 1
