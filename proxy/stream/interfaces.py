"""The two ends of a stream, as it sees them: what its subscriptions write to, and who writes it.

The real ones stand on other floors: a response, a WebSocket, a pump, a broadcast.
"""

from collections.abc import Callable
from typing import Protocol

from proxy.stream.log import Ending
from proxy.stream.projections import Span


class Transport(Protocol):
    """What a sink writes to, as asyncio has it."""

    def get_write_buffer_size(self) -> int:
        """Return how many bytes are waiting in this process."""

    def write(self, data: bytes) -> None:
        """Send bytes, or let them wait. Raises: RuntimeError, of uvloop, when the connection was just lost."""


class Sink(Protocol):
    """What a subscription writes to."""

    def write(self, span: Span) -> bool:
        """Send a span; or return False, and send nothing, while earlier writes are still waiting in this process."""

    def transport(self) -> tuple[Transport, bool] | None:
        """Return what may be written a span's bytes instead while it has none waiting, and whether as chunks.

        It is so until the response ends. None: only the sink knows how to write.
        """

    def on_writable(self, resume: Callable[[], None]) -> None:
        """Call `resume` once, when the sink is writable again."""

    def close(self, last: bytes) -> None:
        """Send `last` and end the response properly."""

    def abort(self, last: bytes) -> None:
        """Send `last` and end the response so that it can't be taken for complete."""


class Bypass(Protocol):
    """What sends events on to the one follower of a stream before they are in its log."""

    @property
    def fed_at(self) -> float:
        """When the last event came, in monotonic seconds."""

    def settle(self) -> None:
        """Have the log take what was sent on."""

    def end(self) -> None:
        """Settle, and send nothing on any more."""


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
