"""A server of several workers, as `streamtee serve --workers N` runs it, in place of a proxy in the tests' own process.

With TEST_WORKERS=3 in the environment the end-to-end tests run against it. What their clients send lands on any of the
workers. Tests that look into the proxy, or that are about a limit which workers divide, are skipped by name then.
"""

import asyncio
import json
import os
import re
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from proxy.workers.shares import DIVIDED, DIVIDED_UPSTREAM
from tests.nursery import ADDRESS, nursery

COUNT = int(os.environ.get("TEST_WORKERS", "1"))
GUARD_S = 30
_DIVIDED = {*DIVIDED, *DIVIDED_UPSTREAM, "requests_per_minute", "model_labels"}
_COMPLAINT = re.compile(rb" (WARNING|ERROR|CRITICAL) |Traceback")


def in_one_process(why: str) -> pytest.MarkDecorator:
    """Return the mark of a test that can't hold with several workers, and why."""
    return pytest.mark.skipif(COUNT > 1, reason=f"with workers: {why}")


class _Operators:
    token = "a-token-of-the-admin-port"


class Workers:
    """Several workers, as far as a test may know them: by their two ports."""

    operators = _Operators

    def __init__(self, process: Process, url: str, admin_url: str) -> None:
        self.process = process
        self.url = url
        self.admin_url = admin_url

    def __getattr__(self, name: str) -> Any:
        pytest.skip(f"with workers, no test can look into the proxy ({name})")


@asynccontextmanager
async def workers(tables: dict[str, Any], count: int = COUNT, *, complain: bool = False) -> AsyncIterator[Workers]:
    """Run workers with these tables of the configuration; see afterwards that they complained of nothing.

    `complain`: they may, since the test kills some.
    """
    named = {key for table in tables.values() if isinstance(table, dict) for key in table}
    if named & _DIVIDED:
        pytest.skip(f"workers divide {', '.join(named & _DIVIDED)} among themselves")
    tables = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", **tables}
    settings = {f"STREAMTEE_{name.upper()}": _written(value) for name, value in tables.items()}
    settings.setdefault("STREAMTEE_ADMIN_TOKEN", _Operators.token)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STREAMTEE_")}
    loop = "uvloop" if "uvloop" in type(asyncio.get_running_loop()).__module__ else "asyncio"
    environment |= {**settings, ADDRESS: nursery().path}
    command = (str(nursery().launcher), "serve", "--workers", str(count), "--loop", loop)
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE, env=environment)
    assert process.stdout is not None
    assert process.stderr is not None
    log, has_admin = asyncio.create_task(process.stderr.read()), tables["admin"] != ""
    try:
        async with asyncio.timeout(GUARD_S):
            first = (await process.stdout.readline()).decode().split()
            second = (await process.stdout.readline()).decode().split() if has_admin else ["metrics", "on", ""]
        if not (first and second):
            raise OSError((await log).decode())
        yield Workers(process, first[3].rstrip(","), second[2].removesuffix("/metrics"))
    finally:
        said = await _ended(process, log)
    assert complain or not _COMPLAINT.search(said), said.decode()


async def _ended(process: Process, log: "asyncio.Task[bytes]") -> bytes:
    """End all at once; return what they have logged."""
    try:
        async with asyncio.timeout(GUARD_S):
            while process.returncode is None:
                _signal(process, signal.SIGTERM)
                with suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), 0.05)
    finally:
        _signal(process, signal.SIGKILL)
        await process.wait()
        assert process.stdout is not None
        await process.stdout.read()  # uvloop closes the pipes once all has been read
    return await log


def _signal(process: Process, number: int) -> None:
    """Send a signal, if the process has not ended. Not by `send_signal`, which may take its end from the loop."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
