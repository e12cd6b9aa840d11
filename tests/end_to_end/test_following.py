"""Following: anyone who may, at any time, from any place, in the mode of their choice; and control."""

import asyncio
import json
import re
from typing import Any

import pytest

from proxy.dialects.usage import Usage
from proxy.tools.fake.qwen import FakeQwen
from tests.event_loops import GUARD_S, POLL_S, on_one_loop, until
from tests.event_streams import DONE, FINISH, blocks, chunk_frame, stamped
from tests.http_client import Answer, request
from tests.proxy_under_test import Serve, Tee, begun
from tests.stage import EVENT_STREAM, Stage

OTHER = "Authorization: Bearer sk-another-caller"
BEAT = b":\n"
CURSORS = ("Last-Event-ID", "last_event_id", "after", "starting_after")


async def follow_from(tee: Tee, ident: str, way: str, cursor: str, mode: str = "events") -> Answer:
    """Follow from a cursor, told in one of the ways there are."""
    if way == "Last-Event-ID":
        return await tee.follow(ident, f"mode={mode}", f"Last-Event-ID: {cursor}")
    return await tee.follow(ident, f"mode={mode}&{way}={cursor}")


async def ended(serve: Serve, fault: str = "", dialect: str = "chat", **tables: Any) -> tuple[Tee, Answer, list[bytes]]:
    """Run a stream to its end; return also its blocks."""
    tee = await serve(**tables)
    answer = await tee.generate(dialect, fault=fault)
    body = await answer.read()
    return tee, answer, blocks(body)


# When.


async def test_follower_joins_at_any_time(perform: Serve, stage: Stage) -> None:
    """Before the first frame, between frames, after the last: all get the whole stream, live once they caught up."""
    tee = await perform()
    originator, turn = await begun(tee, stage)
    frames = [chunk_frame(f"word {n}") for n in range(4)] + [FINISH, DONE]
    followers: list[tuple[str, Answer]] = []

    async def join() -> None:
        followers.append(("raw", await tee.follow(originator.stream_id, "mode=raw")))
        followers.append(("events", await tee.follow(originator.stream_id, "mode=events")))

    await join()
    sent = b""
    for frame in frames:
        turn.chunk(frame)
        sent += frame
        await originator.bytes(len(sent))
        await join()
        for mode, follower in followers:
            wanted = sent if mode == "raw" else stamped(sent, originator.epoch)
            assert await follower.bytes(len(wanted)) == wanted
    turn.end()
    await originator.read()
    await tee.wait_ended(originator.stream_id)
    await join()
    for mode, follower in followers:
        assert await follower.read() == (sent if mode == "raw" else stamped(sent, originator.epoch))
        assert follower.end == "whole"
    assert len(stage.turns) == 1


@pytest.mark.parametrize("dialect", ["chat", "native"])
@pytest.mark.parametrize("fault", ["", "crlf", "cr", "comments", "comments, crlf", "burst", "split_bytes", "bom"])
async def test_follower_after_the_end_gets_it_all(serve: Serve, fake: FakeQwen, fault: str, dialect: str) -> None:
    """Raw is the upstream's bytes; events are its blocks with ids in their own line ending."""
    tee, answer, _ = await ended(serve, fault, dialect)
    sent = bytes(fake.requests[0].sent)
    raw = await tee.follow(answer.stream_id, "mode=raw")
    events = await tee.follow(answer.stream_id)
    assert await raw.read() == sent
    assert await events.read() == stamped(sent, answer.epoch)
    assert raw.end == events.end == "whole"


async def test_follower_is_told_what_it_gets(serve: Serve) -> None:
    """The heads of both modes name stream, mode and place, and forbid caching."""
    tee, answer, frames = await ended(serve)
    events = await tee.follow(answer.stream_id)
    raw = await tee.follow(answer.stream_id, f"mode=raw&after={answer.epoch}-2")
    for follower, mode in ((events, "events"), (raw, "raw")):
        assert follower.status == 200
        assert follower.header("content-type") == EVENT_STREAM
        assert follower.header("cache-control") == "no-cache, no-transform"
        assert follower.header("x-accel-buffering") == "no"
        assert follower.header("stream-id") == answer.stream_id
        assert follower.header("stream-mode") == mode
        await follower.read()
    assert events.header("stream-resumed-from") is None
    assert raw.header("stream-resumed-from") == f"{answer.epoch}-2"
    assert raw.header("stream-offset") == str(len(frames[0] + frames[1]))


async def test_client_of_http_1_0_follows(serve: Serve) -> None:
    """Its body ends with the connection."""
    tee, answer, frames = await ended(serve)
    follower = await tee.ask("GET", f"/v1/streams/{answer.stream_id}", version="1.0")
    assert follower.header("transfer-encoding") is None
    assert await follower.read() == stamped(b"".join(frames), answer.epoch)


@on_one_loop
async def test_many_followers_get_the_same(serve: Serve, fake: FakeQwen) -> None:
    """Law 5: whenever each joined, what it got is the stream's rendering, without a gap or a repeat."""
    tee = await serve()
    originator = await tee.chat("Stream-Key: k", fault="count; frames=900")
    followers = []
    for number in range(40):
        followers.append(await tee.follow(originator.stream_id, "mode=raw" if number % 2 else ""))
        await originator.bytes(len(originator.body) + 1)
    sent = await originator.read()
    assert sent == bytes(fake.requests[0].sent)
    events = stamped(sent, originator.epoch)
    for number, follower in enumerate(followers):
        assert await follower.read() == (sent if number % 2 else events)


async def test_followers_in_a_rank_are_not_disturbed_by_one_that_breaks_off(perform: Serve, stage: Stage) -> None:
    """Of either version of HTTP; who breaks off in the turn of an event is not in the next one's way."""
    tee = await perform()
    originator, turn = await begun(tee, stage)
    path = f"/v1/streams/{originator.stream_id}?mode=raw"
    followers = [await tee.ask("GET", path, version=version) for version in ("1.1", "1.0", "1.1", "1.0", "1.1")]
    sent = b""
    for n in range(8):
        frame = chunk_frame(f"word {n}")
        turn.chunk(frame)
        sent += frame
        if n in (3, 4):
            followers.pop(0).client.transport.abort()
        for follower in (originator, *followers):
            assert await follower.bytes(len(sent)) == sent
    turn.chunk(DONE)
    turn.end()
    for follower in (originator, *followers):
        assert (await follower.read(), follower.end) == (sent + DONE, "whole")


async def test_originator_in_events_and_follower_in_raw(serve: Serve, fake: FakeQwen) -> None:
    """The mode is each client's own."""
    tee = await serve()
    originator = await tee.chat("Stream-Mode: events", fault="slow_first_token; seconds=0.05")
    raw = await tee.follow(originator.stream_id, "mode=raw")
    sent = await raw.read()
    assert sent == bytes(fake.requests[0].sent)
    assert await originator.read() == stamped(sent, originator.epoch)


# From where.


@pytest.mark.parametrize("way", CURSORS)
async def test_every_cursor_gives_exactly_the_rest(serve: Serve, way: str) -> None:
    """Law 8: attaching at k gives the suffix after k, by a number or an id, in both modes; at the end there is none."""
    tee, answer, frames = await ended(serve, "count; frames=6, comments")
    for seq in range(len(frames)):
        for cursor in (str(seq), f"{answer.epoch}-{seq}"):
            rest = b"".join(frames[seq:])
            events = await follow_from(tee, answer.stream_id, way, cursor)
            assert await events.read() == stamped(rest, answer.epoch, seq + 1)
            assert events.header("stream-resumed-from") == f"{answer.epoch}-{seq}"
        raw = await follow_from(tee, answer.stream_id, way, cursor, "raw")
        assert await raw.read() == rest
    for cursor in (str(len(frames)), f"{answer.epoch}-{len(frames)}", "now"):
        nothing = await follow_from(tee, answer.stream_id, way, cursor)
        assert (nothing.status, await nothing.read()) == (204, b"")


@pytest.mark.parametrize("way", CURSORS)
async def test_cursor_of_a_running_stream(perform: Serve, stage: Stage, way: str) -> None:
    """0 and -1 are the start, now is the tail, a number is what comes after it, also if nothing has yet."""
    tee = await perform()
    originator, turn = await begun(tee, stage, frames=3)
    starts = {"0": 0, "-1": 0, "1": 1, f"{originator.epoch}-2": 2, "3": 3, "now": 3}
    followers = {cursor: await follow_from(tee, originator.stream_id, way, cursor, "raw") for cursor in starts}
    turn.end(FINISH, DONE)
    frames = blocks(await originator.read())
    for cursor, start in starts.items():
        assert await followers[cursor].read() == b"".join(frames[start:]), cursor


@pytest.mark.parametrize("way", CURSORS)
async def test_minus_one_is_the_start_of_an_ended_stream(serve: Serve, way: str) -> None:
    """As in Durable Streams, and unlike now, which is its end."""
    tee, answer, frames = await ended(serve)
    follower = await follow_from(tee, answer.stream_id, way, "-1", "raw")
    assert await follower.read() == b"".join(frames)


async def test_cursors_have_an_order(serve: Serve) -> None:
    """The header comes before the query, and there last_event_id before after before starting_after."""
    tee, answer, frames = await ended(serve)
    query = "last_event_id=2&after=3&starting_after=4"
    for start, words in (
        (1, (query, "Last-Event-ID: 1")),
        (2, (query,)),
        (3, (query.partition("&")[2],)),
        (4, ("starting_after=4",)),
    ):
        follower = await tee.follow(answer.stream_id, "mode=raw&" + words[0], *words[1:])
        assert await follower.read() == b"".join(frames[start:])


@on_one_loop
async def test_every_offset_gives_exactly_the_rest(serve: Serve) -> None:
    """A byte offset may lie within a frame or a character; Stream-Offset repeats it."""
    tee, answer, frames = await ended(serve, "count; frames=3")
    whole = b"".join(frames)
    for offset in [*range(0, len(whole), 7), len(frames[0]), len(whole) - 1]:
        follower = await tee.follow(answer.stream_id, f"mode=raw&offset={offset}")
        assert await follower.read() == whole[offset:]
        assert follower.header("stream-offset") == str(offset)
    assert (await tee.follow(answer.stream_id, f"mode=raw&offset={len(whole)}")).status == 204


async def test_offset_into_a_running_stream(perform: Serve, stage: Stage) -> None:
    """From within a frame that is there, and from the end."""
    tee = await perform()
    originator, turn = await begun(tee, stage, frames=2)
    there = len(originator.body)
    followers = {n: await tee.follow(originator.stream_id, f"mode=raw&offset={n}") for n in (0, 5, there - 1, there)}
    turn.end(FINISH, DONE)
    whole = await originator.read()
    for offset, follower in followers.items():
        assert await follower.read() == whole[offset:]


@on_one_loop
@pytest.mark.parametrize("query", ["mode=raw&offset=5", "mode=raw", "mode=raw&after=1"])
async def test_follower_on_a_connection_that_is_full(perform: Serve, stage: Stage, query: str) -> None:
    """What an earlier answer left to be sent on the same connection is no reason to skip any of the next."""
    tee = await perform()
    originator, turn = await begun(tee, stage)
    frames = [chunk_frame("first"), chunk_frame("x" * 7_500_000)]
    turn.end(*frames)
    whole = await originator.read()
    client = await tee.connect(receive_bytes=4096)
    client.stall()
    path = f"/v1/streams/{originator.stream_id}?"
    client.send(request("GET", path + "mode=raw") + request("GET", path + query))
    await tee.settled(lambda: len(tee.proxy.hub.heartbeats))
    client.read_on()
    assert await (await client.answer()).read() == whole
    begin = {"mode=raw&offset=5": 5, "mode=raw": 0, "mode=raw&after=1": len(frames[0])}[query]
    assert await (await client.answer()).read() == whole[begin:]


@pytest.mark.parametrize("fault", ["cut_mid_frame", "cut_mid_chunk"])
async def test_offset_into_the_tail_of_a_stream_that_broke_off(serve: Serve, fault: str) -> None:
    """The bytes after the last whole frame count, too: up to Stream-Bytes every offset gives the rest, and breaks."""
    tee = await serve()
    answer = await tee.chat(fault=fault)
    whole = await answer.read()
    head = await tee.ask("HEAD", f"/v1/streams/{answer.stream_id}")
    assert head.header("stream-bytes") == str(len(whole))
    tail = whole.rindex(b"\n\n") + 2
    assert tail < len(whole)
    for offset in (0, tail - 1, tail, tail + 1, len(whole)):
        follower = await tee.follow(answer.stream_id, f"mode=raw&offset={offset}")
        assert follower.status == 200, offset
        assert await follower.read() == whole[offset:]
        assert follower.end != "whole"


async def test_cursor_below_the_window_is_gone(perform: Serve, stage: Stage) -> None:
    """410 names the earliest; from there on everything is given, from below nothing, by id and by byte."""
    tee = await perform(limits={"log_bytes": 2000})
    originator, turn = await begun(tee, stage)
    sent = b""
    for number in range(40):
        turn.chunk(frame := chunk_frame(f"word {number}"))
        sent += frame
        await originator.bytes(len(sent))
    frames = blocks(sent)
    first = (await tee.info(originator.stream_id))["first_seq"]
    assert 20 < first < 40
    for query in ("", "after=0", f"after={first - 2}", f"after={originator.epoch}-{first - 2}", "mode=raw"):
        gone = await tee.follow(originator.stream_id, query)
        told = await gone.json()
        assert (gone.status, told["earliest"]) == (410, first), query
        assert told["error"]["code"] == "offset_gone"
        assert str(first) in told["error"]["message"]
    kept = await tee.follow(originator.stream_id, f"mode=raw&after={first - 1}")
    rest = b"".join(frames[first - 1 :])
    earliest = len(sent) - len(rest)
    gone = await tee.follow(originator.stream_id, f"mode=raw&offset={earliest - 1}")
    assert (gone.status, (await gone.json())["earliest"]) == (410, earliest)
    by_byte = await tee.follow(originator.stream_id, f"mode=raw&offset={earliest + 3}")
    turn.end(DONE)
    assert await kept.read() == rest + DONE
    assert await by_byte.read() == (rest + DONE)[3:]
    assert await originator.read() == sent + DONE


async def test_cursor_of_another_stream_is_noticed(serve: Serve) -> None:
    """409, whether the number would fit or not."""
    tee, first, _ = await ended(serve)
    second = await tee.chat()
    await second.read()
    for seq in (0, 1, 9999):
        answer = await tee.follow(second.stream_id, "", f"Last-Event-ID: {first.epoch}-{seq}")
        assert answer.status == 409
        assert (await answer.json())["error"]["code"] == "cursor_of_another_stream"


async def test_cursor_beyond_the_end_is_refused(serve: Serve, fake: FakeQwen) -> None:
    """416 with the numbers, running or ended, by id and by byte."""
    tee, answer, frames = await ended(serve)
    size = sum(map(len, frames))
    for query, there in ((f"after={len(frames) + 5}", len(frames)), (f"mode=raw&offset={size + 1}", size)):
        beyond = await tee.follow(answer.stream_id, query)
        assert beyond.status == 416
        told = (await beyond.json())["error"]
        assert told["code"] == "offset_beyond"
        assert str(there) in told["message"]


async def test_error_event_is_the_last_that_is_due(serve: Serve) -> None:
    """A browser that reconnects with the id of the error event it got is told to stop (204), not the error again."""
    tee = await serve()
    answer = await tee.chat(fault="cut_mid_frame")
    await answer.read()
    follower = await tee.follow(answer.stream_id)
    last = re.findall(rb"^id: (.+)$", await follower.read(), re.MULTILINE)[-1].decode()
    again = await tee.follow(answer.stream_id, "", f"Last-Event-ID: {last}")
    assert (again.status, await again.read()) == (204, b"")


async def test_follower_that_missed_the_error_event_gets_it(serve: Serve) -> None:
    """One that had all frames, but not the end, is told of the end."""
    tee = await serve()
    answer = await tee.chat(fault="cut_mid_frame; after=3")
    await answer.read()
    follower = await tee.follow(answer.stream_id, "after=3")
    (event,) = blocks(await follower.read())
    assert b'"error"' in event
    assert follower.end == "whole"


# Who, and how long.


async def test_stream_that_is_not_the_callers_is_not_there(serve: Serve) -> None:
    """Unknown, expired and another caller's: the same 404, for every verb."""
    tee, answer, _ = await ended(serve)
    running = await tee.chat("Stream-Key: mine", fault="hang")
    never = "st_" + "a" * 26
    paths = [("GET", ""), ("GET", "/info"), ("HEAD", ""), ("POST", "/cancel"), ("DELETE", "")]
    for ident, headers in ((never, ()), (answer.stream_id, (OTHER,)), (running.stream_id, (OTHER,))):
        for method, path in paths:
            refused = await tee.ask(method, f"/v1/streams/{ident}{path}", *headers)
            assert refused.status == 404, (method, path)
            if method != "HEAD":
                told = (await refused.json())["error"]
                assert told["code"] == "stream_not_found"
                assert told["message"].replace(ident, never) == f"no stream '{never}' of yours is running or kept"
    assert (await tee.follow("keys/mine", "", OTHER)).status == 404
    assert await tee.listed(OTHER) == []
    assert (await tee.info(running.stream_id))["state"] == "open"


async def test_stream_expires(serve: Serve) -> None:
    """After its retention it is gone, by id and by key, and its memory with it."""
    tee, answer, _ = await ended(serve, streams={"retain_s": 0.01})
    kept = await tee.chat("Stream-Key: k", "Stream-Retain: 100")
    await kept.read()
    async with asyncio.timeout(GUARD_S):
        while (await tee.follow(answer.stream_id)).status != 404:
            await asyncio.sleep(POLL_S)
    assert (await tee.follow(kept.stream_id)).status == 200
    assert (await tee.follow("keys/k")).status == 200
    assert [one["id"] for one in await tee.listed()] == [kept.stream_id]


async def test_stream_that_is_not_to_be_kept_ends_for_its_followers(perform: Serve, stage: Stage) -> None:
    """Stream-Retain: 0 lets go of it at its end; who follows it then still gets it whole."""
    tee = await perform()
    originator, turn = await begun(tee, stage, "Stream-Retain: 0", "Stream-Key: k")
    follower = await tee.follow(originator.stream_id, "mode=raw")
    turn.end(FINISH, DONE)
    assert await originator.read() == await follower.read() == FINISH + DONE
    assert (await tee.follow(originator.stream_id)).status == 404
    assert (await tee.follow("keys/k")).status == 404
    assert await tee.metric("streamtee_log_bytes") == 0


async def test_retention_is_capped(serve: Serve) -> None:
    """A caller may ask for less than the cap, not for more."""
    tee, answer, _ = await ended(serve, streams={"retain_max_s": 0})
    assert (await tee.follow(answer.stream_id)).status == 200
    capped = await tee.chat("Stream-Retain: 100")
    await capped.read()
    assert (await tee.follow(capped.stream_id)).status == 404


# Heartbeats.


@on_one_loop
async def test_heartbeats_come_between_blocks_after_silence(perform: Serve, stage: Stage) -> None:
    """One comment line, one newline; none in raw, none where they are off, and a block after one is unharmed."""
    tee = await perform()
    originator, turn = await begun(tee, stage, frames=2)
    beaten = await tee.follow(originator.stream_id, "heartbeat=0.1")
    quiet = [await tee.follow(originator.stream_id, q) for q in ("heartbeat=0", "mode=raw&heartbeat=0.1", "")]
    there = stamped(bytes(originator.body), originator.epoch)
    await beaten.until(BEAT * 2)
    assert bytes(beaten.body) in (there + BEAT * 2, there + BEAT * 3)
    turn.chunk(frame := chunk_frame("after silence"))
    await beaten.until(b"silence")
    assert bytes(beaten.body).rstrip(BEAT).endswith(stamped(frame, originator.epoch, 3).rstrip(b"\n"))
    await beaten.bytes(len(beaten.body) + 2)
    turn.end(DONE)
    whole = await originator.read()
    for follower, raw in zip(quiet, (False, True, False), strict=True):
        assert await follower.read() == (whole if raw else stamped(whole, originator.epoch))
    body = await beaten.read()
    assert re.sub(rb"(^|\n\n)(?::\n)+", rb"\1", body) == stamped(whole, originator.epoch)


@on_one_loop
async def test_no_heartbeat_while_blocks_come(perform: Serve, stage: Stage) -> None:
    """A stream that speaks needs none: another one's silence is what heartbeats tell of here."""
    tee = await perform()
    silent, silent_turn = await begun(tee, stage, "Stream-Key: silent")
    spoken, spoken_turn = await begun(tee, stage, "Stream-Key: spoken")
    beaten = await tee.follow(silent.stream_id, "heartbeat=1")
    follower = await tee.follow(spoken.stream_id, "heartbeat=1")
    beats = asyncio.create_task(beaten.until(BEAT))
    number = 0
    while not beats.done():
        spoken_turn.chunk(chunk_frame(f"word {(number := number + 1)}."))
        await follower.until(b"word %d." % number)
    await beats
    for turn in (silent_turn, spoken_turn):
        turn.end(DONE)
    assert BEAT not in [line + b"\n" for line in (await follower.read()).split(b"\n")]


# By key.


async def test_key_names_the_callers_newest_stream(perform: Serve, stage: Stage) -> None:
    """Running or kept; a cursor of the one before it gives the newer one from its start."""
    tee = await perform()
    first, turn = await begun(tee, stage, "Stream-Key: chat-42")
    turn.end(chunk_frame("first"), DONE)
    await first.read()
    assert (await tee.follow("keys/chat-42")).stream_id == first.stream_id
    second, turn = await begun(tee, stage, "Stream-Key: chat-42")
    turn.chunk(frame := chunk_frame("second"))
    await second.until(b"second")
    by_key = await tee.follow("keys/chat-42")
    by_old_id = await tee.follow("keys/chat-42", "", f"Last-Event-ID: {first.epoch}-1")
    by_new_id = await tee.follow("keys/chat-42", "", f"Last-Event-ID: {second.epoch}-1")
    turn.end(DONE)
    whole = stamped(frame + DONE, second.epoch)
    assert by_key.stream_id == by_old_id.stream_id == by_new_id.stream_id == second.stream_id
    assert await by_key.read() == await by_old_id.read() == whole
    assert await by_new_id.read() == stamped(DONE, second.epoch, 2)
    assert by_old_id.header("stream-resumed-from") in (None, f"{second.epoch}-0")


async def test_key_is_the_callers_own(perform: Serve, stage: Stage) -> None:
    """Two callers may use one word."""
    tee = await perform()
    mine, my_turn = await begun(tee, stage, "Stream-Key: k")
    theirs, their_turn = await begun(tee, stage, "Stream-Key: k", OTHER)
    my_follower = await tee.follow("keys/k", "mode=raw")
    their_follower = await tee.follow("keys/k", "mode=raw", OTHER)
    my_turn.end(chunk_frame("mine"), DONE)
    their_turn.end(chunk_frame("theirs"), DONE)
    assert await my_follower.read() == await mine.read() == chunk_frame("mine") + DONE
    assert await their_follower.read() == await theirs.read() == chunk_frame("theirs") + DONE


@pytest.mark.parametrize(
    ("key", "path"), [("a/b", "a%2Fb"), ("a%2Fb", "a%252Fb"), ("?#", "%3F%23"), ("k" * 200, "k" * 200), ("~", "~")]
)
async def test_key_of_any_visible_characters(serve: Serve, key: str, path: str) -> None:
    """In the path it is percent-encoded."""
    tee = await serve()
    answer = await tee.chat(f"Stream-Key: {key}")
    body = await answer.read()
    assert await (await tee.follow(f"keys/{path}", "mode=raw")).read() == body
    assert (await tee.info(answer.stream_id))["key"] == key


async def test_follower_may_come_first(perform: Serve, stage: Stage) -> None:
    """It gets its head at once, then heartbeats, then the frames when the stream begins."""
    tee = await perform()
    early = await tee.follow("keys/chat-42", "wait=10&heartbeat=0.1")
    raw = await tee.follow("keys/chat-42", "wait=10&mode=raw")
    assert early.status == raw.status == 200
    await early.until(BEAT * 2)
    originator, turn = await begun(tee, stage, "Stream-Key: chat-42")
    turn.chunk(frame := chunk_frame("at last"))
    await early.until(b"at last")
    await raw.until(b"at last")
    turn.end(DONE)
    whole = await originator.read()
    assert whole == frame + DONE
    assert await raw.read() == whole
    assert (await early.read()).lstrip(BEAT) == stamped(whole, originator.epoch)
    assert (early.end, raw.end) == ("whole", "whole")


async def test_follower_may_come_between_request_and_answer(perform: Serve, stage: Stage) -> None:
    """The key is known from the moment the request has arrived: no wait is needed then."""
    tee = await perform()
    client = await tee.send_chat("Stream-Key: chat-42")
    turn = await stage.next()
    follower = await tee.follow("keys/chat-42", "mode=raw")
    assert follower.status == 200
    (listed,) = await tee.listed()
    assert (listed["state"], listed["key"], listed["events"]) == ("open", "chat-42", 0)
    await turn.body()
    turn.begin()
    turn.end(DONE)
    originator = await client.answer()
    assert follower.stream_id == originator.stream_id == listed["id"]
    assert await originator.read() == await follower.read() == DONE


@on_one_loop
async def test_many_wait_for_one_key(perform: Serve, stage: Stage) -> None:
    """All get the stream; those of other keys, and other callers, go on waiting."""
    tee = await perform()
    waiting = [await tee.follow("keys/k", "wait=10&mode=raw") for _ in range(100)]
    others = [
        await tee.follow("keys/other", "wait=10&mode=raw"),
        await tee.follow("keys/k", "wait=10&mode=raw", OTHER),
    ]
    await tee.wait_followers(102)
    originator, turn = await begun(tee, stage, "Stream-Key: k")
    turn.end(DONE)
    assert await originator.read() == DONE
    for follower in waiting:
        assert await follower.read() == DONE
    await tee.wait_followers(2)
    for follower in others:
        assert (follower.end, follower.body) == ("open", b"")


@on_one_loop
@pytest.mark.parametrize("heartbeat", ["0", "0.1"])
async def test_nobody_comes(serve: Serve, heartbeat: str) -> None:
    """The wait ends properly, with nothing but heartbeats."""
    tee = await serve()
    follower = await tee.follow("keys/k", f"wait=0.3&heartbeat={heartbeat}")
    assert (await follower.read()).replace(BEAT, b"") == b""
    assert follower.end == "whole"
    assert bool(follower.body) == (heartbeat != "0")
    await tee.wait_followers(0)


@on_one_loop
@pytest.mark.parametrize("mode", ["text", "json"])
async def test_nobody_comes_where_an_end_would_be_an_empty_answer(serve: Serve, mode: str) -> None:
    """Such a follower is refused when its time is up; in mode raw its response breaks off."""
    tee = await serve()
    answer = await tee.follow("keys/k", f"wait=0.2&mode={mode}")
    assert (answer.status, (await answer.json())["error"]["code"]) == (404, "stream_not_found")
    raw = await tee.follow("keys/k", "wait=0.2&mode=raw")
    assert (raw.status, await raw.read(), raw.end) == (200, b"", "cut")
    await tee.wait_followers(0)


@on_one_loop
async def test_text_is_followed_from_before_its_beginning(perform: Serve, stage: Stage) -> None:
    """The response begins with the stream."""
    tee = await perform()
    early = await tee.send("GET", "/v1/keys/k/stream?wait=10&mode=text")
    await (await tee.ask("GET", "/healthz")).read()
    first, turn = await begun(tee, stage, "Stream-Key: k", frames=1)
    follower = await early.answer()
    assert follower.stream_id == first.stream_id
    turn.end(FINISH, DONE)
    assert (await follower.read(), follower.end) == (b"word 1", "whole")


async def test_nobody_waits_without_being_asked_to(serve: Serve) -> None:
    """Without wait, a key nobody has used is unknown; the answer says how to wait."""
    tee = await serve()
    answer = await tee.follow("keys/k")
    told = (await answer.json())["error"]
    assert (answer.status, told["code"]) == (404, "stream_not_found")
    assert "wait=" in told["message"]


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("status; status=429", 429, "refused"),
        ("status; status=400_stream", 400, "refused"),
        ("garbage", 502, "garbled"),
        ("hang_before_head", 504, "timeout_first_byte"),
    ],
)
async def test_upstream_refuses_while_followers_wait(
    serve: Serve, fake: FakeQwen, fault: str, status: int, code: str
) -> None:
    """Events end with an error event, raw is aborted; the originator gets the refusal itself; nothing is kept."""
    tee = await serve(timeouts={"first_byte_s": 0.2})
    events = await tee.follow("keys/k", "wait=10")
    raw = await tee.follow("keys/k", "wait=10&mode=raw")
    await tee.wait_followers(2)
    answer = await tee.chat("Stream-Key: k", fault=fault)
    body = await answer.read()
    assert answer.status == status
    assert status > 500 or body == bytes(fake.requests[0].sent)
    (event,) = blocks(await events.read())
    error = json.loads(re.findall(rb"data: (.*)\n", event)[0])["error"]
    assert (error["type"], error["code"]) == ("stream_error", code)
    assert await raw.read() == b""
    assert (events.end, raw.end != "whole") == ("whole", True)
    assert await tee.listed() == []
    assert (await tee.follow("keys/k")).status == 404


async def test_waiter_that_leaves_is_forgotten(perform: Serve, stage: Stage) -> None:
    """It counts no more, and the stream that begins later is its originator's alone."""
    tee = await perform()
    waiting = await tee.follow("keys/k", "wait=10")
    await tee.wait_followers(1)
    await waiting.client.leave()
    await tee.wait_followers(0)
    originator, turn = await begun(tee, stage, "Stream-Key: k")
    assert len((await tee.info(originator.stream_id))["followers"]) == 1
    turn.end(DONE)
    await originator.read()


# Control.


async def test_head_tells_of_a_stream_without_its_bytes(perform: Serve, stage: Stage) -> None:
    """State, last seq and size, while it runs and after its end."""
    tee = await perform()
    originator, turn = await begun(tee, stage, frames=2)
    path = f"/v1/streams/{originator.stream_id}"

    async def told() -> tuple[str | None, ...]:
        head = await tee.ask("HEAD", path)
        assert (head.status, head.header("stream-id")) == (200, originator.stream_id)
        return tuple(head.header(f"stream-{name}") for name in ("state", "last-seq", "bytes", "closed"))

    assert await told() == ("open", "2", str(len(originator.body)), "false")
    turn.end(DONE)
    await originator.read()
    await tee.wait_ended(originator.stream_id)
    assert await told() == ("complete", "3", str(len(originator.body)), "true")


async def test_info_tells_numbers_and_names(perform: Serve, stage: Stage) -> None:
    """Model, time to the first token, events, bytes, followers with their lag, then finish reason, usage, ending."""
    tee = await perform()
    originator, turn = await begun(tee, stage, "Stream-Key: k")
    turn.chunk(frame := chunk_frame("word"))
    await originator.until(b"word")
    follower = await tee.follow(originator.stream_id)
    await follower.until(b"word")
    info = await tee.info(originator.stream_id)
    assert {name: info[name] for name in ("id", "object", "state", "ending", "key", "model", "route")} == {
        "id": originator.stream_id,
        "object": "stream",
        "state": "open",
        "ending": None,
        "key": "k",
        "model": "qwen3-max",
        "route": "chat",
    }
    assert (info["events"], info["first_seq"], info["bytes"]) == (1, 1, len(frame))
    assert 0 <= info["time_to_first_token_s"] < GUARD_S
    assert [(one["mode"], one["seq"], one["lag_events"], one["lag_bytes"]) for one in info["followers"]] == [
        ("raw", 1, 0, 0),
        ("events", 1, 0, 0),
    ]
    usage = (
        b'data: {"choices":[],"object":"chat.completion.chunk","usage":{"prompt_tokens":3,"completion_tokens":8,'
        b'"total_tokens":11,"completion_tokens_details":{"reasoning_tokens":2},'
        b'"prompt_tokens_details":{"cached_tokens":1}}}\n\n'
    )
    turn.end(FINISH, usage, DONE)
    await originator.read()
    info = await tee.wait_ended(originator.stream_id)
    assert (info["state"], info["ending"]["reason"], info["followers"]) == ("complete", "complete", [])
    assert (info["finish_reason"], info["events"]) == ("stop", 4)
    assert info["usage"] == Usage(prompt=3, completion=8, reasoning=2, cached=1)._asdict()


async def test_list_is_the_callers_own_newest_first(serve: Serve) -> None:
    """In OpenAI's list shape, running and kept ones."""
    tee = await serve()
    kept = await tee.chat()
    await kept.read()
    running = await tee.chat(fault="hang")
    await (await tee.chat(OTHER)).read()
    answer = await (await tee.ask("GET", "/v1/streams")).json()
    assert (answer["object"], answer["has_more"]) == ("list", False)
    assert [(one["id"], one["state"]) for one in answer["data"]] == [
        (running.stream_id, "open"),
        (kept.stream_id, "complete"),
    ]
    assert len(await tee.listed(OTHER)) == 1


@pytest.mark.parametrize("dialect", ["chat", "native"])
async def test_cancel_ends_the_stream_for_all(serve: Serve, fake: FakeQwen, dialect: str) -> None:
    """Upstream is closed, raw is aborted, events get the error event; a second time changes nothing."""
    tee = await serve()
    originator = await tee.generate(dialect, fault="hang; after=2")
    sent = await originator.until(b"\n\n")
    follower = await tee.follow(originator.stream_id)
    path = f"/v1/streams/{originator.stream_id}/cancel"
    first = await (await tee.ask("POST", path)).json()
    assert (first["id"], first["state"]) == (originator.stream_id, "cancelled")
    assert (await fake.wait_closed()).state == "client_gone"
    sent = await originator.read()
    assert sent == bytes(fake.requests[0].sent)
    assert originator.end in ("cut", "reset")
    *events, error = blocks(await follower.read())
    assert b"".join(events) == stamped(sent, originator.epoch)
    assert b'"cancelled"' in error
    assert (await (await tee.ask("POST", path)).json()) == first
    assert (await tee.info(originator.stream_id))["ending"]["reason"] == "cancelled"


async def test_cancel_of_a_complete_stream_leaves_it_complete(serve: Serve) -> None:
    """It is too late to change how it ended."""
    tee, answer, frames = await ended(serve)
    told = await (await tee.ask("POST", f"/v1/streams/{answer.stream_id}/cancel")).json()
    assert told["state"] == "complete"
    assert await (await tee.follow(answer.stream_id, "mode=raw")).read() == b"".join(frames)


async def test_cancel_before_the_upstream_answers(perform: Serve, stage: Stage) -> None:
    """The upstream is let go of at once, and the client hears of it, not only when the upstream comes to answer."""
    tee = await perform()
    client = await tee.send_chat("Stream-Key: k")
    turn = await stage.next()
    await turn.body()
    (listed,) = await tee.listed()
    await tee.ask("POST", f"/v1/streams/{listed['id']}/cancel")
    await turn.wait_left()
    await client.wait_bytes(bool)
    assert not client.buffer.startswith(b"HTTP/1.1 200")


async def test_delete_cancels_and_forgets(serve: Serve, fake: FakeQwen) -> None:
    """Afterwards it is unknown, by id and by key; who followed it is told that it was cancelled."""
    tee = await serve()
    originator = await tee.chat("Stream-Key: k", fault="hang")
    follower = await tee.follow("keys/k")
    await follower.until(b"id: ")
    path = f"/v1/streams/{originator.stream_id}"
    answer = await tee.ask("DELETE", path)
    assert await answer.json() == {"id": originator.stream_id, "object": "stream.deleted", "deleted": True}
    assert (await fake.wait_closed()).state == "client_gone"
    assert b'"cancelled"' in blocks(await follower.read())[-1]
    await originator.read()
    assert originator.end != "whole"
    assert (await tee.ask("DELETE", path)).status == (await tee.follow("keys/k")).status == 404
    assert await tee.listed() == []
    await until(lambda: tee.proxy.hub.ledger.bytes == 0)
