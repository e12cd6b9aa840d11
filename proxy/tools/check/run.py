"""Runs the checks that need the upstream: first those that measure times, alone, then the rest at once."""

import asyncio
from collections.abc import Awaitable, Callable

from proxy.tools.check.delays import every_event, first_event
from proxy.tools.check.disconnects import disconnects
from proxy.tools.check.endings import endings
from proxy.tools.check.fidelity import refusals, same_bytes, stream
from proxy.tools.check.findings import MEANINGS, Finding, Verdict
from proxy.tools.check.probes import Probe
from proxy.tools.check.resume import Prompt, resume
from proxy.tools.check.silence import heartbeats
from proxy.wire.errors import Overloaded, UpstreamError

_FOLLOWED = "count; frames=40"


async def with_upstream(probe: Probe, silence_s: float) -> list[Finding]:
    """Run all checks; if not even a plain stream comes through, only that is said.

    Raises: UpstreamError, Overloaded, TimeoutError, if that gets no answer at all.
    """
    first = await stream(probe)
    if first.verdict is Verdict.FAIL:
        return [first]
    timed = [await _attempted("first event", first_event(probe)), await _attempted("every event", every_event(probe))]
    prompts = [Prompt(probe.model, probe.upstream.expect(_FOLLOWED).mark) for _ in range(2)]
    rest = await asyncio.gather(
        _attempted("bytes", same_bytes(probe)),
        _several(endings, probe),
        _attempted("disconnect", disconnects(probe)),
        _attempted("refusals", refusals(probe)),
        _attempted("heartbeats", heartbeats(probe, silence_s)),
        _attempted("resume", resume(probe.endpoint, prompts)),
    )
    found = [first, *timed]
    for one in rest:
        found += one if isinstance(one, list) else [one]
    order = list(MEANINGS)
    return sorted(found, key=lambda finding: order.index(finding.check))


async def _attempted(name: str, check: Awaitable[Finding]) -> Finding:
    """Run a check; one that gets no answer has failed."""
    try:
        return await check
    except (UpstreamError, Overloaded) as error:
        return Finding(name, Verdict.FAIL, f"the server gave no answer: {error.message}")
    except TimeoutError:
        return Finding(name, Verdict.FAIL, "the server gave no answer, or no end of it, in time")


async def _several(checks: Callable[[Probe], Awaitable[list[Finding]]], probe: Probe) -> list[Finding]:
    try:
        return await checks(probe)
    except (UpstreamError, Overloaded) as error:
        return [Finding("endings", Verdict.FAIL, f"the server gave no answer: {error.message}")]
    except TimeoutError:
        return [Finding("endings", Verdict.FAIL, "a stream that failed never ended for the client")]
