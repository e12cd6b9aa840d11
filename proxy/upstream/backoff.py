"""How long to wait before a request is sent once more. Pure: chance and clock are handed in.

Full jitter (Brooker, "Exponential Backoff And Jitter"): a wait is drawn from nothing up to a ceiling that doubles, so
that those who were refused together do not come back together.
"""

import re
from collections.abc import Callable
from datetime import datetime
from email.utils import parsedate_to_datetime


class Backoff:
    """The waits of one request: at most `attempts` more tries, and `total_s` of waiting in all."""

    __slots__ = ("_left_s", "_most_s", "_random", "attempts")

    def __init__(self, attempts: int, most_s: float, total_s: float, random: Callable[[], float]) -> None:
        """`most_s` is a single wait's ceiling; `random` draws from 0 up to 1."""
        self.attempts = attempts
        self._most_s = most_s
        self._left_s = total_s
        self._random = random

    def wait_s(self, number: int, first_s: float, retry_after_s: float | None = None) -> float | None:
        """Return the wait before retry `number` (from 1); None when there is no more try, or no time for it.

        `first_s` is the first wait's ceiling. A stated `Retry-After` is waited for as it is: less would be refused.
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
    """Read a Retry-After (RFC 9110 section 10.2.3), seconds or a date; None if it is not there or neither."""
    text = (value or b"").decode("latin-1").strip()
    if re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]{1,6})?", text):  # decimals are not standard, but sent
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - now()).total_seconds())
    except (TypeError, ValueError):  # no date, or one without a zone
        return None
