"""What can be seen of a server without being its upstream: one stream, its times, and its heartbeats."""

import asyncio

from proxy.tools.check.client import Heard, ask
from proxy.tools.check.fidelity import judged_stream
from proxy.tools.check.findings import Finding, Verdict
from proxy.tools.check.heartbeats import Harm, frames_of, harms
from proxy.tools.check.resume import Prompt, resume
from proxy.tools.check.silence import judged_heartbeats
from proxy.tools.endpoint import Api, Endpoint

_WITHIN_S = 300.0
_LATE = 0.9
"""If all events come in the last tenth of a response's time, they were gathered somewhere."""
_LONG_S = 1.0
UNSEEN = ("bytes", "endings", "repeats", "first event", "disconnect", "refusals")


async def from_outside(endpoint: Endpoint, model: str) -> list[Finding]:
    """Send two requests, and return what can be seen. Raises: UpstreamError, Overloaded, TimeoutError."""
    loop = asyncio.get_running_loop()
    began_at = loop.time()
    async with asyncio.timeout(_WITHIN_S), await ask(endpoint, model, "") as heard:
        await heard.whole()
    seconds = loop.time() - began_at
    blocks = [frame for frame in frames_of(bytes(heard.data)) if _is_extra(frame, endpoint.api)]
    found = set(harms(blocks, bytes(heard.data), endpoint.api))
    unseen = [Finding(name, Verdict.NONE, "shows only with --upstream-port") for name in UNSEEN]
    return [
        judged_stream(endpoint, heard),
        _gathered(heard, began_at, seconds),
        judged_heartbeats(len(blocks), found, "came"),
        await resume(endpoint, [Prompt(model, "")] * 2),
        *unseen,
    ]


def _gathered(heard: Heard, began_at: float, seconds: float) -> Finding:
    """Return whether the events came over time, or all at the end."""
    if not heard.reads or seconds < _LONG_S:
        return Finding("every event", Verdict.NONE, f"the answer took {seconds:.1f} s, too short to tell")
    first_s = heard.reads[0][0] - began_at
    saw = f"first bytes after {first_s:.2f} s, the last after {seconds:.2f} s, in {len(heard.reads)} reads"
    return Finding("every event", Verdict.WARN if first_s > _LATE * seconds else Verdict.PASS, saw)


def _is_extra(frame: bytes, api: Api) -> bool:
    """Return whether a block is not an event of the API: it may be a heartbeat."""
    return frame.startswith(b":") or any(one is not Harm.NONE for one in harms([frame], b"", api))
