"""The instructions that a request takes: `python -m tests.bench.instructions`, a minute for each build.

User instructions of the proxy, counted by valgrind's callgrind, which must be installed. Others on the machine don't
change them, so a difference of 1 % is one. They tell nothing of the kernel, of caches and of the garbage collector: see
the measurements of CPU time.

Prints thousands of instructions of one request, on a connection that is kept and on a new one, and of one event of a
stream with a single client. With `make compiled`, also of the compiled build. `--keep FOLDER` keeps callgrind's files.
"""

import http.client
import re
import subprocess
import tempfile
from pathlib import Path

import click

from tests.bench.origin import Ask
from tests.bench.processes import TARGETS, Target, Unavailable, origin, running

_REQUESTS = 50
_EVENTS, _MORE_EVENTS = 20, 420
_EVERY_S = 0.003  # from one event to the next: each is a read of its own


class Counted:
    """A proxy that runs under callgrind, which counts while it is told to."""

    def __init__(self, pid: int, port: int, files: Path) -> None:
        self.port = port
        self._pid = pid
        self._files = files
        self._dumps = 0

    def count(self, ask: Ask, requests: int, *, kept: bool = True) -> float:
        """Return the thousands of instructions of a request, each made after the one before."""
        for warm_up in (True, False):
            if not warm_up:
                self._control("-z")
                self._control("-i", "on")
            self._ask(ask, 5 if warm_up else requests, kept=kept)
        self._control("-i", "off")
        self._control("-d")
        self._dumps += 1
        said = (self._files / f"counts.{self._dumps}").read_text()
        total = re.search(r"^totals: (\d+)", said, re.MULTILINE)
        assert total is not None
        return int(total[1]) / requests / 1000

    def _ask(self, ask: Ask, times: int, *, kept: bool) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        for _ in range(times):
            connection.request("POST", "/v1/chat/completions", ask.body(), {"Content-Type": "application/json"})
            with connection.getresponse() as response:
                assert response.status == 200
                assert response.read()
            if not kept:
                connection.close()
        connection.close()

    def _control(self, *what: str) -> None:
        subprocess.run(["callgrind_control", *what, str(self._pid)], check=True, capture_output=True)


def counts(target: Target, files: Path) -> list[tuple[str, float]]:
    """Return what requests to a target take, by what they are. Raises: Unavailable."""
    command = f"valgrind --tool=callgrind --instr-atstart=no --callgrind-out-file={files}/counts {target.command}"
    counting = target._replace(command=command)
    with origin() as (_, origin_port), running(counting, origin_port) as (pid, port):
        proxy = Counted(pid, port, files)
        short, long = (Ask("paced", events, _EVERY_S) for events in (_EVENTS, _MORE_EVENTS))
        event = (proxy.count(long, 4) - proxy.count(short, 4)) / (_MORE_EVENTS - _EVENTS)
        return [
            ("small JSON", proxy.count(Ask("json", 0, 0.0, stream=False), _REQUESTS)),
            ("10 events", proxy.count(Ask("ten", 0, 0.0, burst=10), _REQUESTS)),
            ("10 events, new connection", proxy.count(Ask("new", 0, 0.0, burst=10), _REQUESTS, kept=False)),
            ("an event", event),
        ]


@click.command()
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="The folder for callgrind's files.")
def main(keep: Path | None) -> None:
    """Print the thousands of instructions that requests take."""
    for name in ("streamtee", "streamtee_compiled"):
        with tempfile.TemporaryDirectory(prefix="instructions-") as tmp:
            files = Path(tmp) if keep is None else keep / name
            files.mkdir(parents=True, exist_ok=True)
            try:
                told = counts(TARGETS[name], files)
            except Unavailable as error:
                print(f"{name}: {error}")
                continue
        print(name, *(f"{what}: {thousands:.1f}k" for what, thousands in told), sep="\n    ")


if __name__ == "__main__":
    main()
