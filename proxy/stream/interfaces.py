"""The interfaces of what a stream is connected to: the sinks that it writes to, its writer, and the bypass.

These are protocols only. The sinks are in `downstream` (a response, a WebSocket), the writers and the bypass in
`upstream` (a pump, a broadcast).
"""

from collections.abc import Callable
from typing import Protocol

from proxy.machine import Transport
from proxy.stream.endings import Ending
from proxy.stream.modes.projection import Span


class Sink(Protocol):
    """What a subscription writes to: a response, a WebSocket."""

    @property
    def unsent_bytes(self) -> int:
        """Return how many bytes were written and wait in this process because the client has not read them."""

    def write(self, span: Span) -> bool:
        """Send a span and return True; or send nothing and return False, if too much is waiting to be sent already."""

    def transport(self) -> tuple[Transport, bool] | None:
        """Return the transport that a span may be written to directly, and whether framed as HTTP/1.1 chunks.

        Directly means instead of `write`, while the transport has no bytes waiting, until the sink is closed or
        aborted. None: every span must go through `write`.
        """

    def on_writable(self, resume: Callable[[], None]) -> None:
        """Call `resume` once, when the sink takes writes again."""

    def close(self, last: bytes) -> None:
        """Send `last` and end the response properly."""

    def abort(self, last: bytes) -> None:
        """Send `last` and end the response so that it can't be taken for complete."""


class Bypassed(Protocol):
    """Whom a bypass sends events: a follower, or a rank."""

    def note_sent(self, end: int, size_bytes: int) -> None:
        """Note that everything up to offset `end` was sent, which is so many bytes more."""


class Bypass(Protocol):
    """Sends events to the followers of a stream before they are in its log."""

    bypassed: Bypassed

    @property
    def fed_at(self) -> float:
        """Return when the last event came, in monotonic seconds."""

    def unsettled(self, first: int) -> list[bytes]:
        """Return the frames of the events that were sent and are not in the log yet, without the `first` ones."""

    def settle(self) -> None:
        """Append the events that were sent to the log."""

    def end(self) -> None:
        """Settle, and send nothing more: events go to the log first again."""


class Writer(Protocol):
    """The one object that appends to a stream; it can be paused and resumed."""

    def pause(self) -> None:
        """Stop reading from upstream."""

    def resume(self) -> None:
        """Go on reading from upstream."""

    def followed(self) -> None:
        """Note that a follower has come, and has been sent what its sink takes."""

    def last_left(self) -> None:
        """Decide whether to go on, now that the stream has neither followers nor holds."""

    def stop(self, ending: Ending) -> None:
        """Close upstream and seal the stream."""
