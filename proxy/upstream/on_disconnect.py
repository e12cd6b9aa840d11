"""The policy for a stream whose last follower has left."""

import functools
import re
from typing import NamedTuple


class OnDisconnect(NamedTuple):
    """What happens when the last follower leaves: upstream is closed after `grace_s`, or never."""

    grace_s: float | None

    @classmethod
    @functools.lru_cache(maxsize=64)
    def parse(cls, text: str) -> "OnDisconnect":
        """Read `cancel`, `continue` or `grace=SECONDS`. Raises: ValueError."""
        if text == "continue":
            return cls(None)
        match = re.fullmatch(r"cancel|grace=([0-9]{1,5}(?:\.[0-9]{1,3})?)", text)
        if match is None or float(match[1] or 0) >= 86400:
            raise ValueError(f"{text!r} is not one of: cancel, continue, grace=SECONDS (below 86400)")
        return cls(float(match[1] or 0))

    def or_longer(self, other: "OnDisconnect") -> "OnDisconnect":
        """Return the policy that waits longer."""
        if self.grace_s is None or other.grace_s is None:
            return OnDisconnect(None)
        return OnDisconnect(max(self.grace_s, other.grace_s))
