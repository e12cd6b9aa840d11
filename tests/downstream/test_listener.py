"""The server of a port: how many requests begin at once."""

from typing import Any

from proxy.downstream.listener import Listener
from proxy.stream.turns import Turns


async def test_burst_waits_until_nobody_does() -> None:
    """Of a burst 64 requests begin at once; others may again as soon as those that waited have begun, not before."""
    planned: list[Any] = []
    turns = Turns(planned.append, lambda: 0.0)
    none: Any = None
    listener = Listener(
        none, none, header_bytes=1, max_headers=1, clients=none, host_error=none, turns=turns, is_admin=False,
        urgent=b"GET /healthz",
    )  # fmt: skip
    assert [listener.may_begin(0.0) for _ in range(66)].count(True) == 64
    turns.wait(listener.has_begun)
    turns.wait(lambda: early.append(listener.may_begin(0.0)))
    early: list[bool] = []
    planned.pop()()
    assert early == [False]
    listener.has_begun()
    assert listener.may_begin(0.0)
