"""Observers of streams: metrics, the access log, spans, the live feed. The hub notifies them.

An observer does not influence the stream, and an exception it raises does not affect the others.
"""

from collections.abc import Callable, Sequence

from proxy.stream.faults import notify_all
from proxy.stream.stream import Stream

Observer = Callable[[Stream], object]


class Observers:
    """The functions to call when a stream has begun, when the upstream has responded, and when it has ended."""

    __slots__ = ("_answered", "_begun", "_ended")

    def __init__(
        self,
        *,
        begun: Sequence[Observer] = (),
        answered: Sequence[Observer] = (),
        ended: Sequence[Observer] = (),
    ) -> None:
        self._begun = tuple(begun)
        self._answered = tuple(answered)
        self._ended = tuple(ended)

    def begun(self, stream: Stream) -> None:
        """Notify of a stream that was made; it has no frames and no writer yet."""
        notify_all(self._begun, stream)

    def answered(self, stream: Stream) -> None:
        """Notify of the head of the upstream's response: see `stream.upstream`, and `kept_head` if it is no stream."""
        notify_all(self._answered, stream)

    def ended(self, stream: Stream) -> None:
        """Notify of a stream that was sealed, at `stream.ended_at`; its followers have been sent the ending."""
        notify_all(self._ended, stream)
