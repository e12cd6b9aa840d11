"""Sharing: requests that are one make one upstream call, and each of them gets all of its answer."""

import asyncio
import json
from collections import Counter
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionChunk

from proxy.server.generations.shared_calls import AWAITING_HEAD
from proxy.tools.fake.qwen import FakeQwen
from tests.event_loops import on_one_loop, until
from tests.event_streams import DONE, FINISH, blocks, chunk_frame, stamped
from tests.http_client import Answer, Client
from tests.proxy_under_test import CHAT, NATIVE, Serve, Tee, begun, chat_body, native_body, teed
from tests.stage import Stage, Turn, staged
from tests.workers_under_test import in_one_process

KEYED = "Idempotency-Key: one"
BY_BODY = {"generations": {"share": "body"}}
SSE = "X-DashScope-SSE: enable"
ASYNC = "Prefer: respond-async"
WHOLE = b'{"object":"chat.completion"}'


async def waiting(tee: Tee, count: int) -> None:
    """Wait until so many clients wait for the one stream that runs to be answered."""
    await until(lambda: sum(stream.holds.get(AWAITING_HEAD, 0) for stream in tee.proxy.hub) == count)


async def asked_twice(tee: Tee, stage: Stage, *headers: str, **more: Any) -> tuple[Client, Client, Turn]:
    """Have two clients ask for the same, and the upstream not answer yet."""
    first = await tee.send_chat(*headers, **more)
    turn = await stage.next()
    await turn.body()
    second = await tee.send_chat(*headers, **more)
    await waiting(tee, 2)
    return first, second, turn


async def asked_again(tee: Tee, stage: Stage, *headers: str, **more: Any) -> Turn:
    """Ask, and see that the upstream is asked, too; end that."""
    calls = len(stage.turns)
    client = await tee.send_chat(*headers, **more)
    turn = await stage.next()
    await turn.body()
    turn.begin()
    turn.end(FINISH, DONE)
    assert await (await client.answer()).read() == FINISH + DONE
    assert len(stage.turns) == calls + 1
    return turn


# By Idempotency-Key.


@pytest.mark.parametrize("mode", ["raw", "events"])
async def test_two_at_once_make_one_call(perform: Serve, stage: Stage, mode: str) -> None:
    """Also while the first has no answer yet: both get all of one stream, and only the second is a replay."""
    tee = await perform()
    clients = await asked_twice(tee, stage, KEYED, f"Stream-Mode: {mode}")
    turn = clients[2]
    turn.begin("X-Request-Id: 1")
    turn.end(FINISH, DONE)
    first, second = [await client.answer() for client in clients[:2]]
    sent = FINISH + DONE
    assert await first.read() == await second.read() == (sent if mode == "raw" else stamped(sent, first.epoch))
    assert first.stream_id == second.stream_id
    assert (first.header("idempotency-replayed"), second.header("idempotency-replayed")) == (None, "true")
    assert second.header("x-request-id") == "1"
    assert second.header("location") == f"/v1/streams/{first.stream_id}"
    assert len(stage.turns) == 1


@pytest.mark.parametrize("dialect", ["chat", "native"])
async def test_kept_stream_is_replayed_in_any_mode(serve: Serve, fake: FakeQwen, dialect: str) -> None:
    """It costs no second call, whatever the answer is wanted in."""
    tee = await serve()
    first = await tee.generate(dialect, KEYED)
    body = await first.read()
    assert first.header("idempotency-replayed") is None
    for mode, wanted in (("raw", body), ("events", stamped(body, first.epoch))):
        again = await tee.generate(dialect, KEYED, f"Stream-Mode: {mode}")
        assert await again.read() == wanted
        assert (again.header("idempotency-replayed"), again.end) == ("true", "whole")
    assert len(fake.requests) == 1


async def test_running_stream_is_joined_from_its_start(perform: Serve, stage: Stage) -> None:
    """The past first, then what both get at once."""
    tee = await perform()
    first, turn = await begun(tee, stage, KEYED, frames=3)
    await first.until(b"word 3")
    second = await tee.chat(KEYED)
    assert await second.until(b"word 3") == bytes(first.body)
    turn.end(FINISH, DONE)
    assert await first.read() == await second.read()
    assert len(stage.turns) == 1


@pytest.mark.parametrize("when", ["before the head", "in mid-stream", "after the end"])
async def test_retry_after_a_lost_response_costs_nothing(perform: Serve, stage: Stage, when: str) -> None:
    """The stream goes on without its client for a while, or is kept."""
    tee = await perform()
    client = await tee.send_chat(KEYED)
    turn = await stage.next()
    await turn.body()
    if when != "before the head":
        turn.begin()
        turn.chunk(FINISH)
        await (await client.answer()).until(b"finish")
    if when == "after the end":
        turn.end(DONE)
        await until(lambda: tee.proxy.hub.running == 0)
    await client.leave()
    await waiting(tee, 0)
    await tee.wait_followers(0)
    retry = await tee.send_chat(KEYED)
    if when == "before the head":
        await waiting(tee, 1)
        turn.begin()
        turn.chunk(FINISH)
    answer = await retry.answer()
    await answer.until(b"finish")
    if when != "after the end":
        turn.end(DONE)
    assert await answer.read() == FINISH + DONE
    assert answer.header("idempotency-replayed") == "true"
    assert len(stage.turns) == 1


async def test_retry_that_comes_too_late_asks_again(perform: Serve, stage: Stage) -> None:
    """The upstream does not speak for ever to a client that does not come back."""
    tee = await perform(generations={"retry_grace_s": 0.1})
    client = await tee.send_chat(KEYED)
    turn = await stage.next()
    await client.leave()
    await turn.wait_left()
    first, turn = await begun(tee, stage, KEYED, frames=1)
    await first.client.leave()
    await turn.wait_left()
    assert (await tee.info(first.stream_id))["ending"]["reason"] == "client_gone"
    await asked_again(tee, stage, KEYED)


async def test_client_that_waits_again_outlasts_the_grace(perform: Serve, stage: Stage) -> None:
    """The grace of the one who left does not end the stream of the one who came back."""
    tee = await perform(generations={"retry_grace_s": 0.1})
    client = await tee.send_chat(KEYED)
    turn = await stage.next()
    await client.leave()
    await waiting(tee, 0)
    retry = await tee.send_chat(KEYED)
    await waiting(tee, 1)
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.call_later(0.25, over.set)  # longer than the grace
    await over.wait()
    assert not turn.left.is_set()
    turn.begin()
    turn.end(DONE)
    assert await (await retry.answer()).read() == DONE


@pytest.mark.parametrize("first", ["cancel", "continue"])
async def test_most_patient_policy_counts(perform: Serve, stage: Stage, first: str) -> None:
    """What one client asks for is not taken back by another one."""
    tee = await perform()
    second = "continue" if first == "cancel" else "cancel"
    one, turn = await begun(tee, stage, KEYED, f"Stream-On-Disconnect: {first}", frames=1)
    other = await tee.chat(KEYED, f"Stream-On-Disconnect: {second}")
    for answer in (one, other):
        await answer.client.leave()
    await tee.wait_followers(0)
    turn.end(FINISH, DONE)
    assert (await tee.wait_ended(one.stream_id))["state"] == "complete"


async def test_policy_that_is_asked_for_goes_over_the_grace(perform: Serve, stage: Stage) -> None:
    """A client that says cancel means it, with a key, too."""
    tee = await perform()
    answer, turn = await begun(tee, stage, KEYED, "Stream-On-Disconnect: cancel", frames=1)
    await answer.client.leave()
    await turn.wait_left()
    await asked_again(tee, stage, KEYED)


@pytest.mark.parametrize(
    ("path", "other"),
    [
        (CHAT, (CHAT, chat_body(seed=1))),
        (CHAT, (CHAT + "?a=1", chat_body())),
        (CHAT, (CHAT, chat_body(stream=False))),
        (NATIVE, (NATIVE, native_body(seed=1))),
    ],
)
@pytest.mark.parametrize("when", ["running", "kept"])
async def test_key_of_another_request_is_refused(
    serve: Serve, fake: FakeQwen, path: str, other: tuple[str, bytes], when: str
) -> None:
    """409 in the route's dialect, and not to be tried again; the stream of the first goes on."""
    tee = await serve()
    fault = "Fake-Fault: hang" if when == "running" else "X-No: fault"
    first = await tee.ask("POST", path, KEYED, SSE, fault, body=chat_body() if path == CHAT else native_body())
    await (first.until(b"\n\n") if when == "running" else first.read())
    answer = await tee.ask("POST", other[0], KEYED, SSE, body=other[1])
    told = await answer.json()
    assert (answer.status, answer.header("x-should-retry")) == (409, "false")
    assert told.get("error", told)["code"] == "idempotency_key_reused"
    assert ("error" in told) == (path == CHAT)
    assert (await tee.info(first.stream_id))["state"] == ("open" if when == "running" else "complete")
    assert len(fake.requests) == 1


async def test_native_stream_and_answer_are_two_requests(serve: Serve, fake: FakeQwen) -> None:
    """There a header chooses between them; the OpenAI routes do not look at it."""
    tee = await serve()
    await (await tee.native(KEYED)).read()
    assert (await tee.ask("POST", NATIVE, KEYED, body=native_body())).status == 409
    await (await tee.chat(KEYED)).read()
    assert (await tee.chat(KEYED, "Accept: text/event-stream")).status == 200
    assert len(fake.requests) == 2


async def test_key_is_its_callers_and_its_routes(serve: Serve, fake: FakeQwen) -> None:
    """Another caller's, or another API's, is another key; a second path to the same API is not."""
    tee = await serve()
    idents = Counter[str | None]()
    for path, caller in (
        (CHAT, "a"),
        (CHAT, "b"),
        (NATIVE, "a"),
        (CHAT, "a"),
        ("/compatible-mode" + CHAT, "a"),
    ):
        body = native_body() if path == NATIVE else chat_body()
        answer = await tee.ask("POST", path, KEYED, SSE, f"Authorization: Bearer {caller}", body=body)
        await answer.read()
        idents[answer.header("stream-id")] += 1
    assert sorted(idents.values()) == [1, 1, 3]
    assert len(fake.requests) == 3


async def test_key_does_not_cross(serve: Serve, fake: FakeQwen) -> None:
    """Behind one upstream key two callers' keys would be one; what passes through keeps it."""
    tee = await serve()
    await (await tee.chat(KEYED)).read()
    await (await tee.ask("POST", "/v1/embeddings", KEYED, body=b"{}")).read()
    assert [received.header("idempotency-key") for received in fake.requests] == ["", "one"]


async def test_stream_that_failed_is_asked_for_again(serve: Serve, fake: FakeQwen) -> None:
    """What went wrong above is what a retry is for; the failed one is still told of by its id."""
    tee = await serve()
    failed = await tee.chat(KEYED, fault="cut_mid_frame; times=1")
    await failed.read()
    assert failed.end != "whole"
    answer = await tee.chat(KEYED, fault="cut_mid_frame; times=1")
    assert await answer.read() == bytes(fake.requests[1].sent)
    assert (answer.header("idempotency-replayed"), answer.end) == (None, "whole")
    assert (await tee.info(failed.stream_id))["state"] == "failed"
    assert len(fake.requests) == 2


@pytest.mark.parametrize("when", ["before the head", "in mid-stream"])
async def test_retry_does_not_undo_a_cancel(perform: Serve, stage: Stage, when: str) -> None:
    """A client library that tries again by itself must not start what its user has cancelled."""
    tee = await perform()
    client = await tee.send_chat(KEYED)
    turn = await stage.next()
    if when == "in mid-stream":
        await turn.body()
        turn.begin()
        turn.chunk(FINISH)
        await (await client.answer()).until(FINISH)
    (stream,) = await tee.listed()
    await tee.ask("POST", f"/v1/streams/{stream['id']}/cancel")
    if when == "before the head":
        answer = await client.answer()
        assert (answer.status, answer.header("x-should-retry")) == (409, "false")
    again = await tee.chat(KEYED)
    if when == "before the head":
        assert (again.status, (await again.json())["error"]["code"]) == (409, "cancelled")
    else:
        assert (await again.read(), again.end != "whole") == (FINISH, True)
    assert len(stage.turns) == 1


async def test_stream_that_is_no_longer_kept_is_asked_for_again(perform: Serve, stage: Stage) -> None:
    """A key lives as long as its stream: Stream-Retain, its default, DELETE."""
    tee = await perform(streams={"retain_s": 0.1})
    await asked_again(tee, stage, KEYED, "Stream-Retain: 0")
    await asked_again(tee, stage, KEYED, "Stream-Retain: 60")
    (stream,) = await tee.listed()
    assert (await tee.ask("DELETE", f"/v1/streams/{stream['id']}")).status == 200
    await asked_again(tee, stage, KEYED)
    await until(lambda: not list(tee.proxy.hub))
    await asked_again(tee, stage, KEYED)


async def test_stream_whose_start_is_gone_is_not_replayed(perform: Serve, stage: Stage) -> None:
    """410 with the earliest frame: never shortened silently, and not paid for twice."""
    tee = await perform(limits={"log_bytes": 2000})
    answer, turn = await begun(tee, stage, KEYED, frames=40)
    turn.end(FINISH, DONE)
    await answer.read()
    again = await tee.chat(KEYED)
    assert (again.status, (await again.json())["earliest"] > 1) == (410, True)
    assert len(stage.turns) == 1


async def test_shared_stream_has_room_for_so_many(perform: Serve, stage: Stage) -> None:
    """Who shares is a follower; the one who asked first has its place."""
    tee = await perform(limits={"followers_per_stream": 1})
    first, turn = await begun(tee, stage, KEYED, frames=1)
    assert (await tee.chat(KEYED)).status == 503
    turn.end(FINISH, DONE)
    await first.until(DONE)
    await until(lambda: not tee.proxy.hub.followers)
    assert (await tee.chat(KEYED)).status == 200


async def test_retry_needs_no_room_for_a_stream(perform: Serve, stage: Stage) -> None:
    """Where no other stream has room, one that is there is still joined."""
    tee = await perform(limits={"streams": 1})
    _, turn = await begun(tee, stage, KEYED, frames=1)
    assert (await tee.chat("Idempotency-Key: two")).status == 503
    second = await tee.chat(KEYED)
    turn.end(FINISH, DONE)
    assert (await second.read()).endswith(DONE)


@in_one_process("who waits for a key that a call gets later may wait elsewhere, docs/workers.md")
async def test_stream_key_of_a_retry_names_the_stream(perform: Serve, stage: Stage) -> None:
    """Whichever of them gave it; but a replay does not take a key back from a newer stream."""
    tee = await perform()
    waiter = await tee.follow("keys/late", "wait=10&mode=raw")
    first, turn = await begun(tee, stage, KEYED, "Stream-Key: early", frames=1)
    await (await tee.chat(KEYED, "Stream-Key: late")).until(b"word 1")
    turn.end(FINISH, DONE)
    assert (await waiter.read()).endswith(DONE)
    for key in ("early", "late"):
        assert (await tee.follow(f"keys/{key}")).stream_id == first.stream_id
    newer = await tee.send_chat("Stream-Key: late")
    turn = await stage.next()
    turn.begin()
    turn.end(DONE)
    ident = (await newer.answer()).stream_id
    await (await tee.chat(KEYED, "Stream-Key: late")).read()
    assert (await tee.follow("keys/late")).stream_id == ident
    await tee.ask("DELETE", f"/v1/streams/{first.stream_id}")
    assert (await tee.follow("keys/early")).status == 404
    assert (await tee.follow("keys/late")).stream_id == ident


# What is no stream, shared.


async def test_answer_in_one_piece_is_shared_and_kept(perform: Serve, stage: Stage) -> None:
    """Status, headers and body are the upstream's, for those who wait and for those who come later."""
    tee = await perform()
    *clients, turn = await asked_twice(tee, stage, KEYED, stream=False)
    turn.reply("200 Fine", "Content-Type: application/json", "X-Request-Id: 1", body=WHOLE)
    answers = [await client.answer() for client in clients]
    answers.append(await tee.chat(KEYED, "Stream-Mode: events", stream=False))
    for number, answer in enumerate(answers):
        assert (await answer.read(), answer.end, answer.reason) == (WHOLE, "whole", b"Fine")
        assert answer.header("content-length") == str(len(WHOLE))
        assert (answer.header("content-type"), answer.header("x-request-id")) == ("application/json", "1")
        assert answer.header("idempotency-replayed") == ("true" if number else None)
        assert answer.stream_id == answers[0].stream_id
    assert len(stage.turns) == 1
    kept = await tee.ask("GET", f"/v1/streams/{answers[0].stream_id}")
    assert (await kept.read(), kept.header("content-type")) == (WHOLE, "application/json")
    info = await tee.info(answers[0].stream_id)
    assert (info["state"], info["answer"]) == ("complete", {"status": 200, "content_type": "application/json"})


@pytest.mark.parametrize("framing", ["chunked", "close"])
async def test_long_answer_in_one_piece_is_shared_as_it_comes(perform: Serve, stage: Stage, framing: str) -> None:
    """Who comes while it is sent gets it from its start, whatever tells its end."""
    tee = await perform()
    client = await tee.send_chat(KEYED, stream=False)
    turn = await stage.next()
    await turn.body()
    kind = b"Content-Type: application/json\r\n"
    if framing == "chunked":
        turn.say(b"HTTP/1.1 200 OK\r\n" + kind + b"Transfer-Encoding: chunked\r\n\r\n")
        turn.chunk(WHOLE[:9])
    else:
        turn.say(b"HTTP/1.1 200 OK\r\n" + kind + b"\r\n" + WHOLE[:9])
    first = await client.answer()
    await first.bytes(9)
    second = await tee.chat(KEYED, stream=False)
    await second.bytes(9)
    if framing == "chunked":
        turn.end(WHOLE[9:])
    else:
        turn.say(WHOLE[9:])
        turn.close()
    assert await first.read() == await second.read() == WHOLE
    assert len(stage.turns) == 1


async def test_answer_in_one_piece_that_breaks_off_is_broken_for_all(perform: Serve, stage: Stage) -> None:
    """It never looks whole, and a retry asks again."""
    tee = await perform()
    *clients, turn = await asked_twice(tee, stage, KEYED, stream=False)
    turn.say(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n" + WHOLE)
    answers = [await client.answer() for client in clients]
    for answer in answers:
        await answer.bytes(len(WHOLE))
    turn.close()
    for answer in answers:
        assert (await answer.read(), answer.end) == (WHOLE, "reset")
    await asked_again(tee, stage, KEYED, stream=False)


async def test_answer_in_one_piece_survives_its_client(perform: Serve, stage: Stage) -> None:
    """A completion that took minutes is not lost with its connection."""
    tee = await perform()
    client = await tee.send_chat(KEYED, stream=False)
    turn = await stage.next()
    await turn.body()
    await client.leave()
    await waiting(tee, 0)
    turn.reply("200 OK", "Content-Type: application/json", body=WHOLE)
    await until(lambda: tee.proxy.hub.running == 0)
    again = await tee.chat(KEYED, stream=False)
    assert (await again.read(), again.header("idempotency-replayed")) == (WHOLE, "true")
    assert len(stage.turns) == 1


async def test_stream_key_does_not_stay_with_what_is_no_stream(perform: Serve, stage: Stage) -> None:
    """Who follows by key waits for the next stream, also while an answer in one piece is on its way."""
    tee = await perform()
    client = await tee.send_chat("Stream-Key: k", stream=False)
    turn = await stage.next()
    turn.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(WHOLE) + WHOLE[:5])
    answer = await client.answer()
    assert (await tee.follow("keys/k")).status == 404
    turn.say(WHOLE[5:])
    assert await answer.read() == WHOLE


@pytest.mark.parametrize("status", ["400 Bad Request", "429 Too Many Requests", "500 Oh"])
async def test_refusal_is_for_all_who_wait_and_is_not_kept(perform: Serve, stage: Stage, status: str) -> None:
    """A retry asks again, also while the refusal is still on its way."""
    tee = await perform()
    *clients, turn = await asked_twice(tee, stage, KEYED)
    turn.say(b"HTTP/1.1 %b\r\nX-Why: 1\r\nContent-Length: 9\r\n\r\n" % status.encode())
    turn.say(b"slow ")
    answers = [await client.answer() for client in clients]
    for answer in answers:
        await answer.bytes(5)
    await asked_again(tee, stage, KEYED)
    turn.say(b"down")
    turn.done.set()
    for answer in answers:
        assert (answer.status, answer.header("x-why")) == (int(status[:3]), "1")
        assert (await answer.read(), answer.end) == (b"slow down", "whole")
        assert answer.header("stream-id") is None
    assert len(await tee.listed()) == 1


async def test_upstream_that_cannot_be_reached_is_told_to_all_who_wait(perform: Serve, stage: Stage) -> None:
    """Each gets its 502, and a retry asks again."""
    tee = await perform()
    *clients, turn = await asked_twice(tee, stage, KEYED)
    turn.close()
    for client in clients:
        answer = await client.answer()
        assert (answer.status, (await answer.json())["error"]["code"]) == (502, "upstream_unreachable")
    await asked_again(tee, stage, KEYED)


async def test_shutdown_sends_those_who_wait_elsewhere(perform: Serve, stage: Stage) -> None:
    """503: the same request is right at another process."""
    tee = await perform()
    first, second, _ = await asked_twice(tee, stage, KEYED)
    stopping = asyncio.create_task(tee.proxy.stop())
    for client in (first, second):
        answer = await client.answer()
        assert (answer.status, answer.header("retry-after")) == (503, "1")
    await stopping


# By body.


async def test_identical_requests_share_a_call_while_it_runs(perform: Serve, stage: Stage) -> None:
    """Late ones get it from its start, each under the one id; afterwards the next asks again."""
    tee = await perform(**BY_BODY)
    *clients, turn = await asked_twice(tee, stage)
    turn.begin()
    turn.chunk(chunk_frame("word"))
    answers = [await client.answer() for client in clients]
    answers.append(await tee.chat())
    for answer in answers:
        await answer.until(b"word")
        assert answer.header("idempotency-replayed") is None
    turn.end(FINISH, DONE)
    assert len({await answer.read() for answer in answers}) == 1
    assert len({answer.stream_id for answer in answers}) == 1
    await asked_again(tee, stage)


async def test_nothing_is_shared_unless_configured(perform: Serve, stage: Stage) -> None:
    """It changes sampling: two requests are two answers."""
    tee = await perform()
    await begun(tee, stage, frames=1)
    await asked_again(tee, stage)


@pytest.mark.parametrize(
    "other",
    [
        ("POST", CHAT, (), chat_body(seed=1)),
        ("POST", CHAT + "?a", (), chat_body()),
        ("POST", CHAT, ("Accept: application/json",), chat_body()),
        ("POST", CHAT, ("X-DashScope-DataInspection: {}",), chat_body()),
        ("POST", CHAT, ("Authorization: Bearer another",), chat_body()),
        ("POST", CHAT, (KEYED,), chat_body()),
    ],
    ids=["body", "target", "accept", "dashscope", "caller", "key"],
)
async def test_requests_that_differ_are_not_shared(
    perform: Serve, stage: Stage, other: tuple[str, str, tuple[str, ...], bytes]
) -> None:
    """In their body, target, caller, in a header that steers Qwen; and a key of one's own says what one shares."""
    tee = await perform(**BY_BODY)
    await begun(tee, stage, frames=1)
    method, path, headers, body = other
    client = await tee.send(method, path, *headers, body=body)
    turn = await stage.next()
    turn.begin()
    turn.end(DONE)
    assert await (await client.answer()).read() == DONE


async def test_headers_that_do_not_steer_are_no_difference(perform: Serve, stage: Stage) -> None:
    """Who asks, with which library in which session, does not change what is asked for."""
    tee = await perform(**BY_BODY)
    first, turn = await begun(tee, stage, "User-Agent: a/1", "X-DashScope-SDK-Session-Id: 1", frames=1)
    second = await tee.chat("User-Agent: b/2", "x-dashscope-sdk-session-id: 2", "Stream-Mode: events")
    assert second.stream_id == first.stream_id
    turn.end(DONE)
    await second.read()
    assert len(stage.turns) == 1


@pytest.mark.parametrize("leaver", [0, 1])
@pytest.mark.parametrize("when", ["before the head", "in mid-stream"])
async def test_who_leaves_hurts_nobody(perform: Serve, stage: Stage, when: str, leaver: int) -> None:
    """Whoever asked first: the upstream is closed when the last one leaves, and not before."""
    tee = await perform(**BY_BODY)
    *clients, turn = await asked_twice(tee, stage)
    if when == "in mid-stream":
        turn.begin()
        turn.chunk(FINISH)
        for client in clients:
            await (await client.answer()).until(FINISH)
    await clients[leaver].leave()
    await until(lambda: tee.proxy.hub.followers + sum(s.holds.get(AWAITING_HEAD, 0) for s in tee.proxy.hub) == 1)
    assert not turn.left.is_set()
    await clients[1 - leaver].leave()
    await turn.wait_left()


async def test_refusal_of_a_shared_call_is_for_all(serve: Serve, fake: FakeQwen) -> None:
    """Also one in one piece; by body nothing of it is kept."""
    tee = await serve(**BY_BODY)
    for more, status in (({"stream": False}, 200), ({"fault": "status; status=429"}, 429)):
        answer = await tee.chat(**more)
        assert answer.status == status
        assert await answer.read() == bytes(fake.requests[-1].sent)
    assert await tee.listed() == []
    assert len(fake.requests) == 2


# respond-async.


async def accepted(answer: Answer) -> dict[str, Any]:
    """Return the handle that a client was answered with."""
    assert (answer.status, answer.header("preference-applied")) == (202, "respond-async")
    handle: dict[str, Any] = await answer.json()
    assert (handle["object"], handle["id"]) == ("stream", answer.stream_id)
    assert answer.header("location") == f"/v1/streams/{answer.stream_id}"
    return handle


@pytest.mark.parametrize("dialect", ["chat", "native"])
async def test_handle_is_answered_and_the_stream_followed_later(serve: Serve, fake: FakeQwen, dialect: str) -> None:
    """The generation runs to its end with nobody there; the preference is ours to read."""
    tee = await serve()
    handle = await accepted(await tee.generate(dialect, "prefer: foo=1, Respond-Async; x=y"))
    assert handle["state"] == "open"
    assert (await tee.wait_ended(handle["id"]))["state"] == "complete"
    assert await (await tee.follow(handle["id"], "mode=raw")).read() == bytes(fake.requests[0].sent)
    assert fake.requests[0].header("prefer") == ""


async def test_other_preferences_cross(serve: Serve, fake: FakeQwen) -> None:
    """A preference that merely resembles ours is the upstream's."""
    tee = await serve()
    assert (await tee.chat("Prefer: respond-asynchronously, return=minimal")).status == 200
    assert fake.requests[0].header("prefer") == "respond-asynchronously, return=minimal"


async def test_policy_counts_once_somebody_came(perform: Serve, stage: Stage) -> None:
    """Nobody there yet is not everybody gone."""
    tee = await perform()
    client = await tee.send_chat(ASYNC)
    turn = await stage.next()
    await turn.body()
    handle = await accepted(await client.answer())
    await client.leave()
    turn.begin()
    turn.chunk(FINISH)
    follower = await tee.follow(handle["id"], "mode=raw")
    await follower.until(FINISH)
    assert not turn.left.is_set()
    await follower.client.leave()
    await turn.wait_left()
    assert (await tee.info(handle["id"]))["state"] == "cancelled"


@pytest.mark.parametrize("stream", [True, False])
async def test_refusal_is_found_by_the_handle(serve: Serve, fake: FakeQwen, stream: bool) -> None:
    """Status, headers and body of the refusal, as if it had been waited for; its state is failed."""
    tee = await serve()
    handle = await accepted(await tee.chat(ASYNC, "Stream-Key: k", fault="retry_after; seconds=7", stream=stream))
    info = await tee.wait_ended(handle["id"])
    assert (info["state"], info["ending"]["reason"], info["answer"]["status"]) == ("failed", "refused", 429)
    assert "429" in info["ending"]["message"]
    for ident in (handle["id"], "keys/k"):
        answer = await tee.follow(ident, "mode=raw")
        assert (answer.status, answer.header("retry-after")) == (429, "7")
        assert await answer.read() == bytes(fake.requests[0].sent)


async def test_failure_is_found_by_the_handle(serve: Serve) -> None:
    """An upstream that never answered: the ending says so, and a follower is told."""
    tee = await serve(timeouts={"first_byte_s": 0.1})
    handle = await accepted(await tee.chat(ASYNC, fault="hang_before_head"))
    info = await tee.wait_ended(handle["id"])
    assert (info["state"], info["ending"]["reason"]) == ("failed", "timeout_first_byte")
    (event,) = blocks(await (await tee.follow(handle["id"])).read())
    assert b'"timeout_first_byte"' in event


async def test_follower_that_came_before_the_refusal_is_told(perform: Serve, stage: Stage) -> None:
    """It was promised a stream: its last event is the error, and the answer itself is still there."""
    tee = await perform()
    client = await tee.send_chat(ASYNC, "Stream-Key: k")
    turn = await stage.next()
    handle = await accepted(await client.answer())
    early = await tee.follow(handle["id"])
    raw = await tee.follow("keys/k", "mode=raw")
    await tee.wait_followers(2)
    turn.reply("200 OK", "Content-Type: application/json", body=WHOLE)
    (event,) = blocks(await early.read())
    assert b'"refused"' in event
    assert (await raw.read(), raw.end != "whole") == (b"", True)
    late = await tee.follow(handle["id"], "mode=raw")
    assert (await late.read(), late.status) == (WHOLE, 200)


@in_one_process("who waits for a key that a call gets later may wait elsewhere, docs/workers.md")
async def test_waiter_by_key_of_what_turned_out_to_be_no_stream_is_told(perform: Serve, stage: Stage) -> None:
    """It has its head already when a later request gives the key it waits for."""
    tee = await perform()
    await asked_in_one_piece(tee, stage)
    waiter = await tee.follow("keys/k", "wait=10")
    await tee.wait_followers(1)
    await (await tee.chat(KEYED, "Stream-Key: k", stream=False)).read()
    (event,) = blocks(await waiter.read())
    assert b'"refused"' in event


async def asked_in_one_piece(tee: Tee, stage: Stage) -> None:
    """Have a completion in one piece that is kept under its key."""
    client = await tee.send_chat(KEYED, stream=False)
    turn = await stage.next()
    turn.reply("200 OK", "Content-Type: application/json", body=WHOLE)
    assert await (await client.answer()).read() == WHOLE


async def test_handle_and_key_go_together(perform: Serve, stage: Stage) -> None:
    """A retry gets the same handle; one that does not prefer it, the stream; and the other way round."""
    tee = await perform()
    client = await tee.send_chat(KEYED, ASYNC)
    turn = await stage.next()
    await turn.body()
    handle = await accepted(await client.answer())
    again = await tee.chat(KEYED, ASYNC)
    assert (await accepted(again))["id"] == handle["id"]
    assert again.header("idempotency-replayed") == "true"
    follower = await tee.send_chat(KEYED)
    turn.begin()
    turn.end(FINISH, DONE)
    assert await (await follower.answer()).read() == FINISH + DONE
    assert (await accepted(await tee.chat(KEYED, ASYNC)))["state"] == "complete"
    assert len(stage.turns) == 1


async def test_handle_of_a_running_stream_outlives_its_clients(perform: Serve, stage: Stage) -> None:
    """Who was promised the answer gets it, though the one who asked first would have had it cancelled."""
    tee = await perform(**BY_BODY)
    first, turn = await begun(tee, stage, frames=1)
    handle = await accepted(await tee.chat(ASYNC))
    await first.client.leave()
    await tee.wait_followers(0)
    turn.end(FINISH, DONE)
    assert (await tee.wait_ended(handle["id"]))["state"] == "complete"


async def test_handle_of_an_answer_that_would_not_be_kept_keeps_it(perform: Serve, stage: Stage) -> None:
    """By body an answer in one piece goes with its last client, but not when another was promised it."""
    tee = await perform(**BY_BODY)
    client = await tee.send_chat(stream=False)
    turn = await stage.next()
    await turn.body()
    turn.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(WHOLE) + WHOLE[:5])
    first = await client.answer()
    handle = await accepted(await tee.chat(ASYNC, stream=False))
    turn.say(WHOLE[5:])
    turn.done.set()
    assert await first.read() == WHOLE
    assert await (await tee.follow(handle["id"])).read() == WHOLE
    assert len(stage.turns) == 1


async def test_cancel_before_the_answer_ends_the_handle(perform: Serve, stage: Stage) -> None:
    """Nobody follows it, and the upstream is let go of."""
    tee = await perform()
    client = await tee.send_chat(ASYNC, "Stream-Key: k")
    turn = await stage.next()
    handle = await accepted(await client.answer())
    assert (await tee.ask("POST", "/v1/keys/k/cancel")).status == 200
    await turn.wait_left()
    assert (await tee.info(handle["id"]))["state"] == "cancelled"


# Any interleaving.

MOVES = st.lists(st.sampled_from(["ask", "ask", "leave", "frame", "frame", "finish", "refuse", "break"]), max_size=14)


class Play:
    """What one key's requests come to, as it should be, beside what they do come to."""

    def __init__(self, tee: Tee, stage: Stage, key: str) -> None:
        self.tee, self.stage, self.key = tee, stage, key
        self.turn: Turn | None = None  # of the call that runs
        self.sent: bytes | None = None  # what it said; None before its head
        self.clients: list[Client] = []  # that wait for it
        self.answers: list[Answer] = []  # that follow it
        self.kept: bytes | None = None
        self.calls = 0

    async def play(self, moves: list[str]) -> None:
        for move in [*moves, "finish"]:
            await getattr(self, move)()
        for client in self.tee.clients:
            await client.leave()
        self.tee.clients.clear()

    async def ask(self) -> None:
        before = len(self.stage.turns)
        client = await self.tee.send_chat(f"Idempotency-Key: {self.key}")
        if self.kept is not None:
            assert await (await client.answer()).read() == self.kept
        elif self.turn is None:
            self.turn = await self.stage.next()
            await self.turn.body()
            self.clients.append(client)
            before += 1
        elif self.sent is None:
            self.clients.append(client)
        else:
            self.answers.append(await client.answer())
            await self.answers[-1].bytes(len(self.sent))
        await self.there()
        assert len(self.stage.turns) == before

    async def leave(self) -> None:
        if self.clients:
            await self.clients.pop(0).leave()
        elif self.answers:
            await self.answers.pop(0).client.leave()
        await self.there()

    async def frame(self) -> None:
        if self.turn is None:
            return
        frame = chunk_frame(f"word {len(self.sent or b'')}")
        if self.sent is None:
            self.turn.begin()
        self.sent = (self.sent or b"") + frame
        self.turn.chunk(frame)
        self.answers += [await client.answer() for client in self.clients]
        self.clients = []
        for answer in self.answers:
            assert await answer.bytes(len(self.sent)) == self.sent
        await until(lambda: self.running().log.end_bytes == len(self.sent or b""))

    async def finish(self) -> None:
        if self.turn is None:
            return
        await self.frame()
        assert self.sent is not None
        self.kept = self.sent + DONE
        self.turn.end(DONE)
        for answer in self.answers:
            assert (await answer.read(), answer.end) == (self.kept, "whole")
        await self.over()

    async def refuse(self) -> None:
        if self.turn is None or self.sent is not None:
            return
        self.turn.reply("429 Too Many Requests", body=b"no")
        for client in self.clients:
            answer = await client.answer()
            assert (answer.status, await answer.read()) == (429, b"no")
        await self.over()

    async def break_(self) -> None:
        if self.turn is None:
            return
        await self.frame()
        self.turn.reset()
        for answer in self.answers:
            await answer.read()
            assert answer.end != "whole"
            assert bytes(answer.body) == self.sent
        await self.over()

    async def over(self) -> None:
        await until(lambda: self.tee.proxy.hub.running == 0)
        self.turn, self.sent = None, None
        self.clients, self.answers = [], []

    async def there(self) -> None:
        """Wait until the proxy has seen who came and who went."""
        if self.turn is not None:
            wanted = (len(self.clients), len(self.answers))
            await until(
                lambda: (self.running().holds.get(AWAITING_HEAD, 0), len(self.running().subscriptions)) == wanted
            )

    def running(self) -> Any:
        return next(stream for stream in self.tee.proxy.hub if stream.log.ending is None)


setattr(Play, "break", Play.break_)


def test_any_interleaving_makes_no_call_too_many() -> None:
    """However clients come, leave and come again: one call, until it fails or is refused; all get all of it."""

    @settings(max_examples=40)
    @given(MOVES)
    def play(moves: list[str]) -> None:
        nonlocal played
        played += 1
        runner.run(Play(tee, stage, f"play-{played}").play(moves))

    async def begin() -> tuple[Any, Stage, Any, Tee]:
        staging = staged()
        stage = await staging.__aenter__()
        teeing = teed(stage.url)
        return staging, stage, teeing, await teeing.__aenter__()

    played = 0
    with asyncio.Runner() as runner:
        staging, stage, teeing, tee = runner.run(begin())
        try:
            play()
        finally:
            runner.run(teeing.__aexit__(None, None, None))
            runner.run(staging.__aexit__(None, None, None))


# openai-python.


def sdk(tee: Tee, **more: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{tee.proxy.url}/v1", api_key="sk-mine", **more)


ASKED: dict[str, Any] = {"model": "qwen3-max", "messages": [{"role": "user", "content": "hello"}]}


async def heard(stream: Any) -> str:
    """Return the text of a stream of the SDK."""
    return "".join([choice.delta.content or "" async for chunk in stream for choice in chunk.choices])


@on_one_loop
async def test_openai_two_at_once_hear_the_same(serve: Serve, fake: FakeQwen) -> None:
    """Streamed or in one piece; the SDK sends the key when it is told to."""
    tee = await serve()
    async with sdk(tee) as client:
        for stream in (True, False):
            asked = [
                client.chat.completions.create(**ASKED, stream=stream, extra_headers={"Idempotency-Key": f"k-{stream}"})
                for _ in range(2)
            ]
            one, two = await asyncio.gather(*asked)
            if stream:
                texts = await asyncio.gather(heard(one), heard(two))
                assert texts[0] == texts[1] != ""
            else:
                assert one == two
    assert len(fake.requests) == 2


@on_one_loop
async def test_openai_retry_after_a_cut_connection_costs_nothing(perform: Serve, stage: Stage) -> None:
    """The SDK loses the response, tries again by itself, and its user notices nothing."""
    tee = await perform()
    lost = asyncio.Event()

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Stand between the SDK and the proxy: the first connection breaks when the upstream has been asked."""
        host, _, port = tee.proxy.url.removeprefix("http://").rpartition(":")
        above, below = await asyncio.open_connection(host, int(port))
        first = not lost.is_set()
        lost.set()
        below.write(await reader.readuntil(b"\r\n\r\n"))
        below.write(await reader.read(1 << 16))
        if first:
            await asked.wait()
        else:
            while data := await above.read(1 << 16):
                writer.write(data)
        for end in (below, writer):
            end.close()

    asked = asyncio.Event()
    server = await asyncio.start_server(pipe, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    async with server, openai.AsyncOpenAI(base_url=url, api_key="sk-mine", max_retries=2) as client:
        call = asyncio.create_task(
            client.chat.completions.create(**ASKED, stream=True, extra_headers={"Idempotency-Key": "k"})
        )
        turn = await stage.next()
        await turn.body()
        asked.set()
        await waiting(tee, 0)
        await waiting(tee, 1)
        turn.begin()
        turn.end(chunk_frame("hello"), FINISH, DONE)
        assert await heard(await call) == "hello"
    assert len(stage.turns) == 1


@on_one_loop
async def test_openai_user_of_a_used_key_is_told_at_once(serve: Serve, fake: FakeQwen) -> None:
    """ConflictError, which the SDK else tries twice more."""
    tee = await serve()
    async with sdk(tee, max_retries=2) as client:
        await client.chat.completions.create(**ASKED, extra_headers={"Idempotency-Key": "k"})
        with pytest.raises(openai.ConflictError) as caught:
            await client.chat.completions.create(**ASKED, seed=1, extra_headers={"Idempotency-Key": "k"})
    assert caught.value.code == "idempotency_key_reused"
    assert await tee.metric("streamtee_requests_total", status="409") == 1
    assert len(fake.requests) == 1


@on_one_loop
async def test_openai_follows_what_it_asked_for_in_the_background(serve: Serve, fake: FakeQwen) -> None:
    """A handle first, then the stream by its id, as chunks."""
    tee = await serve()
    async with sdk(tee) as client:
        raw = await client.chat.completions.with_raw_response.create(
            **ASKED, stream=True, extra_headers={"Prefer": "respond-async"}
        )
        assert raw.status_code == 202
        location = raw.headers["location"].removeprefix("/v1")
        stream = await client.get(
            location, cast_to=ChatCompletionChunk, stream=True, stream_cls=openai.AsyncStream[ChatCompletionChunk]
        )
        text = await heard(stream)
    frames = blocks(bytes(fake.requests[0].sent))[:-1]
    told = [json.loads(frame.removeprefix(b"data: ")) for frame in frames]
    assert text == "".join(choice["delta"].get("content") or "" for chunk in told for choice in chunk["choices"])
    assert len(fake.requests) == 1
