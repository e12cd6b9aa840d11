"""A proxy with one route of `share = "url"`, and an upstream whose events are ticks with ids."""

from contextlib import AbstractAsyncContextManager
from typing import Any

from tests.http_client import Answer
from tests.proxy_under_test import Tee, teed
from tests.stage import Stage, Turn


def own(stage: Stage, *, route: dict[str, Any] | None = None, **tables: Any) -> AbstractAsyncContextManager[Tee]:
    """Run a proxy that shares `/events` of the stage."""
    return teed(stage.url, routes=[{"path": "/events", "share": "url", **(route or {})}], **tables)


def tick(number: int) -> bytes:
    """Return an event of the upstream's, with an id of its own."""
    return b"id: u%d\ndata: %d\n\n" % (number, number)


def ticks(*numbers: int) -> bytes:
    """Return events with these numbers."""
    return b"".join(map(tick, numbers))


async def first(tee: Tee, stage: Stage, *numbers: int, target: str = "/events") -> tuple[Answer, Turn]:
    """Have a client begin a stream, with these ticks; it has seen them."""
    client = await tee.send("GET", target)
    turn = await stage.next()
    turn.begin()
    for number in numbers:
        turn.chunk(tick(number))
    answer = await client.answer()
    if numbers:
        await answer.until(b"-%d\n\n" % len(numbers))
    return answer, turn
