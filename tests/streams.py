"""Streams, followers and hubs without a proxy around them."""

from proxy.dialects.chat import CHAT
from proxy.dialects.dialect import Dialect
from proxy.stream.cohort import Pacer
from proxy.stream.hub import Hub
from proxy.stream.log import Ledger
from proxy.stream.projections import View
from proxy.stream.stream import Stream
from proxy.stream.subscription import Subscription
from proxy.stream.vitals import Vitals
from tests.fakes import FakeLoop, FakeSink

IDENT = "st_gen234abcdefghijklmnopqrst"
EPOCH = b"gen234"


def new_stream(
    dialect: Dialect | None = None,
    *,
    max_log_bytes: int = 1 << 30,
    ledger: Ledger | None = None,
    loop: FakeLoop | None = None,
) -> Stream:
    """Return an open stream without a writer."""
    loop = loop or FakeLoop(prompt=True)
    return Stream(
        IDENT,
        Vitals(dialect or CHAT, 0.0),
        route="chat",
        caller=b"someone",
        ledger=ledger or Ledger(1 << 40),
        max_log_bytes=max_log_bytes,
        call_soon=loop.call_soon,
        pacer=Pacer(loop.call_later, loop.time),
    )


def follow(
    stream: Stream, sink: FakeSink, mode: str = "raw", offset: int = 0, *, flush_ms: int = 0, flush_bytes: int = 0
) -> Subscription:
    """Attach a follower."""
    subscription = Subscription(stream, View(mode, flush_ms, flush_bytes), sink, offset)
    stream.attach(subscription)
    return subscription


def new_hub(loop: FakeLoop | None = None, **limits: int) -> Hub:
    """Return a hub without a stream, with limits that no test reaches unless it gives others."""
    most = {
        "max_streams": 100, "max_followers": 100, "max_followers_per_stream": 100,
        "max_log_bytes": 1 << 20, "max_total_log_bytes": 1 << 30,
    }  # fmt: skip
    loop = loop or FakeLoop()
    return Hub(**(most | limits), call_soon=loop.call_soon, pacer=Pacer(loop.call_later, loop.time))
