"""What a stream is called, whose it is, and how it was asked for: a record that is made at its birth.

It is what a store of streams would keep, and what another process would need to know of one. Knows nothing of what
the stream says, nor of how it is doing: that is the log's, and of the vitals.
"""

from dataclasses import dataclass


@dataclass  # made in half the time that a NamedTuple takes
class StreamInfo:
    """What a stream is called, whose it is, and how it was asked for; made at its birth.

    Only the hub changes one, by a key more and how long it is kept; and spans name its trace while it begins.
    """

    id: str
    route: str  # the name of the route it was asked for at
    caller: bytes
    created_at: int  # Unix seconds
    retain_s: float  # how long it is kept after its end
    max_log_bytes: int
    keys: tuple[str, ...] = ()  # each once, the one it was given last at the end
    w3c_trace_id: str | None = None  # the trace that it is part of, if it is of one
    cumulative: bool | None = None  # all so far was asked for in every event, or increments, if either was

    @property
    def key(self) -> str | None:
        """The key it was given last."""
        return self.keys[-1] if self.keys else None

    @property
    def trace_id(self) -> str:
        """An id for its trace in any case: its own, if it is part of none."""
        return self.w3c_trace_id or self.id
