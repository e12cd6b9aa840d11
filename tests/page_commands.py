"""The shell commands of a page, as a reader would type them: found, and run one after another.

Ports become free ones, `streamtee` is this installation's, and whoever serves is ended at the end of the page.
"""

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from click.testing import CliRunner

from proxy.tools.cli import main
from tests.bench.processes import free_port
from tests.nursery import ADDRESS, nursery

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "deploy" / "README.md"],
    key=lambda path: path.relative_to(ROOT).as_posix(),
)
_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
PROGRAMS = (
    r"/opt/[\w/]+|STREAMTEE_\w+|caddy|cp|curl|docker|git|helm|install|kubectl|make|nginx|npm|npx|openssl|pip|podman|promtool|python"
    "|python3|streamtee|sudo|systemctl|systemd-analyze|uvx"
)
"""What a command begins with, as a pattern."""
_INDENTED = re.compile(rf"^ {{4}}((?:{PROGRAMS})(?!:)\b.*)$", re.MULTILINE)
_PORT = re.compile(r"(127\.0\.0\.1:|--upstream-port )(\d{4})\b")
_FASTER = [
    ("--duration 2", "--duration 0.3"),
    ("streamtee fake", "streamtee fake --pace fast"),
    ("every=1'", "every=1' -m 1.5"),
    ("--upstream-port", "--silence 1 --upstream-port"),
]
"""What a reader may want to take its time, and a test does not."""
_STATUSES = {"Fake-Fault: reset": (18, 56), "every=1": (28,)}
"""The exit statuses of commands that do not end with 0: curl's, of a response that broke off or has no end."""
_ECHO = '"body_sha256"'
"""What the fake says of a request at a path that it does not know, and that the proxy passed through."""
_SERVES = re.compile(r"\b(?:fake|serve|replay)\b")
_SILENT = re.compile(r"\bkeys \S+ \S+ (?:limit|disable)\b")
_PAST_PYTHON = ("tail", "record", "demo")  # they print past Python, so they run as processes
GUARD_S = 30


def commands_of(text: str) -> list[str]:
    """Return the commands of a page's shell blocks, and of its indented lines that begin with a program's name."""
    whole = text.replace("\\\n", " ")
    lines = [line for block in _BLOCK.findall(whole) for line in block.splitlines()] + _INDENTED.findall(whole)
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


class Failure(NamedTuple):
    """A command that did not end as it should."""

    command: str
    status: int
    output: str


class Page:
    """A page's commands with the free ports that they use here, and the environment in which they run."""

    def __init__(self, text: str, folder: Path) -> None:
        self.folder = folder
        self._ports = {port: free_port() for port in ("8080", "9090", *(port for _, port in _PORT.findall(text)))}
        mine = {
            ADDRESS: nursery().path,
            "STREAMTEE_LISTEN": f"127.0.0.1:{self._ports['8080']}",
            "STREAMTEE_ADMIN": f"127.0.0.1:{self._ports['9090']}",
            "STREAMTEE_ADMIN_TOKEN": "a-token-of-this-test",
            "ADMIN_TOKEN": "a-token-of-this-test",
        }
        self.settings = os.environ | mine
        self._servers: list[subprocess.Popen[str]] = []

    def here(self, text: str) -> str:
        """Return a command, or a configuration, with this test's ports and this installation's `streamtee`."""
        for slow, fast in _FASTER:
            text = text.replace(slow, fast)
        text = _PORT.sub(lambda found: found[1] + str(self._ports[found[2]]), text)
        text = re.sub(r"^curl ", "curl --fail-with-body ", text)  # an error of HTTP is else none of curl's
        program = f"{nursery().launcher} "
        return re.sub(r"(?:\.venv/bin/)?\b(streamtee|python -m proxy) (?=-|[a-z-]+( |$))", program, text)

    def failures(self, commands: list[str]) -> list[Failure]:
        """Run commands in their order; return those that ended otherwise than they should, or said nothing."""
        wrong = []
        for command in commands:
            text = self.here(command.split(" # ")[0].strip())
            if re.fullmatch(r"\w+=\S+", text):
                name, value = text.split("=", 1)
                self.settings[name] = value
            elif text.endswith("&"):
                self._start(text)
            elif " serve" in text:
                self._stop(self._start(text))
            else:
                status, output = self._run(text)
                expected = next((some for words, some in _STATUSES.items() if words in command), (0,))
                if status not in expected or not (output or _SILENT.search(text)) or _ECHO in output:
                    wrong.append(Failure(command, status, output[-500:]))
        return wrong

    def _start(self, text: str) -> subprocess.Popen[str]:
        """Start a server; return it when it has said where it listens."""
        assert _SERVES.search(text), text
        server = subprocess.Popen(
            f"exec env {text.removesuffix('&')}",
            shell=True,
            env=self.settings,
            cwd=self.folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._servers.append(server)
        assert server.stdout is not None
        assert "on http://" in server.stdout.readline(), text
        return server

    def _stop(self, server: subprocess.Popen[str]) -> None:
        server.terminate()
        server.communicate(timeout=GUARD_S)
        self._servers.remove(server)

    def _run(self, text: str) -> tuple[int, str]:
        """Run a command to its end; return its exit status and what it printed.

        Those of this package within this process, which saves a start of each, but for those that print past Python.
        """
        words = shlex.split(text)
        if words[0] == str(nursery().launcher) and words[1] not in _PAST_PYTHON:
            result = CliRunner().invoke(main, words[1:], env=self.settings)
            return result.exit_code, result.output
        done = subprocess.run(
            text, shell=True, env=self.settings, cwd=self.folder, capture_output=True, text=True, timeout=GUARD_S
        )
        return done.returncode, done.stdout + done.stderr

    def close(self) -> None:
        """End the servers that commands with an & have started."""
        for server in self._servers:
            server.terminate()
        for server in self._servers:
            server.communicate(timeout=GUARD_S)


@contextmanager
def opened(text: str, folder: Path) -> Iterator[Page]:
    """Yield a page whose servers are ended at the end."""
    page = Page(text, folder)
    try:
        yield page
    finally:
        page.close()
