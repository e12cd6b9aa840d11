"""Two nodes whose upstream knows all callers by one key: what one node has given to a caller, the other knows, too."""

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.proxy_under_test import RESPONSES, Tee, faked, response_body
from tests.store.nodes import Nodes, sharing, two_nodes
from tests.store.redis_server import redis_server

ALICE, BOB = "Authorization: Bearer sk-alice", "Authorization: Bearer sk-bob"
JSON = "Content-Type: application/json"


@pytest.fixture
async def nodes() -> AsyncIterator[Nodes]:
    async with two_nodes(upstream={"key": "sk-ours"}) as nodes:
        yield nodes


async def continued(tee: Tee, ident: Any, caller: str) -> Any:
    """Send a request that continues a response; return the client."""
    return await tee.send("POST", RESPONSES, caller, body=response_body(stream=False, previous_response_id=ident))


async def reply(nodes: Nodes, ident: str) -> bytes:
    """Have the upstream answer the next request with a response of this id; return the request's body."""
    turn = await nodes.stage.next()
    body = await turn.body()
    turn.reply("200 OK", JSON, body=json.dumps({"object": "response", "id": ident, "status": "completed"}).encode())
    return body


async def test_response_is_continued_at_another_node(nodes: Nodes) -> None:
    """By the caller that was given it, and by nobody else; a document, and the next one after it."""
    client = await nodes.owner.send("POST", RESPONSES, ALICE, body=response_body(stream=False))
    await reply(nodes, "first")
    assert await (await client.answer()).json()
    client = await continued(nodes.other, "first", ALICE)
    assert json.loads(await reply(nodes, "second"))["previous_response_id"] == "first"
    assert (await client.answer()).status == 200
    for ident, caller in (("first", BOB), ("second", BOB), ("another", ALICE), ("\ud800", ALICE)):
        refused = await (await continued(nodes.owner, ident, caller)).answer()
        assert (refused.status, (await refused.json())["error"]["code"]) == (404, "response_not_found")
    client = await continued(nodes.owner, "second", ALICE)
    await reply(nodes, "third")
    assert (await client.answer()).status == 200


async def test_document_is_asked_for_at_another_node(nodes: Nodes) -> None:
    """The upstream has it; the node lets its caller name it."""
    client = await nodes.owner.send("POST", RESPONSES, ALICE, body=response_body(stream=False))
    await reply(nodes, "first")
    document = await (await client.answer()).read()
    assert (await nodes.other.ask("GET", f"{RESPONSES}/first", BOB)).status == 404
    client = await nodes.other.send("GET", f"{RESPONSES}/first", ALICE)
    await reply(nodes, "first")
    assert await (await client.answer()).read() == document


async def test_stream_is_continued_at_another_node_as_soon_as_its_id_is_known() -> None:
    """Also when nobody followed it there."""
    async with (
        faked() as fake,
        redis_server() as redis,
        sharing(fake.url, redis.url, upstream={"key": "sk-ours"}) as (owner, other),
    ):
        answer = await owner.ask("POST", RESPONSES, ALICE, body=response_body())
        said = await answer.read()
        ident = re.findall(rb'"response": ?\{[^{}]*?"id": ?"([^"]+)"', said)[0].decode()
        client = await continued(other, ident, ALICE)
        answer = await client.answer()
        assert answer.status == 200, await answer.json()
