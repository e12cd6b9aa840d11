"""Clients that are too slow, or send too much: what is said to them, what is counted, and that others don't suffer."""

import asyncio
import gzip
from collections.abc import Callable
from time import process_time

import pytest

from proxy.stream.modes.projections import SPAN_BYTES
from proxy.stream.modes.transcript import Transcript
from proxy.wire.websocket import PING
from tests.event_loops import GUARD_S, until
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.frames import ASK, masked
from tests.http_client import request
from tests.proxy_under_test import CHAT, NATIVE, Serve, Tee, begun, chat_body
from tests.stage import Stage
from tests.workers_under_test import in_one_process

SHORT = {"head_s": 0.2, "body_s": 0.2, "keepalive_s": 0.2, "write_s": 0.2}
UNFINISHED = request("POST", CHAT, "Content-Length: 100")
BIG = chat_body(padding="x" * 300_000)


async def cuts(tee: Tee, reason: str) -> float:
    return await tee.metric("streamtee_client_connections_cut_total", reason=reason)


@pytest.mark.parametrize(
    ("sent", "path"),
    [(b"G", "/"), (f"POST {NATIVE}".encode(), NATIVE), (b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX: ", "/v1/models")],
)
@pytest.mark.fault("client", "connect")
async def test_head_that_does_not_come_is_answered_with_408(perform: Serve, sent: bytes, path: str) -> None:
    """In the dialect of its path, as far as that came; and the connection is closed."""
    tee = await perform(clients=SHORT)
    client = await tee.connect()
    client.send(sent)
    answer = await client.answer()
    told = await answer.json()
    assert (answer.status, answer.reason, answer.header("connection")) == (408, b"Request Timeout", "close")
    assert (told.get("error") or told)["code"] == "request_timeout"
    assert await client.wait_gone() == "fin"
    assert await cuts(tee, "head") == 1
    assert await tee.metric("streamtee_rejected_total", reason="request_timeout") == 1


async def test_head_that_drips_is_late_all_the_same(perform: Serve) -> None:
    """Its time is from its first byte to its last."""
    tee = await perform(clients=SHORT)
    client = await tee.connect()
    client.send(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX: ")
    async with asyncio.timeout(GUARD_S):
        while not client.buffer:
            client.transport.write(b"x")
            await asyncio.sleep(0)
    assert (await client.answer()).status == 408


async def test_silent_and_idle_connections_are_closed(perform: Serve) -> None:
    """Without a word: nobody asked for anything."""
    tee = await perform(clients=SHORT)
    silent, idle = await tee.connect(), await tee.send("GET", "/healthz")
    await (await idle.answer()).read()
    assert (await silent.wait_gone(), await idle.wait_gone()) == ("fin", "fin")
    assert not silent.buffer + idle.buffer
    assert (await cuts(tee, "head"), await cuts(tee, "keepalive")) == (1, 1)


@pytest.mark.parametrize("path", [CHAT, NATIVE, "/v1/embeddings"])
@pytest.mark.parametrize("part", [b"", b"{"])
async def test_body_that_does_not_come_is_answered_with_408(
    perform: Serve, stage: Stage, path: str, part: bytes
) -> None:
    """Whoever reads it, the proxy or the upstream, whose connection is closed."""
    tee = await perform(clients=SHORT)
    client = await tee.connect()
    client.send(request("POST", path, "Content-Length: 100") + part)
    answer = await client.answer()
    told = await answer.json()
    assert (answer.status, (told.get("error") or told)["code"]) == (408, "request_timeout")
    assert await client.wait_gone() in ("fin", "reset")
    assert await cuts(tee, "body") == 1
    if path == "/v1/embeddings":
        await (await stage.next()).wait_left()


async def test_body_that_the_upstream_holds_back_is_not_late(perform: Serve, stage: Stage) -> None:
    """The client can't send more than is read."""
    tee = await perform(clients=SHORT)
    body = b"x" * 30_000_000
    client = await tee.send("POST", "/v1/files", body=body)
    turn = await stage.next()
    sent = await tee.settled(client.transport.get_write_buffer_size, turns=200)
    assert sent > 0
    reading = asyncio.create_task(turn.body())
    assert await reading == body
    turn.reply("200 OK")
    assert (await client.answer()).status == 200


@pytest.mark.fault("follower", "between_frames")
async def test_answer_that_is_not_taken_is_cut_off(perform: Serve, stage: Stage) -> None:
    """By a reset, so that it does not look complete; another follower has all of it."""
    tee = await perform(clients={**SHORT, "keepalive_s": 0})
    originator, turn = await begun(tee, stage)
    stalled = await tee.connect(receive_bytes=4096)
    stalled.stall()
    stalled.send(request("GET", f"/v1/streams/{originator.stream_id}?mode=raw"))
    await tee.wait_followers(2)
    said = [chunk_frame("x" * 50_000) for _ in range(200)]
    reading = asyncio.create_task(originator.read())
    for frame in said:
        turn.chunk(frame)
    turn.end(FINISH, DONE)
    assert await reading == b"".join(said) + FINISH + DONE
    await tee.wait_followers(0)
    assert await cuts(tee, "write") == 1


async def test_client_that_waits_for_its_answer_is_not_late(perform: Serve, stage: Stage) -> None:
    """Nor is one that follows a stream in which nothing happens."""
    tee = await perform(clients=SHORT)
    originator, turn = await begun(tee, stage, frames=1)
    late = await tee.connect()
    assert await late.wait_gone() == "fin"  # so long that everything else would have been late
    turn.end(FINISH, DONE)
    await originator.read()
    assert originator.end == "whole"


# In sum.


async def test_bodies_are_limited_in_sum(perform: Serve, stage: Stage) -> None:
    """429 to the one that is too much; what was held is given back with each answer."""
    tee = await perform(limits={"total_body_bytes": 700_000, "held_body_bytes": 1_000_000})
    first, second = [await tee.send("POST", CHAT, body=BIG) for _ in range(2)]
    turns = [await stage.next(), await stage.next()]
    assert await tee.metric("streamtee_client_bytes", kind="body") == 2 * len(BIG)
    refused = await tee.ask("POST", CHAT, body=BIG)
    assert (refused.status, refused.header("retry-after")) == (429, "1")
    for turn in turns:
        await turn.body()
        turn.reply("200 OK", body=b"{}")
    assert await (await first.answer()).read() == await (await second.answer()).read() == b"{}"
    assert await tee.metric("streamtee_client_bytes", kind="body") == 0
    client = await tee.connect()
    client.send(UNFINISHED[:-4] + b"\r\nX: 1\r\n\r\n{")
    await until(lambda: tee.proxy.clients.body_bytes == 1)
    await client.leave()
    await until(lambda: tee.proxy.clients.body_bytes == 0)


@pytest.mark.parametrize("chunked", [False, True])
async def test_large_body_passes_through_as_it_comes(perform: Serve, stage: Stage, chunked: bool) -> None:
    """The upstream has its beginning while the client has the rest; the answer is a stream like any other."""
    tee = await perform(limits={"held_body_bytes": 100_000})
    client = await tee.connect()
    if chunked:
        client.send(request("POST", CHAT, "Transfer-Encoding: chunked") + b"%x\r\n" % 200_000 + BIG[:200_000] + b"\r\n")
    else:
        client.send(request("POST", CHAT, f"Content-Length: {len(BIG)}") + BIG[:200_000])
    turn = await stage.next()
    assert tee.proxy.clients.body_bytes == 0
    rest = BIG[200_000:]
    client.transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(rest), rest) if chunked else rest)
    assert await turn.body() == BIG
    turn.begin()
    turn.end(chunk_frame("word"), FINISH, DONE)
    answer = await client.answer()
    assert await answer.read() == chunk_frame("word") + FINISH + DONE
    assert answer.stream_id


async def test_large_body_beyond_the_limit_is_refused(perform: Serve, stage: Stage) -> None:
    """At once, if it says so; else when it is too much, and the upstream is given none of the rest."""
    tee = await perform(limits={"held_body_bytes": 100_000, "body_bytes": 250_000})
    assert (await tee.ask("POST", CHAT, body=BIG)).status == 413
    client = await tee.connect()
    client.send(request("POST", CHAT, "Transfer-Encoding: chunked") + b"%x\r\n%b\r\n" % (len(BIG), BIG))
    turn = await stage.next()
    assert (await client.answer()).status == 413
    await turn.wait_left()


@pytest.mark.parametrize("at", [0, 99_990, 250_000])
async def test_large_body_that_refers_to_a_file_is_not_sent_with_a_key_of_ours(
    perform: Serve, stage: Stage, at: int
) -> None:
    """Wherever it stands, also across two pieces: the rest of the body is not sent on, and its client is told."""
    tee = await perform(limits={"held_body_bytes": 100_000}, upstream={"key": "sk-ours"})
    body = b"x" * at + b'"fileid://file-fe-1"' + b"x" * 300_000
    client = await tee.send("POST", CHAT, body=body)
    answer = await client.answer()
    assert (answer.status, (await answer.json())["error"]["code"]) == (403, "file_not_allowed")
    async with asyncio.timeout(GUARD_S):
        for turn in stage.turns:
            await turn.wait_left()


async def test_compressed_body_is_not_sent_with_a_key_of_ours(perform: Serve, stage: Stage) -> None:
    """It may refer to a file of anybody's, and can't be looked into; the caller's own key opens the caller's files."""
    tee = await perform(upstream={"key": "sk-ours"})
    answer = await tee.ask("POST", CHAT, "Content-Encoding: gzip", body=gzip.compress(chat_body()))
    assert (answer.status, (await answer.json())["error"]["code"]) == (415, "unsupported_media_type")
    answer = await tee.ask("POST", CHAT, body=b'{"input":[{"type":"input_file","file_id":"file-1"}]}')
    assert (answer.status, (await answer.json())["error"]["code"]) == (403, "file_not_allowed")
    assert not stage.turns


async def test_readers_of_forgotten_streams_are_limited_in_sum(perform: Serve, stage: Stage) -> None:
    """Those of the stream that was forgotten first go first."""
    tee = await perform(limits={"total_pending_bytes": 25_000_000})
    for _ in range(3):
        client = await tee.connect(receive_bytes=4096)
        client.send(request("POST", CHAT, "Stream-Retain: 0", body=chat_body()))
        turn = await stage.next()
        await turn.body()
        turn.begin()
        await client.answer()
        client.stall()
        for _ in range(100):
            await turn.pour(b"%x\r\n%b\r\n" % (100_000, b"data: " + b"x" * 99_992 + b"\n\n"))
        turn.end(DONE)
        await until(lambda: tee.proxy.hub.running == 0)
    await tee.wait_followers(2)
    assert 19_000_000 < tee.proxy.hub.ended.pending_bytes < 25_000_000
    assert await tee.metric("streamtee_subscriptions_ended_total", reason="too_slow") == 1


async def test_bytes_that_wait_for_clients_are_limited_in_sum(perform: Serve, stage: Stage) -> None:
    """Those that have taken nothing for the longest are cut off, and no more of them than need be."""
    tee = await perform(clients={"body_s": 0.2}, limits={"total_pending_bytes": 150_000})
    originator, turn = await begun(tee, stage)
    for _ in range(3):
        stalled = await tee.connect(receive_bytes=4096)
        stalled.stall()
        stalled.send(request("GET", f"/v1/streams/{originator.stream_id}?mode=raw"))
    await tee.wait_followers(4)
    reading = asyncio.create_task(originator.read())
    for _ in range(100):
        await turn.pour(b"%x\r\n%b\r\n" % (60_000, b"data: " + b"x" * 59_992 + b"\n\n"))
    await until(lambda: tee.proxy.hub.followers < 4)
    turn.end(DONE)
    await reading
    assert await cuts(tee, "pending") >= 1


# One client does not hold the loop.


def pipelined(tee: Tee, ident: str) -> bytes:
    return request("GET", "/healthz") * 5000


def pings(tee: Tee, ident: str) -> bytes:
    return request("GET", f"/v1/streams/{ident}", *ASK) + masked(PING, b"") * 100_000


def chunks(tee: Tee, ident: str) -> bytes:
    return request("POST", "/v1/files", "Transfer-Encoding: chunked") + b"1\r\nx\r\n" * 100_000


@pytest.mark.parametrize("flood", [pipelined, pings, chunks])
async def test_flood_of_one_client_leaves_others_their_turns(
    perform: Serve, stage: Stage, flood: Callable[[Tee, str], bytes]
) -> None:
    """Whatever it sends, other streams are read and written meanwhile."""
    tee = await perform()
    originator, turn = await begun(tee, stage)
    rival = await tee.connect()
    rival.send(flood(tee, originator.stream_id))
    gaps, last = [], process_time()  # not of the clock: what else runs on the machine is no fault of the proxy
    for number in range(200):
        turn.chunk(chunk_frame(f"word {number}."))
        await originator.until(f"word {number}.".encode())
        gaps.append(process_time() - last)
        last = process_time()
    assert max(gaps) < 0.25, "health, metrics and live streams answer within 250 ms"
    turn.end(FINISH, DONE)
    await originator.read()


@in_one_process("it measures the CPU time of this process")
async def test_many_who_join_a_long_log_leave_others_their_turns(perform: Serve, stage: Stage) -> None:
    """They get all of it; another stream is not late meanwhile."""
    tee = await perform()
    long, turn = await begun(tee, stage)
    said = b"".join(chunk_frame("x" * 300) for _ in range(1200))
    turn.chunk(said)
    await long.bytes(len(said))
    live, other = await begun(tee, stage)
    joiners = [await tee.connect() for _ in range(200)]
    for joiner in joiners:
        joiner.send(request("GET", f"/v1/streams/{long.stream_id}?mode=events"))
    gaps, last = [], process_time()  # not of the clock: what else runs on the machine is no fault of the proxy
    while not all(len(joiner.buffer) > len(said) for joiner in joiners):
        other.chunk(chunk_frame(f"at {len(gaps)}."))
        await live.until(f"at {len(gaps)}.".encode())
        gaps.append(process_time() - last)
        last = process_time()
    assert max(gaps) < 0.25
    for one in (turn, other):
        one.end(FINISH, DONE)


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("mode=json", ()),
        ("mode=json&wait=0", ()),
        ("mode=text&offset=3500", ()),
        ("mode=coalesced", ("Last-Event-ID: 6990",)),
        ("mode=cumulative", ("Last-Event-ID: 6990",)),
        ("mode=incremental", ("Last-Event-ID: 6990",)),
        ("mode=text", ("Last-Event-ID: 7000",)),
    ],
)
@pytest.mark.parametrize("over", [True, False])
async def test_long_log_is_read_in_turns_for_a_mode(
    perform: Serve, stage: Stage, monkeypatch: pytest.MonkeyPatch, query: str, headers: tuple[str, ...], over: bool
) -> None:
    """Wherever a follower begins: no turn of the loop reads more than a span or two."""
    tee = await perform()
    originator, turn = await begun(tee, stage, "Stream-On-Disconnect: continue")
    said = chunk_frame("x") * 7000
    turn.chunk(said)
    await originator.bytes(len(said))
    if over:
        turn.end(FINISH, DONE)
        await originator.read()
    read: list[int] = []
    feed = Transcript.feed

    def noted(transcript: Transcript, frames: list[bytes]) -> None:
        read.append(sum(map(len, frames)))
        feed(transcript, frames)

    monkeypatch.setattr(Transcript, "feed", noted)
    client = await tee.send("GET", f"/v1/streams/{originator.stream_id}?{query}", *headers)
    answer = await client.answer()
    if not over:
        turn.end(FINISH, DONE)
    await answer.read()
    assert (answer.status, answer.end) in ((200, "whole"), (202, "whole"), (204, "whole"))
    assert max(read, default=0) <= 2 * SPAN_BYTES
