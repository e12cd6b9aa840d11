"""The compiled modules against their sources: the same bytes are read as the same, and answered the same.

Needs the build of `make compiled`, and is skipped without one. `COMPILED_PYTHON` names the Python of another.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import readings
from tests.http_client import Client
from tests.made_up_inputs import cursors, framed, frames, heads
from tests.made_up_streams import mutated, noise, streams
from tests.spawned import FREE, serving_at

ROOT = Path(__file__).parents[1]
COMPILED = Path(os.environ.get("COMPILED_PYTHON") or ROOT / ".venv-compiled" / "bin" / "python")
pytestmark = pytest.mark.skipif(not COMPILED.exists(), reason="there is no compiled build; `make compiled` makes one")

bodies = streams | noise | mutated()
SAID: dict[str, st.SearchStrategy[list[bytes]]] = {
    "splitter": bodies,
    "blocks": bodies,
    "chunks": st.lists(framed, max_size=6),
    "cursors": st.lists(cursors, max_size=3).map(lambda texts: [_latin(text) for text in texts]),
    "heads": st.lists(heads, max_size=3),
    "web_sockets": st.lists(frames, max_size=6),
    "json_texts": bodies.map(lambda reads: [read.partition(b"data:")[2].strip() or read for read in reads[:1]]),
    "dialects": bodies,
}
_CHANGING = re.compile(rb"(?i)^(?:date|x-request-id|stream-[a-z-]+):.*\r\n|req_[0-9a-f]{24}", re.MULTILINE)


def _latin(text: str) -> bytes:
    """Return a text as a target may have it: without what would end its line."""
    return re.sub(rb"[\s#&+%]", b"_", text.encode("utf-8", "surrogatepass"))


class Build:
    """The compiled modules, in a process of their own."""

    def __init__(self) -> None:
        command = [str(COMPILED), "-P", str(ROOT / "tests" / "readings.py")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.file: str = self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        said: str = json.loads(self._process.stdout.readline() or '"it has ended"')
        return said

    def told(self, name: str, reads: list[bytes]) -> str:
        """Return what it says of reads."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([name, [read.hex() for read in reads]]) + "\n")
        self._process.stdin.flush()
        return self._line()

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def build() -> Iterator[Build]:
    one = Build()
    try:
        yield one
    finally:
        one.close()


def test_one_side_is_compiled_and_the_other_is_not(build: Build) -> None:
    """Else nothing is compared; and every reading is."""
    assert build.file.endswith(".so")
    assert str(sys.modules["proxy.wire.sse"].__file__).endswith(".py") or "TEST_COMPILED" in os.environ
    assert SAID.keys() == readings.READINGS.keys()


@pytest.mark.parametrize("name", readings.READINGS)
@settings(suppress_health_check=list(HealthCheck))
@given(data=st.data(), seed=st.integers(0, 1 << 16))
def test_both_builds_read_the_same(build: Build, name: str, data: st.DataObject, seed: int) -> None:
    """However it is cut; the same values, in the same types, and the same errors."""
    said = data.draw(SAID[name])
    reads = said if name == "cursors" else _cut(b"".join(said), seed)
    assert build.told(name, reads) == readings.told(name, reads)


def _cut(body: bytes, seed: int) -> list[bytes]:
    random = Random(seed)
    places = sorted(random.randrange(len(body) + 1) for _ in range(random.randrange(12)))
    return [body[start:end] for start, end in zip([0, *places], [*places, len(body)], strict=True)]


@asynccontextmanager
async def served(python: str, folder: str, path: str) -> AsyncIterator[str]:
    """Run the proxy of a build; yield its URL."""
    settings = {
        **FREE,
        "STREAMTEE_UPSTREAM__URL": "http://127.0.0.1:9",
        "STREAMTEE_LIMITS__HEADER_BYTES": "8192",
        "STREAMTEE_LIMITS__HEADERS": "20",
        "STREAMTEE_CLIENTS__HEAD_S": "0.2",
        "STREAMTEE_CLIENTS__BODY_S": "0.2",
        "STREAMTEE_CLIENTS__KEEPALIVE_S": "0.2",
        "PYTHONPATH": path,
    }
    process = await asyncio.create_subprocess_exec(
        python, "-P", "-m", "proxy.tools.cli", "serve", cwd=folder, env=settings,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        url, _ = await serving_at(process)
        yield url
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def answer(url: str, sent: list[bytes]) -> bytes:
    """Send reads on a connection; return all that comes until it is closed, without what is never the same twice."""
    client = await Client.connect(url)
    for part in sent:
        if not client.gone:
            client.send(part)
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await client.wait_gone()
    received = bytes(client.buffer)
    await client.leave()
    return _CHANGING.sub(b"", received)


async def compare(said: list[tuple[bytes, int]]) -> None:
    """Send the same heads to the proxies of both builds, and compare their answers."""
    with tempfile.TemporaryDirectory() as folder:
        async with (
            served(sys.executable, folder, str(ROOT)) as interpreted,
            served(str(COMPILED), folder, "") as compiled,
        ):
            for sent, seed in said:
                answers = await asyncio.gather(*(answer(url, _cut(sent, seed)) for url in (interpreted, compiled)))
                assert answers[0] == answers[1], sent


@settings(suppress_health_check=list(HealthCheck), max_examples=max(2, settings().max_examples // 400))
@given(st.lists(st.tuples(heads, st.integers(0, 1 << 16)), min_size=20, max_size=40))
def test_both_builds_answer_the_same_heads_alike(said: list[tuple[bytes, int]]) -> None:
    """Whole answers, and how the connection ends, of servers in processes of their own."""
    asyncio.run(compare(said))
