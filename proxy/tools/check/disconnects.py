"""Whether the upstream learns that the client has gone: the check `disconnect`."""

import asyncio
from typing import NamedTuple

from proxy.tools.check.client import ask
from proxy.tools.check.findings import Finding, Verdict
from proxy.tools.check.own_upstream import Expected
from proxy.tools.check.probes import WITHIN_S, Probe
from proxy.wire.errors import Overloaded, UpstreamError

_NOTICED_S = 2.0
_READ_S = 0.5


class Leaving(NamedTuple):
    """When a client leaves: the fault that brings the upstream to that point, and after how many bytes at most."""

    name: str
    fault: str
    after_bytes: int


LEAVINGS = (
    Leaving("while the upstream writes", "endless", 600),
    Leaving("while the upstream is silent", "hang; after=1", 1),
    Leaving("before the upstream has answered", "hang_before_head", 1),
)


async def disconnects(probe: Probe) -> Finding:
    """Check that the upstream's connection is closed soon after the client's, in each situation."""
    noticed = await asyncio.gather(*(_is_noticed(probe, one) for one in LEAVINGS))
    missed = [one.name for one, was in zip(LEAVINGS, noticed, strict=True) if not was]
    if missed:
        saw = f"{_NOTICED_S:g} s later the upstream's connection was still open: {', '.join(missed)}"
        return Finding("disconnect", Verdict.FAIL, saw)
    return Finding("disconnect", Verdict.PASS, f"{len(LEAVINGS)} times the client left, and the upstream saw it")


async def _is_noticed(probe: Probe, leaving: Leaving) -> bool:
    """Leave; return whether the upstream's connection is closed in time."""
    expected = probe.upstream.expect(leaving.fault)
    asking = asyncio.create_task(_read_some(probe, expected, leaving.after_bytes))
    async with asyncio.timeout(WITHIN_S):
        await expected.arrived.wait()
    await asyncio.wait((asking,), timeout=_READ_S)  # a server that buffers sends nothing yet
    asking.cancel()  # which closes the connection
    await asyncio.gather(asking, return_exceptions=True)
    return await _is_closed(expected)


async def _read_some(probe: Probe, expected: Expected, size_bytes: int) -> None:
    """Send the request, read so much of its response, and close the connection."""
    try:
        async with await ask(probe.endpoint, probe.model, expected.mark) as heard:
            await heard.wait_bytes(size_bytes)
    except (UpstreamError, Overloaded):  # what the server says of a client that has gone does not matter
        return


async def _is_closed(expected: Expected) -> bool:
    try:
        async with asyncio.timeout(_NOTICED_S):
            await expected.requests[0].closed.wait()
    except TimeoutError:
        return False
    return True
