"""What a server sends while the upstream is silent, and which SDKs that crashes: the check `heartbeats`."""

import asyncio
from collections.abc import Iterable

from proxy.tools.check.findings import Finding, Verdict
from proxy.tools.check.heartbeats import Harm, added, harms
from proxy.tools.check.probes import WITHIN_S, Probe


async def heartbeats(probe: Probe, silence_s: float) -> Finding:
    """Check what comes in a silence of the upstream, before the head of its response and within its stream."""
    faults = [f"slow_first_token; seconds={silence_s}", f"stall; after=3; seconds={silence_s}"]
    answers = await asyncio.gather(*(probe.whole(fault, within_s=silence_s + WITHIN_S) for fault in faults))
    blocks, found = 0, set()
    for heard, expected in answers:
        more = added(bytes(heard.data), expected.body)
        blocks += len(more)
        found |= set(harms(more, bytes(heard.data), probe.endpoint.api))
    if any(heard.error is not None for heard, _ in answers):
        saw = f"the server ended a response in {silence_s:g} s of silence"
        return Finding("heartbeats", Verdict.FAIL, saw)
    return judged_heartbeats(blocks, found, f"in {silence_s:g} s of silence")


def judged_heartbeats(blocks: int, found: Iterable[Harm], when: str) -> Finding:
    """Return the verdict on added blocks, from their number and what they do to clients."""
    bad = [one for one in Harm if one in set(found) - {Harm.NONE}]
    if bad:
        verdict = Verdict.WARN if bad == [Harm.FOREIGN] else Verdict.FAIL
        return Finding("heartbeats", verdict, f"it sends {'; and '.join(one.value for one in bad)}")
    if not blocks:
        saw = f"none {when}: clients and proxies with an idle time-out may give up on models that think long"
        return Finding("heartbeats", Verdict.NONE, saw)
    return Finding("heartbeats", Verdict.PASS, f"{blocks} {when}: {Harm.NONE.value}")
