"""The upstream of a soak: the fake Qwen, which remembers what it sent to whom until that is forgotten."""

from random import Random
from typing import NamedTuple

from proxy.tools.fake.connection import Received
from proxy.tools.fake.qwen import FakeQwen, Pace

HEADER = "soak-id"
"""The header of a request by which its answers are found again; proxies pass it on."""
PACE = Pace(first_token_s=0.03, interval_s=0.03, burst_chance=0.1, stall_chance=0.01, stall_s=0.4)


class Upstream(FakeQwen):
    """A fake Qwen that finds the requests of one visit by the id in their header."""

    def __init__(self, seed: int) -> None:
        super().__init__(pace=PACE, seed=seed, history=0)
        self.total = 0
        self._by_id: dict[str, list[Received]] = {}

    def admit(self, received: Received) -> None:
        super().admit(received)
        self.total += 1
        if ident := received.header(HEADER):
            self._by_id.setdefault(ident, []).append(received)

    def asked(self, ident: str) -> list[Received]:
        """Return the requests with an id, in the order they came."""
        return self._by_id.get(ident, [])

    def forget(self, ident: str) -> None:
        self._by_id.pop(ident, None)


class Fault(NamedTuple):
    """A fault of the fake, as a request names it, and whether an answer with it is whole in the end."""

    words: str
    harmless: bool


NONE = Fault("", True)
_HARMLESS = (
    "slow_first_token; seconds=0.8",
    "stall; after=2; seconds=1.5",
    "crlf",
    "cr",
    "split_utf8",
    "comments",
    "burst",
    "bom",
    "no_done",
    "close_delimited",
    "crlf, comments, split_utf8",
    "count; frames=150, burst",
    "count; frames=0",
    "huge_frame; after=2; bytes=300000",
)
_HARMFUL = (
    "cut_mid_frame; after={n}",
    "cut_mid_chunk; after={n}",
    "cut_clean_half_frame; after={n}",
    "reset; after={n}",
    "reset; after=0",
    "hang; after={n}",
    "hang_before_head",
    "status; status=400",
    "status; status=400_stream",
    "status; status=429",
    "status; status=500",
    "retry_after; seconds=1",
    "error_inside; after={n}",
    "error_inside; after={n}; flat=1",
    "error_inside; after={n}; done=1",
    "close_delimited; after={n}; cut=reset",
    "bad_chunk; after={n}",
    "garbage",
    "late_end; seconds=2",
    "no_blank_line",
)


def some_fault(random: Random) -> Fault:
    """Choose how an answer is sent: as it should be more often than not."""
    chance = random.random()
    if chance < 0.5:
        return NONE
    if chance < 0.7:
        return Fault(random.choice(_HARMLESS), True)
    return Fault(random.choice(_HARMFUL).format(n=random.choice((1, 2, 3, 5, 8, 13))), False)
