"""What the limits on a caller leave, and the headers that tell a client of it, as most of these APIs write them."""

from typing import NamedTuple

from proxy.wire.http import Headers


class Allowance(NamedTuple):
    """What a limit on a caller leaves: how much it allows, how much is left, and in how many seconds it begins anew."""

    limit: int
    left: int
    ends_in_s: int


def rate_limit_headers(requests: Allowance | None, tokens: Allowance | None, unix_s: float) -> Headers:
    """Return the headers that tell a client what its limits leave, as clients of most of these APIs read them."""
    headers: Headers = []
    for what, one in ((b"requests", requests), (b"tokens", tokens)):
        if one is not None:
            headers += [
                (b"x-ratelimit-limit-" + what, b"%d" % one.limit),
                (b"x-ratelimit-remaining-" + what, b"%d" % one.left),
                (b"x-ratelimit-reset-" + what, _duration(one.ends_in_s)),
            ]
    return headers


def _duration(seconds: int) -> bytes:
    """Return a duration as Go writes it, which these headers have: 6m0s."""
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return b"%dh%dm%ds" % (hours, minutes, seconds)
    return b"%dm%ds" % (minutes, seconds) if minutes else b"%ds" % seconds
