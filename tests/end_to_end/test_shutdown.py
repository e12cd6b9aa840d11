"""Shutting down: what a SIGTERM does, which is `Proxy.drain`, and what `stop` does at once."""

import asyncio
import json

import pytest

from proxy.tools.fake.qwen import FakeQwen
from tests.event_loops import GUARD_S, on_one_loop
from tests.event_streams import DONE, FINISH, chunk_frame, stamped
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
            pass
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
    assert await ready.json() == {"ready": False}
    assert (await tee.admin("/healthz")).status == 200
    assert await tee.metric("streamtee_streams_active") == 1
    turn.end(DONE)
    assert await originator.read() == DONE
    await task


@pytest.mark.parametrize("how", ["drain", "stop"])
async def test_what_does_not_finish_in_time_is_ended(perform: Serve, stage: Stage, how: str) -> None:
    """Events are closed between two events, with no error, so that clients resume elsewhere; raw is aborted."""
    tee = await perform(drain_s=0.1)
    originator, follower, turn = await two_modes(tee, stage)
    turn.chunk(b'data: {"half a fr')  # what is not a whole frame belongs to no event
    sent = bytes(originator.body)
    async with asyncio.timeout(GUARD_S):
        await (tee.proxy.drain() if how == "drain" else tee.proxy.stop())
    assert (await originator.read()).startswith(sent)
    assert originator.end != "whole"
    assert await follower.read() == stamped(sent, originator.epoch)
    assert follower.end == "whole"
    await turn.wait_left()


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


@on_one_loop
async def test_requests_without_an_answer_yet_are_ended(perform: Serve, stage: Stage) -> None:
    """When time is up nothing is left that hangs: not before the head, not in what passes through."""
    tee = await perform(drain_s=0.1)
    clients, turns = [], []
    for headers in ((), ("Stream-Key: k",), ("Stream-On-Disconnect: continue",)):
        clients.append(await tee.send_chat(*headers))
        turns.append(await stage.next())
    clients.append(await tee.send("GET", "/v1/slow"))
    turns.append(await stage.next())
    async with asyncio.timeout(GUARD_S):
        await tee.proxy.drain()
        for client in clients:
            await client.wait_gone()
        for turn in turns:
            await turn.wait_left()


async def test_kept_connection_gets_no_new_stream(perform: Serve, stage: Stage) -> None:
    """A client that is connected already is refused with 503 and Retry-After, so that it asks elsewhere."""
    tee = await perform(drain_s=30)
    waiting = await tee.connect()
    waiting.send(request("GET", "/healthz"))
    await (await waiting.answer()).read()
    originator, turn = await begun(tee, stage)
    task = await draining(tee)
    if not waiting.gone:  # an idle connection may as well be closed
        waiting.send(request("POST", CHAT, body=chat_body()))
        asked = asyncio.create_task(stage.next())
        gone = asyncio.create_task(waiting.wait_bytes(bool))
        await asyncio.wait({asked, gone}, return_when=asyncio.FIRST_COMPLETED)
        if asked.done():
            asked.result().begin()
        await gone
        asked.cancel()
        if waiting.buffer:
            answer = await waiting.answer()
            assert answer.status == 503
            assert int(answer.header("retry-after") or 0) > 0
            assert "shutting down" in (await answer.json())["error"]["message"]
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
