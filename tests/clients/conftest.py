"""What the tests with real clients of other languages and frameworks stand on: a fake Qwen, a proxy, and Node."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from proxy.tools.fake.qwen import FakeQwen
from tests.clients.codex_cli import codex, toolless
from tests.clients.node import Node, Script
from tests.programs import system_tool
from tests.proxy_under_test import faked

__all__ = ["codex", "toolless"]  # fixtures


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    """Skips, or fails with CI=true, when Node or the clients are not there."""
    program = system_tool("node")
    if not (Path(__file__).parent / "node_modules" / ".package-lock.json").exists():
        reason = "the JavaScript clients are not installed; tests/system_tools.sh installs them"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    one = Node(program)
    yield one
    one.stop()


@pytest.fixture
def ai_sdk(node: Node) -> Script:
    """The Vercel AI SDK."""
    return Script(node, "ai_sdk")


@pytest.fixture
async def fake() -> AsyncIterator[FakeQwen]:
    """A fake Qwen; the clients here keep their connections to it."""
    async with faked() as one:
        yield one
