"""The limits of one caller: how much it may ask for, and what it may ask for at all.

One object holds all of them, so that it can be divided among several processes that serve the same callers.
"""

from typing import Annotated

from pydantic import Field

from proxy.settings import Table

_Count = Annotated[int, Field(ge=0)]  # 0: no limit


class CallerLimits(Table):
    """The limits of one caller. A number of 0 is no limit, and an empty list allows everything."""

    requests_per_minute: _Count = 0
    requests_per_day: _Count = 0
    tokens_per_minute: _Count = 0
    tokens_per_day: _Count = 0
    streams: _Count = 0
    followers: _Count = 0
    body_bytes: _Count = 0
    models: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()

    @property
    def counts_tokens(self) -> bool:
        """Whether the tokens of responses must be known."""
        return bool(self.tokens_per_minute or self.tokens_per_day)

    @property
    def has_windows(self) -> bool:
        """Whether anything is limited by the minute or the day."""
        return bool(self.requests_per_minute or self.requests_per_day or self.counts_tokens)

    @property
    def counts_requests(self) -> bool:
        """Whether requests count: by the minute, the day, or while they run."""
        return self.has_windows or bool(self.streams)

    def allows_model(self, name: str) -> bool:
        """Return whether a model may be asked for: by its whole name, or by its beginning before a *."""
        return not self.models or any(_matches(name, allowed) for allowed in self.models)


DIVIDED = (
    "requests_per_minute", "requests_per_day", "tokens_per_minute", "tokens_per_day", "streams", "followers",
)  # fmt: skip
"""The limits that hold for all processes together."""


def _matches(name: str, allowed: str) -> bool:
    return name.startswith(allowed[:-1]) if allowed.endswith("*") else name == allowed
