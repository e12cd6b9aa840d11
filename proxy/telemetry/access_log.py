"""What is logged of a stream: one line when it has ended, which ties its id to the upstream's and to a trace's.

Names and numbers, `key=value`, `-` where there is none. Never a text, a key, a token, nor a query.
"""

import functools
import json
import logging
import re
import time

from proxy.stream.stream import Stream
from proxy.upstream.exchange import Exchange

log = logging.getLogger("streamtee")

_IDENT = re.compile("[!-~]{1,128}")
_BARE = re.compile(r"[!#-<>-~]+")  # visible ASCII without quotes and equals signs
_LONGEST = 100
_RECORD = vars(logging.LogRecord(log.name, logging.INFO, "", 0, "", (), None))


def answered(stream: Stream, exchange: Exchange) -> None:
    """Note who answered a stream's request, and under which id the upstream itself knows it."""
    stream.upstream = exchange.upstream_name
    ident = exchange.header(b"x-request-id")
    if ident:
        _identify(stream, ident.decode("latin-1"))


def ended(stream: Stream, now: float) -> None:
    """Log that a stream has ended; `now` in monotonic seconds. Native frames name the id, too."""
    ident = stream.vitals.reader.request_id
    if ident and stream.upstream_request_id is None:
        _identify(stream, ident)
    if log.isEnabledFor(logging.INFO):
        log.handle(_record(line(stream, now), time.time()))


def line(stream: Stream, now: float) -> str:
    """Return what is logged of a stream that has ended."""
    vitals, frames, usage = stream.vitals, stream.log, stream.vitals.reader.usage
    assert frames.ending is not None
    ttft_s = f"{vitals.first_token_at - vitals.started_at:.3f}" if vitals.first_token_at else "-"
    return (
        f"stream={stream.id} request_id={_spell(stream.upstream_request_id)} trace_id={stream.w3c_trace_id or '-'}"
        f"{_names(stream.route, vitals.model, stream.upstream)}"
        f" ending={frames.ending.reason} events={frames.end} bytes={frames.end_bytes + len(frames.tail)}"
        f" ttft_s={ttft_s} duration_s={now - vitals.started_at:.3f}"
        f" prompt_tokens={'-' if usage is None else usage.prompt}"
        f" completion_tokens={'-' if usage is None else usage.completion}"
    )


def _record(message: str, unix_s: float) -> logging.LogRecord:
    """Make a record of which only message and time are its own.

    Not log.info, which looks for its caller, nor LogRecord(), which asks for process and thread: 10 us of a line's 19.
    """
    record = object.__new__(logging.LogRecord)
    record.__dict__.update(_RECORD, msg=message, created=unix_s, msecs=unix_s % 1 * 1000 // 1)
    return record


def _identify(stream: Stream, ident: str) -> None:
    if _IDENT.fullmatch(ident):
        stream.upstream_request_id = ident


@functools.lru_cache(maxsize=256)
def _names(route: str, model: str | None, upstream: str) -> str:
    return f" route={_spell(route)} model={_spell(model)} upstream={_spell(upstream)}"


def _spell(name: str | None) -> str:
    """Return a name that stays one word of one line, whoever gave it."""
    if not name:
        return "-"
    name = name[:_LONGEST]
    return name if _BARE.fullmatch(name) else json.dumps(name)
