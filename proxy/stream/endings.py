"""How streams and followers end: one closed table, a row for each ending with all its properties.

An ending is made only from a row: `TIMEOUT_IDLE.saying("nothing came for 5 s")`, or `ending_of(error)`. So WebSockets,
mode json, /info, spans and retries know every ending. A new ending is a row here, and its word in docs/metrics.md.
Knows nothing of sockets. Keeps law 7 (one ending: only `complete` is a success anywhere).
"""

from typing import Final, Literal, NamedTuple

from proxy.wire.errors import (
    Cancelled,
    ConnectTimeout,
    Drained,
    ExpiredCapability,
    FirstByteTimeout,
    FirstTokenTimeout,
    Garbled,
    IdleTimeout,
    InternalError,
    Overloaded,
    ProducerLost,
    ProxyError,
    RateLimited,
    TooLarge,
    TotalTimeout,
    Truncated,
    Unreachable,
    UpstreamError,
)
from proxy.wire.websocket import COMPLETE as NORMAL_CLOSURE
from proxy.wire.websocket import GOING_AWAY, TRY_AGAIN_LATER


class Ending(NamedTuple):
    """How a log ended: complete, failed or cancelled; exactly one per log. Or how a single follower did.

    `reason` is the word in metrics and logs, `message` the text sent to followers. `clean`: the log's own last frames
    show the ending (they end the answer, or are an error event of the upstream), so responses end properly.
    `unrecognised`: that error event is in a form that clients take for a chunk, so modes of events add one of our own.
    `imposed`: it was not the log's writer that ended the log, and the writer may have had more frames.
    """

    reason: str
    state: Literal["complete", "cancelled", "failed"]  # in /info; a span is an error if it failed
    fault: Literal["client", "proxy", "upstream"] | None
    close_code: int  # of a WebSocket
    error: type[ProxyError] | None  # the error response of mode json; None: mode json never ends this way
    replayed: bool = False  # a retry under the same Idempotency-Key gets the kept answer instead of a new one
    message: str = ""
    retry_after_s: int | None = None  # None: that of the error
    clean: bool = False
    unrecognised: bool = False
    imposed: bool = False

    def saying(self, message: str) -> "Ending":
        """Return this ending with a message of its own."""
        return self._replace(message=message)

    def as_error(self) -> ProxyError:
        """Return the error that mode json responds with, for a log that was sealed without being complete."""
        assert self.error is not None
        error = self.error(self.message or self.reason)
        if self.retry_after_s is not None:
            error.retry_after_s = self.retry_after_s
        return error


# Close codes: 1000, 1001 and 1013 where RFC 6455 (section 7.4.1) and its registry have one with exactly this meaning.
# Else 4000 plus the HTTP status (section 7.4.2: 4000-4999 are private). So `rate_limited` is 4429, not 1013: as 429 and
# 503 do, these distinguish too many requests of the client (4429) from an overloaded server (1013).
# fmt: off

# Of a stream, and of those who follow it.

COMPLETE: Final = Ending("complete", "complete", None, NORMAL_CLOSURE, None, replayed=True, clean=True)

CANCELLED: Final = Ending(  # a retry must not undo a cancel
    "cancelled", "cancelled", "client", 4409, Cancelled, replayed=True, message="cancelled on request")
CLIENT_GONE: Final = Ending(
    "client_gone", "cancelled", "client", 4499, Cancelled, message="cancelled: the last follower left")
RATE_LIMITED: Final = Ending("rate_limited", "failed", "client", 4429, RateLimited)

DRAINED: Final = Ending(
    "drained", "failed", "proxy", GOING_AWAY, Drained,
    message="this server is shutting down, and the answer took longer than that may wait (drain_s)")
OVERLOADED: Final = Ending("overloaded", "failed", "proxy", TRY_AGAIN_LATER, Overloaded)
INTERNAL_ERROR: Final = Ending(  # of a follower alone, too
    "internal_error", "failed", "proxy", 4500, InternalError, message="this proxy failed; its log says where")
PRODUCER_LOST: Final = Ending("producer_lost", "failed", "proxy", 4502, ProducerLost, imposed=True)

UPSTREAM_UNREACHABLE: Final = Ending("upstream_unreachable", "failed", "upstream", 4502, Unreachable)
UPSTREAM_RESET: Final = Ending("upstream_reset", "failed", "upstream", 4502, Truncated)
UPSTREAM_ERROR: Final = Ending("upstream_error", "failed", "upstream", 4502, UpstreamError)
GARBLED: Final = Ending("garbled", "failed", "upstream", 4502, Garbled)
FRAME_LIMIT: Final = Ending("frame_limit", "failed", "upstream", 4413, Truncated)
TIMEOUT_CONNECT: Final = Ending("timeout_connect", "failed", "upstream", 4504, ConnectTimeout)
TIMEOUT_FIRST_BYTE: Final = Ending("timeout_first_byte", "failed", "upstream", 4504, FirstByteTimeout)
TIMEOUT_FIRST_TOKEN: Final = Ending("timeout_first_token", "failed", "upstream", 4504, FirstTokenTimeout)
TIMEOUT_IDLE: Final = Ending("timeout_idle", "failed", "upstream", 4504, IdleTimeout)
TIMEOUT_TOTAL: Final = Ending("timeout_total", "failed", "upstream", 4504, TotalTimeout)

# Of a single follower, whose stream may go on. `refused`: it expected a stream, but the upstream's response is none.

# Its mode needs the whole text, which is too large.
LOG_LIMIT: Final = Ending("log_limit", "failed", "client", 4413, TooLarge)
TOO_SLOW: Final = Ending("too_slow", "failed", "client", 4410, None)
CAPABILITY_EXPIRED: Final = Ending(
    "capability_expired", "failed", "client", 4401, ExpiredCapability,
    message="the token that this follower came with has expired; the stream may go on")
REFUSED: Final = Ending("refused", "failed", "upstream", 4502, UpstreamError)

# fmt: on

OF_STREAMS: Final = (
    COMPLETE, CANCELLED, CLIENT_GONE, RATE_LIMITED, DRAINED, OVERLOADED, INTERNAL_ERROR, PRODUCER_LOST,
    UPSTREAM_UNREACHABLE, UPSTREAM_RESET, UPSTREAM_ERROR, GARBLED, FRAME_LIMIT, TIMEOUT_CONNECT, TIMEOUT_FIRST_BYTE,
    TIMEOUT_FIRST_TOKEN, TIMEOUT_IDLE, TIMEOUT_TOTAL,
)  # fmt: skip
OF_FOLLOWERS: Final = (TOO_SLOW, LOG_LIMIT, CAPABILITY_EXPIRED, REFUSED)
ENDINGS: Final = {ending.reason: ending for ending in (*OF_STREAMS, *OF_FOLLOWERS)}


def ending_of(error: UpstreamError | RateLimited | Overloaded | InternalError) -> Ending:
    """Return the ending of a stream that an error ends or prevents."""
    return ENDINGS[error.ending]._replace(message=error.message, retry_after_s=error.retry_after_s)
