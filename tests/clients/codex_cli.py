"""The Codex CLI as a program that tests run, with a home of its own; and a fake Qwen that calls none of its tools."""

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
from tests.event_loops import GUARD_S

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
