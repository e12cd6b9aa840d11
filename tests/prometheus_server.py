"""A real Prometheus, which scrapes what a test runs and answers its queries."""

import asyncio
import json
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

from tests.programs import system_tool

GUARD_S = 30
POLL_S = 0.05
CONFIG = """\
global: {{scrape_interval: 300ms, scrape_timeout: 300ms, evaluation_interval: 300ms}}
rule_files: [{rules}]
scrape_configs:
  - job_name: streamtee
    static_configs: [{{targets: [{targets}]}}]
"""


class Prometheus:
    """A Prometheus at a URL."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.at = 0.0
        """Unix seconds at which queries are evaluated; 0: now."""

    def get(self, path: str, **query: Any) -> Any:
        """Return the data of its answer. Raises: HTTPError, for a query that it does not understand."""
        with urlopen(f"{self.url}/api/v1/{path}?{urlencode(query)}", timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return the labels and the value of each series that answers an expression."""
        at = {"time": self.at} if self.at else {}
        found = self.get("query", query=expression, **at)
        return [(one["metric"], float(one["value"][1])) for one in found["result"]]

    def value(self, expression: str) -> float | None:
        """Return the sum of what answers an expression; None if nothing does."""
        found = self.query(expression)
        return sum(value for _, value in found) if found else None

    async def wait_value(self, expression: str, value: float) -> None:
        """Wait until the last scrapes say so."""
        async with asyncio.timeout(GUARD_S):
            while await asyncio.to_thread(self.value, expression) != value:
                await asyncio.sleep(POLL_S)

    async def hold(self, expression: str) -> None:
        """Have queries be evaluated at the time of the last sample that answers an expression."""
        self.at = max(value for _, value in await asyncio.to_thread(self.query, f"timestamp({expression})"))

    def wait_ready(self) -> None:
        """Wait until it answers."""
        until = time.monotonic() + GUARD_S
        while True:
            try:
                self.get("status/runtimeinfo")
                return
            except (URLError, ConnectionError):
                assert time.monotonic() < until, "Prometheus does not answer"
                time.sleep(POLL_S)


@contextmanager
def scraping(admin_urls: Sequence[str], folder: Path, rules: Path) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes admin ports three times a second; its data are in a folder."""
    config = folder / "prometheus.yml"
    targets = ", ".join(url.removeprefix("http://") for url in admin_urls)
    config.write_text(CONFIG.format(targets=targets, rules=rules))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        system_tool("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    ]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        server = Prometheus(f"http://127.0.0.1:{port}")
        try:
            server.wait_ready()
            yield server
        finally:
            process.kill()
