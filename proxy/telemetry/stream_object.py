"""The description of a stream: the JSON object of `/info`, lists and the live feed, and the headers of HEAD.

Numbers and names, never text; but a stream's own clients are told the words of the error that ended it.
"""

import re
import sys
from itertools import islice
from typing import Any, Final

from proxy.stream.endings import UPSTREAM_ERROR
from proxy.stream.log import FrameLog
from proxy.stream.stream import Stream
from proxy.stream.subscription import Subscription
from proxy.wire.http import Head

_CODE: Final = re.compile(r"[\w.:-]{1,64}", re.ASCII)


def describe(stream: Stream, most_followers: int = sys.maxsize) -> dict[str, Any]:
    """Return the JSON object that describes a stream to its clients: numbers and names, never its text."""
    info, vitals, log = stream.info, stream.vitals, stream.log
    ttft = vitals.first_token_at - vitals.started_at if vitals.first_token_at else None
    return {
        "id": stream.id,
        "object": "stream",
        "created": info.created_at,
        "state": state_of(stream),
        "ending": None if log.ending is None else {"reason": log.ending.reason, "message": log.ending.message},
        "route": info.route,
        "upstream": stream.upstream or None,
        "upstream_request_id": stream.upstream_request_id,
        "trace_id": info.w3c_trace_id,
        "key": info.key,
        "answer": None if stream.kept_head is None else _kept_response(stream.kept_head),
        "model": vitals.model,
        "time_to_first_token_s": ttft,
        "events": log.end,
        "first_seq": log.start + 1,
        "bytes": log.end_bytes + len(log.tail),
        "finish_reason": vitals.reader.finish_reason,
        "usage": None if vitals.reader.usage is None else vitals.reader.usage._asdict(),
        "followers": [describe_follower(follower, log) for follower in islice(stream.subscriptions, most_followers)],
        "followers_elsewhere": stream.followers_elsewhere,
    }


def describe_follower(follower: Subscription, log: FrameLog) -> dict[str, Any]:
    """Return the JSON object that describes a follower of the stream with this log."""
    return {
        "mode": follower.mode,
        "seq": follower.offset,
        "lag_events": max(0, log.end - follower.offset),
        "lag_bytes": follower.lag_bytes,
    }


def describe_to_operators(stream: Stream, most_followers: int = sys.maxsize) -> dict[str, Any]:
    """Return the same without the words of an upstream's error, which may quote what a client sent: its code alone."""
    described, ending = describe(stream, most_followers), stream.log.ending
    if ending is not None and ending.reason == UPSTREAM_ERROR.reason:
        failure = stream.vitals.reader.failure
        code = failure.code if failure is not None and failure.code and _CODE.fullmatch(failure.code) else None
        message = "the upstream reported an error" + (f": {code}" if code else "")
        described["ending"] = {"reason": ending.reason, "message": message}
    return described


def stream_headers(stream: Stream) -> dict[str, str]:
    """Return the response headers that describe a stream."""
    log = stream.log
    return {
        "Stream-Id": stream.id,
        "Stream-State": state_of(stream),
        "Stream-Last-Seq": str(log.end),
        "Stream-Bytes": str(log.end_bytes + len(log.tail)),
        "Stream-Closed": str(log.ending is not None).lower(),
        "Cache-Control": "no-store",
    }


def _kept_response(head: Head) -> dict[str, Any]:
    """Return the description of a response that is no event stream."""
    kinds = [value.decode("latin-1") for name, value in head.headers if name.lower() == b"content-type"]
    return {"status": head.status, "content_type": kinds[0] if kinds else None}


def state_of(stream: Stream) -> str:
    """Return the word for a stream's state: open, or how it ended."""
    ending = stream.log.ending
    return "open" if ending is None else ending.state
