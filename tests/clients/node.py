"""A process of Node, which runs the clients beside this file one question at a time."""

import asyncio
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from proxy.tools.fake.qwen import FakeQwen
from tests.event_loops import GUARD_S
from tests.proxy_under_test import Tee

HERE = Path(__file__).parent
KEY = "sk-a-real-client"
WEATHER = {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]}
in_one_node = pytest.mark.xdist_group("node")
_DRAWN = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_CREATED = re.compile(r'(?<="created_at":)\d+')


class Node:
    """A process of Node that runs the clients, one question at a time: to start it anew takes them 2 s."""

    def __init__(self, program: str) -> None:
        command = [program, str(HERE / "run.mjs")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    async def ask(self, client: str, *asked: dict[str, Any]) -> list[dict[str, Any]]:
        """Have a client ask, all questions at once; return what it heard, without what is drawn anew each time."""
        async with asyncio.timeout(3 * GUARD_S):
            return await asyncio.to_thread(self._ask, json.dumps({"client": client, "asked": asked}))

    def _ask(self, question: str) -> list[dict[str, Any]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{question}\n".encode())
        self._process.stdin.flush()
        told = _DRAWN.sub("…", self._process.stdout.readline().decode())
        heard: list[dict[str, Any]] = json.loads(_CREATED.sub("0", told))
        return heard

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


class Script:
    """One of the clients beside this file."""

    def __init__(self, node: Node, name: str) -> None:
        self._node = node
        self._name = name

    async def hear(self, url: str, **asked: Any) -> dict[str, Any]:
        """Ask at this URL; return what was heard."""
        (heard,) = await self._node.ask(self._name, {"url": url, **asked})
        return heard

    async def compare(self, fake: FakeQwen, tee: Tee, **asked: Any) -> dict[str, Any]:
        """Ask at the fake and at the proxy before it; return what was heard, when it is the same."""
        urls = (fake.url, tee.proxy.url)
        direct, through = await self._node.ask(self._name, *[{"url": url, **asked} for url in urls])
        assert through == direct
        return through
