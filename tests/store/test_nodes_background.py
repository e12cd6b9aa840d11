"""Two nodes: a response in the background is fetched, followed, cancelled and deleted at another node than its own."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.cuts import messages
from tests.dialects.response_events import ID, message, numbered, response
from tests.event_loops import until
from tests.proxy_under_test import RESPONSES, Tee, response_body
from tests.stage import Turn
from tests.store.nodes import Nodes, two_nodes

FRAMES = numbered(response(message(0, ["one ", "two ", "three ", "four "])), by_dashscope=True)
HAD = 4


@pytest.fixture
async def nodes() -> AsyncIterator[Nodes]:
    """Run two nodes that keep no stream but responses in the background."""
    async with two_nodes({"flush_ms": 5}, streams={"retain_s": 0}) as nodes:
        yield nodes


async def begun(nodes: Nodes) -> tuple[str, Turn]:
    """Begin a response in the background at one node; return the id of its stream, once both nodes know the other."""
    client = await nodes.owner.send("POST", RESPONSES, body=response_body(stream=False, background=True))
    turn = await nodes.stage.next()
    await turn.body()
    turn.begin()
    for frame in FRAMES[:HAD]:
        turn.chunk(frame)
    answer = await client.answer()
    assert (await answer.json())["status"] in ("queued", "in_progress")
    follower = await nodes.other.follow(answer.stream_id, "mode=raw")
    await follower.until(FRAMES[HAD - 1])
    await follower.client.leave()
    return answer.stream_id, turn


async def fetched(tee: Tee, ident: str) -> dict[str, Any]:
    answer = await tee.ask("GET", f"{RESPONSES}/{ident}")
    assert answer.status == 200
    told: dict[str, Any] = await answer.json()
    return told


def events(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(said.data) for said in messages(body)]


async def test_response_is_followed_at_another_node_after_any_number(nodes: Nodes) -> None:
    """By the upstream's id and by that of its stream; while it runs and when it has ended: none lost, none repeated."""
    ident, turn = await begun(nodes)
    everything = events(b"".join(FRAMES))
    early = [
        (number, await nodes.other.ask("GET", f"{RESPONSES}/{name}?stream=true&starting_after={number}"))
        for number in (-1, 0, HAD - 1)
        for name in (ident, ID)
    ]
    assert (await fetched(nodes.other, ID))["status"] == "in_progress"
    turn.end(*FRAMES[HAD:])
    for number, answer in early:
        assert events(await answer.read()) == everything[number + 1 :]
    for number in range(-1, len(FRAMES)):
        answer = await nodes.other.ask("GET", f"{RESPONSES}/{ID}?stream=true&starting_after={number}")
        assert events(await answer.read()) == everything[number + 1 :]
    assert await fetched(nodes.other, ID) == await fetched(nodes.owner, ID) == everything[-1]["response"]


@pytest.mark.parametrize("by", ["the id of its stream", "the upstream's id"])
async def test_response_is_cancelled_at_another_node(nodes: Nodes, by: str) -> None:
    """Its upstream is closed, followers at both nodes are told, and both nodes say so."""
    ident, turn = await begun(nodes)
    name = ID if by == "the upstream's id" else ident
    followers = [await tee.ask("GET", f"{RESPONSES}/{name}?stream=true") for tee in (nodes.owner, nodes.other)]
    answer = await nodes.other.ask("POST", f"{RESPONSES}/{name}/cancel")
    assert (answer.status, (await answer.json())["status"]) == (200, "cancelled")
    await turn.wait_left()
    for follower in followers:
        *said, last = events(await follower.read())
        assert said == events(b"".join(FRAMES[:HAD]))
        assert (last["type"], last["response"]["status"]) == ("response.failed", "cancelled")
    for tee in (nodes.owner, nodes.other):
        assert (await fetched(tee, name))["status"] == "cancelled"
        again = await tee.ask("POST", f"{RESPONSES}/{name}/cancel")
        assert (await again.json())["status"] == "cancelled"


@pytest.mark.parametrize("has_ended", [False, True])
async def test_response_is_deleted_at_another_node(nodes: Nodes, *, has_ended: bool) -> None:
    """Its upstream is closed, and neither node knows it any more, by either id."""
    ident, turn = await begun(nodes)
    if has_ended:
        turn.end(*FRAMES[HAD:])
        await nodes.other.wait_ended(ident)
    answer = await nodes.other.ask("DELETE", f"{RESPONSES}/{ID}")
    assert await answer.json() == {"id": ID, "object": "response", "deleted": True}
    if not has_ended:
        await turn.wait_left()
    await until(lambda: not list(nodes.owner.proxy.hub))
    for tee in (nodes.owner, nodes.other):
        for name in (ident, ID):
            assert (await tee.ask("GET", f"{RESPONSES}/{name}")).status == 404
            assert (await tee.ask("GET", f"{RESPONSES}/{name}?stream=true")).status == 404
        assert (await tee.follow(ident)).status == 404
    assert nodes.stage.idle
