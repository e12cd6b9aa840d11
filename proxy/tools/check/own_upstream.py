"""The upstream of a check: a fake Qwen that knows how to answer each request, and notes when it sends what.

A request is known by a word in its prompt, whatever a gateway does to its headers, its path and its model.
"""

import asyncio
import itertools
import re
from time import monotonic

from proxy.tools.fake.connection import Received
from proxy.tools.fake.qwen import FakeQwen, Pace
from proxy.tools.fake.steps import Steps

_MARK = re.compile(rb"streamtee-check-\d+")
_PACE = Pace(interval_s=0.02, jitter=0.0)


class Expected:
    """A request that is expected: how it is to be answered, and what the upstream saw of it."""

    def __init__(self, mark: str, fault: str) -> None:
        self.mark = mark
        self.fault = fault
        self.requests: list[Received] = []
        """More than one, if it was sent again."""
        self.sent: list[tuple[float, int]] = []
        """When how many bytes of the body had been sent, in monotonic seconds; of the first request."""
        self.arrived = asyncio.Event()

    @property
    def body(self) -> bytes:
        """The body that was sent to the first request so far."""
        return bytes(self.requests[0].sent) if self.requests else b""

    def note(self, received: Received) -> None:
        """Note what has been sent by now."""
        size_bytes = len(received.sent)
        if received is self.requests[0] and size_bytes and (not self.sent or self.sent[-1][1] < size_bytes):
            self.sent.append((monotonic(), size_bytes))


class CheckUpstream(FakeQwen):
    """A fake Qwen that answers each request as it was prepared to."""

    def __init__(self) -> None:
        super().__init__(pace=_PACE, history=100)
        self._expected: dict[bytes, Expected] = {}
        self._numbers = itertools.count(1)

    def expect(self, fault: str = "") -> Expected:
        """Prepare for a request whose prompt has the mark that is returned. `fault`: as in `Fake-Fault`."""
        expected = Expected(f"streamtee-check-{next(self._numbers)}", fault)
        self._expected[expected.mark.encode()] = expected
        return expected

    def plan(self, received: Received) -> Steps:
        mark = _MARK.search(received.body)
        expected = self._expected.get(mark[0]) if mark else None
        if expected is None:
            return super().plan(received)
        expected.requests.append(received)
        expected.arrived.set()
        if expected.fault:
            received.headers = [*received.headers, (b"fake-fault", expected.fault.encode())]
        return _noted(super().plan(received), received, expected)


def _noted(steps: Steps, received: Received, expected: Expected) -> Steps:
    """Yield the steps, and note after each what has been sent: it has been performed when the next is asked for."""
    for step in steps:
        yield step
        expected.note(received)
