"""The Codex CLI, as a user runs it: a provider in its configuration, and nothing else of ours.

It is told of a home of its own and of no other variable. What it can run is a list of plans that it keeps for itself.
"""

import asyncio
import json
from typing import Any

from proxy.tools.fake.qwen import FakeQwen
from tests.clients.codex_cli import Run
from tests.dialects.response_events import numbered, response
from tests.proxy_under_test import teed
from tests.stage import Stage

PLAN = {
    "id": "fc_1",
    "type": "function_call",
    "call_id": "call_1",
    "name": "update_plan",
    "arguments": json.dumps({"plan": [{"step": "Count the frames", "status": "completed"}]}),
}


def errors(events: list[Any]) -> str:
    """Return what Codex said of failures."""
    return json.dumps([event for event in events if event["type"] in ("error", "turn.failed")])


async def test_codex_has_its_answer(codex: Run, toolless: FakeQwen) -> None:
    """The same through the proxy as without it, and in mode events; with its usage."""
    async with teed(toolless.url) as tee:
        direct = await codex(toolless.url)
        through = [await codex(tee.proxy.url), await codex(tee.proxy.url, Stream_Mode="events")]
        assert await tee.metric("streamtee_streams_ended_total", route="responses", ending="complete") == 2
    status, events, said = direct
    assert (status, len(said)) == (0, 1)
    for other_status, other_events, other_said in through:
        assert (other_status, other_said) == (0, said)
        assert other_events[-1]["usage"] == events[-1]["usage"]


async def test_codex_calls_a_tool_and_goes_on(codex: Run, stage: Stage) -> None:
    """The call comes whole, as DashScope sends it; its outcome goes up with the next request."""
    done = ("response.output_item.done", {"output_index": 0, "item": {**PLAN, "status": "completed"}})
    added = ("response.output_item.added", {"output_index": 0, "item": PLAN})
    text = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Done."}]}
    said = ("response.output_item.done", {"output_index": 0, "item": text})
    async with teed(stage.url) as tee:
        running = asyncio.create_task(codex(tee.proxy.url))
        for items in ([added, done], [said]):
            turn = await stage.next()
            asked = json.loads(await turn.body())
            turn.begin()
            turn.end(b"".join(numbered(response(items), by_dashscope=True)))
        status, _, texts = await running
    assert (status, texts) == (0, ["Done."])
    assert [item["call_id"] for item in asked["input"] if item["type"] == "function_call_output"] == ["call_1"]


async def test_codex_is_told_why_an_answer_broke_off(codex: Run, toolless: FakeQwen) -> None:
    """By our failure event in mode events; in mode raw by the connection, as without a proxy."""
    fault = "cut_mid_chunk; after=6"
    async with teed(toolless.url) as tee:
        for headers, reason in (({"Stream_Mode": "events"}, "the upstream"), ({}, "stream disconnected")):
            status, events, _ = await codex(tee.proxy.url, Fake_Fault=fault, **headers)
            assert status == 1
            assert reason in errors(events)


async def test_codex_asks_again_for_what_broke_off_and_not_for_what_is_wrong(codex: Run, toolless: FakeQwen) -> None:
    """By the code of the failure event."""
    async with teed(toolless.url) as tee:
        again = "cut_mid_chunk; after=6; times=1"
        status, _, said = await codex(tee.proxy.url, retries=1, Fake_Fault=again, Stream_Mode="events")
        assert (status, len(said), len(toolless.requests)) == (0, 1, 2)
        wrong = "error_inside; after=6; flat=1"
        status, events, _ = await codex(tee.proxy.url, retries=1, Fake_Fault=wrong, Stream_Mode="events")
        assert (status, len(toolless.requests)) == (1, 3)
        assert "inappropriate content" in errors(events)


async def test_codex_is_told_of_a_refusal(codex: Run, toolless: FakeQwen) -> None:
    """Before the stream, with its message."""
    async with teed(toolless.url) as tee:
        status, events, _ = await codex(tee.proxy.url, Fake_Fault="status; status=400")
    assert status == 1
    assert "Range of input length" in errors(events)


async def test_codex_asks_again_for_what_was_refused_late_only_if_that_may_help(codex: Run, toolless: FakeQwen) -> None:
    """When its stream had begun before the upstream answered; a request that is wrong is sent once."""
    async with teed(toolless.url, streams={"keepalive_before_head_s": 0.05}) as tee:
        asked = []
        for status in (400, 429):
            fault = f"status; status={status}, slow_first_token; seconds=0.3"
            code, events, _ = await codex(tee.proxy.url, retries=1, Fake_Fault=fault)
            assert code == 1
            assert f"status {status} and no stream" in errors(events)
            asked.append(len(toolless.requests) - sum(asked))
    assert asked == [1, 2]
