"""Two nodes: a client has had events that the other node's copy lacks, and goes on there. They come in a moment."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from tests.dialects.response_events import message, numbered, response
from tests.event_streams import DONE, FINISH, chunk_frame, stamped
from tests.proxy_under_test import RESPONSES, begun
from tests.stage import Turn
from tests.store.nodes import Nodes, ahead, response_ahead, two_nodes

WORDS = [chunk_frame(f"word {n}") for n in range(1, 6)]
LAST = [FINISH, DONE]
FRAMES = numbered(response(message(0, ["one ", "two ", "three "])), by_dashscope=True)
NEVER_SAID = 99
FLUSH_MS = 400


@pytest.fixture
async def nodes() -> AsyncIterator[Nodes]:
    """Run two nodes, of which the owner writes so seldom that what was said is not stored for a while."""
    async with two_nodes({"flush_ms": FLUSH_MS}) as nodes:
        yield nodes


def finish(turn: Turn) -> None:
    """Have the upstream say the rest."""
    for frame in WORDS[3:]:
        turn.chunk(frame)
    turn.end(*LAST)


async def test_cursor_that_another_node_has_not_reached_is_waited_for(nodes: Nodes) -> None:
    """By the id of an event, by its number, and by bytes of the stream or of its text."""
    answer, turn = await ahead(nodes, WORDS)
    ident, had = answer.stream_id, b"".join(WORDS[:3])
    followers = await asyncio.gather(
        nodes.other.follow(ident, "", f"Last-Event-ID: {answer.epoch}-3"),
        nodes.other.follow(ident, "after=3"),
        nodes.other.follow(ident, f"mode=raw&offset={len(had)}"),
        nodes.other.follow(ident, f"mode=text&offset={len('word 1word 2word 3')}"),
    )
    assert [follower.status for follower in followers] == [200] * 4
    finish(turn)
    rest = b"".join([*WORDS[3:], *LAST])
    events = stamped(rest, answer.epoch, 4)
    assert [await follower.read() for follower in followers] == [events, events, rest, b"word 4word 5"]


async def test_cursors_of_several_streams_are_waited_for(nodes: Nodes) -> None:
    """On one connection, of which one stream is of the node itself."""
    answer, turn = await ahead(nodes, WORDS)
    own, own_turn = await begun(nodes.other, nodes.stage, frames=1)
    query = f"stream={answer.stream_id}&stream={own.stream_id}&after={answer.epoch}-3,{own.epoch}-1"
    follower = await nodes.other.ask("GET", f"/v1/follow?{query}")
    assert follower.status == 200
    finish(turn)
    own_turn.end(*LAST)
    body = (await follower.read()).decode()
    heard = [json.loads(line[5:]) for line in body.splitlines() if line.startswith("data:")]
    ids = [one["id"] for one in heard if one["stream"] == answer.stream_id and "ending" not in one]
    assert ids[:4] == [f"{answer.epoch}-{seq}" for seq in (4, 5, 6, 7)]


async def test_number_of_an_event_of_a_response_is_waited_for(nodes: Nodes) -> None:
    """By the path of the API."""
    answer, turn = await response_ahead(nodes, FRAMES)
    path = f"{RESPONSES}/{answer.stream_id}?stream=true&starting_after"
    resumed, beyond = await asyncio.gather(
        nodes.other.ask("GET", f"{path}=3"), nodes.other.ask("GET", f"{path}={NEVER_SAID}")
    )
    assert (resumed.status, beyond.status) == (200, 400)
    turn.end(*FRAMES[4:])
    assert await resumed.read() == stamped(b"".join(FRAMES[4:]), answer.epoch, 5)


async def test_cursor_of_what_was_never_said_is_refused_in_bounded_time(nodes: Nodes) -> None:
    """Although the stream goes on meanwhile; its other followers are not touched."""
    answer, turn = await ahead(nodes, WORDS)
    ident = answer.stream_id
    async with asyncio.timeout(5):
        refused = await asyncio.gather(
            nodes.other.follow(ident, f"after={NEVER_SAID}"),
            nodes.other.follow(ident, "mode=raw&offset=99999"),
            nodes.other.follow(ident, "mode=text&offset=99999"),
            nodes.other.ask("GET", f"/v1/follow?stream={ident}&after={answer.epoch}-{NEVER_SAID}"),
        )
    assert [one.status for one in refused] == [416] * 4
    at_once = await nodes.owner.follow(ident, f"after={NEVER_SAID}")
    assert at_once.status == 416
    finish(turn)
    assert await answer.read() == b"".join([*WORDS, *LAST])


async def test_cursor_is_not_called_wrong_while_the_store_cannot_be_read(nodes: Nodes) -> None:
    """503, since the owner may have it; and a client may try again."""
    answer, _ = await ahead(nodes, WORDS)
    nodes.redis.kill()
    late = await nodes.other.follow(answer.stream_id, "after=3")
    assert (late.status, late.header("retry-after")) == (503, "1")
    assert (await late.json())["error"]["code"] == "store_unavailable"
    await nodes.redis.start()
