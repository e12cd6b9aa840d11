"""The record of a stream, made when it begins: its id, its route, its caller, its keys and its limits.

A store of streams would keep it, and another process would need it. Knows nothing of the stream's content and progress:
these are in the log and the vitals.
"""

from dataclasses import dataclass


@dataclass(init=False)  # its own __init__ would stay interpreted in compiled modules: 1 us
class StreamInfo:
    """The record of a stream, made when it begins: its id, its route, its caller, its keys and its limits.

    Later only the hub changes it: it adds keys, and the time it is kept; tracing sets the trace id when it begins.
    """

    id: str
    route: str  # the name of the route of its request
    caller: bytes
    created_at: int  # Unix seconds
    retain_s: float  # how long it is kept after its end
    max_log_bytes: int
    keys: tuple[str, ...]  # each once, the newest last
    w3c_trace_id: str | None  # the trace that it is part of, if any
    cumulative: bool | None  # the request asked for cumulative events, or for increments; None: for neither
    client: str  # the address that its request came from; "": not one client's
    empty_events: bool  # its followers are sent empty events as heartbeats, if its API has such
    client_request_id: str  # what its client calls its request

    def __init__(
        self,
        id: str,
        route: str,
        caller: bytes,
        created_at: int,
        retain_s: float,
        max_log_bytes: int,
        keys: tuple[str, ...] = (),
        w3c_trace_id: str | None = None,
        cumulative: bool | None = None,
        client: str = "",
        empty_events: bool = False,
        client_request_id: str = "",
    ) -> None:
        self.id = id
        self.route = route
        self.caller = caller
        self.created_at = created_at
        self.retain_s = retain_s
        self.max_log_bytes = max_log_bytes
        self.keys = keys
        self.w3c_trace_id = w3c_trace_id
        self.cumulative = cumulative
        self.client = client
        self.empty_events = empty_events
        self.client_request_id = client_request_id

    @property
    def key(self) -> str | None:
        """The newest key."""
        return self.keys[-1] if self.keys else None

    @property
    def trace_id(self) -> str:
        """The id of its trace; the stream's own id if it is part of none."""
        return self.w3c_trace_id or self.id
