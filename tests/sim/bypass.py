"""What sends frames to a stream's clients before the log has them, as proxy/upstream/bypass.py does."""

from typing import cast

from proxy.stream.interfaces import Bypassed
from proxy.stream.stream import Stream
from tests.fakes import FakeSink


class SimBypass:
    """A Bypass over the sinks of a follower, or of a rank's."""

    def __init__(self, stream: Stream, bypassed: Bypassed) -> None:
        self._stream = stream
        self._sinks = [cast(FakeSink, follower.sink) for follower in stream.subscriptions]
        self.bypassed = bypassed
        self._at = 0.0
        self._waiting: list[bytes] = []

    @property
    def fed_at(self) -> float:
        return self._at if self._waiting else self._stream.fed_at

    def unsettled(self, first: int) -> list[bytes]:
        return self._waiting[first:]

    def forward(self, frame: bytes, at: float) -> None:
        """Send a frame that has come now."""
        for sink in self._sinks:
            sink.take(frame)
        self._waiting.append(frame)
        self._at = at

    def settle(self) -> None:
        frames, self._waiting = self._waiting, []
        if frames:
            self._stream.fed_at = self._at
            self._stream.bypassed(b"".join(frames), [len(frame) for frame in frames])

    def end(self) -> None:
        self.settle()
        self._stream.bypass = None
