"""What memory comes back after floods of streams: `python -m tests.bench.memory`. Writes docs/memory.json and .svg.

One proxy, three floods, each of many streams of some megabytes that are forgotten a second after their end: whose
upstream keeps its connection, whose upstream closes it, whose client leaves. The proxy's resident memory is read twice
times a second, and what its ledger says is held. `--beside TREE` measures another source tree, too.
"""

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from tests.bench import procfs, report

ROOT = Path(__file__).parents[2]
WAYS = ("complete", "closed", "client leaves")
PAUSE_S = 30.0
_MEGABYTE = 1e6
_CONFIG = """listen = "127.0.0.1:{port}"
admin = "127.0.0.1:{admin}"
[upstream]
url = "http://127.0.0.1:{origin}"
"""
_BODY = b'{"model":"m","stream":true,"messages":[]}'
_HELD = re.compile(r"^streamtee_(?:memory_bytes\{.*\}|log_bytes) (\S+)$", re.MULTILINE)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port: int = one.getsockname()[1]
        return port


async def serve(port: int, size_bytes: int, event_bytes: int) -> None:
    """Be an upstream that says so much to whoever asks, and closes the connection if the path says so."""
    frame = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n'
    frame %= b"x" * (event_bytes - len(frame) + 2)
    block = b"%x\r\n%b\r\n" % (len(frame), frame) * max(1, 65536 // len(frame))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(len(_BODY))
                closes = b"closed" in head
                more = b"Connection: close\r\n" if closes else b""
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + more)
                writer.write(b"Transfer-Encoding: chunked\r\n\r\n")
                for _ in range(size_bytes // len(block)):
                    writer.write(block)
                    await writer.drain()
                writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
                await writer.drain()
                if closes:
                    break
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", port, backlog=1000) as server:
        await server.serve_forever()


def flood(port: int, way: str, streams: int, size_bytes: int, at_once: int) -> None:
    """Be so many clients, some at once."""
    todo = iter(range(streams))

    def ask() -> None:
        for _ in todo:
            with socket.create_connection(("127.0.0.1", port), 60) as client:
                lines = [b"POST /v1/chat/completions HTTP/1.1", b"Host: x", b"Authorization: Bearer k"]
                lines += [b"Content-Type: application/json", b"Stream-Retain: 1", b"X-Way: " + way.encode()]
                client.sendall(b"\r\n".join([*lines, b"Content-Length: %d" % len(_BODY), b"", _BODY]))
                got, tail = 0, b""
                while not tail.endswith(b"\r\n0\r\n\r\n") and (data := client.recv(1 << 18)):
                    got, tail = got + len(data), (tail + data)[-10:]
                    if way == WAYS[2] and got > size_bytes * 0.8:
                        break

    threads = [threading.Thread(target=ask) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Run:
    """One proxy, from its start on."""

    def __init__(self, tree: Path, origin: int) -> None:
        self.port, self.admin = free_port(), free_port()
        self._folder = tempfile.TemporaryDirectory()
        config = Path(self._folder.name) / "streamtee.toml"
        config.write_text(_CONFIG.format(port=self.port, admin=self.admin, origin=origin))
        command = [sys.executable, "-m", "proxy.tools.cli", "serve", "--config", str(config)]
        self._process = subprocess.Popen(
            command, cwd=tree, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(tree)}
        )
        self.points: list[tuple[float, float, float]] = []
        self.floods: list[tuple[str, float, float]] = []
        self._began_at = time.monotonic()

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(40)
        self._folder.cleanup()

    def look(self) -> float:
        """Note the resident megabytes, and those that are held; return the time."""
        now = time.monotonic() - self._began_at
        resident = procfs.rss_kb(self._process.pid) * 1024 / _MEGABYTE
        page = urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=30).read().decode()
        values = [float(value) for value in _HELD.findall(page)]
        held = sum(values[1:]) if len(values) > 1 else sum(values)  # log_bytes comes before its parts
        self.points.append((round(now, 2), round(resident, 1), round(held / _MEGABYTE, 1)))
        return now

    def watch(self, load: "subprocess.Popen[bytes] | None", seconds: float) -> None:
        """Look until the load is over, or so long."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and (load is None or load.poll() is None):
            self.look()
            time.sleep(0.5)


def measure(tree: Path, origin: int, streams: int, size_bytes: int, at_once: int) -> dict[str, Any]:
    """Run the floods against the proxy of a source tree."""
    run = Run(tree, origin)
    try:
        time.sleep(3)
        run.watch(None, 3)
        for way in WAYS:
            arguments = ["flood", str(run.port), way, str(streams), str(size_bytes), str(at_once)]
            load = subprocess.Popen([sys.executable, "-m", "tests.bench.memory", *arguments], cwd=ROOT)
            began_at = run.look()
            run.watch(load, 900)
            run.floods.append((way, began_at, run.look()))
            run.watch(None, PAUSE_S)
        return {"points": run.points, "floods": run.floods}
    finally:
        run.close()


def draw(runs: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw resident memory over time, a line a source tree, and what the ledger of the first says is held."""
    pyplot = report.pyplot()
    figure, axes = pyplot.subplots(figsize=(9, 4))
    for name, run in runs.items():
        axes.plot([at for at, _, _ in run["points"]], [mb for _, mb, _ in run["points"]], label=f"resident, {name}")
    first = next(iter(runs.values()))
    axes.plot(
        [at for at, _, _ in first["points"]], [mb for _, _, mb in first["points"]], ":", label="held, by the ledger"
    )
    for way, begin, end in first["floods"]:
        axes.axvspan(begin, end, alpha=0.1)
        axes.text(begin, axes.get_ylim()[1], way, fontsize=8, va="bottom")
    axes.set(xlabel="seconds", ylabel="MB", ylim=(0, None))
    axes.legend(loc="upper left", fontsize=8)
    report.write(figure, path)


@click.command()
@click.option("--streams", default=200, show_default=True, help="A flood.")
@click.option("--megabytes", default=8.0, show_default=True, help="A stream.")
@click.option("--event-bytes", default=1000, show_default=True)
@click.option("--at-once", default=20, show_default=True)
@click.option("--beside", "others", multiple=True, metavar="NAME=TREE", help="Another source tree.")
def main(streams: int, megabytes: float, event_bytes: int, at_once: int, others: Sequence[str]) -> None:
    """Measure, write docs/memory.json, and draw docs/memory.svg."""
    port, size_bytes = free_port(), int(megabytes * _MEGABYTE)
    arguments = ["origin", str(port), str(size_bytes), str(event_bytes)]
    origin = subprocess.Popen([sys.executable, "-m", "tests.bench.memory", *arguments], cwd=ROOT)
    try:
        time.sleep(1)
        trees = {"this": ROOT} | {name: Path(tree) for name, _, tree in (other.partition("=") for other in others)}
        runs = {name: measure(tree, port, streams, size_bytes, at_once) for name, tree in trees.items()}
    finally:
        origin.kill()
        origin.wait()
    asked = {"streams": streams, "megabytes": megabytes, "event_bytes": event_bytes, "at_once": at_once}
    (ROOT / "docs" / "memory.json").write_text(json.dumps({"asked": asked, "runs": runs}) + "\n")
    draw(runs, ROOT / "docs" / "memory.svg")
    for name, run in runs.items():
        before = run["points"][0][1]
        for way, begin, end in run["floods"]:
            top = max(mb for at, mb, _ in run["points"] if begin <= at <= end + 1)
            after = [mb for at, mb, _ in run["points"] if at < end + PAUSE_S][-1]
            click.echo(f"{name}: {before:.0f} MB, {way}: at most {top:.0f}, {PAUSE_S:.0f} s after {after:.0f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["origin"]:
        asyncio.run(serve(*map(int, sys.argv[2:])))
    elif sys.argv[1:2] == ["flood"]:
        flood(int(sys.argv[2]), sys.argv[3], *map(int, sys.argv[4:]))
    else:
        main()
