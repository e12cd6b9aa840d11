"""What the contract with the SDKs stands on: an upstream that plays streams back, and the SDKs in two majors.

The upstream is the fake Qwen, which says what it says of itself, or what was recorded; either way each write of it is
cut at places that depend on the request's body alone, so that an SDK is sent the same with the proxy and without.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest

from proxy.tools.fake_faults import SSE, End, Head, Part, Steps
from proxy.tools.fake_qwen import FakeQwen, Received
from tests.cuts import recorded
from tests.end_to_end.conftest import GUARD_S, Tee, teed

HERE = Path(__file__).parent
_PYTHONS = {"newer": sys.executable, "older": str(HERE / "older" / ".venv" / "bin" / "python")}
_DRAWN = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_MOST_CUTS = 4  # of one write: a stream of 300 frames is then sent in a thousand

Question = dict[str, Any]
Told = dict[str, Any]


def _majors(*names: str) -> pytest.MarkDecorator:
    named = [pytest.param(name, marks=pytest.mark.xdist_group(f"sdks {name}")) for name in names]
    return pytest.mark.parametrize("sdks", named, indirect=True)


both_majors = _majors(*_PYTHONS)
newer_major = _majors("newer")


class Recording(NamedTuple):
    """A recorded answer."""

    status: int
    content_type: str
    body: bytes


def recording(path: Path) -> Recording:
    """Read a recorded answer; its status and content type from the headers beside it, if they were recorded too."""
    headers = path.with_suffix(".headers.txt")
    head = headers.read_text(encoding="utf-8-sig") if headers.exists() else ""
    status = re.search(r"^HTTP/1.1 (\d+)|http(\d+)", head or path.stem)
    kind = re.search(r"^content-type: *(.+)$", head, re.IGNORECASE | re.MULTILINE)
    default = SSE if path.suffix == ".sse" else "application/json"
    return Recording(
        int(status[1] or status[2]) if status else 200,
        kind[1] if kind else "" if head else default,
        path.read_bytes(),
    )


def _recordings() -> dict[str, Path]:
    streams = recorded()
    whole = streams[0].parent.glob("*.json") if streams else ()
    return {path.name: path for path in (*streams, *sorted(whole)) if not path.stem.endswith(".request")}


RECORDINGS = _recordings()


class Playback(FakeQwen):
    """The fake, which answers a request that names a recording with that.

    With `Cumulative: 1` it sends all its text in every event, whatever it is asked for.
    """

    def plan(self, received: Received) -> Steps:
        name = received.header("play-back")
        asked = received
        if received.header("cumulative"):
            asked = replace(received, body=received.body.replace(b'"incremental_output": true', b'"unheard": true'))
        steps = _played(recording(RECORDINGS[name])) if name else super().plan(asked)
        return _cut(steps, Random(received.body))


def _played(one: Recording) -> Steps:
    headers = (("content-type", one.content_type),) if one.content_type else ()
    yield Head(one.status, headers, "chunked")
    yield Part(one.body)
    yield End()


def _cut(steps: Steps, random: Random) -> Steps:
    """Yield the steps, with every part in several writes."""
    for step in steps:
        if not isinstance(step, Part) or step.held:
            yield step
            continue
        body = step.body
        cuts = sorted({random.randrange(len(body) + 1) for _ in range(_MOST_CUTS + len(body) // 1000)})
        for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True):
            if start < end:
                yield Part(body[start:end])


def undrawn(told: Any) -> Any:
    """Return what was told without what is drawn anew for each request."""
    return json.loads(_DRAWN.sub("…", json.dumps(told)))


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


@pytest.fixture(scope="session")
def _processes() -> Iterator[dict[str, Sdks]]:
    """One process for each major, begun when it is first needed: to start takes them 2 s."""
    running: dict[str, Sdks] = {}
    yield running
    for one in running.values():
        one.stop()


@pytest.fixture
def sdks(request: pytest.FixtureRequest, _processes: dict[str, Sdks]) -> Sdks:
    """The SDKs of a major, "newer" or "older". The older one's test is skipped, or fails with CI=true, without them."""
    name = request.param
    if name not in _processes:
        if not Path(_PYTHONS[name]).exists():
            reason = "the older SDKs are not installed; tests/system_tools.sh installs them"
            pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
        _processes[name] = Sdks(_PYTHONS[name])
    return _processes[name]


@asynccontextmanager
async def played() -> AsyncIterator[Playback]:
    one = Playback()
    await one.start()
    try:
        yield one
    finally:
        await one.stop()


@pytest.fixture
async def fake() -> AsyncIterator[Playback]:
    async with played() as one:
        yield one


@pytest.fixture
async def tee(fake: Playback) -> AsyncIterator[Tee]:
    """A proxy before the fake."""
    async with teed(fake.url) as one:
        yield one
