"""`make dashboard`: what the compose file starts, without containers."""

import asyncio
import re
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from urllib.request import urlopen

from tests.bench.processes import free_port

SCRIPT = Path(__file__).parents[2] / "deploy" / "dashboard.sh"
GUARD_S = 40
_ENDED = re.compile(r'^streamtee_streams_ended_total\{.*ending="complete".*\} [1-9]', re.MULTILINE)


async def test_dashboard_without_containers_says_where_its_data_are() -> None:
    """Streams are counted at the address that it prints; when it is told to end, nothing is left of it."""
    names = ("FAKE", "PROMETHEUS", "STREAMTEE_LISTEN", "STREAMTEE_ADMIN")
    addresses = {name: f"127.0.0.1:{free_port()}" for name in names}
    environment = {"PATH": "/usr/bin:/bin", **addresses}
    folder = str(Path(sys.executable).parent)
    process = await asyncio.create_subprocess_exec(SCRIPT, folder, stdout=PIPE, stderr=PIPE, env=environment)
    assert process.stdout is not None
    said = ""
    try:
        async with asyncio.timeout(GUARD_S):
            while not said.startswith("metrics on "):
                said = (await process.stdout.readline()).decode()
                assert said, (await process.communicate())[1]
            while not _ENDED.search(await asyncio.to_thread(page, said.split()[2])):
                await asyncio.sleep(0.2)
    finally:
        process.terminate()
        rest, errors = await process.communicate()  # those that it started hold the pipes, too
    assert process.returncode == 0, errors
    assert b"Traceback" not in rest + errors


def page(url: str) -> str:
    """Return what is at a URL."""
    with urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())
