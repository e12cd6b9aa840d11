"""Has the nursery (nursery.py) run `streamtee` with this process's arguments, and stands in its place.

Imports next to nothing, so it begins within 20 ms. In place of an interpreter it is given `-c CODE` first, for a
worker, or `-P -m MODULE`, for the servers of the demo; it drops them.
"""

import _socket
import os
import signal
import sys

_STANDS_FOR: dict[int, int] = {signal.SIGUSR1: signal.SIGSTOP, signal.SIGUSR2: signal.SIGCONT}
"""Signals that are sent in place of those that a process can't hand on."""


def main() -> None:
    """Have it run, hand on the signals, and end as it does."""
    import json
    from array import array

    dropped = {"-c": 2, "-P": 3}.get(sys.argv[1], 0)
    arguments = sys.argv[1 + dropped :]
    descriptors = sorted(int(name) for name in os.listdir("/proc/self/fd"))
    descriptors = [number for number in descriptors if number < 3 or _is_passed(number)]
    environment = dict(os.environ)
    order = {
        "arguments": arguments,
        "descriptors": descriptors,
        "environment": environment,
        "executable": __file__,
        "folder": os.getcwd(),
        "pid": str(os.getpid()),
    }
    nursery = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    nursery.connect(environment["TEST_NURSERY"])
    data = json.dumps(order).encode() + b"\n"
    sent = nursery.sendmsg([data], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array("i", descriptors))])
    if sent < len(data):
        nursery.sendall(data[sent:])
    for number in descriptors:
        if number > 2:
            os.close(number)
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):  # else who reads what the command writes would wait for this process, too
        os.dup2(null, number)
    said = b""
    while b"\n" not in said:
        piece = nursery.recv(100)
        if not piece:
            sys.exit("the nursery is gone")
        said += piece
    pid, _, status = said.partition(b"\n")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, *_STANDS_FOR):
        signal.signal(number, lambda number, frame: os.kill(int(pid), _STANDS_FOR.get(number) or number))
    code = int(status or nursery.recv(100) or 1)
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _is_passed(number: int) -> bool:
    try:
        return os.get_inheritable(number)
    except OSError:
        return False


main()
