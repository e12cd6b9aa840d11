"""Bounds: every limit is kept, says so in numbers, and costs nobody but the one who reached it.

And law 6: a follower that reads slowly, or not at all, costs little and slows nobody.
"""

import asyncio
import re
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from proxy.downstream import listener
from proxy.tools.fake.qwen import FakeQwen
from tests.event_loops import GUARD_S, on_one_loop
from tests.event_streams import DONE, FINISH, blocks, chunk_frame, stamped
from tests.http_client import Answer, Client, request
from tests.proxy_under_test import CHAT, NATIVE, Serve, Tee, begun, chat_body, native_body
from tests.shared_route import own
from tests.stage import Stage, Turn
from tests.workers_under_test import COUNT

KILOBYTE = 1 << 10
MEGABYTE = 1 << 20


async def refusal(answer: Answer, status: int, code: str) -> str:
    """Return the message of an error response, whose status and code these are."""
    assert answer.status == status
    body = await answer.json()
    error = body.get("error", body)
    assert error["code"] == code
    return error["message"]


def numbers(message: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", message)]


def frame_of(size: int, number: int = 0) -> bytes:
    """Return a frame of exactly so many bytes."""
    bare = len(chunk_frame(f"{number:08}"))
    return chunk_frame(f"{number:08}" + "x" * (size - bare))


async def flow(turn: Turn, *, count: int, size: int) -> None:
    """Have the upstream say so many frames of that size, as fast as the proxy takes them, and the end."""
    try:
        for number in range(count):
            frame = frame_of(size, number)
            await turn.pour(b"%x\r\n%b\r\n" % (len(frame), frame))
        turn.end(DONE)
    except ConnectionError:
        return


def flowed(*, count: int, size: int) -> bytes:
    """Return what `flow` says."""
    return b"".join(frame_of(size, number) for number in range(count)) + DONE


async def stalled_follower(tee: Tee, ident: str, query: str = "mode=raw", receive_bytes: int = 4096) -> Client:
    """Return a follower that asks, and then reads nothing."""
    client = await tee.connect(receive_bytes=receive_bytes)
    client.stall()
    client.send(request("GET", f"/v1/streams/{ident}?{query}"))
    return client


# Requests.


@pytest.mark.parametrize(("path", "body"), [(CHAT, chat_body()), (NATIVE, native_body())], ids=["chat", "native"])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.fault("memory", "connect")
async def test_body_over_its_limit_is_refused(
    serve: Serve, fake: FakeQwen, path: str, body: bytes, chunked: bool
) -> None:
    """413 with what came and what is allowed, told in the dialect; a body of exactly the limit passes."""
    tee = await serve(limits={"body_bytes": len(body)})

    async def send(data: bytes) -> Answer:
        if not chunked:
            return await tee.ask("POST", path, body=data)
        client = await tee.connect()
        wire = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)
        client.send(request("POST", path, "Transfer-Encoding: chunked") + wire)
        return await client.answer()

    answer = await send(body)
    assert answer.status == 200
    await answer.read()
    message = await refusal(await send(body + b" "), 413, "too_large")
    assert len(body) in numbers(message)
    assert any(number > len(body) for number in numbers(message)), f"{message!r} does not say what was observed"
    assert len(fake.requests) == 1


async def test_body_over_its_limit_is_refused_at_its_head(serve: Serve) -> None:
    """A client that announces too much, and waits to be asked for it, need not send it."""
    tee = await serve(limits={"body_bytes": 1000})
    client = await tee.connect()
    client.send(request("POST", CHAT, "Content-Length: 1000000", "Expect: 100-continue"))
    message = await refusal(await client.answer(), 413, "too_large")
    assert numbers(message) == [1000000, 1000]


async def test_large_prompt_passes(serve: Serve, fake: FakeQwen) -> None:
    """A picture in Base64 is larger than most servers' default limits."""
    tee = await serve()
    body = chat_body(padding="x" * (20 * MEGABYTE))
    answer = await tee.ask("POST", CHAT, body=body)
    assert await answer.read() == bytes(fake.requests[0].sent)
    assert fake.requests[0].body == body


@pytest.mark.parametrize(
    ("path", "tables"),
    [
        (CHAT, {"generations": {"upgrade": "always"}}),
        (CHAT, {"generations": {"attach_retries_s": 5}}),
        (CHAT, {"models": [{"name": "m", "alias_of": "n"}]}),
        ("/v1/embeddings", {"models": [{"name": "m", "alias_of": "n"}]}),
        ("/v1/embeddings", {"upstream": {"key": "sk-ours"}}),
        (NATIVE, {"upstream": {"key": "sk-ours"}}),
    ],
)
async def test_body_of_too_many_values_is_refused_where_it_is_read(
    serve: Serve, fake: FakeQwen, path: str, tables: dict[str, Any]
) -> None:
    """A parser would hold the loop for seconds; where nothing is read of it, it passes."""
    tee = await serve(limits={"held_body_bytes": 10 * MEGABYTE}, **tables)
    body = b'{"model":"m","messages":[%b]}' % b",".join([b"{}"] * 100_000)
    kind = "Content-Type: application/json"
    message = await refusal(await tee.ask("POST", path, kind, body=body), 413, "too_large")
    assert 100_000 in numbers(message)
    assert not fake.requests
    within = b'{"model":"m","messages":[{"content":"%b"}]}' % (b'{[,:\\"' * 100_000)
    await (await tee.ask("POST", path, kind, body=within)).read()
    assert len(fake.requests) == 1


async def test_file_is_found_in_a_body_that_is_looked_into_in_steps(serve: Serve, fake: FakeQwen) -> None:
    """Where two steps meet, too."""
    tee = await serve(upstream={"key": "sk-ours"})
    for at in (0, 262_130, 600_000):
        body = b'{"input":["%b","fileid://file-fe-1"]}' % (b"x" * at)
        await refusal(await tee.ask("POST", "/v1/embeddings", body=body), 403, "file_not_allowed")
    assert not fake.requests


# Frames and logs.


@pytest.mark.parametrize("dialect", ["chat", "native"])
async def test_frame_over_its_limit_ends_the_stream(serve: Serve, fake: FakeQwen, dialect: str) -> None:
    """With both numbers; what came of it is passed on in raw, and upstream is closed."""
    tee = await serve(limits={"frame_bytes": 30_000})
    answer = await tee.generate(dialect, fault="huge_frame; after=2; bytes=2000000")
    body = await answer.read()
    assert answer.end != "whole"
    received = await fake.wait_closed()
    assert bytes(received.sent).startswith(body)
    ending = (await tee.info(answer.stream_id))["ending"]
    assert ending["reason"] == "frame_limit"
    allowed, seen = numbers(ending["message"])
    assert allowed == 30_000 < seen
    events = await (await tee.follow(answer.stream_id)).read()
    assert b"frame_limit" in blocks(events)[-1]


async def test_frame_below_its_limit_passes(serve: Serve, fake: FakeQwen) -> None:
    """A megabyte in one frame, and in many reads."""
    tee = await serve()
    answer = await tee.chat(fault="huge_frame; bytes=1000000")
    assert await answer.read() == bytes(fake.requests[0].sent)


@on_one_loop
async def test_log_keeps_a_window_and_the_originator_every_byte(perform: Serve, stage: Stage) -> None:
    """A stream of many times its log's limit: memory stays within it, who keeps up loses nothing."""
    tee = await perform(limits={"log_bytes": MEGABYTE})
    originator, turn = await begun(tee, stage)
    follower = await tee.follow(originator.stream_id)
    flowing = asyncio.create_task(flow(turn, count=1000, size=10 * KILOBYTE))
    peak, whole = 0, flowed(count=1000, size=10 * KILOBYTE)
    while originator.end == "open" and len(originator.body) < len(whole):
        await originator.bytes(len(originator.body) + 1)
        peak = max(peak, tee.proxy.hub.ledger.bytes)
    await flowing
    assert await originator.read() == whole
    assert await follower.read() == stamped(whole, originator.epoch)
    assert peak < 2 * MEGABYTE
    info = await tee.wait_ended(originator.stream_id)
    assert info["events"] == 1001
    assert info["bytes"] == len(whole)
    assert info["first_seq"] > 880


@on_one_loop
@pytest.mark.parametrize("mode", ["raw", "events"])
async def test_follower_that_falls_out_of_the_window_is_told(perform: Serve, stage: Stage, mode: str) -> None:
    """It gets an unbroken beginning, then an error with the numbers, never a gap; nobody else is held up."""
    tee = await perform(limits={"log_bytes": 100 * KILOBYTE})
    originator, turn = await begun(tee, stage)
    slow = await stalled_follower(tee, originator.stream_id, f"mode={mode}")
    await tee.wait_followers(2)
    whole = flowed(count=2000, size=10 * KILOBYTE)
    flowing = asyncio.create_task(flow(turn, count=2000, size=10 * KILOBYTE))
    assert await originator.bytes(len(whole)) == whole
    await flowing
    slow.read_on()
    answer = await slow.answer()
    body = await answer.read()
    if mode == "raw":
        assert answer.end in ("cut", "reset")
        assert whole.startswith(body)
        return
    *said, error = blocks(body)
    assert stamped(whole, originator.epoch).startswith(b"".join(said))
    assert b'"too_slow"' in error
    assert answer.end == "whole"
    missed, earliest = numbers(re.findall(rb'"message":"(.*?)"', error)[0].decode())
    assert missed == len(said) + 1 < earliest
    last = re.findall(rb"^id: (\S+)$", error, re.MULTILINE)[0].decode()
    assert last == f"{originator.epoch}-{len(said)}"
    assert (await tee.follow(originator.stream_id, "", f"Last-Event-ID: {last}")).status == 410


async def begun_by_one_that_stalls(tee: Tee, stage: Stage) -> tuple[Answer, Turn]:
    """Begin a stream whose client reads the head of the response and no more."""
    client = await tee.connect(receive_bytes=4096)
    client.send(request("POST", CHAT, body=chat_body()))
    turn = await stage.next()
    await turn.body()
    turn.begin()
    originator = await client.answer()
    client.stall()
    return originator, turn


@on_one_loop
@pytest.mark.fault("memory", "between_frames")
async def test_slow_originator_pauses_its_upstream(perform: Serve, stage: Stage) -> None:
    """Flow control, as without a proxy: memory stays bounded, and when it reads on it gets every byte."""
    tee = await perform(limits={"log_bytes": 200 * KILOBYTE})
    originator, turn = await begun_by_one_that_stalls(tee, stage)
    count, size = 3000, 10 * KILOBYTE
    flowing = asyncio.create_task(flow(turn, count=count, size=size))
    said = await tee.settled(lambda: turn.said)
    assert said < count * size // 2
    assert tee.proxy.hub.ledger.bytes < 400 * KILOBYTE
    originator.client.read_on()
    assert await originator.read() == flowed(count=count, size=size)
    await flowing
    assert originator.end == "whole"


@on_one_loop
async def test_slow_originator_that_leaves_lets_the_stream_go_on(perform: Serve, stage: Stage) -> None:
    """The pause ends with the one it was made for; a follower that keeps up is then the one who has it all."""
    tee = await perform(limits={"log_bytes": 2 * MEGABYTE})
    originator, turn = await begun_by_one_that_stalls(tee, stage)
    follower = await tee.follow(originator.stream_id, "mode=raw")
    count, size = (3000 if COUNT == 1 else 8000), 10 * KILOBYTE  # the kernel holds 10 MB, 20 for another process
    flowing = asyncio.create_task(flow(turn, count=count, size=size))
    reading = asyncio.create_task(follower.read())
    assert await tee.settled(lambda: turn.said) < count * size // 2
    originator.client.transport.abort()
    assert await reading == flowed(count=count, size=size)
    await flowing


@pytest.mark.fault("memory", "between_frames")
async def test_all_streams_together_have_a_limit(perform: Serve, stage: Stage) -> None:
    """Kept streams give way first, the oldest first; then the past of running ones, whose followers go on."""
    tee = await perform(limits={"total_log_bytes": 100 * KILOBYTE})
    kept = []
    for _ in range(3):
        answer, turn = await begun(tee, stage)
        turn.end(frame_of(30 * KILOBYTE), DONE)
        await answer.read()
        kept.append(answer.stream_id)
    small, small_turn = await begun(tee, stage)
    large, large_turn = await begun(tee, stage, "Stream-Mode: events")
    for number in range(20):
        large_turn.chunk(frame_of(16 * KILOBYTE, number))
        await large.until(b"id: %b-%d" % (large.epoch.encode(), number + 1))
    assert [(await tee.ask("HEAD", f"/v1/streams/{ident}")).status for ident in kept] == [404, 404, 404]
    assert tee.proxy.hub.ledger.total_bytes < 120 * KILOBYTE
    late = await tee.follow(large.stream_id)
    message = await refusal(late, 410, "offset_gone")
    assert numbers(message)[-1] > 10
    small_turn.end(chunk_frame("still here"), FINISH, DONE)
    assert await small.read() == chunk_frame("still here") + FINISH + DONE
    large_turn.end(DONE)
    assert len(blocks(await large.read())) == 21
    assert (small.end, large.end) == ("whole", "whole")


@on_one_loop
async def test_frames_that_do_not_end_are_counted(perform: Serve, stage: Stage) -> None:
    """Their upstreams are not read while they are too much, newcomers are refused, and all come to their end."""
    limit = 16 * MEGABYTE
    tee = await perform(limits={"total_log_bytes": limit})
    begun_first = [await begun(tee, stage) for _ in range(24)]
    frame = frame_of(MEGABYTE)
    speaking = [asyncio.create_task(turn.pour(b"%x\r\n%b" % (len(frame), frame[:-1]))) for _, turn in begun_first]
    ledger = tee.proxy.hub.ledger
    await tee.settled(lambda: ledger.by_kind()["unfinished_frames"])
    # A frame whose lines are whole is held twice, since its lines have been sent: so it grows by its size in one read.
    assert limit < ledger.total_bytes < limit * 1.5
    assert ledger.by_kind()["unfinished_frames"] == await tee.metric("streamtee_memory_bytes", kind="unfinished_frames")
    refused = await tee.chat()
    assert int(refused.header("retry-after") or 0) > 0
    message = await refusal(refused, 503, "overloaded")
    assert limit in numbers(message)
    for task, (_, turn) in zip(speaking, begun_first, strict=True):
        task.add_done_callback(lambda _, turn=turn: turn.say(b"\n\r\n"))
        task.add_done_callback(lambda _, turn=turn: turn.end(DONE))
    for answer, _ in begun_first:
        assert await answer.read() == frame + DONE
    assert ledger.total_bytes < limit


@on_one_loop
@pytest.mark.parametrize("mode", ["text", "json"])
async def test_what_a_mode_remembers_has_the_logs_limit(perform: Serve, stage: Stage, mode: str) -> None:
    """A mode that needs only what comes goes on; one that tells of all that was said is ended, and told why."""
    tee = await perform(limits={"log_bytes": 100 * KILOBYTE})
    originator, turn = await begun(tee, stage)
    follower = await tee.send("GET", f"/v1/streams/{originator.stream_id}?mode={mode}&wait=30")
    if mode == "text":
        await tee.wait_followers(2)
    frames = [frame_of(10 * KILOBYTE, number) for number in range(100)]
    for frame in frames:
        await turn.pour(b"%x\r\n%b\r\n" % (len(frame), frame))
        await originator.until(frame)
    held = tee.proxy.hub.ledger.by_kind()["transcripts"]
    turn.end(FINISH, DONE)
    await originator.read()
    answer = await follower.answer()
    if mode == "text":
        assert 0 < held < 200 * KILOBYTE
        assert len(await answer.read()) > 90 * 10 * KILOBYTE
    else:
        assert answer.status == 410


async def test_targets_of_a_shared_route_are_counted(stage: Stage) -> None:
    """Each is remembered for as long as its stream."""
    async with own(stage) as tee:
        client = await tee.send("GET", "/events?" + "x" * 5000)
        (await stage.next()).begin()
        answer = await client.answer()
        assert tee.proxy.hub.ledger.by_kind()["shared_routes"] > 5000
        assert answer.status == 200
    assert tee.proxy.hub.ledger.by_kind()["shared_routes"] <= 7000


async def test_body_is_counted_until_the_upstream_answers(perform: Serve, stage: Stage) -> None:
    """Then nobody needs it. Once: by the client's connection, or by the call, if that may outlive the client."""
    tee = await perform()

    def counted() -> tuple[bool, bool]:
        return tee.proxy.clients.body_bytes > 10_000, tee.proxy.hub.ledger.by_kind()["request_bodies"] > 10_000

    for headers, by in (((), (True, False)), (("Stream-Key: k",), (False, True))):
        client = await tee.send_chat(*headers, padding="x" * 10_000)
        turn = await stage.next()
        await turn.body()
        assert counted() == by
        turn.begin()
        turn.chunk(chunk_frame())
        await (await client.answer()).until(b"word")
        assert counted() == (False, False)
        assert (tee.proxy.clients.body_bytes, tee.proxy.hub.ledger.by_kind()["request_bodies"]) == (0, 0)


async def test_time_outs_and_metrics_outlive_full_logs(perform: Serve, stage: Stage) -> None:
    """Also where the limit is met only when a time-out, or a scrape, looks at what was sent past the logs."""
    count, size = 12, 40
    tee = await perform(limits={"total_log_bytes": 100 * KILOBYTE}, timeouts={"idle_s": 0.3})
    answers = []
    for _ in range(count):
        answer, turn = await begun(tee, stage)
        answers.append(answer)
        for number in range(size):
            turn.chunk(frame := frame_of(500, number))
            await answer.until(frame)
    assert (await tee.admin("/metrics")).status == 200
    for answer in answers:
        await answer.read()
        assert answer.end != "whole"
    late, _ = await begun(tee, stage)
    await late.read()
    ended = "streamtee_streams_ended_total"
    assert await tee.metric(ended, ending="timeout_idle") == count + 1
    assert await tee.metric("streamtee_background_loop_alive") == 4


# Counts.


@pytest.mark.parametrize("headers", [(), ("Stream-Key: k",)])
async def test_streams_that_run_at_once_have_a_limit(serve: Serve, fake: FakeQwen, headers: tuple[str, ...]) -> None:
    """One more is refused with 503 and Retry-After, in the dialect; when one has ended, there is room."""
    tee = await serve(limits={"streams": 2})
    running = [await tee.chat(*headers, fault="hang") for _ in range(2)]
    for dialect in ("chat", "native"):
        answer = await tee.generate(dialect, *headers)
        assert int(answer.header("retry-after") or 0) > 0
        assert numbers(await refusal(answer, 503, "overloaded")) == [2, 2]
    await running[0].client.leave()
    await fake.wait_closed(0)
    answer = await tee.chat(*headers)
    assert answer.status == 200
    await answer.read()
    assert len([received for received in fake.requests if received.state == "open"]) == 1


@on_one_loop
@pytest.mark.parametrize("headers", [(), ("Stream-Key: k",)])
@pytest.mark.parametrize("limit", ["streams", "followers"])
async def test_limit_acts_before_the_upstream_is_asked(
    perform: Serve, stage: Stage, headers: tuple[str, ...], limit: str
) -> None:
    """Of many that come at once as many are sent upstream as there are places; no answer is paid for and dropped."""
    tee = await perform(limits={limit: 10})
    clients = [await tee.send_chat(*headers) for _ in range(50)]
    turns = [await stage.next() for _ in range(10)]
    for turn in turns:
        await turn.body()
        turn.begin()
        turn.end(DONE)
    answers = [await client.answer() for client in clients]
    assert sorted(answer.status for answer in answers) == [200] * 10 + [503] * 40
    for answer in answers:
        await answer.read()
    assert len(stage.turns) == 10


async def test_followers_of_one_stream_have_a_limit(serve: Serve) -> None:
    """One more is refused with 503 and Retry-After; another stream has room of its own."""
    tee = await serve(limits={"followers_per_stream": 3})
    originator = await tee.chat(fault="hang")
    others = [await tee.follow(originator.stream_id) for _ in range(2)]
    answer = await tee.follow(originator.stream_id)
    assert int(answer.header("retry-after") or 0) > 0
    assert numbers(await refusal(answer, 503, "overloaded")) == [3, 3]
    second = await tee.chat(fault="hang")
    assert (await tee.follow(second.stream_id)).status == 200
    await others[0].client.leave()
    await tee.wait_followers(4)
    assert (await tee.follow(originator.stream_id)).status == 200


async def test_followers_that_came_first_have_the_streams_limit_too(perform: Serve, stage: Stage) -> None:
    """Waiting for a key is no way around it: the originator has its place, the rest theirs, and no more."""
    tee = await perform(limits={"followers_per_stream": 3})
    early = [await tee.follow("keys/k", "wait=10") for _ in range(6)]
    originator, turn = await begun(tee, stage, "Stream-Key: k")
    turn.chunk(frame := chunk_frame("begun"))
    assert await originator.bytes(len(frame)) == frame
    assert len((await tee.info(originator.stream_id))["followers"]) <= 3
    turn.end(DONE)
    assert await originator.read() == frame + DONE
    whole = stamped(frame + DONE, originator.epoch)
    served = 0
    for answer in early:
        body = await answer.read()
        served += body == whole
        assert body == whole or answer.status == 503 or b'"overloaded"' in body
    assert served <= 2


@pytest.mark.parametrize("headers", [(), ("Stream-Key: k",)])
async def test_followers_in_all_have_a_limit(serve: Serve, headers: tuple[str, ...]) -> None:
    """Originators and those who wait for a key count, too."""
    tee = await serve(limits={"followers": 3})
    originator = await tee.chat(fault="hang")
    await tee.follow(originator.stream_id)
    await tee.follow("keys/other", "wait=10")
    for answer in (
        await tee.follow(originator.stream_id),
        await tee.follow("keys/k", "wait=10"),
        await tee.chat(*headers),
    ):
        assert int(answer.header("retry-after") or 0) > 0
        assert numbers(await refusal(answer, 503, "overloaded")) == [3, 3]
    assert await tee.metric("streamtee_rejected_total", reason="overloaded") == 3


async def test_what_passes_through_is_not_counted(serve: Serve) -> None:
    """The limits are those of streams."""
    tee = await serve(limits={"streams": 1, "followers": 1, "body_bytes": 1, "frame_bytes": 1, "log_bytes": 1})
    assert (await tee.ask("POST", "/v1/files", body=b"more than one")).status == 200
    answer = await tee.ask("GET", "/v1/models")
    assert len(await answer.read()) > 1


async def test_models_have_a_limit_as_labels(serve: Serve) -> None:
    """A caller can invent any number of them."""
    tee = await serve(limits={"model_labels": 2})
    for number in range(5):
        await (await tee.chat(model=f"invented-{number}")).read()
    name = "streamtee_streams_ended_total"
    assert await tee.metric(name, model="invented-0") == await tee.metric(name, model="invented-1") == 1
    assert await tee.metric(name, model="other") == 3
    assert "invented-2" not in await tee.metrics()


@on_one_loop
async def test_head_of_a_request_has_a_limit(serve: Serve, fake: FakeQwen) -> None:
    """Endless headers are refused."""
    tee = await serve()
    client = await tee.connect()
    client.send(request("GET", "/v1/models", "X-Large: " + "x" * 100_000))
    assert (await client.answer()).status == 431
    assert fake.requests == []


@on_one_loop
async def test_head_of_a_response_has_a_limit(perform: Serve, stage: Stage) -> None:
    """An upstream whose head does not end is a bad gateway."""
    tee = await perform()
    client = await tee.send("GET", "/v1/models")
    turn = await stage.next()
    turn.say(b"HTTP/1.1 200 OK\r\n" + b"X-Large: " + b"x" * 10_000_000)
    message = await refusal(await client.answer(), 502, "upstream_garbled")
    assert numbers(message) != []
    await turn.wait_left()


# Independence.


@pytest.fixture
def traced() -> Iterator[Callable[[], int]]:
    """Return what tells how many bytes Python holds."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()


@on_one_loop
async def test_stalled_followers_cost_little_and_slow_nobody(
    perform: Serve, stage: Stage, traced: Callable[[], int]
) -> None:
    """Sixty that read nothing: under 200 KiB of memory each, while all others get 20 MiB as if they were alone."""
    tee = await perform(limits={"log_bytes": MEGABYTE})
    originator, turn = await begun(tee, stage)
    follower = await tee.follow(originator.stream_id, "mode=raw")
    before = traced()
    stalled = []
    for number in range(60):
        query = "mode=raw" if number % 2 else "mode=events"
        stalled.append(await stalled_follower(tee, originator.stream_id, query))
    await tee.wait_followers(62)
    count, size = 2000, 10 * KILOBYTE
    flowing = asyncio.create_task(flow(turn, count=count, size=size))
    seen = {originator: 0, follower: 0}
    peak = before
    async with asyncio.timeout(GUARD_S):
        while min(seen.values()) < (count - 1) * size:
            for one in seen:
                seen[one] += len(await one.bytes(1))
                one.body.clear()
            peak = max(peak, traced())
    log_and_reads = 3 * MEGABYTE
    assert (peak - before - log_and_reads) / len(stalled) < 200 * KILOBYTE
    for one in seen:
        seen[one] += len(await one.read())
    await flowing
    assert set(seen.values()) == {len(flowed(count=count, size=size))}


@on_one_loop
async def test_stalled_follower_gets_everything_when_it_reads_on(perform: Serve, stage: Stage) -> None:
    """Within the window it only was late: it gets what all got, in its own time."""
    tee = await perform()
    originator, turn = await begun(tee, stage)
    slow = await stalled_follower(tee, originator.stream_id, "mode=events")
    await tee.wait_followers(2)
    count, size = 1000, 10 * KILOBYTE
    flowing = asyncio.create_task(flow(turn, count=count, size=size))
    whole = await originator.read()
    await flowing
    info = await tee.info(originator.stream_id)
    assert [one["mode"] for one in info["followers"]] == ["events"]
    assert info["followers"][0]["lag_events"] > 0
    assert info["followers"][0]["lag_bytes"] > MEGABYTE
    slow.read_on()
    answer = await slow.answer()
    assert await answer.read() == stamped(whole, originator.epoch)
    assert answer.end == "whole"


@on_one_loop
async def test_stalled_follower_of_one_stream_slows_no_other(perform: Serve, stage: Stage) -> None:
    """Nor does it slow the proxy itself."""
    tee = await perform()
    first, first_turn = await begun(tee, stage)
    second, second_turn = await begun(tee, stage)
    for _ in range(20):
        await stalled_follower(tee, first.stream_id)
    await tee.wait_followers(22)
    flowing = [
        asyncio.create_task(flow(first_turn, count=300, size=10 * KILOBYTE)),
        asyncio.create_task(flow(second_turn, count=300, size=10 * KILOBYTE)),
    ]
    whole = flowed(count=300, size=10 * KILOBYTE)
    assert await second.read() == await first.read() == whole
    await asyncio.gather(*flowing)
    assert (await tee.ask("GET", "/healthz")).status == 200


@on_one_loop
async def test_health_does_not_wait_for_its_turn(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a burst of requests it would tell of those, not of the process."""
    monkeypatch.setattr(listener.Listener, "may_begin", lambda self, now: False)
    monkeypatch.setattr(listener.Connection, "_parse_held", lambda self: None)  # its turn never comes
    tee = await serve()
    assert (await tee.ask("GET", "/healthz")).status == 200
