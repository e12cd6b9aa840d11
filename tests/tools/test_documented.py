"""Every command of docs/tools.md, run as it stands there, in the order of the page."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from proxy.tools.cli import COMMANDS as NAMES
from proxy.tools.cli import main
from tests.bench.processes import free_port
from tests.programs import system_tool

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tools.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
FASTER = [("--duration 2", "--duration 0.3"), ("streamtee fake", "streamtee fake --pace fast")]
"""What a reader may want to take its time, and a test does not."""
STATUSES = {"Fake-Fault: reset": (18, 56)}
"""The exit statuses of commands that are to fail: curl's, of a response that broke off."""
GUARD_S = 30


def test_page_has_a_command_of_each_name() -> None:
    """A new command gets its words there."""
    shown = "\n".join(COMMANDS)
    assert [name for name in ("serve", *NAMES) if not re.search(rf"\b(streamtee|proxy) {name}\b", shown)] == []


def here(command: str, ports: dict[str, int]) -> str:
    """Return a command with free ports in place of those on the page, and this installation's `streamtee`."""
    for slow, fast in FASTER:
        command = command.replace(slow, fast)
    command = re.sub(
        r"(127\.0\.0\.1:|--upstream-port )(\d{4})\b", lambda found: found[1] + str(ports[found[2]]), command
    )
    return re.sub(r"\b(streamtee|python -m proxy) (?=-|[a-z-]+( |$))", f"{sys.executable} -m proxy ", command)


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """The servers that commands with an & have started; they are ended."""
    servers: list[subprocess.Popen[str]] = []
    yield servers
    for server in servers:
        server.terminate()
    for server in servers:
        server.communicate(timeout=GUARD_S)


def start(command: str, settings: dict[str, str], folder: Path) -> subprocess.Popen[str]:
    """Start a server; return when it has said where it listens."""
    text = f"exec env {command.removesuffix('&')}"
    server = subprocess.Popen(
        text, shell=True, env=settings, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert server.stdout is not None
    assert "on http://" in server.stdout.readline(), command
    return server


def run(command: str, settings: dict[str, str]) -> tuple[int, str]:
    """Run a command to its end; return its exit status and what it printed.

    Those of this package within this process, which saves a start of each, but for those that print past Python.
    """
    words = shlex.split(command)
    if words[:3] == [sys.executable, "-m", "proxy"] and words[3] not in ("tail", "record", "demo"):
        result = CliRunner().invoke(main, words[3:], env=settings)
        return result.exit_code, result.output
    done = subprocess.run(command, shell=True, env=settings, capture_output=True, text=True, timeout=GUARD_S)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("bare_environment")
def test_every_command_of_the_page_does_what_it_says(
    tmp_path: Path, started: list[subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends with 0, or, where it shows a failure, with that."""
    system_tool("curl")
    monkeypatch.chdir(tmp_path)
    ports = {port: free_port() for port in set(re.findall(r"(?:127\.0\.0\.1:|--upstream-port )(\d{4})\b", PAGE))}
    mine = {"PYTHONPATH": str(ROOT), "STREAMTEE_LISTEN": f"127.0.0.1:{ports['8080']}", "STREAMTEE_ADMIN": "127.0.0.1:0"}
    settings = os.environ | mine
    wrong = []
    for command in COMMANDS:
        text = here(command, ports)
        if text.endswith("&"):
            started.append(start(text, settings, tmp_path))
            continue
        status, output = run(text, settings)
        expected = next((some for words, some in STATUSES.items() if words in command), (0,))
        if status not in expected or not output:
            wrong.append((command, status, output[-500:]))
    assert wrong == []
    assert {"streamtee.toml", "run.json", "run.svg", "stream.jsonl"} <= {path.name for path in tmp_path.iterdir()}
