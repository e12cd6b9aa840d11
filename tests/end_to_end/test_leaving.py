"""Leaving: what happens upstream when the last follower leaves, and that nothing does while one stays."""

import asyncio
import re

import pytest

from proxy.tools.fake.qwen import FakeQwen
from tests.event_loops import GUARD_S
from tests.event_streams import DONE, FINISH, chunk_frame, stamped
from tests.http_client import Answer, Client, request
from tests.proxy_under_test import CHAT, NATIVE, Serve, Tee, begun, chat_body, native_body
from tests.stage import Stage, Turn

AT_ONCE_S = 0.1
GRACE_S = 0.3
IN_GRACE_S = (GRACE_S - 0.05, GRACE_S + 0.3)
KEEPING = ["Stream-On-Disconnect: continue", "Stream-On-Disconnect: grace=60"]
POLICIES = ["Stream-On-Disconnect: cancel", *KEEPING]


async def leave(*clients: Client) -> float:
    """Have clients leave; return when the last did."""
    for client in clients:
        await client.leave()
    return asyncio.get_running_loop().time()


async def wait_left(turn: Turn) -> float:
    """Wait until the upstream sees its connection closed; return when."""
    await turn.wait_left()
    return asyncio.get_running_loop().time()


def speak(turn: Turn, number: int) -> bytes:
    """Have the upstream say one more frame."""
    turn.chunk(frame := chunk_frame(f"word {number}."))
    return frame


async def asked(tee: Tee, stage: Stage, *headers: str) -> tuple[Client, Turn]:
    """Have a client ask, and the upstream not answer yet."""
    client = await tee.send_chat(*headers)
    turn = await stage.next()
    await turn.body()
    return client, turn


# In mid-stream.


@pytest.mark.parametrize("dialect", ["chat", "native"])
@pytest.mark.parametrize("mode", ["raw", "events"])
@pytest.mark.fault("client", "between_frames")
async def test_upstream_is_closed_when_the_only_client_leaves(
    serve: Serve, fake: FakeQwen, mode: str, dialect: str
) -> None:
    """At once: tokens that nobody reads cost money."""
    tee = await serve()
    answer = await tee.generate(dialect, f"Stream-Mode: {mode}", fault="hang")
    await answer.until(b"\n\n")
    left_at = await leave(answer.client)
    received = await fake.wait_closed()
    assert asyncio.get_running_loop().time() - left_at < AT_ONCE_S
    assert received.state == "client_gone"
    info = await tee.info(answer.stream_id)
    assert (info["state"], info["ending"]["reason"]) == ("cancelled", "client_gone")


@pytest.mark.parametrize("first", ["originator", "follower"])
async def test_stream_goes_on_while_one_follows(perform: Serve, stage: Stage, first: str) -> None:
    """Whoever started it: the last to leave closes it, and until then the one who stays misses nothing."""
    tee = await perform()
    originator, turn = await begun(tee, stage, frames=1)
    follower = await tee.follow(originator.stream_id, "mode=raw")
    sent = bytes(originator.body)
    leaver, stayer = (originator, follower) if first == "originator" else (follower, originator)
    await leave(leaver.client)
    await tee.wait_followers(1)
    for number in range(5):
        sent += speak(turn, number)
        assert await stayer.bytes(len(sent)) == sent
    assert not turn.left.is_set()
    left_at = await leave(stayer.client)
    assert await wait_left(turn) - left_at < AT_ONCE_S


async def test_follower_that_comes_back_in_time_keeps_the_stream(perform: Serve, stage: Stage) -> None:
    """With another one there, leaving and resuming by the last id is seamless."""
    tee = await perform()
    originator, turn = await begun(tee, stage, "Stream-Mode: events", "Stream-On-Disconnect: grace=60")
    sent, got = b"", b""
    for number in range(4):
        sent += speak(turn, number)
        await originator.until(b"word %d." % number)
        got += bytes(originator.body)
        last = re.findall(rb"id: (\S+)", originator.body)[-1].decode()
        await leave(originator.client)
        await tee.wait_followers(0)
        originator = await tee.follow(originator.stream_id, "", f"Last-Event-ID: {last}")
    turn.end(DONE)
    got += await originator.read()
    assert got == stamped(sent + DONE, originator.epoch)
    assert len(stage.turns) == 1


@pytest.mark.parametrize("policy", KEEPING)
async def test_stream_that_may_go_on_without_followers_does(perform: Serve, stage: Stage, policy: str) -> None:
    """Its upstream speaks to its end, and who comes later gets all of it."""
    tee = await perform()
    originator, turn = await begun(tee, stage, policy)
    await leave(originator.client)
    await tee.wait_followers(0)
    sent = b"".join(speak(turn, number) for number in range(3))
    turn.end(DONE)
    info = await tee.wait_ended(originator.stream_id)
    assert info["state"] == "complete"
    assert await (await tee.follow(originator.stream_id, "mode=raw")).read() == sent + DONE


async def test_policy_is_configured(perform: Serve, stage: Stage) -> None:
    """The configuration's holds without the header; the header goes over it."""
    tee = await perform(streams={"on_disconnect": "continue"})
    kept, kept_turn = await begun(tee, stage)
    cancelled, cancelled_turn = await begun(tee, stage, "Stream-On-Disconnect: cancel")
    await leave(kept.client, cancelled.client)
    await cancelled_turn.wait_left()
    kept_turn.end(FINISH, DONE)
    assert (await tee.wait_ended(kept.stream_id))["state"] == "complete"


async def test_grace_is_how_long_a_stream_waits_for_a_follower(perform: Serve, stage: Stage) -> None:
    """Then its upstream is closed; not much earlier, not much later."""
    tee = await perform()
    originator, turn = await begun(tee, stage, f"Stream-On-Disconnect: grace={GRACE_S}")
    left_at = await leave(originator.client)
    waited_s = await wait_left(turn) - left_at
    assert IN_GRACE_S[0] < waited_s < IN_GRACE_S[1]
    assert (await tee.info(originator.stream_id))["ending"]["reason"] == "client_gone"


async def test_grace_begins_anew_with_each_last_follower(perform: Serve, stage: Stage) -> None:
    """One who came back within it keeps the stream for as long as it stays; leaving again starts the clock again."""
    tee = await perform()
    originator, turn = await begun(tee, stage, f"Stream-On-Disconnect: grace={GRACE_S}")
    other, other_turn = await begun(tee, stage, "Stream-On-Disconnect: grace=0.35")
    await leave(originator.client, other.client)
    await tee.wait_followers(0)
    follower = await tee.follow(originator.stream_id, "mode=raw")
    await other_turn.wait_left()  # so the first grace is over, too
    assert not turn.left.is_set()
    frame = speak(turn, 1)
    assert await follower.bytes(len(frame)) == frame
    left_at = await leave(follower.client)
    assert IN_GRACE_S[0] < await wait_left(turn) - left_at < IN_GRACE_S[1]


# Before the answer's head.


@pytest.mark.fault("client", "head")
async def test_client_that_leaves_before_the_head_ends_the_request(perform: Serve, stage: Stage) -> None:
    """With the policy cancel nobody is left to answer."""
    tee = await perform()
    for headers in ((), ("Stream-Key: k",), ("Stream-On-Disconnect: grace=0",)):
        client, turn = await asked(tee, stage, *headers)
        left_at = await leave(client)
        assert await wait_left(turn) - left_at < AT_ONCE_S
    assert all(stream["state"] == "cancelled" for stream in await tee.listed())


@pytest.mark.parametrize("key", [(), ("Stream-Key: k",)])
@pytest.mark.parametrize("policy", KEEPING)
async def test_generation_goes_on_though_its_client_left_before_the_head(
    perform: Serve, stage: Stage, policy: str, key: tuple[str, ...]
) -> None:
    """The stream is found in the list, and by its key, and is kept."""
    tee = await perform()
    client, turn = await asked(tee, stage, policy, *key)
    await leave(client)
    (listed,) = await tee.listed()
    assert listed["state"] == "open"
    turn.begin()
    turn.end(FINISH, DONE)
    assert (await tee.wait_ended(listed["id"]))["state"] == "complete"
    ident = "keys/k" if key else listed["id"]
    assert await (await tee.follow(ident, "mode=raw")).read() == FINISH + DONE


@pytest.mark.parametrize("key", [(), ("Stream-Key: k",)])
async def test_grace_holds_before_the_head_too(perform: Serve, stage: Stage, key: tuple[str, ...]) -> None:
    """An upstream that has not answered is let go of when the grace is over, not when it answers."""
    tee = await perform()
    client, turn = await asked(tee, stage, f"Stream-On-Disconnect: grace={GRACE_S}", *key)
    left_at = await leave(client)
    assert IN_GRACE_S[0] < await wait_left(turn) - left_at < IN_GRACE_S[1]
    assert [stream["state"] for stream in await tee.listed()] in ([], ["cancelled"])


@pytest.mark.parametrize("when", ["before the request", "after the request"])
async def test_follower_by_key_keeps_a_generation_whose_client_left_before_the_head(
    perform: Serve, stage: Stage, when: str
) -> None:
    """It goes on for the one who stays, to the end."""
    tee = await perform()
    if when == "before the request":
        follower = await tee.follow("keys/k", "wait=10&mode=raw")
        await tee.wait_followers(1)
        client, turn = await asked(tee, stage, "Stream-Key: k")
    else:
        client, turn = await asked(tee, stage, "Stream-Key: k")
        follower = await tee.follow("keys/k", "mode=raw")
    await leave(client)
    assert (await tee.listed())[0]["state"] == "open"
    turn.begin()
    turn.end(FINISH, DONE)
    assert await follower.read() == FINISH + DONE
    assert follower.end == "whole"


async def test_last_follower_by_key_leaves_before_the_head(perform: Serve, stage: Stage) -> None:
    """The originator gone and the follower gone: nobody is left, and the upstream is closed at once."""
    tee = await perform()
    client, turn = await asked(tee, stage, "Stream-Key: k")
    follower = await tee.follow("keys/k")
    await leave(client)
    assert (await tee.listed())[0]["state"] == "open"
    left_at = await leave(follower.client)
    assert await wait_left(turn) - left_at < AT_ONCE_S


@pytest.mark.fault("follower", "head")
async def test_follower_leaves_while_the_originator_waits_for_the_head(perform: Serve, stage: Stage) -> None:
    """The one who asked is still there: it gets its stream, as if nobody had followed."""
    tee = await perform()
    client, turn = await asked(tee, stage, "Stream-Key: k")
    follower = await tee.follow("keys/k")
    await leave(follower.client)
    await tee.wait_followers(0)
    turn.begin()
    turn.end(FINISH, DONE)
    answer = await client.answer()
    assert await answer.read() == FINISH + DONE
    assert answer.end == "whole"


@pytest.mark.parametrize("policy", POLICIES)
async def test_client_that_leaves_as_the_refusal_comes(perform: Serve, stage: Stage, policy: str) -> None:
    """An answer that is no stream, for a client that has gone, is dropped; nothing is kept of it."""
    tee = await perform()
    client, turn = await asked(tee, stage, policy, "Stream-Key: k")
    await leave(client)
    turn.say(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 100\r\n\r\nslow down")
    await turn.wait_left()
    assert [stream for stream in await tee.listed() if stream["state"] == "open"] == []


async def test_client_that_leaves_while_its_body_is_sent(perform: Serve, stage: Stage) -> None:
    """An upstream that is slow to read a large prompt does not get the rest of it."""
    tee = await perform()
    body = chat_body(padding="x" * 32_000_000)
    client = await tee.send("POST", CHAT, body=body)
    turn = await stage.next()
    await leave(client)
    await (await tee.ask("GET", "/healthz")).read()
    async with asyncio.timeout(GUARD_S):
        assert len(await turn.reader.read()) < len(body)
    await turn.wait_left()


@pytest.mark.fault("client", "connect")
async def test_client_that_leaves_in_the_middle_of_its_request(serve: Serve, fake: FakeQwen) -> None:
    """Nothing goes upstream of a generation that was not asked for to the end."""
    tee = await serve()
    client = await tee.connect()
    client.send(request("POST", CHAT, "Content-Length: 1000") + b'{"model":')
    await leave(client)
    await (await tee.ask("GET", "/v1/models")).read()
    assert [received.method for received in fake.requests] == ["GET"]


# Near the end.


@pytest.mark.parametrize("mode", ["raw", "events"])
@pytest.mark.fault("client", "after_end")
async def test_client_that_leaves_after_done_has_had_it_all(serve: Serve, fake: FakeQwen, mode: str) -> None:
    """Clients close right after [DONE]: that is an end, not an abort, though the body's own end has not come."""
    tee = await serve()
    answer = await tee.chat(f"Stream-Mode: {mode}", fault="late_end; seconds=30")
    body = await answer.until(b"data: [DONE]\n")
    await leave(answer.client)
    await fake.wait_closed()
    info = await tee.wait_ended(answer.stream_id)
    assert (info["state"], info["ending"]["reason"]) == ("complete", "complete")
    sent = bytes(fake.requests[0].sent)
    replay = await tee.follow(answer.stream_id, f"mode={mode}")
    assert await replay.read() == (sent if mode == "raw" else stamped(sent, answer.epoch))
    assert (await replay.read()).startswith(body)
    assert replay.end == "whole"
    assert await tee.metric("streamtee_streams_ended_total", ending="complete") == 1


async def test_client_that_leaves_before_done_has_not(perform: Serve, stage: Stage) -> None:
    """The finish reason alone does not end a chat stream: usage and [DONE] may be due."""
    tee = await perform()
    answer, turn = await begun(tee, stage)
    turn.chunk(FINISH)
    await answer.until(FINISH)
    await leave(answer.client)
    await turn.wait_left()
    assert (await tee.info(answer.stream_id))["state"] == "cancelled"


@pytest.mark.fault("follower", "between_frames")
async def test_clients_that_leave_together(perform: Serve, stage: Stage) -> None:
    """Hundred followers that all go leave nothing behind."""
    tee = await perform()
    originator, turn = await begun(tee, stage, frames=1)
    followers: list[Answer] = [await tee.follow(originator.stream_id) for _ in range(100)]
    await tee.wait_followers(101)
    for one in (originator, *followers):
        one.client.transport.abort()
    async with asyncio.timeout(GUARD_S):
        await turn.wait_left()
    await tee.wait_followers(0)
    assert (await tee.info(originator.stream_id))["state"] == "cancelled"
    assert await tee.metric("streamtee_subscribers") == 0


async def test_native_client_that_leaves_at_the_end_is_no_harm(serve: Serve, fake: FakeQwen) -> None:
    """The native dialect has no last word, so leaving before the body's end cancels; the log keeps what came."""
    tee = await serve()
    client = await tee.send(
        "POST", NATIVE, "X-DashScope-SSE: enable", "Fake-Fault: late_end; seconds=30", body=native_body()
    )
    answer = await client.answer()
    await answer.until(b'"finish_reason":"stop"')
    await leave(client)
    await fake.wait_closed()
    info = await tee.wait_ended(answer.stream_id)
    assert info["state"] in ("complete", "cancelled")
    assert info["bytes"] == len(fake.requests[0].sent)
