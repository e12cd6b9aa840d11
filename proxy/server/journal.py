"""What is logged of a stream: one line when it has ended, which ties its id to the upstream's and to a trace's.

Names and numbers, `key=value`, `-` where there is none. Never a text, a key, a token, nor a query.
"""

import json
import logging
import re

from proxy.edge.upstream import Exchange
from proxy.stream.stream import Stream

log = logging.getLogger("streamtee")

_IDENT = re.compile("[!-~]{1,128}")
_BARE = re.compile(r"[!#-<>-~]+")  # visible ASCII without quotes and equals signs
_LONGEST = 100


def answered(stream: Stream, exchange: Exchange) -> None:
    """Note who answered a stream's request, and under which id the upstream itself knows it."""
    stream.upstream = exchange.upstream_name
    _identify(stream, (exchange.header(b"x-request-id") or b"").decode("latin-1"))


def ended(stream: Stream, now: float) -> None:
    """Log that a stream has ended; `now` in monotonic seconds. Native frames name the id, too."""
    if stream.upstream_request_id is None:
        _identify(stream, stream.vitals.summary.request_id or "")
    if log.isEnabledFor(logging.INFO):
        # Not log.info, which looks for its caller and, before that, reads the path of every file it comes by: 3 us.
        log.handle(logging.LogRecord(log.name, logging.INFO, "", 0, line(stream, now), (), None))


def line(stream: Stream, now: float) -> str:
    """Return what is logged of a stream that has ended."""
    vitals, frames, usage = stream.vitals, stream.log, stream.vitals.summary.usage
    assert frames.ending is not None
    ttft_s = f"{vitals.first_token_at - vitals.started_at:.3f}" if vitals.first_token_at else "-"
    return (
        f"stream={stream.id} request_id={_spell(stream.upstream_request_id)} trace_id={stream.w3c_trace_id or '-'}"
        f" route={_spell(stream.route)} model={_spell(vitals.model)} upstream={_spell(stream.upstream)}"
        f" ending={frames.ending.reason} events={frames.end} bytes={frames.end_bytes + len(frames.tail)}"
        f" ttft_s={ttft_s} duration_s={now - vitals.started_at:.3f}"
        f" prompt_tokens={'-' if usage is None else usage.prompt}"
        f" completion_tokens={'-' if usage is None else usage.completion}"
    )


def _identify(stream: Stream, ident: str) -> None:
    if _IDENT.fullmatch(ident):
        stream.upstream_request_id = ident


def _spell(name: str | None) -> str:
    """Return a name that stays one word of one line, whoever gave it."""
    if not name:
        return "-"
    name = name[:_LONGEST]
    return name if _BARE.fullmatch(name) else json.dumps(name)
