"""The proxy of a soak, a process of its own: its configuration, what it uses, what its metrics and its log say."""

import asyncio
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from signal import Signals
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
_CONFIG = """listen = "127.0.0.1:{port}"
admin = "127.0.0.1:{admin}"
drain_s = 5
[upstream]
url = "{url}"
keepalive_s = 2
{upstream}
[timeouts]
connect_s = 5
first_byte_s = {late_s}
idle_s = {late_s}
total_s = 3600
[streams]
retain_s = 3
heartbeat_s = 4
[clients]
head_s = {late_s}
body_s = {late_s}
keepalive_s = 5
write_s = 8
[[routes]]
path = "/events"
share = "url"
join = "window"
keep_s = 1
{limits}
"""
_TIGHT_UPSTREAM = "max_concurrent = 15\nqueue_size = 10\nqueue_s = 3"
_TIGHT_LIMITS = """[limits]
streams = 20
followers = 35
followers_per_stream = 6
total_log_bytes = 1000000
log_bytes = 100000
total_body_bytes = 300000
held_body_bytes = 50000
total_pending_bytes = 300000
"""
LIMITS = {"default": ("", ""), "tight": (_TIGHT_UPSTREAM, _TIGHT_LIMITS)}
"""The phases of a soak, by name: what is added to the table of the upstream, and at the end."""
_TOTALS = ("total_s = 3600", "total_s = 3000")  # what a reload changes
_SAMPLE = re.compile(r"^streamtee_(\w+?)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_COMPLAINTS = re.compile(r"^.*(?:Traceback|\bERROR\b|\bCRITICAL\b|never retrieved|never awaited).*$", re.MULTILINE)


class Usage(NamedTuple):
    """What a process uses."""

    rss_mb: float
    descriptors: int
    tasks: int


class ProxyProcess:
    """One proxy that runs."""

    def __init__(self, url: str, phase: str, late_s: float) -> None:
        """Start a proxy before the upstream of a URL, with the limits of a phase, and these time-outs."""
        self.port, self.admin = _free_port(), _free_port()
        self._folder = tempfile.TemporaryDirectory(prefix="soak-")
        upstream, limits = LIMITS[phase]
        self.config = Path(self._folder.name) / "streamtee.toml"
        text = _CONFIG.format(
            port=self.port, admin=self.admin, url=url, upstream=upstream, late_s=late_s, limits=limits
        )
        self.config.write_text(text)
        self.log = Path(self._folder.name) / "log"
        self._answers, theirs = os.pipe()
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.soak.counted", "serve", "--config", str(self.config)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[theirs],
                env={**_bare_environment(), "TASKS_FD": str(theirs)},
            )
        os.close(theirs)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    async def wait_ready(self) -> None:
        """Wait until it answers. Raises: RuntimeError, if it ends instead."""
        while True:
            if not self.running:
                raise RuntimeError(f"the proxy did not start:\n{self.log.read_text()}")
            try:
                await self.metrics()
                return
            except OSError:
                await asyncio.sleep(0.05)

    def signal(self, number: Signals) -> None:
        self._process.send_signal(number)

    async def stop(self) -> int:
        """End it as a service manager does; return its exit status."""
        self._process.terminate()
        try:
            return await asyncio.to_thread(self._process.wait, 30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return await asyncio.to_thread(self._process.wait)

    def close(self) -> None:
        """Leave nothing behind."""
        if self.running:
            self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        os.close(self._answers)
        self._folder.cleanup()

    async def metrics(self) -> Mapping[str, float]:
        """Return each metric with its labels, and, by its name alone, the sum of all. Raises: OSError."""
        page = await asyncio.to_thread(self._page)
        found: dict[str, float] = {}
        for name, labels, value in _SAMPLE.findall(page):
            found[name] = found.get(name, 0.0) + float(value)
            if labels:
                found[f"{name}{{{labels}}}"] = float(value)
        return found

    def _page(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=30) as response:
            page: str = response.read().decode()
            return page

    async def usage(self) -> Usage:
        """Return what it uses now."""
        proc = Path(f"/proc/{self._process.pid}")
        rss_kb = int(re.findall(r"VmRSS:\s+(\d+)", (proc / "status").read_text())[0])
        descriptors = len(os.listdir(proc / "fd"))
        return Usage(rss_kb / 1024, descriptors, await asyncio.to_thread(self._tasks))

    def _tasks(self) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(b".")
        self._process.stdin.flush()
        return int(os.read(self._answers, 100))

    def cpu_s(self) -> float:
        """Return the CPU seconds it has used."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def reload(self) -> None:
        """Change its configuration, and have it read that again."""
        text = self.config.read_text()
        old, new = _TOTALS if _TOTALS[0] in text else reversed(_TOTALS)
        self.config.write_text(text.replace(old, new))
        self.signal(Signals.SIGHUP)

    def complaints(self) -> list[str]:
        """Return the lines of the log that tell of what should not be."""
        return _COMPLAINTS.findall(self.log.read_text(errors="replace"))


async def measure_pause(port: int) -> float:
    """Return how long the proxy takes to say that it is well, in seconds."""
    began_at = time.monotonic()
    url = f"http://127.0.0.1:{port}/healthz"

    def ask() -> None:
        with urllib.request.urlopen(url, timeout=60) as response:
            response.read()

    await asyncio.to_thread(ask)
    return time.monotonic() - began_at


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port: int = one.getsockname()[1]
        return port


def _bare_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("STREAMTEE_")}
