"""Which worker serves a request, wherever its connection landed; and that clients notice nothing of it."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import connect

from proxy.tools.fake.qwen import FakeQwen
from proxy.workers import handover
from tests.event_loops import until
from tests.event_streams import DONE, FINISH, chunk_frame, stamped
from tests.http_client import Answer, request
from tests.proxy_under_test import CHAT, RESPONSES, chat_body, response_body
from tests.several_workers import Several, several
from tests.shared_route import tick, ticks
from tests.stage import Stage, staged
from tests.websocket_client import MINE, rest

ALL = (0, 1, 2)
KEYS = [f"chat-{number}" for number in range(9)]


@pytest.fixture
async def three(fake: FakeQwen) -> AsyncIterator[Several]:
    async with several(fake.url) as one:
        yield one


@pytest.fixture
async def staged_three(stage: Stage) -> AsyncIterator[Several]:
    async with several(stage.url) as one:
        yield one


async def whole(answer: Answer) -> bytes:
    body = await answer.read()
    assert (answer.status, answer.end) == (200, "whole"), bytes(answer.body)
    return body


async def test_follower_gets_the_same_bytes_wherever_it_lands(three: Several) -> None:
    """The id says in which worker the stream is."""
    asked = await three.chat(1)
    said = await whole(asked)
    assert three.home(asked) == 1
    for at in ALL:
        followed = await three.ask(at, "GET", f"/v1/streams/{asked.stream_id}?mode=raw")
        assert await whole(followed) == said
    assert three.handed_over() == 2
    assert [len(list(three.proxy(at).hub)) for at in ALL] == [0, 1, 0]


async def test_key_belongs_to_one_worker_wherever_it_is_used(three: Several) -> None:
    """Whoever names it meets the others there, and the keys are spread over all workers."""
    homes = set()
    for number, key in enumerate(KEYS):
        asked = await three.chat(number % 3, f"Stream-Key: {key}")
        said = await whole(asked)
        for at in ALL:
            assert await whole(await three.ask(at, "GET", f"/v1/keys/{key}/stream?mode=raw")) == said
            assert (await (await three.ask(at, "GET", f"/v1/keys/{key}")).json())["id"] == asked.stream_id
        homes.add(three.home(asked))
    assert homes == set(ALL)


@pytest.mark.parametrize("key", KEYS[:4])
async def test_follower_that_comes_first_meets_the_stream(staged_three: Several, stage: Stage, key: str) -> None:
    """It waits where the stream will be."""
    waiting = await staged_three.ask(0, "GET", f"/v1/keys/{key}/stream?wait=5")
    asking = await staged_three.send(1, "POST", CHAT, f"Stream-Key: {key}", body=chat_body())
    turn = await stage.next()
    turn.begin()
    turn.chunk(chunk_frame("hello"))
    turn.chunk(DONE)
    turn.end()
    await whole(await asking.answer())
    assert b"hello" in await whole(waiting)


@pytest.mark.parametrize("key", KEYS[:4])
async def test_idempotency_key_makes_one_call_from_any_connection(three: Several, fake: FakeQwen, key: str) -> None:
    """At once, and again when it has ended."""
    clients = [await three.send(at, "POST", CHAT, f"Idempotency-Key: {key}", body=chat_body()) for at in ALL]
    answers = [await client.answer() for client in clients]
    bodies = [await whole(answer) for answer in answers]
    again = await three.chat(0, f"Idempotency-Key: {key}")
    assert {*bodies, await whole(again)} == {bodies[0]}
    assert again.header("idempotency-replayed") == "true"
    assert len({answer.stream_id for answer in [*answers, again]}) == 1
    assert len(fake.requests) == 1
    other = await three.chat(2, f"Idempotency-Key: {key}", seed=7)
    assert other.status == 409


async def test_both_keys_of_a_request_find_its_stream(three: Several) -> None:
    """The stream is where followers wait for its Stream-Key; who has only the Idempotency-Key is sent there."""
    for number, key in enumerate(KEYS):
        asked = await three.chat(number % 3, f"Stream-Key: {key}", f"Idempotency-Key: i-{key}")
        said = await whole(asked)
        for at in ALL:
            again = await three.chat(at, f"Idempotency-Key: i-{key}")
            assert (again.stream_id, await whole(again)) == (asked.stream_id, said)
            assert (await (await three.ask(at, "GET", f"/v1/keys/{key}")).json())["id"] == asked.stream_id


async def test_later_key_of_a_call_finds_its_stream_until_another_has_it(three: Several) -> None:
    """A retry that brings a Stream-Key names the stream, whichever worker the key belongs to."""
    for number, key in enumerate(KEYS[:6]):
        asked = await three.chat(number % 3, f"Idempotency-Key: i-{key}")
        await whole(asked)
        await whole(await three.chat((number + 1) % 3, f"Idempotency-Key: i-{key}", f"Stream-Key: {key}"))
        for at in ALL:
            assert (await (await three.ask(at, "GET", f"/v1/keys/{key}")).json())["id"] == asked.stream_id
        newer = await three.chat(number % 3, f"Stream-Key: {key}")
        await whole(newer)
        for at in ALL:
            assert (await (await three.ask(at, "GET", f"/v1/keys/{key}")).json())["id"] == newer.stream_id


@pytest.mark.parametrize("text", ["a", "b", "c", "x" * 400_000], ids=["a", "b", "c", "long"])
async def test_identical_bodies_share_a_call_wherever_they_land(stage: Stage, text: str) -> None:
    """With share = "body"; and a large one is handed over whole."""
    body = chat_body(user=text)
    async with several(stage.url, generations={"share": "body"}) as three:
        clients = [await three.send(at, "POST", CHAT, body=body) for at in ALL]
        turn = await stage.next()
        assert await turn.body() == body
        turn.begin()
        turn.chunk(chunk_frame("one"))
        answers = [await client.answer() for client in clients]
        finish([(answers[0], turn)])
        assert len({await whole(answer) for answer in answers}) == 1
        assert len({answer.stream_id for answer in answers}) == 1
        assert len(stage.turns) == 1


async def test_connection_goes_from_worker_to_worker(three: Several) -> None:
    """A request at a time, each where it belongs; the client has one connection, and all answers in order."""
    asked = [await three.chat(at) for at in ALL]
    said = {answer.stream_id: await whole(answer) for answer in asked}
    client = await three.connect(0)
    for ident in [*said, *reversed(said)] * 3:
        client.send(request("GET", f"/v1/streams/{ident}?mode=raw"))
        assert await whole(await client.answer()) == said[ident]
    assert three.handed_over() >= 9


async def test_pipelined_requests_go_along(three: Several) -> None:
    """Those that were read beyond the one that belongs elsewhere, also when they are cut anywhere."""
    asked = [await three.chat(at) for at in ALL]
    said = {answer.stream_id: await whole(answer) for answer in asked}
    idents = [*said, *reversed(said)]
    sent = b"".join(request("GET", f"/v1/streams/{ident}?mode=raw") for ident in idents)
    for cut in (len(sent), 1, 100, 150, 200, 251):
        client = await three.connect(1)
        client.send(sent[:cut])
        await (await three.ask(1, "GET", "/healthz")).read()
        client.send(sent[cut:])
        for ident in idents:
            assert await whole(await client.answer()) == said[ident]


async def test_body_that_comes_in_pieces_is_handed_over(three: Several, fake: FakeQwen) -> None:
    """What has been read of it, and what is yet to come; chunked, too."""
    body = chat_body(user="y" * 300_000)
    for framing in (f"Content-Length: {len(body)}", "Transfer-Encoding: chunked"):
        asked = set()
        for at in ALL:
            client = await three.connect(at)
            client.send(request("POST", CHAT, f"Idempotency-Key: {framing[:5]}", framing), method="POST")
            half = len(body) // 2
            for piece in (body[:half], body[half:]):
                chunk = b"%x\r\n%b\r\n" % (len(piece), piece)
                client.transport.write(piece if "Length" in framing else chunk)
                await (await three.ask(at, "GET", "/healthz")).read()
            client.transport.write(b"" if "Length" in framing else b"0\r\n\r\n")
            answer = await client.answer()
            await whole(answer)
            asked.add(answer.stream_id)
        assert len(asked) == 1


async def test_websocket_is_handed_over(three: Several) -> None:
    """Before its handshake is answered."""
    asked = await three.chat(2)
    await whole(asked)
    for at in ALL:
        url = three.urls[at].replace("http", "ws", 1) + f"/v1/streams/{asked.stream_id}"
        async with connect(url, additional_headers=MINE) as socket:
            messages, closed = await rest(socket)
        assert (messages[-1]["data"], closed) == ("[DONE]", (1000, "complete"))


async def test_list_has_the_streams_of_all_workers(three: Several) -> None:
    """Newest first, wherever it is asked for."""
    idents = []
    for at in (*ALL, *ALL):
        asked = await three.chat(at)
        await whole(asked)
        idents.insert(0, asked.stream_id)
    for at in ALL:
        listed = await (await three.ask(at, "GET", "/v1/streams")).json()
        assert [one["id"] for one in listed["data"]] == idents
        assert (await (await three.ask(at, "GET", "/v1/streams", "Authorization: Bearer other")).json())["data"] == []


async def test_list_leaves_nothing_out_when_a_worker_is_gone(three: Several) -> None:
    """Its streams are gone with it."""
    asked = await three.chat(2)
    await whole(asked)
    await whole(await three.chat(1))
    await three.stop(1)
    assert [one["id"] for one in (await (await three.ask(0, "GET", "/v1/streams")).json())["data"]] == [asked.stream_id]


def events(body: bytes) -> list[tuple[dict[str, Any], str]]:
    """Return the data and the ids of the events of several streams."""
    found = []
    for block in body.split(b"\n\n"):
        fields = dict(line.split(": ", 1) for line in block.decode().split("\n") if ": " in line)
        if "data" in fields:
            found.append((json.loads(fields["data"]), fields["id"]))
    return found


async def several_begun(three: Several, stage: Stage) -> list[tuple[Answer, Any]]:
    """Return a stream in each worker that has said one word."""
    begun = []
    for at in ALL:
        asking = await three.send(at, "POST", CHAT, body=chat_body())
        turn = await stage.next()
        turn.begin()
        turn.chunk(chunk_frame(f"first of {at}"))
        begun.append((await asking.answer(), turn))
    return begun


def finish(begun: list[tuple[Answer, Any]]) -> None:
    for _, turn in begun:
        turn.chunk(chunk_frame("last"))
        turn.chunk(FINISH)
        turn.chunk(DONE)
        turn.end()


@pytest.mark.parametrize("at", ALL)
async def test_one_connection_follows_streams_of_all_workers(staged_three: Several, stage: Stage, at: int) -> None:
    """With every event of each, once, and ids that resume all of them."""
    begun = await several_begun(staged_three, stage)
    query = "&".join(f"stream={answer.stream_id}" for answer, _ in begun)
    following = await staged_three.ask(at, "GET", f"/v1/follow?{query}")
    for number in ALL:
        await following.until(b"first of %d" % number)
    finish(begun)
    body = await whole(following)
    said = events(body)
    for answer, _ in begun:
        own = [event for event, _ in said if event["stream"] == answer.stream_id]
        assert [event["id"].split("-")[1] for event in own if "ending" not in event] == ["1", "2", "3", "4"]
        assert own[-1]["ending"] == "complete"
    for cut in range(len(said)):
        after = said[cut - 1][1] if cut else "-1"
        resumed = await staged_three.ask((at + cut) % 3, "GET", f"/v1/follow?{query}", f"Last-Event-ID: {after}")
        left = events(await resumed.read()) if resumed.status == 200 else []
        key = lambda event: (event["stream"], event["id"], event["event"])  # noqa: E731
        assert sorted(key(event) for event, _ in left) == sorted(key(event) for event, _ in said[cut:])


async def test_worker_that_breaks_off_ends_the_shared_connection_the_same_way(
    staged_three: Several, stage: Stage
) -> None:
    """Nobody takes what came for all of it."""
    begun = await several_begun(staged_three, stage)
    query = "&".join(f"stream={answer.stream_id}" for answer, _ in begun)
    following = await staged_three.ask(0, "GET", f"/v1/follow?{query}")
    for number in ALL:
        await following.until(b"first of %d" % number)
    for connection in list(staged_three.proxy(2).clients.open):
        if connection is not None and getattr(connection, "is_placed", None) is None:
            connection.cut("shutdown", clean=False)
    await following.read()
    assert following.end == "cut"
    finish(begun)


async def test_unknown_stream_among_those_of_several_workers_is_refused(three: Several) -> None:
    """Before anything is sent of the others."""
    idents = []
    for at in ALL:
        asked = await three.chat(at)
        await whole(asked)
        idents.append(asked.stream_id)
    query = "&".join(f"stream={ident}" for ident in [*idents, "st_" + "a" * 24 + "ab"])
    refused = await three.ask(0, "GET", f"/v1/follow?{query}")
    assert (refused.status, json.loads(await refused.read())["error"]["code"]) == (404, "stream_not_found")


def response_id(body: bytes) -> str:
    """Return the id that the upstream gave a response, from its first event."""
    ident: str = json.loads(body.split(b"data:", 1)[1].split(b"\n")[0])["response"]["id"]
    return ident


async def test_response_is_found_by_the_upstreams_id_wherever_it_is_asked_for(three: Several) -> None:
    """And deleted for all."""
    for home in ALL:
        asked = await three.ask(home, "POST", RESPONSES, body=response_body())
        said = await whole(asked)
        ident = response_id(said)
        for at in ALL:
            found = await three.ask(at, "GET", f"{RESPONSES}/{ident}")
            assert (found.status, (await found.json())["id"]) == (200, ident)
        assert (await three.ask((home + 1) % 3, "DELETE", f"{RESPONSES}/{ident}")).status == 200
        for at in ALL:
            assert (await three.ask(at, "GET", f"{RESPONSES}/{ident}")).status == 404


async def test_response_that_was_given_by_another_worker_may_be_continued(fake: FakeQwen) -> None:
    """With a key of the proxy's own, only such ids may be named."""
    async with several(fake.url, upstream={"key": "sk-ours"}) as three:
        asked = await three.ask(2, "POST", RESPONSES, body=response_body())
        ident = response_id(await whole(asked))
        for at in ALL:
            more = await three.ask(at, "POST", RESPONSES, body=response_body(previous_response_id=ident))
            await whole(more)
            other = await three.ask(
                at, "POST", RESPONSES, "Authorization: Bearer o", body=response_body(previous_response_id=ident)
            )
            assert other.status == 404


@pytest.mark.parametrize("key", ["", "sk-coding"])
async def test_response_is_continued_at_the_upstream_that_made_it(key: str, stage: Stage) -> None:
    """Wherever the request lands, and whatever model it names; also by the id of an item."""
    document = {"object": "response", "id": "made-there", "output": [{"id": "item-1", "type": "message"}]}
    async with staged() as coding:
        tables = {
            "upstream": {"key": key},
            "upstreams": {"coding": {"url": f"{coding.url}/v1", "key": key}},
            "models": [{"name": "coder-*", "upstream": "coding"}],
        }
        async with several(stage.url, **tables) as three:
            client = await three.send(0, "POST", RESPONSES, body=response_body(model="coder-1", stream=False))
            made = await coding.next()
            await made.body()
            made.reply("200 OK", "Content-Type: application/json", body=json.dumps(document).encode())
            await whole(await client.answer())
            continuing = (
                {"previous_response_id": "made-there"},
                {"input": [{"type": "item_reference", "id": "item-1"}]},
            )
            for at in ALL:
                for more in continuing:
                    client = await three.send(
                        at, "POST", RESPONSES, body=response_body(model="m", stream=False, **more)
                    )
                    turn = await coding.next()
                    await turn.body()
                    turn.reply("200 OK", "Content-Type: application/json", body=b"{}")
                    assert (await client.answer()).status == 200
            assert stage.idle


async def test_response_of_a_worker_that_has_ended_may_be_continued(stage: Stage) -> None:
    """The one that ends after a reload tells which ids its callers were given; another worker learns them."""
    async with several(stage.url, upstream={"key": "sk-ours"}, drain_s=0.1, streams={"retain_s": 0}) as three:
        client = await three.send(1, "POST", RESPONSES, body=response_body(stream=False))
        turn = await stage.next()
        await turn.body()
        turn.reply("200 OK", "Content-Type: application/json", body=b'{"object":"response","id":"before"}')
        await whole(await client.answer())
        await reloaded(three)
        for at in ALL:
            await three.workers.pop(at).wait_over()
        (told,) = [said for said in three.told[1].said if said["kind"] == "given"]
        await three.workers[4].heed(json.loads(json.dumps(told)))
        for at in (3, 4, 5):
            client = await three.send(at, "POST", RESPONSES, body=response_body(previous_response_id="before"))
            turn = await stage.next()
            await turn.body()
            turn.reply("200 OK", "Content-Type: application/json", body=b"{}")
            assert (await client.answer()).status == 200
        other = response_body(previous_response_id="before")
        assert (await three.ask(3, "POST", RESPONSES, "Authorization: Bearer o", body=other)).status == 404


async def test_text_that_is_no_unicode_is_nobodys(three: Several) -> None:
    """As an id or a key: it is asked for at the others, too."""
    for path in (f"{RESPONSES}/%ff", "/v1/keys/%ff%fe", "/v1/streams/%ff"):
        for at in ALL:
            assert (await three.ask(at, "GET", path)).status in (200, 404)  # of responses, others are the upstream's
    for at in ALL:
        assert (await three.ask(at, "GET", "/v1/follow?key=%ff&stream=%ff")).status == 404


async def test_url_of_a_shared_route_has_one_upstream_call(stage: Stage) -> None:
    """Its followers meet in one worker."""
    routes = [{"path": "/events", "share": "url"}]
    async with several(stage.url, routes=routes) as three:
        clients = [await three.send(at, "GET", "/events?a=1") for at in ALL]
        turn = await stage.next()
        turn.begin()
        turn.chunk(b"data: one\n\n")
        answers = [await client.answer() for client in clients]
        for answer in answers:
            await answer.until(b"one")
        assert len({answer.stream_id for answer in answers}) == 1
        assert len(stage.turns) == 1


async def test_worker_that_is_gone_is_answered_for_with_503(three: Several) -> None:
    """With Retry-After, and counted."""
    asked = await three.chat(1)
    await whole(asked)
    await three.stop(1)
    refused = await three.ask(0, "GET", f"/v1/streams/{asked.stream_id}")
    assert (refused.status, refused.header("retry-after")) == (503, "1")
    assert three.handed_over("dead") == 1
    client = refused.client
    await refused.read()
    client.send(request("GET", "/healthz"))
    assert (await client.answer()).status == 200  # the connection goes on


async def test_worker_that_hangs_is_answered_for_with_503(three: Several, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while; and should it take the connection later, it finds that nobody offers it any more."""
    monkeypatch.setattr(handover, "TAKEN_S", 0.05)
    asked = await three.chat(1)
    await whole(asked)
    inbox = three.workers[1].inbox
    asyncio.get_running_loop().remove_reader(inbox.descriptor)
    refused = await three.ask(0, "GET", f"/v1/streams/{asked.stream_id}")
    assert (refused.status, refused.header("retry-after"), three.handed_over("late")) == (503, "1", 1)
    inbox.open()
    assert await whole(await three.ask(0, "GET", f"/v1/streams/{asked.stream_id}"))
    await refused.read()
    refused.client.send(request("GET", f"/v1/streams/{asked.stream_id}"))
    assert await whole(await refused.client.answer())
    assert not refused.client.buffer


async def test_keys_name_the_newest_stream_across_a_reload(staged_three: Several, stage: Stage) -> None:
    """Old workers serve what they have, new ones begin what is new; a key means the newest of all."""
    three = staged_three
    old = {}
    for number, key in enumerate(KEYS[:4]):
        asking = await three.send(number % 3, "POST", CHAT, f"Stream-Key: {key}", body=chat_body())
        turn = await stage.next()
        turn.begin()
        turn.chunk(chunk_frame(f"old {key}"))
        old[key] = (await asking.answer(), turn)
    idle = await three.connect(0)
    idle.send(request("GET", "/healthz"))
    await (await idle.answer()).read()
    await reloaded(three)
    for at in range(6):
        for key, (asked, _) in old.items():
            found = await three.ask(at, "GET", f"/v1/keys/{key}") if at > 2 else None
            assert found is None or (await found.json())["id"] == asked.stream_id
    key = KEYS[0]
    asking = await three.send(3, "POST", CHAT, f"Stream-Key: {key}", body=chat_body())
    turn = await stage.next()
    turn.begin()
    turn.chunk(chunk_frame("new"))
    newer = await asking.answer()
    assert three.home(newer) in (3, 4, 5)
    for at in (3, 4, 5):
        assert (await (await three.ask(at, "GET", f"/v1/keys/{key}")).json())["id"] == newer.stream_id
    idle.send(request("POST", CHAT, body=chat_body()))  # to a worker that begins nothing any more
    last = await stage.next()
    last.begin()
    last.chunk(chunk_frame("from an old connection"))
    moved = await idle.answer()
    assert three.home(moved) in (3, 4, 5)
    for one in (*(turn for _, turn in old.values()), turn, last):
        one.chunk(FINISH)
        one.chunk(DONE)
        one.end()
    for asked, _ in old.values():
        await whole(asked)
    await whole(newer)
    await whole(moved)


async def test_idempotency_key_is_found_across_a_reload(three: Several, fake: FakeQwen) -> None:
    """The call of an old worker is not made again."""
    first = {key: await three.chat(0, f"Idempotency-Key: {key}") for key in KEYS[:4]}
    said = {key: await whole(answer) for key, answer in first.items()}
    await reloaded(three)
    for at in (3, 4, 5):
        for key, before in first.items():
            again = await three.chat(at, f"Idempotency-Key: {key}")
            assert (await whole(again), again.stream_id) == (said[key], before.stream_id)
    assert len(fake.requests) == 4


@pytest.mark.parametrize("join", ["live", "window"])
async def test_followers_of_a_shared_route_go_on_after_a_reload(join: str, stage: Stage) -> None:
    """Each with the event after its last one, wherever it lands, though the new stream has other event ids.

    The upstream is asked for what comes after the last event of the first that is back; a client that has had less than
    that first one begins as a new one does: what it lacks is nowhere any more.
    """
    async with several(stage.url, routes=[{"path": "/events", "share": "url", "join": join}]) as three:
        clients = [await three.send(at, "GET", "/events?a=1") for at in ALL]
        turn = await stage.next()
        turn.begin()
        turn.chunk(ticks(1, 2))
        answers = [await client.answer() for client in clients]
        said = [await answer.until(b"-2\n\n") for answer in answers]
        assert len(set(said)) == 1
        await reloaded(three)
        for answer in answers:
            await answer.read()
            assert answer.end == "whole"
        epoch = answers[0].epoch
        back = [await three.send(at, "GET", "/events?a=1", f"Last-Event-ID: {epoch}-2") for at in (3, 4, 5)]
        turn = await stage.next()
        assert turn.all("last-event-id") == [b"u2"]
        turn.begin()
        turn.chunk(ticks(3, 4))
        again = [await client.answer() for client in back]
        for answer in again:
            assert await answer.until(b"-2\n\n") == stamped(ticks(3, 4), answer.epoch)
        for at in (3, 4, 5):
            late = await three.ask(at, "GET", "/events?a=1", f"Last-Event-ID: {epoch}-2")
            assert late.header("stream-resumed-from") == f"{late.epoch}-0"
            assert await late.until(b"-2\n\n") == stamped(ticks(3, 4), late.epoch)
        turn.chunk(tick(5))
        new = {"live": ticks(6), "window": ticks(3, 4, 5, 6)}[join]
        await again[0].until(b"-3\n\n")
        other = await three.ask(4, "GET", "/events?a=1", f"Last-Event-ID: {epoch}-1")
        turn.chunk(tick(6))
        assert await other.until(b"-4\n\n") == stamped(new, other.epoch, 4 if join == "live" else 1)
        assert len(stage.turns) == 2


async def test_idle_connection_goes_to_a_new_worker_when_the_old_one_ends(three: Several, fake: FakeQwen) -> None:
    """Its client notices nothing."""
    idle = await three.connect(0)
    idle.send(request("GET", "/healthz"))
    await (await idle.answer()).read()
    half = await three.connect(0)
    half.send(request("GET", "/healthz")[:20])
    await (await three.ask(0, "GET", "/healthz")).read()
    await reloaded(three)
    await until(lambda: not any(three.proxy(at).clients.open for at in ALL))
    half.send(request("GET", "/healthz")[20:])
    idle.send(request("POST", CHAT, body=chat_body()))
    answer = await idle.answer()
    await whole(answer)
    assert three.home(answer) in (3, 4, 5)
    assert (await half.answer()).status == 200


async def reloaded(three: Several) -> None:
    """Have three new workers take over."""
    current = [3, 4, 5]
    for number in current:
        await three.add(number)
    await three.tell("retire", *ALL, current=current)
    told = [(at, said) for at in ALL for said in three.told[at].said if said["kind"] == "retired"]
    older = {name: at for at, said in told for name in said["names"]}
    await three.tell("serve", *current, current=current, older=older)


async def test_request_that_is_handed_over_is_logged_once(fake: FakeQwen, caplog: pytest.LogCaptureFixture) -> None:
    """By the worker that serves it."""
    caplog.set_level("INFO", "streamtee")
    async with several(fake.url, access_log=True) as one:
        answer = await one.chat(0)
        await whole(answer)
        for at in ALL:
            assert (await one.ask(at, "GET", f"/v1/streams/{answer.stream_id}/info")).status == 200
    lines = [text for record in caplog.records if "method=GET" in (text := record.getMessage())]
    assert [re.findall("status=([0-9]+)", line) for line in lines] == [["200"]] * 3
