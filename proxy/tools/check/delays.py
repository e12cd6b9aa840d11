"""Whether events arrive when they are sent: the checks `first event` and `every event`."""

from bisect import bisect_left
from statistics import median

from proxy.tools.check.client import Heard
from proxy.tools.check.findings import Finding, Verdict
from proxy.tools.check.own_upstream import Expected
from proxy.tools.check.probes import Probe

_STALL_S = 1.0
_PROMPT_S, _SLOW_S = 0.25, 0.5
"""A delay below the first is none; one above the second is as long as a buffer makes it."""
_GATHERED = 4
"""If so many events come with one read, late ones are not late by chance."""
_PACED = "count; frames=40"  # 0.8 s, at the pace of the check's upstream


async def first_event(probe: Probe) -> Finding:
    """Check that the first event arrives although the second does not come for a while."""
    heard, expected = await probe.whole(f"stall; after=1; seconds={_STALL_S}")
    if not expected.sent or not heard.reads:
        return Finding("first event", Verdict.FAIL, "no event came")
    delay_s = heard.reads[0][0] - expected.sent[0][0]
    saw = f"it came {_ms(delay_s)} after it was sent, with the next one {_STALL_S:g} s behind"
    return Finding("first event", _verdict(delay_s), saw)


async def every_event(probe: Probe) -> Finding:
    """Check that later events arrive one by one."""
    heard, expected = await probe.whole(_PACED)
    if len(heard.data) != len(expected.body):
        return Finding("every event", Verdict.NONE, "not measured, since the bytes differ")
    delays_s = sorted(_delays(heard, expected))
    most_s = delays_s[-1]
    saw = f"{len(delays_s)} events, {_ms(median(delays_s))} after they were sent, at most {_ms(most_s)}"
    verdict, writes = _verdict(most_s), len(delays_s)
    if verdict is Verdict.WARN and _GATHERED * len(heard.reads) < writes:
        verdict = Verdict.FAIL
    return Finding("every event", verdict, f"{saw}; in {len(heard.reads)} reads")


def _delays(heard: Heard, expected: Expected) -> list[float]:
    """Return how long each of the upstream's writes took to arrive."""
    sizes = [size_bytes for _, size_bytes in heard.reads]
    return [heard.reads[bisect_left(sizes, size_bytes)][0] - at for at, size_bytes in expected.sent]


def _verdict(delay_s: float) -> Verdict:
    return Verdict.PASS if delay_s < _PROMPT_S else Verdict.WARN if delay_s < _SLOW_S else Verdict.FAIL


def _ms(seconds: float) -> str:
    return f"{max(0.0, seconds) * 1000:.0f} ms"
