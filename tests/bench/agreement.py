"""Whether `streamtee bench` measures what this benchmark's own clients measure: directly, and through the proxy.

A request of the one and a request of the other take turns, on one loop and one connection each, so that whatever else
the machine does befalls both alike. Of each measure the first quartile counts, as others on the machine can only add:
of the first byte, of the whole answer, and of what the proxy adds.

    python -m tests.bench.agreement       # 2,000 requests each; a fake Qwen and a proxy in processes of their own
"""

import asyncio
import contextlib
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterable
from typing import NamedTuple

import click
import uvloop

from proxy.tools.bench.call import measured
from proxy.tools.endpoint import Endpoint
from tests.bench.load import Call, Tally, request
from tests.bench.origin import Ask
from tests.bench.processes import cores

_PATH = "/v1/chat/completions"
_PAUSE_S = 0.002  # before each request: what the proxy still does for the stream before must not delay this one
BODY = Ask("agreement", 0, 0.0).body()


class Quartile(NamedTuple):
    """First quartiles of many requests, in seconds."""

    first_byte_s: float
    answer_s: float


class Pair(NamedTuple):
    """The quartiles that this benchmark and `streamtee bench` measure at one server."""

    project: Quartile
    tool: Quartile


async def compared(url: str, requests: int) -> Pair:
    """Have both measure a server by turns."""
    port = int(url.rpartition(":")[2])
    tally = Tally()
    call = Call(tally, sampled=False)
    await asyncio.get_running_loop().create_connection(lambda: call, "127.0.0.1", port)
    endpoint = Endpoint(url, key="bench")
    answers_s, samples = [], []
    for _ in range(requests):
        await asyncio.sleep(_PAUSE_S)
        asked_ns = time.monotonic_ns()
        call.ask("agreement", request("POST", _PATH, BODY))
        await call.done
        answers_s.append((tally.last_at_ns - asked_ns) / 1e9)
        await asyncio.sleep(_PAUSE_S)
        samples.append(await measured(endpoint, BODY, time.monotonic()))
    assert not tally.problems, tally.problems
    assert not any(one.problem for one in samples), {one.problem for one in samples}
    call.transport.abort()
    await endpoint.close()
    firsts_s = [first_ns / 1e9 for first_ns in tally.first_ns]
    return Pair(
        Quartile(_quartile(firsts_s), _quartile(answers_s)),
        Quartile(_quartile(one.first_byte_s for one in samples), _quartile(one.duration_s for one in samples)),
    )


def _quartile(values_s: Iterable[float]) -> float:
    return statistics.quantiles(values_s, n=4)[0]


@contextlib.asynccontextmanager
async def started(core: int, *arguments: str, **settings: str) -> AsyncIterator[str]:
    """Run a command of streamtee on a core and a free port; yields its URL."""
    process = await asyncio.create_subprocess_exec(
        "taskset",
        "-c",
        str(core),
        sys.executable,
        "-m",
        "proxy",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **settings},
    )
    try:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        yield line.split(" on ")[1].split(",")[0].strip()
    finally:
        process.kill()
        await process.communicate()


async def run(requests: int) -> list[tuple[str, float, float]]:
    """Compare both directly and through the proxy; return each measure's name and both quartiles, milliseconds."""
    free = {"STREAMTEE_LISTEN": "127.0.0.1:0", "STREAMTEE_ADMIN": "", "STREAMTEE_LOG_LEVEL": "error"}
    measured_core, other = cores()  # so that what the clients cost delays neither server
    os.sched_setaffinity(0, {other})
    async with (
        started(measured_core, "fake", "--listen", "127.0.0.1:0", "--pace", "fast") as fake,
        started(measured_core, "serve", STREAMTEE_UPSTREAM__URL=fake, **free) as proxy,
    ):
        for url in (fake, proxy):
            await compared(url, 50)  # warm
        direct, through = await compared(fake, requests), await compared(proxy, requests)
    rows = []
    for name in Quartile._fields:
        before, after = ([getattr(one, name) * 1000 for one in (pair.project, pair.tool)] for pair in (direct, through))
        rows += [
            (f"{name} direct", *before),
            (f"{name} through", *after),
            (f"{name} added", after[0] - before[0], after[1] - before[1]),
        ]
    return rows


@click.command(help=__doc__)
@click.option("--requests", default=2000, show_default=True)
def main(requests: int) -> None:
    print(f"{'':22} {'project':>9} {'tool':>9}  ms")
    for name, project, tool in uvloop.run(run(requests)):
        print(f"{name:22} {project:9.3f} {tool:9.3f}  {tool / project - 1:+.1%}")


if __name__ == "__main__":
    main()
