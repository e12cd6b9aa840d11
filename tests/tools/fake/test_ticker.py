"""The fake's ticker: ids in order, the same ticks for everybody, resumed where a client was."""

import itertools
import re

import pytest

from proxy.tools.fake import ticker as fake_ticker
from proxy.tools.fake.chat import CHAT
from proxy.tools.fake.steps import Case, Head, Part, Wait
from proxy.tools.fake.text import Stamp
from tests.http_client import Client, request
from tests.proxy_under_test import faked

CASE = Case(Stamp("a-uuid", 0), 1000.0, CHAT, gzip=False)


def parts(target: str, last_event_id: str = "", count: int = 4) -> list[bytes]:
    steps = fake_ticker.ticks(CASE, target, last_event_id)
    return list(itertools.islice((step.body for step in steps if isinstance(step, Part)), count))


def ids(bodies: list[bytes]) -> list[int]:
    return [int(found[1]) for body in bodies if (found := re.match(rb"id: (\d+)\n", body))]


def test_ticks_are_numbered_by_their_time() -> None:
    """From the one after now on; each waits for its time, the head does not."""
    assert ids(parts("/events?every_ms=100")) == [10_001, 10_002, 10_003]
    steps = list(itertools.islice(fake_ticker.ticks(CASE, "/events", ""), 4))
    assert [type(step) for step in steps] == [Head, Part, Wait, Part]


@pytest.mark.parametrize(
    ("ident", "number"), [("9990", 9991), ("10000", 10_001), ("10001", 10_001), ("8999", 10_001), ("x", 10_001)]
)
def test_client_resumes_after_its_last_tick(ident: str, number: int) -> None:
    """Unless that is to come, or too long ago."""
    assert ids(parts("/events?every_ms=100", ident))[0] == number


@pytest.mark.parametrize(
    ("target", "seconds"),
    [("/events", 1), ("/events?every_ms=20", 0.02), ("/events?every_ms=0", 0.001), ("/events?every_ms=x", 1)],
)
def test_time_between_ticks_is_asked_for(target: str, seconds: float) -> None:
    """In milliseconds; at least one."""
    assert fake_ticker.every_s(target) == seconds


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_fake_serves_it(method: str) -> None:
    """By both methods, without an end."""
    async with faked() as fake:
        client = await Client.connect(fake.url)
        client.send(request(method, "/events?every_ms=5"), method=method)
        answer = await client.answer()
        assert answer.header("content-type") == "text/event-stream"
        body = await answer.until(b"\n\nid: ")
        assert body.startswith(b"retry: 1000\n\n")
        await client.leave()
