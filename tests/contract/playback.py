"""The upstream of the contract with the SDKs, which plays streams back.

It is the fake Qwen, which says what it says of itself, or what was recorded; either way each write of it is cut at
places that depend on the request's body alone, so that an SDK is sent the same with the proxy and without.
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import NamedTuple

from proxy.tools.fake.connection import Received
from proxy.tools.fake.qwen import FakeQwen
from proxy.tools.fake.steps import SSE, End, Head, Part, Steps
from tests.cuts import recorded

_MOST_CUTS = 4  # of one write: a stream of 300 frames is then sent in a thousand


class Recording(NamedTuple):
    """A recorded answer."""

    status: int
    content_type: str
    body: bytes


def recording(path: Path) -> Recording:
    """Read a recorded answer; its status and content type from the headers beside it, if they were recorded too."""
    headers = path.with_suffix(".headers.txt")
    head = headers.read_text(encoding="utf-8-sig") if headers.exists() else ""
    status = re.search(r"^HTTP/1.1 (\d+)|http(\d+)", head or path.stem)
    kind = re.search(r"^content-type: *(.+)$", head, re.IGNORECASE | re.MULTILINE)
    default = SSE if path.suffix == ".sse" else "application/json"
    return Recording(
        int(status[1] or status[2]) if status else 200,
        kind[1] if kind else "" if head else default,
        path.read_bytes(),
    )


def _recordings() -> dict[str, Path]:
    streams = recorded()
    whole = streams[0].parent.glob("*.json") if streams else ()
    return {path.name: path for path in (*streams, *sorted(whole)) if not path.stem.endswith(".request")}


RECORDINGS = _recordings()


class Playback(FakeQwen):
    """The fake, which answers a request that names a recording with that.

    With `Cumulative: 1` it sends all its text in every event, whatever it is asked for.
    """

    def plan(self, received: Received) -> Steps:
        name = received.header("play-back")
        asked = received
        if received.header("cumulative"):
            asked = replace(received, body=received.body.replace(b'"incremental_output": true', b'"unheard": true'))
        steps = _played(recording(RECORDINGS[name])) if name else super().plan(asked)
        return _cut(steps, Random(received.body))


def _played(one: Recording) -> Steps:
    headers = (("content-type", one.content_type),) if one.content_type else ()
    yield Head(one.status, headers, "chunked")
    yield Part(one.body)
    yield End()


def _cut(steps: Steps, random: Random) -> Steps:
    """Yield the steps, with every part in several writes."""
    for step in steps:
        if not isinstance(step, Part) or step.held:
            yield step
            continue
        body = step.body
        cuts = sorted({random.randrange(len(body) + 1) for _ in range(_MOST_CUTS + len(body) // 1000)})
        for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True):
            if start < end:
                yield Part(body[start:end])


@asynccontextmanager
async def played() -> AsyncIterator[Playback]:
    one = Playback()
    await one.start()
    try:
        yield one
    finally:
        await one.stop()
