"""How long to wait before a request is retried. Pure: the random source and the clock are parameters.

Full jitter (Brooker, "Exponential Backoff And Jitter"): a wait is drawn between zero and a ceiling that doubles, so
that requests which failed at the same time are not retried at the same time.
"""

import re
from collections.abc import Callable
from datetime import datetime
from email.utils import parsedate_to_datetime


class Backoff:
    """The waits of one request: at most `attempts` retries, and at most `total_s` seconds of waiting in total."""

    __slots__ = ("_left_s", "_most_s", "_random", "attempts")

    def __init__(self, attempts: int, most_s: float, total_s: float, random: Callable[[], float]) -> None:
        """`most_s` is a single wait's ceiling; `random` draws from 0 up to 1."""
        self.attempts = attempts
        self._most_s = most_s
        self._left_s = total_s
        self._random = random

    def wait_s(self, number: int, first_s: float, retry_after_s: float | None = None) -> float | None:
        """Return the wait before retry `number` (from 1); None if no retry, or no waiting time for it, is left.

        `first_s` is the first wait's ceiling. A `Retry-After` is used unchanged: an earlier retry would be refused.
        """
        if number > self.attempts:
            return None
        wait_s = retry_after_s
        if wait_s is None:
            wait_s = self._random() * min(self._most_s, first_s * 2 ** (number - 1))
        if wait_s > self._left_s:
            return None
        self._left_s -= wait_s
        return wait_s


def retry_after_s(value: bytes | None, now: Callable[[], datetime]) -> float | None:
    """Return the seconds that a Retry-After (RFC 9110 section 10.2.3) states; None if it is missing or malformed."""
    text = (value or b"").decode("latin-1").strip()
    if re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]{1,6})?", text):  # decimals are not standard, but some servers send them
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - now()).total_seconds())
    except (TypeError, ValueError):  # no date, or one without a zone
        return None
