"""The Responses API through the whole proxy: byte for byte, in every mode, and however it ends."""

import json
from typing import Any

import pytest

from proxy.tools.fake.qwen import FakeQwen
from tests.cuts import messages
from tests.dialects.response_events import message, numbered, response
from tests.event_loops import on_one_loop
from tests.http_client import Answer
from tests.proxy_under_test import Serve, Tee, response_body
from tests.stage import Stage

PATHS = (
    "/v1/responses",
    "/compatible-mode/v1/responses",
    "/api/v2/apps/protocols/compatible-mode/v1/responses",
)
FRAMES = numbered(response(message(0, ["Hel", "lo"])), by_dashscope=True)
CALLS = {"tools": [{"type": "function", "name": "look", "parameters": {"properties": {"at": {}}}}]}


async def ask(tee: Tee, *headers: str, fault: str = "", path: str = PATHS[0], **more: Any) -> Answer:
    faults = (f"Fake-Fault: {fault}",) if fault else ()
    return await tee.ask("POST", path, *headers, *faults, body=response_body(**more))


def events(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(said.data) for said in messages(body)]


@pytest.mark.parametrize("path", PATHS)
async def test_response_passes_byte_for_byte(path: str, serve: Serve, fake: FakeQwen) -> None:
    """From any of its paths to the one that the upstream has; kept, measured, and counted by its own row."""
    tee = await serve()
    answer = await ask(tee, path=path, reasoning={"effort": "low"})
    assert await answer.read() == fake.requests[0].sent
    assert fake.requests[0].path == PATHS[1]
    info = await tee.wait_ended(answer.stream_id)
    assert (info["state"], info["route"], info["model"]) == ("complete", "responses", "qwen3.7-plus")
    assert info["finish_reason"] == "stop"
    assert info["usage"]["completion"] > info["usage"]["reasoning"] > 0
    assert info["time_to_first_token_s"] is not None
    assert await tee.metric("streamtee_tokens_total", route="responses", kind="completion") > 0


@pytest.mark.parametrize("own", ["/r/responses", ""])
async def test_upstream_may_have_a_path_of_its_own(own: str, perform: Serve, stage: Stage) -> None:
    """For responses and what is below them; nothing else goes there."""
    tee = await perform(upstream={"responses_path": own})
    base = own or "/compatible-mode/v1/responses"
    for method, path, target in (
        ("POST", PATHS[0], base),
        ("GET", PATHS[0] + "/abc?include[]=x", base + "/abc?include[]=x"),
        ("DELETE", PATHS[1] + "/abc", base + "/abc"),
        ("POST", PATHS[2] + "/abc/cancel", base + "/abc/cancel"),
        ("POST", "/v1/embeddings", "/compatible-mode/v1/embeddings"),
        ("GET", "/api/v2/apps/other", "/api/v2/apps/other"),
    ):
        client = await tee.send(method, path, body=b"{}" if method == "POST" else b"")
        turn = await stage.next()
        assert (turn.method.decode(), turn.target.decode()) == (method, target)
        await turn.body()
        turn.reply("200 OK", "Content-Type: application/json", body=b"{}")
        assert await (await client.answer()).read() == b"{}"


async def test_key_of_ours_opens_responses_alone(serve: Serve) -> None:
    """Not those that are kept upstream, which may be another caller's."""
    tee = await serve(upstream={"key": "sk-ours"})
    for path in PATHS:
        assert (await ask(tee, path=path)).status == 200
    for method, path, status in (
        ("GET", "/v1/responses/abc", 404),
        ("DELETE", "/v1/responses/abc", 404),
        ("GET", "/api/v2/apps", 403),
    ):
        assert (await tee.ask(method, path)).status == status


async def test_model_of_a_large_request_is_known(serve: Serve) -> None:
    """From its beginning, though the rest is sent on as it comes; and of a response that says nothing of it."""
    tee = await serve(limits={"held_body_bytes": 1000})
    answer = await ask(tee, fault="hang; after=6", instructions="x" * 200_000)
    assert (await tee.info(answer.stream_id))["model"] == "qwen3.7-plus"


async def test_response_in_one_piece_passes(serve: Serve, fake: FakeQwen) -> None:
    """Without a stream."""
    tee = await serve()
    answer = await ask(tee, stream=False)
    body = await answer.read()
    assert body == fake.requests[0].sent
    assert json.loads(body)["status"] == "completed"


@on_one_loop
@pytest.mark.parametrize("more", [{}, CALLS, {"max_output_tokens": 20}])
async def test_request_in_one_piece_is_served_by_a_stream(serve: Serve, fake: FakeQwen, more: dict[str, Any]) -> None:
    """With its last response, verbatim."""
    tee = await serve(generations={"upgrade": "always"})
    answer = await ask(tee, stream=False, **more)
    assert answer.status == 200
    body = await answer.read()
    assert b'"response":%b,' % body in bytes(fake.requests[0].sent).splitlines()[-2]
    assert json.loads(fake.requests[0].body)["stream"] is True
    assert json.loads(body)["output"]


@on_one_loop
async def test_followers_of_every_mode_hear_the_response(perform: Serve, stage: Stage) -> None:
    """While it runs and afterwards; json is the last snapshot until it is complete."""
    tee = await perform()
    client = await tee.send("POST", PATHS[0], body=response_body())
    turn = await stage.next()
    await turn.body()
    turn.begin()
    for frame in FRAMES[:5]:
        turn.chunk(frame)
    answer = await client.answer()
    await answer.bytes(sum(map(len, FRAMES[:5])))
    running = await tee.follow(answer.stream_id, "mode=json")
    assert (running.status, json.loads(await running.read())["status"]) == (202, "in_progress")
    modes = ("raw", "events", "coalesced", "text")
    followers = {mode: await tee.follow(answer.stream_id, f"mode={mode}") for mode in modes}
    for frame in FRAMES[5:]:
        turn.chunk(frame)
    turn.end()
    assert await answer.read() == b"".join(FRAMES)
    heard = {mode: await follower.read() for mode, follower in followers.items()}
    assert heard["raw"] == b"".join(FRAMES)
    assert events(heard["events"]) == events(heard["raw"])
    deltas = "response.output_text.delta"
    for mode in ("events", "coalesced"):
        assert "".join(event["delta"] for event in events(heard[mode]) if event["type"] == deltas) == "Hello"
    assert heard["text"] == b"Hello"
    done = await tee.follow(answer.stream_id, "mode=json")
    assert json.loads(await done.read()) == events(heard["raw"])[-1]["response"]


@pytest.mark.parametrize("mode", ["incremental", "cumulative"])
async def test_mode_without_meaning_is_refused_before_anything_is_sent(mode: str, serve: Serve, fake: FakeQwen) -> None:
    """By header, and to followers; the refusal says what is allowed."""
    tee = await serve()
    refused = await ask(tee, f"Stream-Mode: {mode}")
    assert refused.status == 400
    assert "coalesced" in (await refused.json())["error"]["message"]
    assert fake.requests == []
    answer = await ask(tee)
    await answer.read()
    assert (await tee.follow(answer.stream_id, f"mode={mode}")).status == 400


FAILURES = {
    "response.failed": ("error_inside; after=6", "upstream_error", "whole"),
    "DashScope's error": ("error_inside; after=6; flat=1", "upstream_error", "whole"),
    "[DONE] after an error": ("error_inside; after=6; flat=1; done=1", "upstream_error", "whole"),
    "broken off": ("cut_mid_chunk; after=6", "upstream_reset", "cut"),
    "half an event": ("cut_clean_half_frame; after=6", "upstream_reset", "cut"),
}


@on_one_loop
@pytest.mark.parametrize("name", FAILURES)
async def test_failure_is_the_last_event_in_the_form_that_all_clients_read(name: str, serve: Serve) -> None:
    """Once, with the response's own id, an output, and a number that follows; raw ends as the upstream did."""
    fault, reason, end = FAILURES[name]
    tee = await serve()
    raw = await ask(tee, fault=fault)
    await raw.read()
    assert raw.end == end
    assert (await tee.wait_ended(raw.stream_id))["ending"]["reason"] == reason
    for mode in ("events", "coalesced"):
        follower = await tee.follow(raw.stream_id, f"mode={mode}")
        told = events((await follower.read()).replace(b"data: [DONE]\n", b"data: {}\n"))
        assert follower.end == "whole"
        failed = [event for event in told if event.get("type") == "response.failed"]
        assert failed == told[-1:]
        assert failed[0]["response"]["id"] == told[0]["response"]["id"]
        assert (failed[0]["response"]["status"], failed[0]["response"]["output"]) == ("failed", [])
        assert failed[0]["response"]["error"]["code"]
        assert failed[0]["sequence_number"] == 6
    text, document = [await tee.follow(raw.stream_id, f"mode={mode}") for mode in ("text", "json")]
    await text.read()
    assert (text.end, document.status) == ("cut", 502 if reason == "upstream_reset" else 400)
    assert (await document.json())["error"]["code"] in (
        "data_inspection_failed",
        "DataInspectionFailed",
        "upstream_reset",
    )


@pytest.mark.parametrize("end", [len(FRAMES) - 1, 4, 0])
async def test_response_without_its_last_event_is_no_success(end: int, perform: Serve, stage: Stage) -> None:
    """Also when the upstream ends its body properly, with [DONE] or without."""
    tee = await perform()
    for last in (b"", b"data: [DONE]\n\n"):
        client = await tee.send("POST", PATHS[0], "Stream-Mode: events", body=response_body())
        turn = await stage.next()
        await turn.body()
        turn.begin()
        turn.end(b"".join(FRAMES[:end]) + last)
        answer = await client.answer()
        body = await answer.read()
        assert events(body.replace(b"[DONE]", b"{}"))[-1]["type"] == "response.failed"
        assert (await tee.wait_ended(answer.stream_id))["ending"]["reason"] == "upstream_reset"


async def test_what_follows_the_last_event_does_no_harm(perform: Serve, stage: Stage) -> None:
    """[DONE], and a body that breaks off."""
    tee = await perform()
    client = await tee.send("POST", PATHS[0], body=response_body())
    turn = await stage.next()
    await turn.body()
    turn.begin()
    turn.chunk(b"".join(FRAMES) + b"data: [DONE]\n\n")
    answer = await client.answer()
    await answer.bytes(sum(map(len, FRAMES)))
    turn.reset()
    assert (await tee.wait_ended(answer.stream_id))["state"] == "complete"


async def test_cancelled_response_says_so(serve: Serve) -> None:
    """As a failed one whose status is cancelled, with a code that Codex does not ask again after."""
    tee = await serve()
    answer = await ask(tee, "Stream-Mode: events", fault="hang; after=6")
    await answer.bytes(1)
    assert (await tee.ask("POST", f"/v1/streams/{answer.stream_id}/cancel")).status == 200
    last = events(await answer.read())[-1]
    assert (last["type"], last["response"]["status"]) == ("response.failed", "cancelled")
    assert last["response"]["error"]["code"] == "invalid_prompt"


async def test_refusal_before_the_stream_passes_and_ours_has_openais_shape(serve: Serve) -> None:
    """Of an upstream as it came; of the proxy as OpenAI's clients read it, below each path."""
    tee = await serve(limits={"body_bytes": 100})
    answer = await ask(tee, fault="status; status=429")
    assert (answer.status, (await answer.json())["error"]["code"]) == (429, "limit_requests")
    for path in PATHS:
        answer = await ask(tee, path=path, instructions="x" * 100)
        assert (answer.status, (await answer.json())["error"]["code"]) == (413, "too_large")


@on_one_loop
async def test_heartbeats_are_never_blocks(perform: Serve, stage: Stage) -> None:
    """Between two events with ids, in modes of events; mode raw has none."""
    tee = await perform()
    client = await tee.send("POST", PATHS[0], body=response_body())
    turn = await stage.next()
    await turn.body()
    turn.begin()
    turn.chunk(FRAMES[0])
    answer = await client.answer()
    followers = [await tee.follow(answer.stream_id, f"mode={mode}&heartbeat=0.05") for mode in ("events", "raw")]
    await followers[0].until(b"\n\n:\n:\n")
    turn.chunk(b"".join(FRAMES[1:]))
    turn.end()
    assert await followers[1].read() == await answer.read() == b"".join(FRAMES)
    assert events(await followers[0].read()) == events(b"".join(FRAMES))
