"""The SDKs in two majors, each in a process of its own, which hears the answers to questions."""

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.event_loops import GUARD_S

HERE = Path(__file__).parent
PYTHONS = {"newer": sys.executable, "older": str(HERE / "older" / ".venv" / "bin" / "python")}
_DRAWN = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_CREATED = re.compile(r'(?<="created_at": )[0-9.]+')
Question = dict[str, Any]
Told = dict[str, Any]


def _majors(*names: str) -> pytest.MarkDecorator:
    named = [pytest.param(name, marks=pytest.mark.xdist_group(f"sdks {name}")) for name in names]
    return pytest.mark.parametrize("sdks", named, indirect=True)


both_majors = _majors(*PYTHONS)
newer_major = _majors("newer")


def undrawn(told: Any) -> Any:
    """Return what was told without what is drawn anew for each request."""
    return json.loads(_CREATED.sub("0", _DRAWN.sub("…", json.dumps(told))))


class Sdks:
    """A process of a Python with one major of the SDKs, which hears the answers to questions, one after another."""

    def __init__(self, python: str) -> None:
        command = [python, str(HERE / "hear.py")]
        environ = {**os.environ, "DASHSCOPE_API_KEY": "sk-a-real-client"}  # where the guides' examples look for it
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ)
        self._versions: list[str] = []

    async def versions(self) -> list[str]:
        """Return the versions of openai and dashscope."""
        if not self._versions:
            self._versions = await self._wait_line()
        return self._versions

    async def hear(self, questions: list[Question]) -> list[Told]:
        """Return what was heard for each question, without what is drawn anew for each request."""
        await self.versions()
        assert self._process.stdin is not None
        self._process.stdin.write(f"{json.dumps(questions)}\n".encode())
        self._process.stdin.flush()
        return await self._wait_line()

    async def _wait_line(self) -> Any:
        assert self._process.stdout is not None
        async with asyncio.timeout(4 * GUARD_S):
            line = await asyncio.to_thread(self._process.stdout.readline)
        assert line, "the SDKs' process has ended; what it said of that is on stderr"
        return undrawn(json.loads(line))

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()
