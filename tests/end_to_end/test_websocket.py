"""Following by WebSocket: the events that SSE has, one a message, and every ending as a close code."""

import asyncio
import json

import aiohttp
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from proxy.wire.websocket import PING
from tests.cuts import messages
from tests.event_loops import GUARD_S, on_one_loop
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.frames import ASK, heard, masked
from tests.http_client import request
from tests.proxy_under_test import Serve, Tee, begun
from tests.stage import Stage
from tests.websocket_client import MINE, opened, rest


def as_messages(body: bytes, last: str = "") -> list[dict[str, str]]:
    """Return what events a browser would dispatch for a body of SSE, in the words of the messages."""
    found = []
    for event in messages(body):
        last = event.id.decode() if event.id is not None else last
        found.append({"id": last, "event": event.type.decode() or "message", "data": event.data.decode()})
    return found


async def ended(tee: Tee, *, fault: str = "", dialect: str = "chat") -> str:
    """Run a stream to its end; return its id."""
    answer = await tee.generate(dialect, fault=fault)
    await answer.read()
    await tee.wait_ended(answer.stream_id)
    return answer.stream_id


# The events


@pytest.mark.parametrize("dialect", ["chat", "native"])
@pytest.mark.parametrize("fault", ["", "crlf", "comments", "split_bytes"])
async def test_messages_are_the_events_of_sse(serve: Serve, fault: str, dialect: str) -> None:
    """Same ids, same types, same data; then 1000."""
    tee = await serve()
    ident = await ended(tee, fault=fault, dialect=dialect)
    events = await (await tee.follow(ident)).read()
    async with opened(tee, ident) as socket:
        assert await rest(socket) == (as_messages(events), (1000, "complete"))
        assert socket.response is not None
        assert socket.response.headers["Stream-Id"] == ident
        assert socket.response.headers["Stream-Mode"] == "events"
        assert "Sec-WebSocket-Extensions" not in socket.response.headers


async def test_follower_lives_along(perform: Serve, stage: Stage) -> None:
    """A message comes with its frame, to all who follow, whenever they came; aiohttp's client is one of them."""
    tee = await perform()
    answer, turn = await begun(tee, stage, frames=2)
    url = f"{tee.proxy.url}/v1/streams/{answer.stream_id}"
    async with opened(tee, answer.stream_id) as early, aiohttp.ClientSession(headers=MINE) as session:
        for number in (1, 2):
            assert json.loads(await early.recv())["id"] == f"{answer.epoch}-{number}"
        turn.chunk(chunk_frame("more"))
        assert "more" in json.loads(await early.recv())["data"]
        async with session.ws_connect(url) as late:
            texts = [await late.receive_str() for _ in range(3)]
            assert [json.loads(text)["id"][-1] for text in texts] == ["1", "2", "3"]
            turn.end(FINISH, DONE)
            assert [json.loads(await late.receive_str())["data"] for _ in range(2)][1] == "[DONE]"
            assert (await late.receive()).type == aiohttp.WSMsgType.CLOSE
            assert late.close_code == 1000
        found, close = await rest(early)
        assert [message["id"][-1] for message in found] == ["4", "5"]
        assert close == (1000, "complete")
    assert await tee.metric("streamtee_requests_total", status="101") == 2


@pytest.mark.parametrize("way", ["header", "last_event_id", "after"])
async def test_follower_resumes_after_its_last_message(serve: Serve, way: str) -> None:
    """With the header, or in the query, which is all that browsers have."""
    tee = await serve()
    ident = await ended(tee)
    whole = as_messages(await (await tee.follow(ident)).read())
    cursor = whole[1]["id"]
    query, headers = ("", {"Last_Event_ID": cursor}) if way == "header" else (f"{way}={cursor}", {})
    async with opened(tee, ident, query, **headers) as socket:
        assert await rest(socket) == (whole[2:], (1000, "complete"))
        assert socket.response is not None
        assert socket.response.headers["Stream-Resumed-From"] == cursor


async def test_follower_that_has_had_everything_is_closed(serve: Serve) -> None:
    """Where SSE answers 204, which a browser's WebSocket can't tell from a failure."""
    tee = await serve()
    ident = await ended(tee)
    last = (await tee.info(ident))["events"]
    async with opened(tee, ident, f"after={last}") as socket:
        assert await rest(socket) == ([], (1000, "complete"))
    broken = await ended(tee, fault="reset")
    last = (await tee.info(broken))["events"] + 1
    async with opened(tee, broken, f"after={last}") as socket:
        assert await rest(socket) == ([], (4502, "upstream_reset"))


# What is refused


@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [
        ("mode=raw", (), 400),
        ("mode=nonesuch", (), 400),
        ("offset=3", (), 400),
        ("after=999", (), 416),
        ("after=aaaaaa-1", (), 409),
        ("", ("Origin: https://evil.example",), 403),
        ("", ("Authorization: Bearer sk-another",), 404),
    ],
)
@on_one_loop
async def test_refusal_is_an_answer_of_http(serve: Serve, query: str, headers: tuple[str, ...], status: int) -> None:
    """As that of SSE, before any protocol is switched."""
    tee = await serve()
    ident = await ended(tee)
    answer = await tee.follow(ident, query, *ASK, *headers)
    assert answer.status == status
    assert (await answer.json())["error"]["message"]


@on_one_loop
async def test_refused_version_is_told_which_is_spoken(serve: Serve) -> None:
    """RFC 6455 section 4.2.2."""
    tee = await serve()
    ident = await ended(tee)
    answer = await tee.follow(ident, "", *ASK[:2], "Sec-WebSocket-Version: 8")
    assert answer.status == 426
    assert answer.header("sec-websocket-version") == "13"
    assert answer.header("upgrade") == "websocket"


@on_one_loop
async def test_unknown_stream_is_refused(serve: Serve) -> None:
    """A real client sees the status."""
    tee = await serve()
    with pytest.raises(InvalidStatus) as refused:
        async with opened(tee, "st_nonesuch"):
            pass
    assert refused.value.response.status_code == 404


@on_one_loop
async def test_upgrade_that_is_not_asked_for_in_connection_is_plain_http(serve: Serve) -> None:
    """RFC 9110 section 7.8: ignored."""
    tee = await serve()
    ident = await ended(tee)
    answer = await tee.follow(ident, "", "Upgrade: websocket")
    assert answer.status == 200
    assert (await answer.read()).endswith(b"\n\n")


# Browsers: no header but the origin's and the cookies'


@pytest.mark.parametrize(
    ("origin", "cookie", "credentials", "status"),
    [
        ("https://page.example", (), False, 101),
        ("https://other.example", (), False, 403),
        ("https://page.example", ("Cookie: a=b",), False, 403),
        ("https://page.example", ("Cookie: a=b",), True, 101),
    ],
)
@on_one_loop
async def test_page_of_a_listed_origin_may_follow(
    serve: Serve, origin: str, cookie: tuple[str, ...], credentials: bool, status: int
) -> None:
    """As CORS has it: with cookies, which a WebSocket always sends, only where credentials are allowed."""
    tee = await serve(cors={"origins": ["https://page.example"], "credentials": credentials})
    ident = await ended(tee)
    client = await tee.send("GET", f"/v1/streams/{ident}", *ASK, f"Origin: {origin}", *cookie)
    assert (await client.answer()).status == status


@on_one_loop
async def test_signed_url_is_enough_to_follow(serve: Serve) -> None:
    """There is no other way to say who one is."""
    tee = await serve(capabilities={"secrets": ["a secret of at least 32 characters"]})
    answer = await tee.chat()
    await answer.read()
    url = answer.header("stream-follow-url")
    assert url is not None
    async with asyncio.timeout(GUARD_S), connect(tee.proxy.url.replace("http", "ws", 1) + url) as socket:
        found, close = await rest(socket)
        assert found[-1]["data"] == "[DONE]"
        assert close == (1000, "complete")


# Endings


async def test_failure_is_said_and_then_closed_with_its_code(serve: Serve) -> None:
    """The error message is the error event of SSE."""
    tee = await serve()
    ident = await ended(tee, fault="reset")
    whole = as_messages(await (await tee.follow(ident)).read())
    async with opened(tee, ident) as socket:
        found, close = await rest(socket)
        assert found == whole
        assert json.loads(found[-1]["data"])["error"]["code"] == "upstream_reset"
        assert close == (4502, "upstream_reset")


async def test_cancelled_stream_is_closed_with_4409(perform: Serve, stage: Stage) -> None:
    """While it is followed."""
    tee = await perform()
    answer, _ = await begun(tee, stage, frames=1)
    async with opened(tee, answer.stream_id) as socket:
        await socket.recv()
        await (await tee.ask("POST", f"/v1/streams/{answer.stream_id}/cancel")).read()
        found, close = await rest(socket)
        assert json.loads(found[0]["data"])["error"]["code"] == "cancelled"
        assert close == (4409, "cancelled")


async def test_drained_follower_is_closed_as_going_away(perform: Serve, stage: Stage) -> None:
    """After an error, since its stream is nowhere else; one that waits for its stream is closed without."""
    tee = await perform(drain_s=0)
    answer, _ = await begun(tee, stage, frames=1)
    async with opened(tee, answer.stream_id) as socket, opened(tee, "keys/k", "wait=60") as waiting:
        await socket.recv()
        draining = asyncio.create_task(tee.proxy.drain())
        found, close = await rest(socket)
        assert json.loads(found[0]["data"])["error"]["code"] == "drained"
        assert close == (1001, "drained")
        assert await rest(waiting) == ([], (1001, "drained"))
        await draining


async def test_last_follower_that_leaves_ends_the_stream(perform: Serve, stage: Stage) -> None:
    """By its close, as by closing an HTTP connection."""
    tee = await perform()
    answer, turn = await begun(tee, stage, frames=1)
    async with opened(tee, answer.stream_id) as socket:
        await socket.recv()
        await answer.client.leave()
        await tee.wait_followers(1)
        assert (await tee.info(answer.stream_id))["state"] == "open"
    await turn.wait_left()
    assert (await tee.wait_ended(answer.stream_id))["ending"]["reason"] == "client_gone"


# Waiting for a stream


async def test_follower_that_came_first_gets_the_stream_when_it_begins(perform: Serve, stage: Stage) -> None:
    """It is let in at once, and pinged meanwhile."""
    tee = await perform()
    client = await tee.send("GET", "/v1/keys/k/stream?wait=30&heartbeat=0.05", *ASK)
    assert (await client.answer()).status == 101
    await client.wait_bytes(bool)
    assert heard(bytes(client.buffer)) == [(PING, b"")]
    client.send(masked(0xA, b""))
    async with opened(tee, "keys/k", "wait=30") as socket:
        asker = await tee.send_chat("Stream-Key: k")
        turn = await stage.next()
        await turn.body()
        turn.begin()
        turn.end(chunk_frame("a"), FINISH, DONE)
        found, close = await rest(socket)
        assert len(found) == 3
        assert close == (1000, "complete")
    await asker.leave()


@on_one_loop
async def test_follower_whose_stream_does_not_come_is_closed(serve: Serve) -> None:
    """With 1000 and nothing said, as SSE ends cleanly."""
    tee = await serve()
    async with opened(tee, "keys/k", "wait=0.01") as socket:
        assert await rest(socket) == ([], (1000, "complete"))


@on_one_loop
async def test_follower_that_closes_while_it_waits_is_let_go(serve: Serve) -> None:
    """At once, not when its time is up."""
    tee = await serve()
    async with opened(tee, "keys/k", "wait=60"):
        await tee.wait_followers(1)
    await tee.wait_followers(0)


# Slow and dead ones


async def test_slow_follower_gets_every_message(perform: Serve, stage: Stage) -> None:
    """It is parked while its connection is clogged; others go on."""
    tee = await perform()
    answer, turn = await begun(tee, stage)
    slow = await tee.connect(receive_bytes=4096)
    slow.send(request("GET", f"/v1/streams/{answer.stream_id}", *ASK))
    assert (await slow.answer()).status == 101
    slow.stall()
    sent = [chunk_frame("x" * 10_000 + str(number)) for number in range(400)]
    for frame in sent:
        turn.chunk(frame)
    await answer.bytes(sum(map(len, sent)))
    turn.end(FINISH, DONE)
    await tee.wait_ended(answer.stream_id)
    assert tee.proxy.hub.followers == 1
    slow.read_on()
    await slow.wait_bytes(lambda buffer: buffer.endswith(b"complete"))
    *found, (_, close) = heard(bytes(slow.buffer))
    data = [json.loads(text)["data"].encode() for _, text in found if isinstance(text, bytes)]
    assert data == [frame[6:-2] for frame in [*sent, FINISH, DONE]]
    assert close == (1000, "complete")


@on_one_loop
async def test_silent_follower_is_pinged_and_a_dead_one_noticed(perform: Serve, stage: Stage) -> None:
    """After so many seconds of silence; the living one stays, whose client answers by itself."""
    tee = await perform()
    answer, turn = await begun(tee, stage, frames=1)
    dead = await tee.send("GET", f"/v1/streams/{answer.stream_id}?heartbeat=0.05", *ASK)
    assert (await dead.answer()).status == 101
    async with opened(tee, answer.stream_id, "heartbeat=0.05") as alive:
        await alive.recv()
        await dead.wait_gone()
        (_, _), *pings = heard(bytes(dead.buffer))
        assert pings == [(PING, b"")]
        await tee.wait_followers(2)
        turn.end(DONE)
        assert (await rest(alive))[1] == (1000, "complete")


async def test_ping_of_the_client_is_answered_and_its_messages_passed_over(perform: Serve, stage: Stage) -> None:
    """Whatever it says, it follows."""
    tee = await perform()
    answer, turn = await begun(tee, stage, frames=1)
    async with opened(tee, answer.stream_id) as socket:
        await socket.send("hello")
        await (await socket.ping(b"are you there"))
        await socket.send(b"\0" * 100_000)
        turn.end(DONE)
        found, close = await rest(socket)
        assert [message["data"] for message in found][1:] == ["[DONE]"]
        assert close == (1000, "complete")
