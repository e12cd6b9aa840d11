"""The access log: one line for each stream that has ended, with its id, the upstream's request id and the trace id.

Names and numbers as `key=value`, `-` for a missing value. Never a prompt or answer, a key, a token, or a query.
"""

import functools
import json
import logging
import re
import time

from proxy.stream.stream import Stream

log = logging.getLogger("streamtee")

_BARE = re.compile(r"[!#-<>-~]+")  # visible ASCII without quotes and equals signs
_LONGEST = 100
_RECORD = vars(logging.LogRecord(log.name, logging.INFO, "", 0, "", (), None))


def ended(stream: Stream) -> None:
    """Log that a stream has ended; a response that is no event stream is not logged."""
    if stream.kept_head is None and log.isEnabledFor(logging.INFO):
        log.handle(_record(line(stream), time.time()))


def line(stream: Stream) -> str:
    """Return the log line of a stream that has ended."""
    info, vitals, frames, usage = stream.info, stream.vitals, stream.log, stream.vitals.reader.usage
    assert frames.ending is not None
    ttft_s = f"{vitals.first_token_at - vitals.started_at:.3f}" if vitals.first_token_at else "-"
    return (
        f"stream={stream.id} request_id={_spell(stream.upstream_request_id)} trace_id={info.w3c_trace_id or '-'}"
        f" client={info.client or '-'}{_names(info.route, vitals.model and vitals.model[:_LONGEST], stream.upstream)}"
        f" ending={frames.ending.reason} events={frames.end} bytes={frames.end_bytes + len(frames.tail)}"
        f" ttft_s={ttft_s} duration_s={stream.ended_at - vitals.started_at:.3f}"
        f" prompt_tokens={'-' if usage is None else usage.prompt}"
        f" completion_tokens={'-' if usage is None else usage.completion}"
    )


def _record(message: str, unix_s: float) -> logging.LogRecord:
    """Make a log record by copying a prepared one and setting its message and time.

    Not log.info, which inspects the call stack, nor LogRecord(), which looks up process and thread: these take 10 of
    the 19 us of a line.
    """
    record = object.__new__(logging.LogRecord)
    record.__dict__.update(_RECORD, msg=message, created=unix_s, msecs=unix_s % 1 * 1000 // 1)
    return record


@functools.lru_cache(maxsize=256)
def _names(route: str, model: str | None, upstream: str) -> str:
    return f" route={_spell(route)} model={_spell(model)} upstream={_spell(upstream)}"


def _spell(name: str | None) -> str:
    """Return a name as one word: quoted as JSON if it holds anything else, since clients choose some of these names."""
    if not name:
        return "-"
    name = name[:_LONGEST]
    return name if _BARE.fullmatch(name) else json.dumps(name)
