"""Several streams on one connection, over real sockets: what is sent, what is refused, and how it is resumed."""

import asyncio
import json
from typing import Any

import pytest
from websockets.asyncio.client import connect

from proxy.server.following.follow_many import MOST_STREAMS
from proxy.wire.sse import dispatched
from tests.access.keys import NOBODY, SECRET, token
from tests.event_loops import GUARD_S, until
from tests.event_streams import DONE, FINISH, blocks, chunk_frame
from tests.http_client import Answer
from tests.proxy_under_test import Tee, begun, teed
from tests.stage import Stage, Turn
from tests.websocket_client import MINE, rest

SIGNED = {"capabilities": {"secrets": [SECRET]}}


def path(*idents: str, **more: str) -> str:
    named = [f"stream={ident}" for ident in idents] + [f"{name}={value}" for name, value in more.items()]
    return "/v1/follow?" + "&".join(named)


def events(body: bytes) -> list[tuple[str, dict[str, str]]]:
    """Return the id of each event, and what it says."""
    return [((event.id or b"").decode(), json.loads(event.data or b"")) for event in dispatched(body)]


def of(said: list[tuple[str, dict[str, str]]], ident: str) -> list[tuple[str, str, str | None]]:
    """Return what the events of one stream say."""
    return [(one["id"], one["data"], one.get("ending")) for _, one in said if one["stream"] == ident]


async def two(tee: Tee, stage: Stage) -> list[tuple[Answer, Turn]]:
    """Begin two streams of two frames."""
    return [await begun(tee, stage, frames=2) for _ in range(2)]


async def finished(tee: Tee, stage: Stage) -> list[str]:
    """Return the ids of two streams: one that is complete, and one that broke off."""
    (one, first), (other, second) = await two(tee, stage)
    first.end(FINISH, DONE)
    second.reset()
    await asyncio.gather(one.read(), other.read())
    return [one.stream_id, other.stream_id]


async def test_streams_are_followed_together(tee: Tee, stage: Stage) -> None:
    """From their start, as they come; each ends with an event that says how, and the last one ends the connection."""
    (one, first), (other, second) = await two(tee, stage)
    follower = await tee.ask("GET", path(one.stream_id, other.stream_id))
    assert follower.header("content-type") == "text/event-stream;charset=UTF-8"
    assert follower.header("stream-mode") == "events"
    first.chunk(chunk_frame("more"))
    await follower.until(b"more")
    second.reset()
    await follower.until(b"upstream_reset")
    assert follower.end == "open"
    first.end(FINISH, DONE)
    said = events(await follower.read())
    assert follower.end == "whole"
    mine, others = of(said, one.stream_id), of(said, other.stream_id)
    assert [seq for seq, _, _ in mine] == [f"{one.epoch}-{seq}" for seq in range(1, 7)]
    assert [json.loads(data)["choices"][0]["delta"]["content"] for _, data, _ in mine[:4]] == [
        "word 1",
        "word 2",
        "more",
        "",
    ]
    assert [data for _, data, _ in mine[4:]] == ["[DONE]", ""]
    assert [ending for _, _, ending in mine] == [None] * 5 + ["complete"]
    assert [ending for _, _, ending in others] == [None, None, "upstream_reset"]
    assert said[-1][0] == f"{one.epoch}-6,{other.epoch}-3"
    assert len(blocks(bytes(follower.body))) == len(said)


async def test_drained_streams_are_told_so(stage: Stage) -> None:
    """Each by its last event, as of any other end; then the connection ends."""
    async with teed(stage.url, drain_s=0) as tee:
        (one, _), (other, _) = await two(tee, stage)
        follower = await tee.ask("GET", path(one.stream_id, other.stream_id))
        await asyncio.gather(follower.until(b"word 2"), tee.proxy.drain())
        said = events(await follower.read())
        for answer in (one, other):
            assert [ending for _, _, ending in of(said, answer.stream_id)] == [None, None, "drained"]
        assert follower.end == "whole"


async def test_resume_after_every_event_gives_what_is_left(tee: Tee, stage: Stage) -> None:
    """No event of any stream is lost or repeated, wherever the connection was cut; after the last one there is 204."""
    idents = await finished(tee, stage)
    whole = events(await (await tee.ask("GET", path(*idents))).read())
    for seen in range(1, len(whole)):
        again = await tee.ask("GET", path(*idents), f"Last-Event-ID: {whole[seen - 1][0]}")
        left = events(await again.read())
        for ident in idents:
            assert of(whole[:seen], ident) + of(left, ident) == of(whole, ident)
        assert left[-1][0].split(",").sort() == whole[-1][0].split(",").sort()
    done = await tee.ask("GET", path(*idents, after=whole[-1][0]))
    assert done.status == 204


async def test_page_may_ask_for_fewer_or_other_streams(tee: Tee, stage: Stage) -> None:
    """Cursors of others are not looked at, and a stream without one is sent from its start."""
    idents = await finished(tee, stage)
    whole = events(await (await tee.ask("GET", path(*idents))).read())
    last = f"Last-Event-ID: {whole[-1][0]}"
    third, turn = await begun(tee, stage, frames=1)
    turn.end(FINISH, DONE)
    await third.read()
    said = events(await (await tee.ask("GET", path(idents[0], third.stream_id), last)).read())
    assert {one["stream"] for _, one in said} == {third.stream_id}
    assert len(said) == 4
    assert (await tee.ask("GET", path(third.stream_id), last)).status == 409


async def test_websocket_has_the_same_events(tee: Tee, stage: Stage) -> None:
    """Each a message, which names the id to resume by; closed with the code of the first that is not complete."""
    idents = await finished(tee, stage)
    whole = events(await (await tee.ask("GET", path(*idents))).read())
    url = tee.proxy.url.replace("http", "ws", 1)
    async with asyncio.timeout(GUARD_S):
        async with connect(url + path(*idents), additional_headers=MINE) as socket:
            found, close = await rest(socket)
        assert [(one.pop("last_event_id"), one) for one in found] == whole
        assert close == (4502, "upstream_reset")
        async with connect(url + path(idents[0], after=whole[1][0]), additional_headers=MINE) as socket:
            found, close = await rest(socket)
        assert (found[0]["id"][-1], close) == ("3", (1000, "complete"))
        async with connect(url + path(*idents, after=whole[-1][0]), additional_headers=MINE) as socket:
            assert await rest(socket) == ([], (4502, "upstream_reset"))


async def test_keys_name_streams_too(tee: Tee, stage: Stage) -> None:
    """The caller's newest under each; a stream that is named twice is sent once."""
    answer, turn = await begun(tee, stage, "Stream-Key: chat", frames=1)
    turn.end(FINISH, DONE)
    await answer.read()
    said = events(await (await tee.ask("GET", path(answer.stream_id, key="chat"))).read())
    assert len(said) == 4
    missing = await tee.ask("GET", path(answer.stream_id, key="other"))
    assert (missing.status, "'other'" in (await missing.json())["error"]["message"]) == (404, True)


async def test_unknown_and_foreign_streams_are_refused_before_anything_is_sent(tee: Tee, stage: Stage) -> None:
    """By the same words, which name the id."""
    (one, first), _ = await two(tee, stage)
    foreign = await tee.send_chat("Authorization: Bearer sk-another")
    (await stage.next()).begin()
    ident = (await foreign.answer()).stream_id
    for other in (ident, "st_" + "a" * 26):
        refused = await tee.ask("GET", path(one.stream_id, other))
        assert (refused.status, other in (await refused.json())["error"]["message"]) == (404, True)
    first.end()


async def test_tokens_of_several_streams_are_enough(stage: Stage) -> None:
    """Each for its own; one whose token is missing is refused, and one whose time is over ends alone."""
    async with teed(stage.url, **SIGNED) as tee:
        (one, first), (other, second) = await two(tee, stage)
        idents = (one.stream_id, other.stream_id)
        tokens = [token(ident) for ident in idents]
        follower = await tee.ask("GET", path(*idents) + f"&t={tokens[1]}&t={tokens[0]}", NOBODY)
        refused = await tee.ask("GET", path(*idents, t=tokens[0]), NOBODY)
        assert (refused.status, idents[1] in (await refused.json())["error"]["message"]) == (404, True)
        (stream,) = [stream for stream in tee.proxy.hub if stream.id == idents[1]]
        subscription = next(one for one in stream.subscriptions if one.mode == "events")
        tee.proxy.hub.expiring[subscription] = 0.0
        await follower.until(b'"ending":"capability_expired"')
        first.end(FINISH, DONE)
        said = events(await follower.read())
        assert [one["ending"] for _, one in said if "ending" in one] == ["capability_expired", "complete"]
        assert said[-1][0] == f"{one.epoch}-5,{other.epoch}-2"
        second.end()


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("", 400, "stream=ID"),
        ("stream=a&mode=raw", 400, "coalesced"),
        ("stream=a&mode=text", 400, "coalesced"),
        ("stream=a&mode=none", 400, "not one of"),
        ("&".join(f"stream={number}" for number in range(MOST_STREAMS + 1)), 400, f"{MOST_STREAMS} are allowed"),
    ],
)
async def test_bad_request_is_told_what_is_allowed(tee: Tee, query: str, status: int, words: str) -> None:
    """In the shape of all errors."""
    answer = await tee.ask("GET", f"/v1/follow?{query}")
    assert (answer.status, words in (await answer.json())["error"]["message"]) == (status, True)


async def test_cursor_that_is_none_is_refused(tee: Tee, stage: Stage) -> None:
    """A number is no cursor of several streams, and none may be beyond the events there are."""
    idents = await finished(tee, stage)
    for cursor, status in (("7", 400), (f"{idents[0][3:9]}-99", 416), (f"{idents[0][3:9]}-1,x", 400)):
        answer = await tee.ask("GET", path(*idents, after=cursor))
        assert answer.status == status, await answer.read()


async def test_past_that_is_gone_is_410(stage: Stage) -> None:
    """It says of which stream, and what is the earliest."""
    async with teed(stage.url, limits={"log_bytes": 2000}) as tee:
        answer, turn = await begun(tee, stage, frames=1)
        for size in range(2, 31):
            turn.chunk(chunk_frame("word 1"))
            await answer.bytes(size * len(chunk_frame("word 1")))
        await until(lambda: next(iter(tee.proxy.hub)).log.start > 0)
        refused = await tee.ask("GET", path(answer.stream_id, after=f"{answer.epoch}-1"))
        told = await refused.json()
        assert (refused.status, answer.stream_id in told["error"]["message"]) == (410, True)
        assert told["earliest"] > 2
        turn.end()


async def test_response_that_is_no_stream_is_told_so(tee: Tee, stage: Stage) -> None:
    """By an ending, once: it has no events."""
    client = await tee.send_chat("Idempotency-Key: k", stream=False)
    turn = await stage.next()
    await turn.body()
    turn.reply("200 OK", "Content-Type: application/json", body=b"{}")
    ident = (await client.answer()).stream_id
    follower = await tee.ask("GET", path(ident))
    ((cursor, end),) = events(await follower.read())
    assert (end["ending"], end["stream"]) == ("refused", ident)
    assert (await tee.ask("GET", path(ident, after=cursor))).status == 204


async def test_only_what_comes_from_now_on(tee: Tee, stage: Stage) -> None:
    """`after=now`, of all."""
    (one, first), (other, second) = await two(tee, stage)
    follower = await tee.ask("GET", path(one.stream_id, other.stream_id, after="now"))
    first.chunk(chunk_frame("new"))
    ((cursor, event),) = events(await follower.until(b"\n\n"))
    assert "new" in event["data"]
    assert cursor == f"{one.epoch}-3,{other.epoch}-2"
    first.end()
    second.end()


async def test_slow_connection_hurts_nobody(tee: Tee, stage: Stage) -> None:
    """Others on the same streams have everything at once, and it has, when it reads on."""
    (one, first), (other, second) = await two(tee, stage)
    query = path(one.stream_id, other.stream_id)
    slow = await tee.connect(receive_bytes=4096)
    slow.send(f"GET {query} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-the-caller\r\n\r\n".encode())
    answer = await slow.answer()
    slow.stall()
    quick = await tee.ask("GET", query)
    await asyncio.gather(*(answer.client.leave() for answer in (one, other)))
    big = chunk_frame("x" * 50_000)
    for _ in range(60):
        await asyncio.gather(
            first.pour(b"%x\r\n%b\r\n" % (len(big), big)), second.pour(b"%x\r\n%b\r\n" % (len(big), big))
        )
    first.end(FINISH, DONE)
    second.end(FINISH, DONE)
    said = events(await quick.read())
    assert [one["ending"] for _, one in said if "ending" in one] == ["complete"] * 2
    parked = [one for stream in tee.proxy.hub for one in stream.subscriptions]
    assert all(one.parked for one in parked)
    slow.read_on()
    late: list[Any] = events(await answer.read())
    for ident in (one.stream_id, other.stream_id):
        assert of(late, ident) == of(said, ident)


async def test_many_followers_need_room_for_all(stage: Stage) -> None:
    """A connection counts as a follower of each of its streams."""
    async with teed(stage.url, limits={"followers": 3}) as tee:
        (one, first), (other, second) = await two(tee, stage)
        assert (await tee.ask("GET", path(one.stream_id, other.stream_id))).status == 503
        assert (await tee.ask("GET", path(one.stream_id))).status == 200
        first.end()
        second.end()
