"""Whether others can follow a stream, and go on after an event: the check `resume`.

The head of a response says where its stream is found; a follower goes on by `Last-Event-ID`. An API whose responses
have ids has a way of its own: the id of the response, and `starting_after` with the number of an event.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

from yarl import URL

from proxy.dialects.dialect import Dialect, Objects
from proxy.dialects.documents.delta import record
from proxy.tools.check.client import Heard, ask, follow
from proxy.tools.check.findings import Finding, Verdict
from proxy.tools.check.heartbeats import frames_of
from proxy.tools.check.probes import WITHIN_S
from proxy.tools.endpoint import Endpoint
from proxy.tools.tail_readers import parsed
from proxy.wire.sse import Event, Splitter, fields, payload

_BREAK_AFTER = 5
_MAX_FRAME_BYTES = 64 * 1024 * 1024


class Prompt(NamedTuple):
    """A request for a stream that is long enough to be followed."""

    model: str
    mark: str


async def resume(endpoint: Endpoint, prompts: Sequence[Prompt]) -> Finding:
    """Check each way to follow that there is; `prompts`: a request for each."""
    first, second = prompts
    found = await _by_event_id(endpoint, first)
    objects = endpoint.api.dialect.objects
    if objects is None or found.verdict is Verdict.FAIL:
        return found
    by_number = await _by_number(endpoint, objects, second)
    if by_number.verdict is Verdict.NONE or found.verdict is Verdict.NONE:
        return by_number if found.verdict is Verdict.NONE else found
    return by_number._replace(saw=f"{found.saw}; {by_number.saw}")


async def _by_event_id(endpoint: Endpoint, prompt: Prompt) -> Finding:
    """Follow a stream that somebody else asked for, break off, and go on; compare the events with the stream's."""
    async with asyncio.timeout(WITHIN_S):
        asker = await ask(endpoint, prompt.model, prompt.mark)
        async with asker:
            target = _target(endpoint, asker)
            if not target:
                saw = "nothing in the response's head says where: whoever loses the connection must ask, and pay, again"
                return Finding("resume", Verdict.NONE, saw)
            before = await _events(endpoint, target, "", _BREAK_AFTER)
            last_id = _last_id(before)
            if not last_id:
                return Finding(
                    "resume", Verdict.FAIL, f"events at {target} have no ids, so no follower can go on after one"
                )
            after = await _events(endpoint, target, last_id)
            body = await asker.whole()
    wanted = [event.data for event in _read(body)]
    got = [event.data for event in (*before, *after)]
    if got == wanted:
        saw = f"a follower of {target} left after {len(before)} events, and was sent exactly the other {len(after)}"
        return Finding("resume", Verdict.PASS, saw)
    return Finding("resume", Verdict.FAIL, f"{len(wanted)} events were sent; a follower with one break got {len(got)}")


async def _by_number(endpoint: Endpoint, objects: Objects, prompt: Prompt) -> Finding:
    """Follow a response by its id after the number of an event, and compare the events with the stream's."""
    async with asyncio.timeout(WITHIN_S), await ask(endpoint, prompt.model, prompt.mark) as asker:
        while len(_read(bytes(asker.data))) < _BREAK_AFTER and not asker.over.done():
            await asker.wait_bytes(len(asker.data) + 1)
        begun = bytes(asker.data)
        ident = _ident(begun, endpoint.api.dialect, objects)
        number = max((at for at, _ in _numbered(begun, objects)), default=-1)
        target = f"{endpoint.url.raw_path}/{ident}?stream=true&starting_after={number}"
        async with await follow(endpoint, target, []) as follower:
            rest = _numbered(await follower.whole(), objects)
        whole = _numbered(await asker.whole(), objects)
    if not ident or follower.status != 200:
        return Finding("resume", Verdict.NONE, f"GET of a response that runs: status {follower.status}")
    wanted = [(at, event) for at, event in whole if at > number]
    if rest == wanted:
        return Finding("resume", Verdict.PASS, f"by starting_after={number} exactly the other {len(wanted)} came")
    saw = f"{len(wanted)} events came after number {number}, and starting_after brought {len(rest)}"
    return Finding("resume", Verdict.FAIL, saw)


def _ident(body: bytes, dialect: Dialect, objects: Objects) -> str:
    """Return the upstream's id of the response in a stream; "" if it is not known yet."""
    reader = dialect.frames.reader()
    for frame in frames_of(body):
        reader.note(frame)
    return objects.ident(reader) or ""


def _numbered(body: bytes, objects: Objects) -> list[tuple[int, dict[str, Any]]]:
    """Return the numbers of the events that have one, and their data."""
    found = [(objects.number(frame), record(parsed(payload(frame) or b""))) for frame in frames_of(body)]
    return [(number, event) for number, event in found if number is not None]


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
