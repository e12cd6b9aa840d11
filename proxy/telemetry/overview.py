"""What the console shows: all streams in short, one in detail, upstreams and workers; numbers and names, never text.

Computed only when somebody looks, at most twice a second, and bounded: of very many streams those are shown that began
first and last.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from heapq import nsmallest
from itertools import islice
from typing import Any

from proxy.stream.hub import Hub
from proxy.stream.stream import Stream
from proxy.stream.vitals import GAP_BUCKETS_S
from proxy.telemetry.stream_object import describe_follower, describe_to_operators, state_of
from proxy.upstream.upstream import Upstream
from proxy.wire import json_text

SHOWN = 200  # streams that run, and as many that have ended
_FOLLOWERS = 50  # of one stream, in detail: those that are furthest behind
_LOOKED_AT = 2000  # followers of one stream, for its lag
_FRESH_S = 0.5


class Overview:
    """The state of all streams, upstreams and workers at a moment, as JSON."""

    def __init__(
        self,
        hub: Hub,
        upstreams: Mapping[str, Upstream],
        data_url: Callable[[], str],
        name_of: Callable[[bytes], str | None],
    ) -> None:
        """`data_url` returns the URL of the data port; `name_of` the name of a caller, None of one without."""
        self._hub = hub
        self._upstreams = upstreams
        self._data_url = data_url
        self._name_of = name_of
        self._began_at = time.monotonic()
        self._text = ""
        self._made_at = -1.0

    def text(self, now: float) -> str:
        """Return the JSON, which is at most `_FRESH_S` old; `now` is in monotonic seconds."""
        if not self._text or now - self._made_at >= _FRESH_S:
            self._text = json_text.written(self._document(now)).decode()
            self._made_at = now
        return self._text

    def detail(self, stream: Stream, now: float) -> dict[str, Any]:
        """Return the description of a stream with its times, the gaps between its tokens, its slowest followers."""
        return {**_described(stream, now), "caller": self._name_of(stream.info.caller)}

    def _row(self, stream: Stream, now: float) -> dict[str, Any]:
        return {**_in_short(stream, now), "caller": self._name_of(stream.info.caller)}

    def _document(self, now: float) -> dict[str, Any]:
        hub = self._hub
        running = hub.running
        return {
            "at": round(now, 3),
            "data_url": self._data_url(),
            "draining": hub.draining,
            "running": running,
            "kept": len(hub.ended),
            "followers": hub.followers,
            "held_bytes": hub.ledger.total_bytes,
            "max_held_bytes": hub.ledger.max_bytes,
            "streams": [self._row(stream, now) for stream in hub.some(SHOWN)],
            "upstreams": list(_upstreams(self._upstreams, now)),
            "workers": [
                {
                    "name": "0",
                    "pid": os.getpid(),
                    "state": "draining" if hub.draining else "ready",
                    "uptime_s": round(now - self._began_at),
                    "streams": running,
                    "followers": hub.followers,
                    "held_bytes": hub.ledger.total_bytes,
                }
            ],
        }


def _described(stream: Stream, now: float) -> dict[str, Any]:
    described, vitals, log = describe_to_operators(stream, most_followers=0), stream.vitals, stream.log
    vitals.fold()
    slowest = nsmallest(_FOLLOWERS, stream.subscriptions, key=lambda follower: follower.offset)
    described["followers"] = [describe_follower(follower, log) for follower in slowest]
    times = {
        "first_byte_s": vitals.first_byte_at,
        "first_token_s": vitals.first_token_at,
        "first_content_s": vitals.first_content_at,
        "last_token_s": vitals.last_token_at,
    }
    return {
        **described,
        **_in_short(stream, now, lag=False),
        **{name: round(at - vitals.started_at, 4) if at else None for name, at in times.items()},
        "gap_bounds_s": GAP_BUCKETS_S,
        "long_gaps_s": [[round(at - vitals.started_at, 3) for at in gap] for gap in vitals.long_gaps or ()],
        "gap_counts": vitals.gap_counts or [],
        "holds": list(stream.holds),
    }


def _in_short(stream: Stream, now: float, *, lag: bool = True) -> dict[str, Any]:
    """Return the row of a stream in the list."""
    info, vitals, log = stream.info, stream.vitals, stream.log
    ended = log.ending is not None
    until = stream.ended_at if ended else now
    first_token_at = vitals.first_token_at
    row = {
        "id": stream.id,
        "model": vitals.model,
        "route": info.route,
        "upstream": stream.upstream or None,
        "key": info.key,
        "state": state_of(stream),
        "reason": None if log.ending is None else log.ending.reason,
        "created": info.created_at,
        "age_s": round(until - vitals.started_at, 3),
        "ended_s": round(now - until, 1) if ended else None,
        "ttft_s": round(first_token_at - vitals.started_at, 4) if first_token_at else None,
        "silent_s": None if ended else round(now - max(stream.heard_at, vitals.started_at), 1),
        "events": log.end,
        "bytes": log.end_bytes + len(log.tail),
        "follower_count": len(stream.subscriptions),
    }
    if lag:
        offsets = (follower.offset for follower in islice(stream.subscriptions, _LOOKED_AT))
        row["lag_events"] = max(0, log.end - min(offsets, default=log.end))
    return row


def _upstreams(by_name: Mapping[str, Upstream], now: float) -> Iterator[dict[str, Any]]:
    for name, upstream in by_name.items():
        queue, breaker = upstream.queue, upstream.breaker
        yield {
            "name": name,
            "weight": upstream.weight,
            "breaker": None if breaker is None else breaker.state(now).value,
            "opens_in_s": 0 if breaker is None else round(breaker.opens_in_s(now), 1),
            "waiting": None if queue is None else queue.waiting,
            "running": None if queue is None else queue.running,
            "requests": upstream.chosen,
            "active": len(upstream.pool.active),
            "idle": upstream.pool.idle,
        }
