"""What all visits of a phase have in common: the proxy's port, the upstream, and what was found."""

import math
from collections import Counter
from dataclasses import dataclass, field

from tests.soak.upstream import Upstream


@dataclass
class Ground:
    """One phase of a soak as its clients see it."""

    port: int
    upstream: Upstream
    tight: bool
    """Whether the limits are tight, so that the proxy may refuse, and end followers that are slow."""
    kept_s: int
    """How long streams with an idempotency key are kept: longer than clients take to ask again."""
    late_s: float
    """The proxy's time-outs."""
    tally: Counter[tuple[str, object]] = field(default_factory=Counter)
    found: list[str] = field(default_factory=list)
    """What was wrong."""
    starved_at: float = -math.inf
    """When this process last went on after it had not run for long: then its upstream was silent, and its clients."""
    starved: int = 0
    visits: int = 0
    streams: int = 0

    @property
    def refusals(self) -> tuple[int, ...]:
        """Return the statuses by which the proxy may refuse whatever is asked for."""
        return (413, 429, 503) if self.tight else ()

    def say(self, what: str, ident: str) -> None:
        """Note something wrong, with the id of the visit, from which it can be repeated."""
        self.found.append(f"{what} [visit {ident}]")
        print(f"WRONG: {self.found[-1]}", flush=True)
