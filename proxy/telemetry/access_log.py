"""The log of streams: one record for each that has ended, with its id, the ids of its requests, and its trace's.

Names and numbers: as `key=value`, `-` for a missing value, or as fields for a log of JSON, where it is null. Never a
prompt or answer, a key, a token, or a query.
"""

import functools
import logging
import time
from typing import Any, Final

from proxy.stream.stream import Stream
from proxy.telemetry.log_lines import log_line
from proxy.telemetry.log_records import log, record, seconds, spell

_KEPT: Final = 100  # characters of a model that are kept for the next line: upstreams choose it


def ended(stream: Stream) -> None:
    """Log that a stream has ended, as a line; a response that is no event stream is not logged."""
    if stream.kept_head is None and log.isEnabledFor(logging.INFO):
        log_line(line(stream))


def ended_as_fields(stream: Stream) -> None:
    """Log the same, as fields."""
    if stream.kept_head is None and log.isEnabledFor(logging.INFO):
        log.handle(record("stream ended", time.time(), fields(stream)))


def line(stream: Stream) -> str:
    """Return the log line of a stream that has ended."""
    info, vitals, frames, usage = stream.info, stream.vitals, stream.log, stream.vitals.reader.usage
    assert frames.ending is not None
    # Strings first: one value with a form of its own, and mypyc makes the line by str.format, which takes three times
    # as long.
    ttft_s = seconds(vitals.first_token_at - vitals.started_at) if vitals.first_token_at else "-"
    duration_s = seconds(stream.ended_at - vitals.started_at)
    prompt = "-" if usage is None else str(usage.prompt)
    completion = "-" if usage is None else str(usage.completion)
    return (
        f"stream={stream.id} request_id={spell(stream.upstream_request_id)}"
        f" client_request_id={spell(info.client_request_id)} trace_id={info.w3c_trace_id or '-'}"
        f" client={info.client or '-'}{_names(info.route, vitals.model and vitals.model[:_KEPT], stream.upstream)}"
        f" ending={frames.ending.reason} events={frames.end} bytes={frames.end_bytes + len(frames.tail)}"
        f" ttft_s={ttft_s} duration_s={duration_s} prompt_tokens={prompt} completion_tokens={completion}"
    )


def fields(stream: Stream) -> dict[str, Any]:
    """Return the same of a stream that has ended, as fields of the same names."""
    info, vitals, frames, usage = stream.info, stream.vitals, stream.log, stream.vitals.reader.usage
    assert frames.ending is not None
    ttft_s = round(vitals.first_token_at - vitals.started_at, 3) if vitals.first_token_at else None
    return {
        "stream": stream.id,
        "request_id": stream.upstream_request_id,
        "client_request_id": info.client_request_id or None,
        "trace_id": info.w3c_trace_id,
        "client": info.client or None,
        "route": info.route,
        "model": vitals.model,
        "upstream": stream.upstream or None,
        "ending": frames.ending.reason,
        "events": frames.end,
        "bytes": frames.end_bytes + len(frames.tail),
        "ttft_s": ttft_s,
        "duration_s": round(stream.ended_at - vitals.started_at, 3),
        "prompt_tokens": None if usage is None else usage.prompt,
        "completion_tokens": None if usage is None else usage.completion,
    }


@functools.lru_cache(maxsize=256)
def _names(route: str, model: str | None, upstream: str) -> str:
    return f" route={spell(route)} model={spell(model)} upstream={spell(upstream)}"
