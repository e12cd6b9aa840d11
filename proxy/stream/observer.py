"""Observers of streams: metrics, the access log, spans, the live feed. The hub notifies them.

An observer does not influence the stream, and an exception it raises does not affect the others.
"""

from collections.abc import Callable, Sequence

from proxy.stream.faults import tell_all
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
        """A stream was made; it has no frames and no writer yet."""
        tell_all(self._begun, stream)

    def answered(self, stream: Stream) -> None:
        """The head of the upstream's response is there: see `stream.upstream`, and `kept_head` if it is no stream."""
        tell_all(self._answered, stream)

    def ended(self, stream: Stream) -> None:
        """A stream was sealed, and its followers have been told; `stream.ended_at` is when."""
        tell_all(self._ended, stream)
