"""Shutting down: what a SIGTERM does, which is `Proxy.drain`, and what `stop` does at once."""

import asyncio
import json
import re

import pytest

from proxy.stream.modes.projections import MODES
from proxy.tools.fake.qwen import FakeQwen
from tests.event_loops import GUARD_S, POLL_S, on_one_loop, until
from tests.event_streams import DONE, FINISH, blocks, chunk_frame, stamped
from tests.http_client import Answer, Client, request
from tests.proxy_under_test import CHAT, Serve, Tee, begun, chat_body
from tests.stage import Stage, Turn


async def is_accepting(url: str) -> bool:
    """Tell whether anybody listens there."""
    try:
        client = await Client.connect(url)
    except OSError:
        return False
    await client.leave()
    return True


async def draining(tee: Tee) -> asyncio.Task[None]:
    """Begin to drain; return once the data port is closed."""
    task = asyncio.create_task(tee.proxy.drain())
    async with asyncio.timeout(GUARD_S):
        while await is_accepting(tee.proxy.url):
            await asyncio.sleep(POLL_S)
    return task


async def two_modes(tee: Tee, stage: Stage) -> tuple[Answer, Answer, Turn]:
    """Return a raw originator and an events follower of a stream that runs."""
    originator, turn = await begun(tee, stage, frames=2)
    follower = await tee.follow(originator.stream_id)
    await follower.until(b"-2\n")
    return originator, follower, turn


async def test_idle_proxy_drains_at_once(serve: Serve) -> None:
    """Nothing runs: nothing is waited for, and both ports are closed."""
    tee = await serve(drain_s=30)
    await (await tee.chat()).read()
    url, admin_url = tee.proxy.url, tee.proxy.admin_url
    async with asyncio.timeout(3):
        await tee.proxy.drain()
    assert not await is_accepting(url)
    assert not await is_accepting(admin_url)


async def test_running_streams_may_finish(perform: Serve, stage: Stage) -> None:
    """In their own time: followers get the rest, the end too, and then the proxy stops."""
    tee = await perform(drain_s=30)
    originator, follower, turn = await two_modes(tee, stage)
    task = await draining(tee)
    turn.chunk(frame := chunk_frame("still going"))
    await originator.until(b"still going")
    assert not task.done()
    turn.end(FINISH, DONE)
    whole = await originator.read()
    assert whole.endswith(frame + FINISH + DONE)
    assert await follower.read() == stamped(whole, originator.epoch)
    assert originator.end == follower.end == "whole"
    async with asyncio.timeout(GUARD_S):
        await task


async def test_readiness_is_off_while_liveness_is_on(perform: Serve, stage: Stage) -> None:
    """A load balancer is told before the streams have ended; metrics are still there to be scraped."""
    tee = await perform(drain_s=30)
    assert (await tee.admin("/readyz")).status == 200
    originator, turn = await begun(tee, stage)
    task = await draining(tee)
    ready = await tee.admin("/readyz")
    assert ready.status == 503
    assert (await ready.json())["ready"] is False
    assert (await tee.admin("/healthz")).status == 200
    assert await tee.metric("streamtee_streams_active") == 1
    turn.end(DONE)
    assert await originator.read() == DONE
    await task


@pytest.mark.parametrize("how", ["drain", "stop"])
async def test_what_does_not_finish_in_time_is_ended(perform: Serve, stage: Stage, how: str) -> None:
    """Events end with an error, which is numbered as an event; raw is aborted."""
    tee = await perform(drain_s=0.1)
    originator, follower, turn = await two_modes(tee, stage)
    turn.chunk(b'data: {"half a fr')  # what is not a whole frame belongs to no event
    sent = bytes(originator.body)
    async with asyncio.timeout(GUARD_S):
        await (tee.proxy.drain() if how == "drain" else tee.proxy.stop())
    assert (await originator.read()).startswith(sent)
    assert originator.end != "whole"
    assert is_drained((await follower.read()).removeprefix(stamped(sent, originator.epoch)), originator.epoch)
    assert follower.end == "whole"
    await turn.wait_left()


def is_drained(body: bytes, epoch: str) -> bool:
    """Return whether a body is one error event of the right code, numbered behind two others."""
    said = re.fullmatch(rb"data: (.*)\nid: (.*)\n\n", body)
    return said is not None and json.loads(said[1])["error"]["code"] == "drained" and said[2] == f"{epoch}-3".encode()


@on_one_loop
@pytest.mark.parametrize("dialect", ["chat", "native"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.fault("process", "between_frames")
async def test_answer_that_is_cut_off_never_looks_whole(serve: Serve, mode: str, dialect: str) -> None:
    """To the client that asked, in each mode: aborted, an error event in the API's shape, or an HTTP error."""
    tee = await serve(drain_s=0)
    shown = () if mode == "json" else ("Stream-Mode: " + mode,)
    if mode == "json":
        client = await tee.send_chat("Stream-Mode: json", fault="stall")
        await tee.wait_followers(1)
    else:
        answer = await tee.generate(dialect, *shown, fault="stall")
    async with asyncio.timeout(GUARD_S):
        await tee.proxy.drain()
    if mode == "json":
        answer = await client.answer()
        assert (answer.status, answer.header("retry-after")) == (503, "1")
        assert (await answer.json())["error"]["code"] == "drained"
        return
    body = await answer.read()
    if mode in ("raw", "text"):
        assert answer.end != "whole"
    else:
        assert answer.end == "whole"
        (data,) = re.findall(rb"(?m)^data: ?(.*)$", blocks(body)[-1])
        said = json.loads(data)
        assert said.get("error", said)["code"] == "drained"


@on_one_loop
async def test_followers_that_wait_for_a_key_are_let_go(serve: Serve) -> None:
    """Their stream will not come any more: a clean end, not a reset, so that they ask elsewhere."""
    tee = await serve(drain_s=0)
    follower = await tee.follow("keys/k", "wait=60")
    await tee.wait_followers(1)
    async with asyncio.timeout(GUARD_S):
        await tee.proxy.drain()
    assert (await follower.read()).replace(b":\n", b"") == b""
    assert follower.end == "whole"


async def unanswered(tee: Tee, stage: Stage) -> list[tuple[Client, Turn]]:
    """Return requests of each kind that the upstream has received and not answered."""
    asked = []
    for headers in ((), ("Stream-Key: k",), ("Idempotency-Key: i",), ("Stream-On-Disconnect: continue",)):
        client = await tee.send_chat(*headers)
        asked.append((client, await stage.next()))
    client = await tee.send("POST", CHAT, body=b'{"model":"m"}')
    asked.append((client, await stage.next()))
    client = await tee.send("POST", "/v1/embeddings", body=b'{"input":"x"}')
    asked.append((client, await stage.next()))
    client = await tee.send("GET", "/v1/slow")
    return [*asked, (client, await stage.next())]


async def test_requests_without_an_answer_yet_are_waited_for(perform: Serve, stage: Stage) -> None:
    """Their calls have been made: streams before their head, completions and what passes through are served whole."""
    tee = await perform(drain_s=30)
    asked = await unanswered(tee, stage)
    task = await draining(tee)
    for client, turn in asked:
        assert not task.done()
        if turn.target == b"/compatible-mode/v1/chat/completions" and b"stream" in await turn.body():
            turn.begin()
            turn.end(FINISH, DONE)
        else:
            turn.reply("200 OK", body=b'{"choices":[]}')
        answer = await client.answer()
        assert answer.status == 200
        assert (await answer.read()).endswith((DONE, b'{"choices":[]}'))
        assert answer.end == "whole"
    async with asyncio.timeout(GUARD_S):
        await task


@pytest.mark.fault("process", "head")
async def test_requests_without_an_answer_yet_are_refused_when_time_is_up(perform: Serve, stage: Stage) -> None:
    """503 and when to try again, in place of a bare end; nothing is left that hangs, upstream neither."""
    tee = await perform(drain_s=0.1)
    asked = await unanswered(tee, stage)
    async with asyncio.timeout(GUARD_S):
        await tee.proxy.drain()
        for client, turn in asked:
            answer = await client.answer()
            assert (answer.status, answer.header("retry-after")) == (503, "1")
            assert answer.header("connection") == "close"
            assert (await answer.json())["error"]["code"] == "drained"
            await client.wait_gone()
            await turn.wait_left()


@on_one_loop
async def test_request_in_the_queue_is_refused_when_time_is_up(perform: Serve, stage: Stage) -> None:
    """It was never sent, and is not sent then."""
    tee = await perform(drain_s=0.1, upstream={"max_concurrent": 1})
    first = await tee.send_chat()
    await stage.next()
    waiting = await tee.send_chat()
    await until(lambda: tee.proxy.upstreams.by_name["default"].queue.waiting == 1)  # type: ignore[union-attr]
    async with asyncio.timeout(GUARD_S):
        await tee.proxy.drain()
    for client in (first, waiting):
        answer = await client.answer()
        assert (answer.status, (await answer.json())["error"]["code"]) == (503, "drained")
    assert len(stage.turns) == 1


@on_one_loop
async def test_body_that_is_still_coming_is_refused_when_time_is_up(perform: Serve) -> None:
    """The upload is not worked on: its client is told to send it again."""
    tee = await perform(drain_s=0)
    client = await tee.connect()
    client.send(request("POST", CHAT, "Content-Length: 1000", body=b"")[:-2] + b"\r\n{", method="POST")
    await until(lambda: tee.proxy.clients.busy)
    async with asyncio.timeout(GUARD_S):
        await tee.proxy.drain()
    answer = await client.answer()
    assert (answer.status, (await answer.json())["error"]["code"]) == (503, "drained")


@on_one_loop
async def test_response_that_passes_through_is_broken_off_when_time_is_up(perform: Serve, stage: Stage) -> None:
    """One of a known length, and one in chunks: neither looks whole."""
    tee = await perform(drain_s=0.1)
    answers = []
    for framing in ("Content-Length: 100", "Transfer-Encoding: chunked"):
        client = await tee.send("GET", "/v1/slow")
        turn = await stage.next()
        turn.say(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n4\r\nhalf\r\n".encode())
        answers.append(await client.answer())
        await answers[-1].until(b"half")
    async with asyncio.timeout(GUARD_S):
        await tee.proxy.drain()
    for answer in answers:
        await answer.read()
        assert answer.end != "whole"


@on_one_loop
async def test_client_that_reads_slowly_gets_its_answer_whole(perform: Serve, stage: Stage) -> None:
    """The upstream has said all of it: what waits here for the client to take it is waited for, too."""
    tee = await perform(drain_s=30)
    client = await tee.connect(receive_bytes=4096)
    client.send(request("GET", "/v1/large"))
    turn = await stage.next()
    client.stall()
    turn.reply("200 OK", body=b"x" * 8_000_000)
    await until(lambda: bool(tee.proxy.clients.busy) and turn.done.is_set())
    task = await draining(tee)
    client.read_on()
    answer = await client.answer()
    assert len(await answer.read()) == 8_000_000
    assert answer.end == "whole"
    async with asyncio.timeout(GUARD_S):
        await task


@on_one_loop
async def test_stream_that_runs_can_be_cancelled_while_draining(perform: Serve, stage: Stage) -> None:
    """On a connection that is kept: what is here can still be reached."""
    tee = await perform(drain_s=30)
    kept = await tee.connect()
    kept.send(request("GET", "/healthz"))
    await (await kept.answer()).read()
    originator, _ = await begun(tee, stage)
    task = await draining(tee)
    kept.send(request("POST", f"/v1/streams/{originator.stream_id}/cancel"), method="POST")
    assert (await kept.answer()).status == 200
    await originator.read()
    async with asyncio.timeout(GUARD_S):
        await task


@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings"])
async def test_kept_connection_gets_nothing_new(perform: Serve, stage: Stage, path: str) -> None:
    """A client that is connected already is refused with 503 and Retry-After, so that it asks elsewhere."""
    tee = await perform(drain_s=30)
    waiting = await tee.connect()
    waiting.send(request("GET", "/healthz"))
    await (await waiting.answer()).read()
    originator, turn = await begun(tee, stage)
    task = await draining(tee)
    waiting.send(request("POST", path, body=chat_body()), method="POST")
    answer = await waiting.answer()
    assert (answer.status, answer.header("retry-after"), answer.header("connection")) == (503, "1", "close")
    assert "shutting down" in (await answer.json())["error"]["message"]
    await waiting.wait_gone()
    assert len(stage.turns) == 1
    turn.end(DONE)
    assert await originator.read() == DONE
    await task


async def test_drain_counts_what_it_ended(perform: Serve, stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """A stream that was cut has an ending of that name, and no task complains."""
    caplog.set_level("WARNING")
    tee = await perform(drain_s=0)
    originator, _turn = await begun(tee, stage)
    (kept,) = tee.proxy.hub
    await tee.proxy.drain()
    assert kept.log.ending is not None
    assert kept.log.ending.reason == "drained"
    await originator.read()
    assert caplog.records == []


async def test_stopping_twice_is_no_harm(serve: Serve, fake: FakeQwen) -> None:
    """A signal may come more than once."""
    tee = await serve(drain_s=0)
    await tee.chat(fault="hang")
    async with asyncio.timeout(GUARD_S):
        await tee.proxy.drain()
        await tee.proxy.stop()
    assert (await fake.wait_closed()).state == "client_gone"


async def test_address_that_is_taken_is_told(serve: Serve) -> None:
    """Starting on a port that is in use raises, and leaves nothing open."""
    tee = await serve()
    taken = tee.proxy.url.removeprefix("http://")
    with pytest.raises(OSError, match=r"."):
        await serve(listen=taken)
    with pytest.raises(OSError, match=r"."):
        await serve(admin=taken)


async def test_admin_port_can_be_left_out(serve: Serve) -> None:
    """Without an address for it there is none."""
    tee = await serve(admin="")
    assert tee.proxy.admin_url == ""
    assert json.loads(await (await tee.ask("GET", "/healthz")).read()) == {"status": "ok"}
