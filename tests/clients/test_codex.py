"""The Codex CLI, as a user runs it: a provider in its configuration, and nothing else of ours.

It is told of a home of its own and of no other variable. What it can run is a list of plans that it keeps for itself.
"""

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.tools.fake.connection import Received
from proxy.tools.fake.qwen import FakeQwen
from proxy.tools.fake.steps import Steps
from tests.clients.node import KEY
from tests.dialects.response_events import numbered, response
from tests.event_loops import GUARD_S
from tests.proxy_under_test import teed
from tests.stage import Stage

PROGRAM = Path(__file__).parent / "codex" / "node_modules" / ".bin" / "codex"
CONFIG = """
model = "qwen3-coder-plus"
model_provider = "tee"
[model_providers.tee]
name = "tee"
base_url = "{url}/v1"
wire_api = "responses"
env_key = "TEE_KEY"
request_max_retries = 0
stream_max_retries = {retries}
http_headers = {{ {headers} }}
"""
PLAN = {
    "id": "fc_1",
    "type": "function_call",
    "call_id": "call_1",
    "name": "update_plan",
    "arguments": json.dumps({"plan": [{"step": "Count the frames", "status": "completed"}]}),
}
Run = Callable[..., Any]


class Toolless(FakeQwen):
    """A fake that calls none of the tools it is offered, as they run commands, and always says the same."""

    def plan(self, received: Received) -> Steps:
        body = json.loads(received.body) | {"tools": [], "input": "说点什么", "instructions": ""}
        return super().plan(replace(received, body=json.dumps(body).encode()))


@pytest.fixture
def codex(tmp_path: Path) -> Run:
    """Run `codex exec` at a URL; return its exit status, its events, and the texts of its messages."""
    if not PROGRAM.exists():
        reason = "the Codex CLI is not installed; WITH_CODEX=1 tests/system_tools.sh installs it"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)

    async def run(url: str, *, retries: int = 0, **headers: str) -> tuple[int | None, list[Any], list[str]]:
        home = tmp_path / ".codex"
        home.mkdir(exist_ok=True)
        named = ", ".join(f'"{name.replace("_", "-")}" = "{value}"' for name, value in headers.items())
        (home / "config.toml").write_text(CONFIG.format(url=url, retries=retries, headers=named))
        command = ["exec", "--skip-git-repo-check", "--sandbox", "read-only", "--json", "Say something."]
        process = await asyncio.create_subprocess_exec(
            str(PROGRAM),
            *command,
            cwd=tmp_path,
            env={"HOME": str(tmp_path), "PATH": os.environ["PATH"], "TEE_KEY": KEY},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(4 * GUARD_S):
            out, _ = await process.communicate()
        events = [json.loads(line) for line in out.splitlines()]
        said = [event["item"]["text"] for event in events if event.get("item", {}).get("type") == "agent_message"]
        return process.returncode, events, said

    return run


@pytest.fixture
async def toolless() -> Any:
    one = Toolless()
    await one.start()
    yield one
    await one.stop()


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
