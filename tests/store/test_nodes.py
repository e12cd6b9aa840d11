"""Two nodes that share a Redis: what is begun at one is followed, named, listed, ended and shared at the other."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.event_loops import GUARD_S, POLL_S, until
from tests.event_streams import DONE, FINISH, chunk_frame, stamped
from tests.http_client import Answer
from tests.proxy_under_test import RESPONSES, Tee, faked, response_body, teed
from tests.stage import Stage, Turn
from tests.store.nodes import Nodes, sharing, stored, two_nodes
from tests.store.redis_server import redis_server

WORDS = [chunk_frame(f"word {n}") for n in range(1, 6)]
LAST = [FINISH, DONE]
KEY = "Stream-Key: chat-1"
IDEMPOTENT = "Idempotency-Key: once"
ALL = b"".join([*WORDS, *LAST])


@pytest.fixture
async def nodes() -> AsyncIterator[Nodes]:
    async with two_nodes() as nodes:
        yield nodes


async def started(tee: Tee, stage: Stage, *headers: str) -> tuple[Answer, Turn]:
    """Have a client ask for a stream, and the upstream say two words."""
    client = await tee.send_chat(*headers)
    turn = await stage.next()
    await turn.body()
    turn.begin()
    for frame in WORDS[:2]:
        turn.chunk(frame)
    answer = await client.answer()
    await answer.until(WORDS[1])
    return answer, turn


def finish(turn: Turn) -> None:
    """Have the upstream say the rest."""
    for frame in WORDS[2:]:
        turn.chunk(frame)
    turn.end(*LAST)


# Following


async def test_follower_at_another_node_gets_the_same_bytes(nodes: Nodes) -> None:
    """The past at once, then what comes, and the end; also with ids, and from a cursor on."""
    answer, turn = await started(nodes.owner, nodes.stage)
    raw = await nodes.other.follow(answer.stream_id, "mode=raw")
    events = await nodes.other.follow(answer.stream_id, "", f"Last-Event-ID: {answer.epoch}-1")
    assert (raw.status, events.status) == (200, 200)
    assert await raw.until(WORDS[1]) == b"".join(WORDS[:2])
    finish(turn)
    assert await raw.read() == await answer.read() == ALL
    assert (raw.end, answer.end) == ("whole", "whole")
    assert await events.read() == stamped(b"".join([*WORDS[1:], *LAST]), answer.epoch, 2)


async def test_follower_after_the_end_gets_all_of_it(nodes: Nodes) -> None:
    """In any mode, and its description as at the owner."""
    answer, turn = await started(nodes.owner, nodes.stage)
    finish(turn)
    await answer.read()
    assert await (await nodes.other.follow(answer.stream_id, "mode=raw")).read() == ALL
    assert await (await nodes.other.follow(answer.stream_id, "mode=text")).read() == b"".join(
        b"word %d" % n for n in range(1, 6)
    )
    here, there = [await tee.info(answer.stream_id) for tee in (nodes.owner, nodes.other)]
    assert here.pop("time_to_first_token_s") == pytest.approx(there.pop("time_to_first_token_s"), abs=1e-5)
    assert here == there


async def test_stream_that_fails_fails_everywhere(nodes: Nodes) -> None:
    """With the same words."""
    answer, turn = await started(nodes.owner, nodes.stage)
    raw = await nodes.other.follow(answer.stream_id, "mode=raw")
    events = await nodes.other.follow(answer.stream_id)
    turn.reset()
    assert await raw.read() == await answer.read() == b"".join(WORDS[:2])
    assert raw.end != "whole"
    assert b"upstream_reset" in await events.read()


async def test_many_followers_at_a_node_are_one_reader(nodes: Nodes) -> None:
    """Of a stream; each gets everything."""
    answer, turn = await started(nodes.owner, nodes.stage)
    followers = await asyncio.gather(*(nodes.other.follow(answer.stream_id, "mode=raw") for _ in range(20)))
    assert len(nodes.other.proxy.hub.replicas) == 1
    finish(turn)
    assert {await follower.read() for follower in followers} == {ALL}


async def test_streams_of_others_are_unknown(nodes: Nodes) -> None:
    """Callers are the same at all nodes, and so are others."""
    client = await nodes.owner.send_chat("Authorization: Bearer mine")
    turn = await nodes.stage.next()
    await turn.body()
    turn.begin()
    turn.chunk(WORDS[0])
    answer = await client.answer()
    assert (await nodes.other.follow(answer.stream_id, "", "Authorization: Bearer theirs")).status == 404
    assert (await nodes.other.follow("st_" + "a" * 26)).status == 404
    mine = await nodes.other.follow(answer.stream_id, "mode=raw", "Authorization: Bearer mine")
    turn.end(*LAST)
    assert (await mine.read()).endswith(DONE)


async def test_request_that_names_very_many_streams_is_refused_before_they_are_looked_for(nodes: Nodes) -> None:
    """Each that there is none of takes half a second, and 32 take no longer than one."""
    idents = ["st_" + f"{n:026d}".translate(str.maketrans("0123456789", "abcdefghij")) for n in range(1000)]
    async with asyncio.timeout(5):
        for count, status in ((1000, 400), (32, 404)):
            query = "&".join(f"stream={ident}" for ident in idents[:count])
            answer = await nodes.other.ask("GET", f"/v1/follow?{query}")
            assert answer.status == status


# Names


async def test_newest_stream_under_a_key_is_found_at_any_node(nodes: Nodes) -> None:
    """Wherever it was begun, and an older one of this node does not hide it."""
    first, turn = await started(nodes.other, nodes.stage, KEY)
    turn.end(*LAST)
    await first.read()
    second, turn = await started(nodes.owner, nodes.stage, KEY)
    follower = await nodes.other.follow("keys/chat-1", "mode=raw")
    assert follower.stream_id == second.stream_id
    finish(turn)
    assert await follower.read() == ALL


async def test_follower_may_wait_for_a_stream_that_begins_elsewhere(nodes: Nodes) -> None:
    """Under its key."""
    client = await nodes.other.send("GET", "/v1/keys/chat-1/stream?wait=10&mode=raw")
    await nodes.other.wait_followers(1)
    answer, turn = await started(nodes.owner, nodes.stage, KEY)
    follower = await client.answer()
    await follower.until(WORDS[1])
    finish(turn)
    assert await follower.read() == await answer.read() == ALL


async def test_list_has_the_streams_of_all_nodes(nodes: Nodes) -> None:
    """Running and ended; each once, and in the same shape."""
    first, turn = await started(nodes.owner, nodes.stage, KEY)
    second, other = await started(nodes.other, nodes.stage)
    finish(turn)
    await first.read()
    for tee in (nodes.owner, nodes.other):
        async with asyncio.timeout(GUARD_S):
            while {one["id"]: one["state"] for one in await tee.listed()} != {
                first.stream_id: "complete", second.stream_id: "open",
            }:  # fmt: skip
                pass
        assert len({tuple(sorted(one)) for one in await tee.listed()}) == 1
    finish(other)


# Ending


async def test_stream_is_cancelled_at_any_node(nodes: Nodes) -> None:
    """The upstream is closed, and all followers are told."""
    answer, turn = await started(nodes.owner, nodes.stage)
    follower = await nodes.other.follow(answer.stream_id)
    cancelled = await nodes.other.ask("POST", f"/v1/streams/{answer.stream_id}/cancel")
    assert (await cancelled.json())["state"] == "cancelled"
    await turn.wait_left()
    assert b"cancelled" in await follower.read()
    await answer.read()
    assert answer.end != "whole"


async def test_stream_whose_answer_has_ended_is_not_called_cancelled(nodes: Nodes) -> None:
    """Its client at the owner has had all of it; only the upstream's connection is still open."""
    answer, turn = await started(nodes.owner, nodes.stage)
    for frame in (*WORDS[2:], *LAST):
        turn.chunk(frame)
    await answer.until(LAST[-1])
    stream = nodes.owner.proxy.hub.find(answer.stream_id, None)
    await until(lambda: stream.outcome is not None)  # some upstreams say more after the final event, but not for long
    ended = await nodes.other.ask("POST", f"/v1/streams/{answer.stream_id}/cancel")
    assert (await ended.json())["state"] == "complete"
    await answer.read()
    assert answer.end == "whole"


async def test_stream_is_deleted_at_all_nodes(nodes: Nodes) -> None:
    """From any."""
    answer, turn = await started(nodes.owner, nodes.stage)
    deleted = await nodes.other.ask("DELETE", f"/v1/streams/{answer.stream_id}")
    assert (await deleted.json())["deleted"]
    await turn.wait_left()
    await answer.read()
    await until(lambda: not list(nodes.owner.proxy.hub))
    for tee in (nodes.owner, nodes.other):
        assert (await tee.follow(answer.stream_id)).status == 404


async def test_follower_elsewhere_holds_the_upstream_open(nodes: Nodes) -> None:
    """Until the last of all has left; the owner's /info counts them."""
    answer, turn = await started(nodes.owner, nodes.stage)
    follower = await nodes.other.follow(answer.stream_id, "mode=raw")
    await follower.until(WORDS[1])
    async with asyncio.timeout(GUARD_S):
        while (await nodes.owner.info(answer.stream_id))["followers_elsewhere"] != 1:
            await asyncio.sleep(POLL_S)
    await answer.client.leave()
    await nodes.owner.wait_followers(0)
    turn.chunk(WORDS[2])
    await follower.until(WORDS[2])
    await follower.client.leave()
    await turn.wait_left()
    assert (await nodes.owner.wait_ended(answer.stream_id))["ending"]["reason"] == "client_gone"


async def test_followers_of_all_nodes_are_counted_at_each() -> None:
    """The owner's own among them; each node leaves out its own."""
    async with two_nodes({"lease_s": 1}) as nodes:
        answer, turn = await started(nodes.owner, nodes.stage)
        followers = [await nodes.other.follow(answer.stream_id, "mode=raw") for _ in range(2)]
        async with asyncio.timeout(GUARD_S):
            while (await nodes.owner.info(answer.stream_id))["followers_elsewhere"] != 2:
                await asyncio.sleep(POLL_S)
            while (await nodes.other.info(answer.stream_id))["followers_elsewhere"] != 1:
                await asyncio.sleep(POLL_S)
        finish(turn)
        assert [await follower.read() for follower in followers] == [ALL, ALL]


async def test_drained_node_seals_what_it_leaves(nodes: Nodes) -> None:
    """Followers elsewhere are told so."""
    answer, _ = await started(nodes.owner, nodes.stage)
    follower = await nodes.other.follow(answer.stream_id)
    await follower.until(b"word 2")
    await nodes.owner.proxy.stop()
    assert b'"drained"' in await follower.read()


# Sharing a call


async def test_same_idempotency_key_at_two_nodes_makes_one_call(nodes: Nodes) -> None:
    """While it runs, and afterwards."""
    clients = [await tee.send_chat(IDEMPOTENT) for tee in (nodes.owner, nodes.other)]
    turn = await nodes.stage.next()
    await turn.body()
    turn.begin()
    for frame in WORDS[:2]:
        turn.chunk(frame)
    answers = [await client.answer() for client in clients]
    finish(turn)
    assert [await answer.read() for answer in answers] == [ALL, ALL]
    for tee in (nodes.owner, nodes.other):
        again = await tee.chat(IDEMPOTENT)
        assert await again.read() == ALL
        assert again.header("idempotency-replayed") == "true"
    assert nodes.stage.idle
    assert len(nodes.stage.turns) == 1


async def test_same_idempotency_key_for_another_body_is_refused(nodes: Nodes) -> None:
    """At the other node, too."""
    client = await nodes.owner.send_chat(IDEMPOTENT)
    turn = await nodes.stage.next()
    await turn.body()
    turn.begin()
    turn.end(*WORDS, *LAST)
    assert await (await client.answer()).read() == ALL
    assert (await nodes.other.chat(IDEMPOTENT, temperature=1)).status == 409


async def test_call_that_failed_is_made_again_by_one_node(nodes: Nodes) -> None:
    """Although its key is claimed."""
    client = await nodes.owner.send_chat(IDEMPOTENT)
    turn = await nodes.stage.next()
    await turn.body()
    turn.begin()
    turn.chunk(WORDS[0])
    answer = await client.answer()
    await answer.until(WORDS[0])
    turn.reset()
    await answer.read()
    await nodes.other.wait_ended(answer.stream_id)
    clients = [await tee.send_chat(IDEMPOTENT) for tee in (nodes.other, nodes.owner)]
    turn = await nodes.stage.next()
    await turn.body()
    turn.begin()
    turn.end(*WORDS, *LAST)
    assert [await (await client.answer()).read() for client in clients] == [ALL, ALL]
    assert len(nodes.stage.turns) == 2


# Responses by their ids


async def test_background_response_is_fetched_at_any_node() -> None:
    """By its own id; its events, too."""
    async with (
        faked() as fake,
        redis_server() as redis,
        sharing(fake.url, redis.url) as (owner, other),
    ):
        body = response_body(stream=False, background=True)
        ident = (await (await owner.ask("POST", RESPONSES, body=body)).json())["id"]
        async with asyncio.timeout(GUARD_S):
            while (await (await other.ask("GET", f"{RESPONSES}/{ident}")).json())["status"] != "completed":
                await asyncio.sleep(POLL_S)
        events = await other.ask("GET", f"{RESPONSES}/{ident}?stream=true")
        assert b"response.completed" in await events.read()


# Only what is stored


async def test_clients_are_sent_what_is_stored_alone_if_that_is_configured() -> None:
    """Those of the owner, too: while Redis takes nothing, they get nothing; then all of it."""
    async with two_nodes({"ack": "stored"}) as nodes:
        answer, turn = await started(nodes.owner, nodes.stage)
        late = await nodes.owner.follow(answer.stream_id, "mode=raw")
        nodes.redis.pause()
        turn.chunk(WORDS[2])
        await until(lambda: nodes.owner.proxy.hub.replicas[answer.stream_id].log.end == 2)
        owned = next(iter(nodes.owner.proxy.hub))
        await until(lambda: owned.log.end == 3)
        assert bytes(answer.body) == b"".join(WORDS[:2])
        nodes.redis.go_on()
        for frame in WORDS[3:]:
            turn.chunk(frame)
        turn.end(*LAST)
        assert await answer.read() == await late.read() == ALL


async def test_client_that_leaves_ends_the_stream_also_if_only_what_is_stored_is_sent() -> None:
    """The owner is told, as of any follower."""
    async with two_nodes({"ack": "stored"}) as nodes:
        answer, turn = await started(nodes.owner, nodes.stage)
        await answer.client.leave()
        await turn.wait_left()


# Without a store


async def test_proxy_begins_without_its_store_and_says_so() -> None:
    """Streams are local then, unless the store is required."""
    async with faked() as fake, teed(fake.url, store=stored("redis://127.0.0.1:1")) as tee:
        answer = await tee.chat()
        assert (await answer.read()).endswith(DONE)
        ready = await tee.admin("/readyz")
        assert (ready.status, await ready.json()) == (200, {"ready": True, "store": "down"})
        assert await tee.metric("streamtee_store_up") == 0
        assert await tee.metric("streamtee_store_errors_total") > 0
    async with faked() as fake, teed(fake.url, store=stored("redis://127.0.0.1:1", required=True)) as tee:
        await until(lambda: tee.proxy.hub.blocked is not None)
        refused = await tee.chat()
        assert (refused.status, (await tee.admin("/readyz")).status) == (503, 503)


async def test_streams_go_on_and_none_begins_while_the_store_that_is_required_is_away() -> None:
    """503, with what is wrong; and as before, once it is there again."""
    async with two_nodes({"required": True, "lease_s": 1}) as nodes:
        answer, turn = await started(nodes.owner, nodes.stage)
        nodes.redis.kill()
        await until(lambda: nodes.owner.proxy.hub.blocked is not None)
        refused = await nodes.owner.chat()
        assert (refused.status, refused.header("retry-after")) == (503, "1")
        assert "the store" in (await refused.json())["error"]["message"]
        finish(turn)
        assert await answer.read() == ALL
        await nodes.redis.start()
        await until(lambda: nodes.owner.proxy.hub.blocked is None)
        again, turn = await started(nodes.owner, nodes.stage)
        finish(turn)
        assert await again.read() == ALL
