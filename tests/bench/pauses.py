"""What a stream costs after a pause: `python -m tests.bench.pauses [--targets streamtee_compiled,nginx]`.

One client connects, has a stream of a few events without intervals, leaves, and waits: for nothing, 1, 3 and 20 ms.
While a machine pauses, others use its caches; what is read from memory then takes longer. How long a walk through
half a megabyte of it takes after the same pauses says how much longer on this machine.
"""

import random
import socket
import time
from array import array
from statistics import median

import click

from tests.bench import procfs
from tests.bench.macro import end_on_signals
from tests.bench.origin import Ask
from tests.bench.processes import TARGETS, origin, running

PAUSES_S = (0.0, 0.001, 0.003, 0.02)
_STREAMS = 300  # for each pause
_WARM = 200
_CACHE_LINE = 64
_WALK_BYTES = 512 * 1024
_WALKS = 100
_BODY = Ask("pauses", 3, 0.0).body()
_REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)


def stream(port: int) -> None:
    """Connect, read a stream to its end, and leave."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(_REQUEST)
        came = b""
        while not came.endswith(b"0\r\n\r\n"):
            data = client.recv(1 << 16)
            if not data:
                raise click.ClickException(f"the stream broke off: {came[-200:]!r}")
            came += data


def after_pauses(pid: int, port: int) -> list[float]:
    """Return how many microseconds of CPU time a stream takes of a process, after each pause."""
    for _ in range(_WARM):
        stream(port)
    taken_us = []
    for pause_s in PAUSES_S:
        cpu_s = procfs.cpu_s(pid)
        for _ in range(_STREAMS):
            stream(port)
            time.sleep(pause_s)
        taken_us.append((procfs.cpu_s(pid) - cpu_s) / _STREAMS * 1e6)
    return taken_us


def walk_us() -> list[float]:
    """Return how many microseconds a walk from cache line to cache line takes, in random order, after each pause."""
    size = array("q").itemsize
    step, order = _CACHE_LINE // size, list(range(_WALK_BYTES // _CACHE_LINE))
    random.Random(1).shuffle(order)
    places = array("q", bytes(_WALK_BYTES))
    for this, following in zip(order, order[1:] + order[:1], strict=True):
        places[this * step] = following * step

    def walk() -> float:
        began_at, place = time.perf_counter(), 0
        for _ in range(len(order)):
            place = places[place]
        return (time.perf_counter() - began_at) * 1e6

    taken_us = []
    for pause_s in PAUSES_S:
        walks = []
        for _ in range(_WALKS):
            time.sleep(pause_s)
            walks.append(walk())
        taken_us.append(median(walks))
    return taken_us


def shown(taken_us: list[float]) -> str:
    """Return what was measured as text."""
    return ", ".join(
        f"{us:.0f} us after {pause_s * 1e3:.0f} ms" for us, pause_s in zip(taken_us, PAUSES_S, strict=True)
    )


@click.command()
@click.option("--targets", default="streamtee,streamtee_compiled,nginx", show_default=True)
def main(targets: str) -> None:
    """Measure one after the other, each freshly started."""
    end_on_signals()
    click.echo(f"a walk through {_WALK_BYTES // 1024} KiB: {shown(walk_us())}")
    for name in targets.split(","):
        with origin() as (_, upstream), running(TARGETS[name], upstream) as (pid, port):
            click.echo(f"{name}: {shown(after_pauses(pid, port))}")


if __name__ == "__main__":
    main()
