"""Streams, followers and hubs without a proxy around them."""

from collections.abc import Callable
from typing import Any

from proxy.dialects.chat import CHAT
from proxy.dialects.dialect import Dialect
from proxy.stream.cohort import Pacer
from proxy.stream.hub import Hub
from proxy.stream.info import StreamInfo
from proxy.stream.ledger import Ledger
from proxy.stream.modes.projection import View
from proxy.stream.stream import Stream
from proxy.stream.subscription import Subscription
from proxy.stream.turns import Turns
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
    ident: str = IDENT,
    on_subscription_ended: Callable[[Subscription], object] = lambda one: None,
    on_sealed: Callable[[Stream], object] = lambda one: None,
) -> Stream:
    """Return an open stream without a writer."""
    loop = loop or FakeLoop(prompt=True)
    return Stream(
        StreamInfo(ident, "chat", b"someone", 0, 0.0, max_log_bytes),
        Vitals(dialect or CHAT, 0.0),
        ledger=ledger or Ledger(1 << 40),
        call_soon=loop.call_soon,
        pacer=Pacer(loop.call_later, loop.time),
        turns=Turns(loop.call_soon, loop.time),
        on_subscription_ended=on_subscription_ended,
        on_sealed=on_sealed,
    )


def follow(
    stream: Stream, sink: FakeSink, mode: str = "raw", offset: int = 0, *, flush_ms: int = 0, flush_bytes: int = 0
) -> Subscription:
    """Attach a follower."""
    subscription = Subscription(stream, View(mode, flush_ms, flush_bytes), sink, offset)
    stream.attach(subscription)
    return subscription


def new_hub(loop: FakeLoop | None = None, **named: Any) -> Hub:
    """Return a hub without a stream, with limits that no test reaches unless it gives others."""
    most: dict[str, Any] = {
        "max_streams": 100, "max_followers": 100, "max_followers_per_stream": 100, "max_total_log_bytes": 1 << 30,
    }  # fmt: skip
    loop = loop or FakeLoop()
    return Hub(**(most | named), call_soon=loop.call_soon, pacer=Pacer(loop.call_later, loop.time))


def hub_stream(
    hub: Hub, *, caller: bytes = b"me", key: str | None = None, retain_s: float = 60, max_log_bytes: int = 1 << 20
) -> Stream:
    """Begin a stream of a hub's."""
    keys = () if key is None else (key,)
    return hub.begin(StreamInfo(hub.new_id(), "chat", caller, 0, retain_s, max_log_bytes, keys), Vitals(CHAT, 0.0))
