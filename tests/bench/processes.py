"""Starts, steers and ends the processes of a measurement: the measured target on one core, origin and load on another.

Every wait has an end, and leaving a `with` block ends what was started in it, by its own id.
"""

import json
import os
import resource
import select
import shutil
import signal
import socket
import string
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench.load import Plan

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
_STREAMTEE = """listen = "127.0.0.1:$port"
admin = "127.0.0.1:$admin"
[upstream]
url = "http://127.0.0.1:$origin"
"""


class Unavailable(Exception):
    """A target that isn't installed, or doesn't start."""


class Target(NamedTuple):
    """One program to measure; its command and files have $port, $origin, $admin and $tmp."""

    name: str
    command: str
    files: dict[str, str]
    needs: str = ""
    """A Python module."""


_PYTHON = f"{sys.executable} -m tests.bench.peers"
_SERVE = "-m proxy.tools.cli serve --config $tmp/streamtee.toml"
TARGETS = {
    target.name: target
    for target in (
        Target("streamtee", f"{sys.executable} {_SERVE}", {"streamtee.toml": _STREAMTEE}),
        # Of `make compiled`; -I, as PYTHONPATH would lead to the sources.
        Target("streamtee_compiled", f"{ROOT}/.venv-compiled/bin/python -I {_SERVE}", {"streamtee.toml": _STREAMTEE}),
        Target("nginx", "nginx -p $tmp -e stderr -c $tmp/nginx.conf", {"nginx.conf": "peers/nginx.conf"}),
        Target("aiohttp_naive", f"{_PYTHON}.aiohttp_naive $port $origin", {}),
        Target("aiohttp_queues", f"{_PYTHON}.aiohttp_queues $port $origin", {}),
        Target("fastapi_httpx", f"{_PYTHON}.fastapi_httpx $port $origin", {}, needs="fastapi"),
    )
}


def cores() -> tuple[int, int]:
    """Return the core for the target and the one for origin and load; with a single core it is the same."""
    ours = sorted(os.sched_getaffinity(0))
    return ours[-1], ours[0]


def allow_many_files() -> int:
    """Raise the limit of open files of this process, and of those it starts, as far as it goes; return it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def free_port() -> int:
    """Return a port of the loopback address that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def started(command: Sequence[str], core: int, **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command on one core; end it and its descendants on leaving."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        ["taskset", "-c", str(core), *command], env=environment, cwd=ROOT, start_new_session=True, **more
    )
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            continue
    process.wait(5)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


@contextmanager
def running(target: Target, origin: int) -> Iterator[tuple[int, int]]:
    """Run a target in front of an origin; yields its process id and port. Raises: Unavailable."""
    with tempfile.TemporaryDirectory(prefix="bench-") as tmp:
        port = free_port()
        values = {"port": port, "origin": origin, "admin": free_port(), "tmp": tmp}
        for name, text in target.files.items():
            text = (HERE / text).read_text() if text.startswith("peers/") else text
            Path(tmp, name).write_text(string.Template(text).safe_substitute(values))
        command = string.Template(target.command).substitute(values).split()
        found = shutil.which(command[0], path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
        if found is None or (target.needs and find_spec(target.needs) is None):
            raise Unavailable(f"not installed: {target.needs or command[0]}")
        output = Path(tmp, "output")
        with output.open("wb") as log, started(
            [found, *command[1:]], cores()[0], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        ) as process:  # fmt: skip
            try:
                wait_listening(process, port)
            except TimeoutError as exc:
                raise Unavailable(f"{exc}: {output.read_text(errors='replace')[-500:]}") from None
            yield process.pid, port


@contextmanager
def origin() -> Iterator[tuple[int, int]]:
    """Run the origin; yields its process id and port."""
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.origin", str(port)]
    with started(command, cores()[1], stdin=subprocess.PIPE) as process:
        wait_listening(process, port)
        yield process.pid, port


def sent(origin_port: int) -> dict[str, tuple[int, int, int]]:
    """Return what the origin has sent since the last call: name to checksum, bytes, events."""
    with urllib.request.urlopen(f"http://127.0.0.1:{origin_port}/sent", timeout=20) as response:
        said: dict[str, list[int]] = json.load(response)
    return {name: (crc, size, events) for name, (crc, size, events) in said.items()}


def wait_listening(process: subprocess.Popen[bytes], port: int, within_s: float = 20.0) -> None:
    """Wait until the port takes connections. Raises: TimeoutError, also when the process has ended."""
    until = time.monotonic() + within_s
    while process.poll() is None and time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(f"does not listen: {' '.join(map(str, process.args[3:]))}")  # type: ignore[index]


class Load:
    """The clients of a plan, as a process: `ready`, `go`, then what it has received, then `report`."""

    def __init__(self, process: subprocess.Popen[bytes], plan: Plan) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.pid = process.pid
        self.plan = plan
        self._in = process.stdin
        self._out = process.stdout
        self._text = b""

    def ready(self, within_s: float = 60.0) -> None:
        """Wait until those who come first are connected. Raises: TimeoutError."""
        assert self._line(within_s) == "ready"

    def go(self) -> None:
        self._tell(b"go\n")

    def wait_for(self, events: int, within_s: float = 60.0) -> None:
        """Wait until so many events have come. Raises: TimeoutError."""
        self._wait("count", events, within_s)

    def wait_begun(self, answers: int, within_s: float = 60.0) -> None:
        """Wait until so many answers have begun. Raises: TimeoutError."""
        self._wait("begun", answers, within_s)

    def count(self) -> int:
        """Return the events received so far."""
        return self._number("count")

    def latency(self) -> dict[str, Any]:
        """Return p50, p99 and max of the latency since this was asked last, microseconds; and `problems`."""
        self._tell(b"latency\n")
        said: dict[str, Any] = json.loads(self._line(20.0))
        return said

    def report(self) -> dict[str, Any]:
        """Wait for the end and return the report. Raises: TimeoutError."""
        report: dict[str, Any] = json.loads(self._line(self.plan.deadline_s + 30))
        return report

    def _wait(self, what: str, number: int, within_s: float) -> None:
        until = time.monotonic() + within_s
        while (came := self._number(what)) < number:
            if time.monotonic() > until:
                raise TimeoutError(f"{what}: {came} of {number} within {within_s:.0f} s")
            time.sleep(0.2)

    def _number(self, what: str) -> int:
        self._tell(f"{what}\n".encode())
        return int(self._line(20.0))

    def _tell(self, line: bytes) -> None:
        self._in.write(line)
        self._in.flush()

    def _line(self, within_s: float) -> str:
        until = time.monotonic() + within_s
        while b"\n" not in self._text:
            left_s = until - time.monotonic()
            if left_s <= 0 or not select.select([self._out], [], [], left_s)[0]:
                raise TimeoutError(f"the load of {self.plan.name} said nothing within {within_s:.0f} s")
            data = os.read(self._out.fileno(), 1 << 16)
            if not data:
                raise TimeoutError(f"the load of {self.plan.name} has ended")
            self._text += data
        line, _, self._text = self._text.partition(b"\n")
        return line.decode()


@contextmanager
def load(plan: Plan) -> Iterator[Load]:
    """Run the clients of a plan."""
    command = [sys.executable, "-m", "tests.bench.load", json.dumps(asdict(plan))]
    with started(command, cores()[1], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield Load(process, plan)
