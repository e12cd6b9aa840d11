"""Routes with `share = "url"`: who is given what of one upstream stream, and what goes upstream for all of them."""

import asyncio
import hashlib
from typing import Any

import pytest

from proxy.server.generations.shared_calls import AWAITING_HEAD
from tests.event_loops import GUARD_S, until
from tests.event_streams import stamped
from tests.http_client import request, zipped
from tests.proxy_under_test import Tee, teed
from tests.shared_route import first, own, tick, ticks
from tests.stage import Stage

pytestmark = pytest.mark.usefixtures("hasty")


async def asking(tee: Tee, count: int) -> None:
    """Wait until so many clients wait for an answer."""
    await until(lambda: sum(stream.holds.get(AWAITING_HEAD, 0) for stream in tee.proxy.hub) == count)


# Joining


async def test_two_simultaneous_first_clients_make_one_call(stage: Stage) -> None:
    """Both are given the stream from its start, with its id and the upstream's own headers."""
    async with own(stage) as tee:
        clients = [await tee.send("GET", "/events?a=1") for _ in range(2)]
        turn = await stage.next()
        assert (turn.method, turn.target) == (b"GET", b"/events?a=1")
        await asking(tee, 2)
        turn.begin("X-Own: yes", "Set-Cookie: one=all", "Cache-Control: max-age=9", "Location: /elsewhere")
        turn.chunk(ticks(1, 2))
        answers = [await client.answer() for client in clients]
        for answer in answers:
            assert await answer.until(b"-2\n\n") == stamped(ticks(1, 2), answer.epoch)
            assert answer.header("x-own") == "yes"
            assert answer.header("set-cookie") is None
            assert answer.header("location") is None
            assert answer.header("cache-control") == "no-cache, no-transform"
            assert answer.header("stream-mode") == "events"
        assert answers[0].stream_id == answers[1].stream_id
        assert len(stage.turns) == 1


async def test_late_client_joins_live(stage: Stage) -> None:
    """It is given what comes from now on, numbered as for everybody."""
    async with own(stage) as tee:
        early, turn = await first(tee, stage, 1, 2)
        late = await tee.ask("GET", "/events")
        turn.chunk(tick(3))
        assert await late.until(b"-3\n\n") == stamped(tick(3), early.epoch, 3)
        assert await early.until(b"-3\n\n") == stamped(ticks(1, 2, 3), early.epoch)
        assert len(stage.turns) == 1
        assert late.header("stream-resumed-from") is None


async def test_late_client_joins_with_the_window(stage: Stage) -> None:
    """`join = "window"`: with all that is held."""
    async with own(stage, route={"join": "window"}) as tee:
        early, _ = await first(tee, stage, 1, 2)
        late = await tee.ask("GET", "/events")
        assert await late.until(b"-2\n\n") == stamped(ticks(1, 2), early.epoch)
        assert await tee.metric("streamtee_replayed_bytes_total", mode="events") == len(ticks(1, 2))


async def test_client_resumes_after_its_last_event(stage: Stage) -> None:
    """Wherever a client without an id would begin."""
    async with own(stage) as tee:
        early, turn = await first(tee, stage, 1, 2, 3)
        resumed = await tee.ask("GET", "/events", f"Last-Event-ID: {early.epoch}-1")
        assert resumed.header("stream-resumed-from") == f"{early.epoch}-1"
        turn.chunk(tick(4))
        assert await resumed.until(b"-4\n\n") == stamped(ticks(2, 3, 4), early.epoch, 2)


@pytest.mark.parametrize("name", ["lastEventId", "Last-Event-ID"])
async def test_last_event_id_in_the_query_resumes(stage: Stage, name: str) -> None:
    """As polyfills send it: the URL is the same one, and its upstream is asked neither again nor for that."""
    async with own(stage) as tee:
        early, turn = await first(tee, stage, 1, 2, target="/events?a=1")
        resumed = await tee.ask("GET", f"/events?a=1&{name}={early.epoch}-1")
        assert resumed.header("stream-resumed-from") == f"{early.epoch}-1"
        turn.chunk(tick(3))
        assert await resumed.until(b"-3\n\n") == stamped(ticks(2, 3), early.epoch, 2)
        assert len(stage.turns) == 1
        await tee.send("GET", f"/events?b&{name}=u7")
        other = await stage.next()
        assert (other.target, other.all("last-event-id")) == (b"/events?b", [b"u7"])


@pytest.mark.parametrize(("join", "offset"), [("live", 2), ("window", 0)])
@pytest.mark.parametrize("ident", ["aaaaaa-1", "u1", "1", "a-b-c", "aaaaaa-", "{}-x"])
async def test_id_of_another_stream_begins_as_configured(stage: Stage, join: str, offset: int, ident: str) -> None:
    """Of an older epoch, or the upstream's own; the answer says where it begins."""
    async with own(stage, route={"join": join}) as tee:
        early, turn = await first(tee, stage, 1, 2)
        resumed = await tee.ask("GET", "/events", f"Last-Event-ID: {ident.format(early.epoch)}")
        assert resumed.header("stream-resumed-from") == f"{early.epoch}-{offset}"
        turn.chunk(tick(3))
        said = ticks(*range(offset + 1, 4))
        assert await resumed.until(b"-3\n\n") == stamped(said, early.epoch, offset + 1)


async def test_window_moves_and_below_it_is_gone(stage: Stage) -> None:
    """410 with the earliest number held; numbers never change."""
    big = [b"data: %b\n\n" % (b"%d" % number * 400) for number in range(1, 6)]
    async with own(stage, route={"window_bytes": 1500, "join": "window"}) as tee:
        early, turn = await first(tee, stage)
        for frame in big:
            turn.chunk(frame)
        await early.until(b"-5\n\n")
        gone = await tee.ask("GET", "/events", f"Last-Event-ID: {early.epoch}-0")
        assert gone.status == 410
        told = await gone.json()
        assert (told["error"]["code"], told["earliest"]) == ("offset_gone", 4)
        held = await tee.ask("GET", "/events")
        assert await held.until(b"-5\n\n") == stamped(b"".join(big[3:]), early.epoch, 4)
        resumed = await tee.ask("GET", "/events", f"Last-Event-ID: {early.epoch}-3")
        assert await resumed.until(b"-5\n\n") == stamped(b"".join(big[3:]), early.epoch, 4)


async def test_id_above_the_log_is_refused(stage: Stage) -> None:
    """Nobody was given it."""
    async with own(stage) as tee:
        early, _ = await first(tee, stage, 1)
        assert (await tee.ask("GET", "/events", f"Last-Event-ID: {early.epoch}-2")).status == 416


async def test_mode_raw_is_the_bytes_of_the_upstream(stage: Stage) -> None:
    """Chosen by header: the query is the upstream's."""
    async with own(stage, route={"join": "window"}) as tee:
        await first(tee, stage, 1, 2)
        raw = await tee.ask("GET", "/events", "Stream-Mode: raw")
        assert await raw.until(tick(2)) == ticks(1, 2)
        assert raw.header("stream-mode") == "raw"
        refused = await tee.ask("GET", "/events", "Stream-Mode: text")
        assert (refused.status, (await refused.json())["error"]["code"]) == (400, "unknown_mode")


async def test_url_and_body_tell_streams_apart(stage: Stage) -> None:
    """Query, method, body and its type; nothing else does."""
    async with own(stage) as tee:
        asked = [
            ("GET", "/events", b"", ""),
            ("GET", "/events?a", b"", ""),
            ("POST", "/events", b"", ""),
            ("POST", "/events", b"x", "text/plain"),
            ("POST", "/events", b"y", "text/plain"),
            ("POST", "/events", b"y", "text/other"),
            ("GET", "/events", b"GET /smuggled HTTP/1.1\r\n\r\n", "text/plain"),
        ]
        idents = []
        for method, target, body, kind in asked:
            client = await tee.send(method, target, f"Content-Type: {kind}", body=body)
            turn = await stage.next()
            assert (turn.method.decode(), turn.target.decode(), await turn.body()) == (method, target, body)
            assert turn.all("content-type") == ([kind.encode()] if kind else [])
            turn.begin()
            idents.append((await client.answer()).stream_id)
        assert len(set(idents)) == len(asked)
        for (method, target, body, kind), ident in zip(asked, idents, strict=True):
            again = await tee.ask(method, target, f"Content-Type: {kind}", "Accept: */*", "Cookie: b=c", body=body)
            assert again.stream_id == ident
        assert len(stage.turns) == len(asked)


async def test_every_url_below_a_prefix_is_a_stream_of_its_own(stage: Stage) -> None:
    """A path that ends with a slash; dot segments are not below it."""
    async with own(stage, route={"path": "/feeds/"}) as tee:
        one, turn = await first(tee, stage, 1, target="/feeds/one")
        other, _ = await first(tee, stage, 1, target="/feeds/other?x")
        assert turn.target == b"/feeds/one"
        assert one.stream_id != other.stream_id
        assert (await tee.ask("GET", "/feeds/../one")).status == 400
        assert (await tee.ask("GET", "/feeds")).status == 404


# What goes upstream


async def test_nothing_a_client_says_of_itself_goes_upstream(stage: Stage) -> None:
    """The stream is everybody's: credentials of the first client would be lent to all."""
    async with own(stage) as tee:
        await tee.send("GET", "/events", "Cookie: session=mine", "X-Api-Key: mine", "Origin: https://a.test")
        turn = await stage.next()
        names = {name.lower() for name, _ in turn.headers}
        assert names == {b"host", b"accept", b"accept-encoding", b"cache-control"}
        assert turn.all("accept") == [b"text/event-stream"]


async def test_key_of_the_upstream_goes_there(stage: Stage) -> None:
    """That of the route's own upstream, instead of the caller's; the path of its URL leads."""
    upstreams = {"ticker": {"url": f"{stage.url}/base/", "key": "sk-ticker"}}
    async with own(stage, route={"upstream": "ticker"}, upstreams=upstreams, upstream={"key": "sk-qwen"}) as tee:
        await tee.send("GET", "/events?q=%2F")
        turn = await stage.next()
        assert turn.target == b"/base/events?q=%2F"
        assert turn.all("authorization") == [b"Bearer sk-ticker"]


async def test_keys_of_ours_are_asked_for_and_not_shown(stage: Stage) -> None:
    """In mode keys; also where a route only passes through to an upstream without a key."""
    auth = {"mode": "keys", "keys": [hashlib.sha256(b"ours").hexdigest()]}
    routes = [
        {"path": "/events", "upstream": "other", "share": "url"},
        {"path": "/rest", "upstream": "other"},
    ]
    tables = {"auth": auth, "routes": routes, "upstreams": {"other": {"url": stage.url}}}
    async with teed(stage.url, upstream={"key": "sk-qwen"}, **tables) as tee:
        for path in ("/events", "/rest"):
            assert (await tee.ask("GET", path)).status == 401
            await tee.send("GET", path, "Authorization: Bearer ours")
            turn = await stage.next()
            assert turn.all("authorization") == []


async def test_upstreams_own_id_of_a_client_goes_there_first(stage: Stage) -> None:
    """One that can't be ours: the client had the stream without us."""
    async with own(stage) as tee:
        await tee.send("GET", "/events", "Last-Event-ID: u7")
        assert (await stage.next()).all("last-event-id") == [b"u7"]
        await tee.send("GET", "/events?b", "Last-Event-ID: abcdef-7")
        assert (await stage.next()).all("last-event-id") == []


# What is no stream


async def test_answer_that_is_no_stream_is_for_all_who_asked(stage: Stage) -> None:
    """Status, headers and body; the next client asks anew."""
    async with own(stage) as tee:
        clients = [await tee.send("GET", "/events") for _ in range(3)]
        turn = await stage.next()
        await asking(tee, 3)
        turn.reply("403 Not You", "X-Own: yes", "Set-Cookie: a=b", "Content-Type: text/plain", body=b"not for you")
        for client in clients:
            answer = await client.answer()
            assert (answer.status, answer.reason, answer.header("x-own")) == (403, b"Not You", "yes")
            assert answer.header("set-cookie") is None
            assert answer.header("stream-id") is None
            assert await answer.read() == b"not for you"
        later = await tee.send("GET", "/events")
        (await stage.next()).reply("204 No Content", length=False)
        assert (await later.answer()).status == 204
        assert await tee.metric("streamtee_streams_ended_total") == 0


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("body", [b"", b"x" * 5000])
async def test_answer_that_is_no_stream_is_given_as_it_came(stage: Stage, framing: str, body: bytes) -> None:
    """However its end is told, and though it is longer than the window; a redirection leads on."""
    async with own(stage, route={"window_bytes": 1500}) as tee:
        client = await tee.send("GET", "/events")
        turn = await stage.next()
        lines = ["X-Own: yes", "Content-Encoding: br", "Location: /elsewhere"]
        if framing == "length":
            turn.reply("302 Over There", *lines, body=body)
        else:
            lines += ["Transfer-Encoding: chunked"] * (framing == "chunked")
            turn.say("\r\n".join(["HTTP/1.1 302 Over There", *lines, "", ""]).encode())
            if framing == "chunked":
                turn.end(*([body] if body else []))
            else:
                turn.say(body)
                turn.close()
        answer = await client.answer()
        assert (await answer.read(), answer.end) == (body, "whole")
        assert (answer.status, answer.reason, answer.header("location")) == (302, b"Over There", "/elsewhere")
        assert (answer.header("x-own"), answer.header("content-encoding")) == ("yes", "br")
        assert answer.header("content-length") == (str(len(body)) if framing == "length" else None)


@pytest.mark.parametrize(("status", "line"), [(204, "204 No Content"), (304, "304 Not Modified")])
async def test_answer_without_a_body_has_no_length(stage: Stage, status: int, line: str) -> None:
    """The connection goes on to the next request."""
    async with own(stage) as tee:
        client = await tee.send("GET", "/events")
        (await stage.next()).reply(line, length=False)
        answer = await client.answer()
        assert (answer.status, answer.header("content-length")) == (status, None)


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (lambda turn: turn.close(), "upstream_unreachable"),
        (
            lambda turn: turn.reply(
                "200 OK", "Content-Type: text/event-stream", "Content-Encoding: gzip", body=zipped(tick(1))
            ),
            "upstream_garbled",
        ),
    ],
    ids=["closed", "compressed"],
)
async def test_first_call_that_fails_is_an_error(stage: Stage, reply: Any, code: str) -> None:
    """For everyone who asked; nothing is kept of it."""
    async with own(stage) as tee:
        clients = [await tee.send("GET", "/events") for _ in range(2)]
        turn = await stage.next()
        await asking(tee, 2)
        reply(turn)
        for client in clients:
            answer = await client.answer()
            assert (answer.status, (await answer.json())["error"]["code"]) == (502, code)
        _, turn = await first(tee, stage, 1)
        assert turn is stage.turns[-1]
        assert tee.proxy.hub.running == len(list(tee.proxy.hub)) == 1


async def test_answer_that_breaks_off_does_not_look_complete(stage: Stage) -> None:
    """It came with its status; who asks next asks anew."""
    async with own(stage) as tee:
        client = await tee.send("GET", "/events")
        turn = await stage.next()
        turn.reply("200 OK", "Content-Length: 9", body=b"part", length=False)
        turn.close()
        answer = await client.answer()
        assert await answer.read() == b"part"
        assert answer.end != "whole"
        await first(tee, stage, 1)


async def test_client_that_leaves_before_the_answer_ends_the_call(stage: Stage) -> None:
    """But not while another one waits for it."""
    async with own(stage) as tee:
        one, other = await tee.send("GET", "/events"), await tee.send("GET", "/events")
        turn = await stage.next()
        await asking(tee, 2)
        await one.leave()
        await asking(tee, 1)
        turn.begin()
        turn.chunk(tick(1))
        await (await other.answer()).until(b"-1\n\n")
        third = await tee.send("GET", "/events?third")
        waiting = await stage.next()
        await third.leave()
        await waiting.wait_left()
        await asking(tee, 0)


async def test_too_many_streams_are_refused_before_the_upstream_is_asked(stage: Stage) -> None:
    """503, as for generations."""
    async with own(stage, limits={"streams": 1}) as tee:
        await first(tee, stage, 1)
        assert (await tee.ask("GET", "/events?other")).status == 503
        assert len(stage.turns) == 1
        assert (await tee.ask("GET", "/events")).status == 200


async def test_too_many_followers_are_refused(stage: Stage) -> None:
    """Of one stream; those who are there stay."""
    async with own(stage, limits={"followers_per_stream": 1}) as tee:
        early, turn = await first(tee, stage, 1)
        assert (await tee.ask("GET", "/events")).status == 503
        turn.chunk(tick(2))
        await early.until(b"-2\n\n")


# Leaving


async def test_upstream_is_closed_when_the_last_follower_leaves(stage: Stage) -> None:
    """Not when one of two does."""
    async with own(stage) as tee:
        early, turn = await first(tee, stage, 1)
        late = await tee.ask("GET", "/events")
        await early.client.leave()
        await tee.wait_followers(1)
        turn.chunk(tick(2))
        await late.until(b"-2\n\n")
        await late.client.leave()
        await turn.wait_left()
        assert await tee.metric("streamtee_streams_ended_total", ending="client_gone", route="/events") == 1


async def test_upstream_is_kept_for_the_next_follower(stage: Stage) -> None:
    """For as long as is configured; the stream goes on without anyone."""
    async with own(stage, route={"keep_s": 3600}) as tee:
        early, turn = await first(tee, stage, 1)
        await early.client.leave()
        await tee.wait_followers(0)
        turn.chunk(tick(2))
        stream = next(iter(tee.proxy.hub))
        await until(lambda: stream.log.end == 2)
        back = await tee.ask("GET", "/events", f"Last-Event-ID: {early.epoch}-1")
        assert await back.until(b"-2\n\n") == stamped(tick(2), early.epoch, 2)
        assert len(stage.turns) == 1


async def test_kept_upstream_is_closed_in_the_end(stage: Stage) -> None:
    """Unless somebody came."""
    async with own(stage, route={"keep_s": 0.03}) as tee:
        early, turn = await first(tee, stage, 1)
        await early.client.leave()
        await turn.wait_left()


async def test_client_that_comes_back_to_an_ended_stream_misses_nothing(stage: Stage) -> None:
    """The upstream is asked for what came after the event the client had last: by the upstream's own id."""
    async with own(stage) as tee:
        early, turn = await first(tee, stage, 1, 2, 3)
        await early.client.leave()
        await turn.wait_left()
        client = await tee.send("GET", "/events", f"Last-Event-ID: {early.epoch}-2")
        turn = await stage.next()
        assert turn.all("last-event-id") == [b"u2"]
        turn.begin()
        turn.chunk(ticks(3, 4))
        back = await client.answer()
        assert back.epoch != early.epoch
        assert back.header("stream-resumed-from") == f"{back.epoch}-0"
        assert await back.until(b"-2\n\n") == stamped(ticks(3, 4), back.epoch)


async def test_ended_stream_is_forgotten_in_time(stage: Stage) -> None:
    """Nothing is left of its URL."""
    async with own(stage, streams={"retain_s": 0.02}) as tee:
        early, turn = await first(tee, stage, 1)
        await early.client.leave()
        await turn.wait_left()
        calls = tee.proxy.calls
        await until(lambda: not calls._by_name and not calls._by_stream and not calls._before)


# Around it


async def test_stream_is_followed_by_its_id_by_anyone_and_ended_by_no_one(stage: Stage) -> None:
    """It belongs to everybody who reaches the route: nobody's list has it, and nobody may cancel it."""
    async with own(stage) as tee:
        early, turn = await first(tee, stage, 1)
        other = "Authorization: Bearer sk-another"
        path = f"/v1/streams/{early.stream_id}"
        assert early.header("content-location") == path
        by_id = await tee.ask("GET", path, other)
        assert await by_id.until(b"-1\n\n") == stamped(tick(1), early.epoch)
        assert (await tee.ask("HEAD", path, other)).status == 200
        assert (await (await tee.ask("GET", f"{path}/info", other)).json())["route"] == "/events"
        assert (await tee.ask("POST", f"{path}/cancel", other)).status == 404
        assert (await tee.ask("DELETE", path)).status == 404
        assert await tee.listed() == await tee.listed(other) == []
        told = await (await tee.admin("/admin/streams")).json()
        assert [row["id"] for row in told["data"]] == [early.stream_id]
        turn.chunk(tick(2))
        await early.until(b"-2\n\n")


async def test_other_methods_pass_through(stage: Stage) -> None:
    """As with `share = "none"`: with all that the client says."""
    async with own(stage) as tee:
        client = await tee.send("PUT", "/events", "Cookie: a=b", body=b"new")
        turn = await stage.next()
        assert (turn.method, await turn.body(), turn.all("cookie")) == (b"PUT", b"new", [b"a=b"])
        turn.reply("201 Created", body=b"done")
        answer = await client.answer()
        assert (answer.status, await answer.read()) == (201, b"done")


async def test_metrics_count_no_token(stage: Stage) -> None:
    """Frames, bytes and streams are counted; there is no first token to wait for, comments aside."""
    async with own(stage) as tee:
        early, turn = await first(tee, stage, 1)
        turn.chunk(b": a comment\n\n")
        turn.chunk(tick(2))
        await early.until(b"-3\n\n")
        assert await tee.metric("streamtee_streams_active") == 1
        assert await tee.metric("streamtee_frames_total", route="/events") == 3
        said = len(ticks(1, 2) + b": a comment\n\n")
        assert await tee.metric("streamtee_upstream_bytes_total", route="/events") == said
        await early.client.leave()
        await turn.wait_left()
        assert await tee.metric("streamtee_streams_ended_total", route="/events") == 1
        assert await tee.metric("streamtee_time_to_first_byte_seconds_count", route="/events") == 1
        for name in ("time_to_first_token_seconds_count", "inter_token_seconds_count", "no_first_token_total"):
            assert await tee.metric(f"streamtee_{name}") == 0
        assert await tee.metric("streamtee_requests_total", route="/events", status="200", method="GET") == 1


async def test_followers_hear_heartbeats_while_the_upstream_is_silent(stage: Stage) -> None:
    """As configured for all streams."""
    async with own(stage, streams={"heartbeat_s": 0.05}) as tee:
        early, _ = await first(tee, stage)
        assert await early.until(b":\n:\n") == b":\n:\n"


async def test_follower_that_falls_out_of_the_window_is_told(stage: Stage) -> None:
    """An error event; the others go on."""
    frame = b"data: %b\n\n" % (b"x" * 60_000)
    async with own(stage, route={"window_bytes": 200_000}) as tee:
        early, turn = await first(tee, stage, 1)
        slow = await tee.connect(receive_bytes=4096)
        slow.send(request("GET", "/events"))
        stalled = await slow.answer()
        slow.stall()
        stream = next(iter(tee.proxy.hub))
        sent = 0
        async with asyncio.timeout(GUARD_S):
            while not any(one.parked and one.offset < stream.log.start for one in stream.subscriptions):
                await turn.pour(b"%x\r\n%b\r\n" % (len(frame), frame))
                sent += 1
                await until(lambda: stream.log.end == sent + 1)  # noqa: B023
        slow.read_on()
        said = await stalled.read()
        assert b'event: error\ndata: {"error":{' in said
        assert b'"code":"too_slow"' in said
        assert stalled.end == "whole"
        turn.chunk(tick(2))
        await early.until(b"id: u2\n")


async def test_drain_ends_shared_streams_at_once(stage: Stage) -> None:
    """They would never finish; followers are closed between two events, to come back elsewhere."""
    async with own(stage, drain_s=3600) as tee:
        early, turn = await first(tee, stage, 1)
        async with asyncio.timeout(GUARD_S):
            await tee.proxy.drain()
        assert await early.read() == stamped(tick(1), early.epoch)
        assert early.end == "whole"
        await turn.wait_left()


async def test_first_call_ends_with_the_proxy(stage: Stage) -> None:
    """While the upstream has not answered."""
    async with own(stage) as tee:
        client = await tee.send("GET", "/events")
        turn = await stage.next()
        await tee.proxy.stop()
        await turn.wait_left()
        async with asyncio.timeout(GUARD_S):
            await client.lost.wait()
