"""Whether a stream and its bytes come through, and a refusal: the checks `stream`, `bytes` and `refusals`."""

from proxy.tools.check.client import Heard
from proxy.tools.check.findings import Finding, Verdict
from proxy.tools.check.looks import Looks, looks
from proxy.tools.check.probes import Probe
from proxy.tools.endpoint import Endpoint
from proxy.wire.sse import dispatched

_SHORT = "count; frames=8"
_SPELLINGS = {
    "plain": _SHORT,
    "CRLF": f"{_SHORT}, crlf",
    "comments": f"{_SHORT}, comments",
    "cut characters": f"{_SHORT}, split_utf8",
    "single bytes": f"{_SHORT}, split_bytes",
    "an event of 1 MB": f"{_SHORT}, huge_frame; bytes=1000000",
}
_RETRY_AFTER_S = "7"
_SAID_BYTES = 300


async def stream(probe: Probe) -> Finding:
    """Check that a plain stream comes through."""
    heard, expected = await probe.whole(_SHORT)
    if not expected.requests:
        refused = f": {heard.data[:_SAID_BYTES].decode(errors='replace')}" if heard.status != 200 else ""
        return Finding("stream", Verdict.FAIL, f"status {heard.status}, and the upstream was not asked{refused}")
    return judged_stream(probe.endpoint, heard)


def judged_stream(endpoint: Endpoint, heard: Heard) -> Finding:
    """Return the verdict on a stream that should be plain and complete, and what was seen."""
    kind, coding = heard.header("content-type"), heard.header("content-encoding")
    look = looks(endpoint.api.dialect, bytes(heard.data), heard.error)
    faults = [
        fault
        for fault, is_there in (
            (f"status {heard.status}: {heard.data[:_SAID_BYTES].decode(errors='replace')}", heard.status != 200),
            (f"content type {kind!r}", not kind.startswith("text/event-stream")),
            (f"content coding {coding!r}, which nobody accepted", coding not in ("", "identity")),
            (f"it {look.value}" if look is Looks.SHORT else "it failed", look is not Looks.COMPLETE),
        )
        if is_there
    ]
    return Finding("stream", Verdict.FAIL if faults else Verdict.PASS, ", ".join(faults) or "status 200, complete")


async def same_bytes(probe: Probe) -> Finding:
    """Compare what clients receive with what the upstream sent, in several spellings of SSE."""
    lost: list[str] = []
    rewritten: list[str] = []
    for name, fault in _SPELLINGS.items():
        heard, expected = await probe.whole(fault)
        if heard.data == expected.body:
            continue
        same = dispatched(bytes(heard.data)) == dispatched(expected.body)
        (rewritten if same else lost).append(name)
    if lost:
        return Finding("bytes", Verdict.FAIL, f"events are lost or altered: {', '.join(lost)}")
    if rewritten:
        return Finding("bytes", Verdict.WARN, f"the same events, but not byte for byte: {', '.join(rewritten)}")
    return Finding("bytes", Verdict.PASS, f"{len(_SPELLINGS)} streams, each the same byte for byte")


async def refusals(probe: Probe) -> Finding:
    """Check that a refusal reaches the client, with the time after which it may come again."""
    heard, expected = await probe.whole(f"retry_after; seconds={_RETRY_AFTER_S}; status=429")
    retry_after = heard.header("retry-after")
    faults = []
    if heard.status != 429:
        faults.append(f"status {heard.status} in place of 429")
    if retry_after != _RETRY_AFTER_S:
        faults.append(f"Retry-After {retry_after!r} in place of {_RETRY_AFTER_S!r}")
    if len(expected.requests) > 1:
        faults.append(f"asked {len(expected.requests)} times")
    if faults:
        return Finding("refusals", Verdict.FAIL, ", ".join(faults))
    same = heard.data == expected.body
    saw = "status 429 and Retry-After came through" + ("" if same else ", with another body")
    return Finding("refusals", Verdict.PASS if same else Verdict.WARN, saw)
