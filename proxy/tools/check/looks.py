"""Whether a response looks complete, failed, or neither to a client that reads its API."""

from enum import Enum

from proxy.dialects.dialect import Dialect
from proxy.wire.errors import UpstreamError
from proxy.wire.sse import Splitter

_MAX_FRAME_BYTES = 64 * 1024 * 1024


class Looks(Enum):
    """What a client takes a response for."""

    COMPLETE = "complete"
    """It has the API's final event, or a finish reason of each choice."""
    FAILED = "failed"
    """It broke off, or has an error event."""
    SHORT = "ended properly in the middle of the answer, which SDKs take for complete"


def looks(dialect: Dialect, body: bytes, error: UpstreamError | None) -> Looks:
    """Return what a client takes a body for; `error`: why it is not whole, as HTTP tells."""
    reader = dialect.frames.reader()
    splitter = Splitter(_MAX_FRAME_BYTES)
    for frame in splitter.feed(body):
        reader.note(frame)
    if splitter.tail.strip() and not reader.ended:  # some clients read a last frame without its blank line
        reader.note(splitter.tail)
    if reader.failure is not None:
        return Looks.FAILED
    if reader.ended and reader.has_content:
        return Looks.COMPLETE
    if error is not None:
        return Looks.FAILED
    return Looks.COMPLETE if reader.has_content and reader.finished else Looks.SHORT
