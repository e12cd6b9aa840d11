"""Who is notified when a stream begins, is answered, and ends, and in which order."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from proxy.access.accounts import Accounts
from proxy.access.response_ids import GivenIds
from proxy.server.generations.shared_calls import Calls
from proxy.server.upstreams import Upstreams
from proxy.store.node import Node
from proxy.stream.observer import Observers
from proxy.stream.stream import Stream
from proxy.telemetry import access_log
from proxy.telemetry.live_feed import LiveFeed
from proxy.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from proxy.telemetry.tracing import Tracing


def observers(
    *,
    metrics: Metrics,
    feed: LiveFeed,
    calls: Calls,
    upstreams: Upstreams,
    accounts: Accounts | None,
    given: GivenIds | None,
    tracing: "Tracing | None",
    node: Callable[[], Node | None] | None,
    log_as_fields: bool,
) -> Observers:
    """Return the observers of all streams. `node` is asked when a stream begins or ends: it is made after the hub."""

    def begun_at_node(stream: Stream) -> None:
        found = None if node is None else node()
        if found is not None:
            found.begun(stream)

    def ended_at_node(stream: Stream) -> None:
        found = None if node is None else node()
        if found is not None:
            found.ended(stream)

    return Observers(
        # Spans before the feed and the store: they set the trace id, which these show.
        begun=[
            *([] if accounts is None else [accounts.begun]),
            *([] if tracing is None else [tracing.begun]),
            feed.begun,
            *([] if node is None else [begun_at_node]),
        ],
        answered=[calls.answered],
        ended=[
            *([] if accounts is None else [accounts.ended]),
            *([] if given is None else [given.ended]),
            *([] if tracing is None else [tracing.ended]),
            metrics.ended,
            access_log.ended_as_fields if log_as_fields else access_log.ended,
            upstreams.ended,
            calls.ended,
            feed.ended,
            *([] if node is None else [ended_at_node]),
        ],
    )
