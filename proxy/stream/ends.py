"""The two ends of a stream, as it sees them: what its subscriptions write to, and who writes it.

The real ones stand on other floors: a response, a WebSocket, a pump, a broadcast.
"""

from collections.abc import Callable
from typing import Protocol

from proxy.stream.log import Ending
from proxy.stream.projections import Span


class Sink(Protocol):
    """What a subscription writes to."""

    def write(self, span: Span) -> bool:
        """Send a span; or return False, and send nothing, while earlier writes are still waiting in this process."""

    def on_writable(self, resume: Callable[[], None]) -> None:
        """Call `resume` once, when the sink is writable again."""

    def close(self, last: bytes) -> None:
        """Send `last` and end the response properly."""

    def abort(self, last: bytes) -> None:
        """Send `last` and end the response so that it can't be taken for complete."""


class Writer(Protocol):
    """The one who appends to a stream, and may be asked to wait."""

    def pause(self) -> None:
        """Stop reading from upstream."""

    def resume(self) -> None:
        """Go on."""

    def last_left(self) -> None:
        """Be told that no follower is left."""

    def stop(self, ending: Ending) -> None:
        """Close upstream and seal the stream."""
