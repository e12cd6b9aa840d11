"""Whether a stream that failed looks failed, and is not generated again: the checks `endings` and `repeats`."""

from typing import NamedTuple

from proxy.tools.check.client import Heard
from proxy.tools.check.findings import Finding, Verdict
from proxy.tools.check.looks import Looks, looks
from proxy.tools.check.own_upstream import Expected
from proxy.tools.check.probes import Probe


class Failure(NamedTuple):
    """A way in which an upstream fails, and what a client may take it for."""

    name: str
    fault: str
    looks: tuple[Looks, ...] = (Looks.FAILED,)


FAILURES = (
    Failure("a reset connection", "reset"),
    Failure("a connection closed between two events", "cut_mid_frame; after=3"),
    Failure("a connection closed within an event", "cut_mid_chunk; after=3"),
    Failure("a reset without a stated length", "close_delimited; cut=reset"),
    Failure("an error event", "error_inside"),
    # The upstream itself ends it as if it were whole: a server that passes it on adds no fault, nor a final event.
    Failure("an end in the middle of an event", "cut_clean_half_frame", (Looks.FAILED, Looks.SHORT)),
)


async def endings(probe: Probe) -> list[Finding]:
    """Check how each failure of the upstream looks to the client, and how often the upstream was asked."""
    seen: list[tuple[Failure, Heard, Expected]] = []
    for failure in FAILURES:
        heard, expected = await probe.whole(failure.fault)
        seen.append((failure, heard, expected))
    return [_judged(probe, seen), _repeats([(failure, expected) for failure, _, expected in seen])]


def _judged(probe: Probe, seen: list[tuple[Failure, Heard, Expected]]) -> Finding:
    wrong = []
    for failure, heard, _ in seen:
        look = looks(probe.endpoint.api.dialect, bytes(heard.data), heard.error)
        if heard.status == 200 and look not in failure.looks:
            wrong.append(f"{failure.name}: {look.value}")
    if wrong:
        return Finding("endings", Verdict.FAIL, f"{len(wrong)} of {len(seen)} do not look failed: {'; '.join(wrong)}")
    return Finding("endings", Verdict.PASS, f"{len(seen)} failures of the upstream, none of which looks complete")


def _repeats(seen: list[tuple[Failure, Expected]]) -> Finding:
    again = [f"{failure.name}: {len(one.requests)} times" for failure, one in seen if len(one.requests) > 1]
    if again:
        return Finding("repeats", Verdict.WARN, f"asked again after events had come: {'; '.join(again)}")
    return Finding("repeats", Verdict.PASS, "each request was sent upstream once")
