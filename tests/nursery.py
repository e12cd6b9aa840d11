"""Starts processes of the command line by forking one that has imported all modules already.

A server of three workers is five processes. To import everything in each of them takes seconds, and the tests start
hundreds of servers. So a test starts `launcher.py` in place of Python: it passes its arguments, environment and
descriptors to this process, which forks one that runs the command with them. The launcher hands on the signals that it
is sent, and ends as the command does; if it is killed, so is the command. It is sent SIGUSR1 in place of SIGSTOP, and
SIGUSR2 of SIGCONT. Its process is not the command's: tests of that, and of how a process starts, have Python start.
"""

import array
import atexit
import functools
import gc
import io
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

ADDRESS = "TEST_NURSERY"
"""The environment variable with the path of the nursery's socket."""
_LAUNCHER = Path(__file__).with_name("launcher.py")
_ROOT = Path(__file__).parents[1]
"""Of the modules that it imports, wherever a test has gone."""
_MOST_BYTES, _MOST_DESCRIPTORS = 256 * 1024, 300


class Nursery:
    """The process that forks, as the tests see it: it ends with them."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="nursery-")
        folder = Path(self._folder.name)
        self.path = str(folder / "socket")
        self.launcher = folder / "launcher"
        """What is started in place of Python; its environment is to have the ADDRESS."""
        self.launcher.write_text(f"#!{sys.executable} -IS\n{_LAUNCHER.read_text()}")
        self.launcher.chmod(0o700)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.bind(self.path)
        listening.listen(1000)
        with listening:
            command = (sys.executable, "-m", "tests.nursery", str(listening.fileno()))
            self._process = subprocess.Popen(command, cwd=_ROOT, pass_fds=[listening.fileno()], stdin=subprocess.PIPE)


@functools.cache
def nursery() -> Nursery:
    """Return the process that forks all commands of these tests."""
    return Nursery()


def _wait_for_orders(listening: socket.socket) -> None:
    """Fork a process for each connection, until the tests are gone."""
    import uvloop  # noqa: F401

    from proxy.tools import cli  # noqa: F401

    gc.freeze()
    children: dict[int, socket.socket] = {}
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    while True:
        readable, _, _ = select.select([sys.stdin, woken, listening, *children.values()], [], [])
        if sys.stdin in readable:
            break
        if woken in readable:
            os.read(woken, 4096)
            _reap(children)
        if listening in readable:
            launcher, _ = listening.accept()
            with suppress(OSError):  # the launcher was killed
                _start(launcher, children, [listening.fileno(), woken, waker])
        for pid, launcher in list(children.items()):
            if launcher in readable:  # it was killed, as it sends nothing more
                os.kill(pid, signal.SIGKILL)
                children.pop(pid).close()
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def _reap(children: dict[int, socket.socket]) -> None:
    """Tell the launchers of the processes that have ended how they did."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        launcher = children.pop(pid, None)
        if launcher is not None:
            with launcher, suppress(OSError):
                launcher.send(b"%d" % os.waitstatus_to_exitcode(status))


def _start(launcher: socket.socket, children: dict[int, socket.socket], own: list[int]) -> None:
    """Fork the process that a launcher asks for."""
    numbers = array.array("i")
    data, ancillary, _, _ = launcher.recvmsg(_MOST_BYTES, socket.CMSG_SPACE(_MOST_DESCRIPTORS * numbers.itemsize))
    for _, _, sent in ancillary:
        numbers.frombytes(sent[: len(sent) - len(sent) % numbers.itemsize])
    piece = data
    while piece and not data.endswith(b"\n"):
        piece = launcher.recv(_MOST_BYTES)
        data += piece
    if not piece:  # the launcher was killed before all was said
        for number in numbers:
            os.close(number)
        launcher.close()
        return
    order = json.loads(data)
    pid = os.fork()
    if not pid:
        for number in (*own, launcher.fileno(), *(one.fileno() for one in children.values())):
            os.close(number)
        _run(order, dict(zip(order["descriptors"], numbers, strict=True)))
    for number in numbers:
        os.close(number)
    children[pid] = launcher
    launcher.send(b"%d\n" % pid)


def _run(order: dict[str, Any], descriptors: dict[int, int]) -> NoReturn:
    """Be the process that was asked for: with its descriptors under the numbers that they have at the launcher."""
    from proxy.tools.cli import main

    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    high = max((*descriptors, *descriptors.values())) + 1
    parked = {number: _at_least(high, given) for number, given in descriptors.items()}
    for number, given in parked.items():
        os.dup2(given, number, inheritable=number > 2)
        os.close(given)
    _open_standard_streams()
    os.environ.clear()
    os.environ.update(order["environment"])
    if os.environ.get("LISTEN_PID") == order["pid"]:  # systemd's word for whom it hands its sockets to
        os.environ["LISTEN_PID"] = str(os.getpid())
    random.seed()
    sys.executable = order["executable"]
    os.chdir(order["folder"])
    sys.argv = ["streamtee", *order["arguments"]]
    code: Any = 1
    try:
        main(order["arguments"])
    except SystemExit as ended:
        code = ended.code
    finally:
        atexit._run_exitfuncs()  # as the log's last lines are written then
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


def _open_standard_streams() -> None:
    """Make those of Python anew: they know of the nursery's whether one can seek in them, or is a terminal."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        raw: Any = io.FileIO(number, mode, closefd=False)
        raw.name = f"<{name}>"
        buffered = io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw)
        text = io.TextIOWrapper(buffered, "utf-8", line_buffering=number == 2 or os.isatty(number))
        setattr(sys, name, text)
        setattr(sys, f"__{name}__", text)


def _at_least(lowest: int, descriptor: int) -> int:
    """Move a descriptor to a number that is not below `lowest`."""
    import fcntl

    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, lowest)
    os.close(descriptor)
    return moved


if __name__ == "__main__":
    _wait_for_orders(socket.socket(fileno=int(sys.argv[1])))
