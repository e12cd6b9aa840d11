"""Whether others can follow a stream, and go on after an event: the check `resume`."""

import asyncio
from typing import NamedTuple

from yarl import URL

from proxy.tools.check.client import Heard, ask, follow
from proxy.tools.check.findings import Finding, Verdict
from proxy.tools.check.probes import WITHIN_S
from proxy.tools.endpoint import Endpoint
from proxy.wire.sse import Event, Splitter, fields

_BREAK_AFTER = 5
_MAX_FRAME_BYTES = 64 * 1024 * 1024


class Prompt(NamedTuple):
    """A request for a stream that is long enough to be followed."""

    model: str
    mark: str


async def resume(endpoint: Endpoint, prompt: Prompt) -> Finding:
    """Follow a stream that somebody else asked for, break off, and go on; compare the events with the stream's."""
    async with asyncio.timeout(WITHIN_S):
        asker = await ask(endpoint, prompt.model, prompt.mark)
        async with asker:
            target = _target(endpoint, asker)
            if not target:
                saw = "nothing in the response's head says where: who loses the connection asks, and pays, again"
                return Finding("resume", Verdict.NONE, saw)
            before = await _events(endpoint, target, "", _BREAK_AFTER)
            last_id = _last_id(before)
            if not last_id:
                return Finding("resume", Verdict.FAIL, f"events at {target} have no ids: none can be resumed after")
            after = await _events(endpoint, target, last_id)
            body = await asker.whole()
    wanted = [event.data for event in _read(body)]
    got = [event.data for event in (*before, *after)]
    if got == wanted:
        saw = f"a follower of {target} left after {len(before)} events, and was sent exactly the other {len(after)}"
        return Finding("resume", Verdict.PASS, saw)
    return Finding("resume", Verdict.FAIL, f"{len(wanted)} events were sent; a follower with one break got {len(got)}")


def _target(endpoint: Endpoint, asker: Heard) -> str:
    """Return where the stream of a response is found by its own head, on the same server; "" if nowhere."""
    named = asker.header("content-location") or asker.header("location")
    url = endpoint.url.join(URL(named, encoded=True)) if named else endpoint.url
    return url.raw_path_qs if named and url.origin() == endpoint.url.origin() else ""


async def _events(endpoint: Endpoint, target: str, last_id: str, count: int = 0) -> list[Event]:
    """Follow after an id; leave after so many events, if any number is given."""
    headers = [(b"Last-Event-ID", last_id.encode())] if last_id else []
    async with await follow(endpoint, target, headers) as heard:
        if not count:
            return _read(await heard.whole())
        while len(found := _read(bytes(heard.data))) < count and not heard.over.done():
            await heard.wait_bytes(len(heard.data) + 1)
        return found[:count]


def _read(body: bytes) -> list[Event]:
    events = [fields(frame) for frame in Splitter(_MAX_FRAME_BYTES).feed(body)]
    return [event for event in events if event.data is not None]


def _last_id(events: list[Event]) -> str:
    """Return the id of the last of some events; "" if it has none."""
    ident = events[-1].id if events else None
    return "" if ident is None else ident.decode(errors="replace")
