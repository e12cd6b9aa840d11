"""Two nodes: somebody else than the owner ends a stream, of which clients of the owner have had more than is stored.

Wherever such a client goes on, it is told of the loss; and whoever was told goes on nowhere after an event that it has
not had.
"""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from proxy.store.entries import Seal
from proxy.store.leases import LOST
from proxy.store.store import STORED, Append
from proxy.stream.endings import CANCELLED, Ending
from tests.dialects.response_events import message, numbered, response
from tests.event_loops import until
from tests.event_streams import chunk_frame, stamped
from tests.proxy_under_test import RESPONSES
from tests.stage import Turn
from tests.store.nodes import Nodes, ahead, response_ahead, two_nodes
from tests.websocket_client import opened, rest

WORDS = [chunk_frame(f"word {n}") for n in range(1, 6)]
FRAMES = numbered(response(message(0, ["one ", "two ", "three "])), by_dashscope=True)
NO_FRAME = 9007199254740991
MODES = ("events", "spaced", "coalesced", "incremental", "cumulative", "chat")
HAD_BYTES, HAD_TEXT = len(b"".join(WORDS[:3])), len("word 1word 2word 3")
ENDINGS = pytest.mark.parametrize("ending", [LOST, CANCELLED], ids=["lost", "cancelled"])


@pytest.fixture
async def nodes() -> AsyncIterator[Nodes]:
    """Run two nodes, of which the owner writes as seldom as can be."""
    async with two_nodes({"flush_ms": 1000}) as nodes:
        yield nodes


async def impose(nodes: Nodes, ident: str, ending: Ending) -> None:
    """End a stream as a node does that takes its owner for dead, or that the owner does not answer."""
    assert await nodes.other.proxy.node.store.write([Append(ident, Seal(ending).entry())]) == [STORED]
    await until(lambda: nodes.other.proxy.hub.replicas[ident].sealed)


async def cut_short(nodes: Nodes, ending: Ending) -> tuple[str, str, Turn]:
    """Have a stream that ended so at the other node after two words; its client at the owner has had a third one."""
    answer, turn = await ahead(nodes, WORDS)
    await impose(nodes, answer.stream_id, ending)
    return answer.stream_id, answer.epoch, turn


@ENDINGS
async def test_client_that_had_a_lost_event_is_told_in_every_mode(nodes: Nodes, ending: Ending) -> None:
    """By an event id, by its number, by bytes; the error has a number that no event has, and after it comes nothing."""
    ident, epoch, _ = await cut_short(nodes, ending)
    for mode in MODES:
        for had in (3, 4, 1000):
            late = await nodes.other.follow(ident, f"mode={mode}&after={had}")
            body = await late.read()
            assert (late.status, late.end, body.count(b"word")) == (200, "whole", 0)
            assert ending.reason.encode() in body
            assert f"{epoch}-{NO_FRAME}".encode() in body
        again = await nodes.other.follow(ident, f"mode={mode}", f"Last-Event-ID: {epoch}-{NO_FRAME}")
        assert again.status == 204
    for query in ("raw&after=3", f"raw&offset={HAD_BYTES}", "text&after=3", f"text&offset={HAD_TEXT}"):
        late = await nodes.other.follow(ident, f"mode={query}")
        assert (late.status, await late.read()) == (200, b"")
        assert late.end != "whole"


@ENDINGS
async def test_client_of_a_websocket_that_had_a_lost_event_is_told(nodes: Nodes, ending: Ending) -> None:
    """With the error as its one message; after that with the close alone."""
    ident, epoch, _ = await cut_short(nodes, ending)
    async with opened(nodes.other, ident, "after=3") as socket:
        told, close = await rest(socket)
    assert [one["id"] for one in told] == [f"{epoch}-{NO_FRAME}"]
    assert ending.reason in told[0]["data"]
    assert close == (ending.close_code, ending.reason)
    async with opened(nodes.other, ident, f"after={epoch}-{NO_FRAME}") as socket:
        assert await rest(socket) == ([], close)


@ENDINGS
async def test_client_of_several_streams_that_had_a_lost_event_is_told(nodes: Nodes, ending: Ending) -> None:
    """On the connection that they share."""
    ident, epoch, _ = await cut_short(nodes, ending)
    late = await nodes.other.ask("GET", f"/v1/follow?stream={ident}&after={epoch}-3")
    body = await late.read()
    told = [json.loads(line[5:]) for line in body.splitlines() if line.startswith(b"data:")]
    assert [(one["ending"], one["id"]) for one in told] == [(ending.reason, f"{epoch}-{NO_FRAME}")]
    assert body.endswith(f"id: {epoch}-{NO_FRAME}\n\n".encode())
    assert (await nodes.other.ask("GET", f"/v1/follow?stream={ident}&after={epoch}-{NO_FRAME}")).status == 204


@ENDINGS
async def test_client_of_a_response_that_had_a_lost_event_is_told(nodes: Nodes, ending: Ending) -> None:
    """By the path of the API; the owner takes the number of that error for none of its own."""
    answer, _ = await response_ahead(nodes, FRAMES)
    await impose(nodes, answer.stream_id, ending)
    path = f"{RESPONSES}/{answer.stream_id}?stream=true&starting_after"
    late = await (await nodes.other.ask("GET", f"{path}=3")).read()
    (data,) = [json.loads(line[6:]) for line in late.splitlines() if line.startswith(b"data: ")]
    assert (data["type"], data["sequence_number"]) == ("response.failed", NO_FRAME)
    there, here = [await tee.ask("GET", f"{path}={NO_FRAME}") for tee in (nodes.other, nodes.owner)]
    assert (there.status, here.status) == (204, 400)
    had = await nodes.owner.ask("GET", f"{path}=2")
    assert (await had.read()).startswith(stamped(FRAMES[3], answer.epoch, 4))


@ENDINGS
async def test_owner_skips_nothing_for_a_client_that_was_told_elsewhere(nodes: Nodes, ending: Ending) -> None:
    """While it goes on: 416. Once it has learnt of the ending it ends the same way, and then nothing is left."""
    ident, epoch, turn = await cut_short(nodes, ending)
    told = f"{epoch}-{NO_FRAME}"
    early = [
        await nodes.owner.follow(ident, f"after={told}"),
        await nodes.owner.ask("GET", f"/v1/follow?stream={ident}&after={told}"),
    ]
    assert [one.status for one in early] == [416, 416]
    assert "begin after the last event before that error" in (await early[0].json())["error"]["message"]
    on = await nodes.owner.follow(ident, "after=2")
    turn.chunk(WORDS[3])
    body = await on.read()
    assert body.startswith(stamped(b"".join(WORDS[2:3]), epoch, 3))
    assert ending.reason.encode() in body
    assert body.rstrip().endswith(told.encode())
    late = await asyncio.gather(*(tee.follow(ident, f"after={told}") for tee in (nodes.owner, nodes.other)))
    assert [one.status for one in late] == [204, 204]
