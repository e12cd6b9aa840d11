"""Fakes of what a stream meets: its sinks and their transports, its writer, the event loop.

They hold the stream to the protocols of proxy/stream/interfaces.py; mypy holds them to these.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from proxy.machine import Transport
from proxy.stream.endings import Ending
from proxy.stream.modes.projection import Span
from proxy.stream.stream import Stream


def dechunked(data: bytes) -> bytes:
    """Return what whole chunks say, each with its size in the fewest digits."""
    said = b""
    while data:
        size, _, rest = data.partition(b"\r\n")
        length = int(size, 16)
        assert length, "an empty chunk would end the body"
        assert size == b"%x" % length
        assert rest[length : length + 2] == b"\r\n"
        said += rest[:length]
        data = rest[length + 2 :]
    return said


class FakeSink:
    """A sink that keeps what it is sent, and holds its stream to the Sink protocol.

    While `clogged` it takes nothing; `room` clogs it after so many writes; `drain` takes that back. An `open` one lets
    others write to its transport, which is itself; when it is `lost`, its connection is.
    """

    def __init__(self, *, clogged: bool = False, room: int | None = None, open: bool = True) -> None:
        self.clogged = clogged
        self.open = open
        self.lost = False
        self.is_aborted = False  # its connection
        self.room = room
        self.writes: list[bytes] = []
        """The same objects that came; the span itself may be another one after the call."""
        self.received = b""
        self.last = b""
        """What came with the end."""
        self.ended: str | None = None
        self.resume: Callable[[], None] | None = None
        self.unsent_bytes = 0

    def write(self, span: Span) -> bool:
        assert self.ended is None, "written to after its end"
        assert span.size == len(span.plain) > 0, "an empty chunk would end a chunked body"
        assert dechunked(span.chunked) == span.plain
        if self.clogged or self.lost or self.room == 0:
            self.clogged = True
            return False
        self.take(span.plain)
        return True

    def transport(self) -> tuple[Transport, bool] | None:
        return (FakeTransport(self), False) if self.open and self.ended is None else None

    def on_writable(self, resume: Callable[[], None]) -> None:
        assert self.ended is None, "waited for after its end"
        assert self.clogged, "waited for, though it takes writes"
        assert self.resume is None, "waited for twice"
        self.resume = resume

    def close(self, last: bytes) -> None:
        self._end("closed", last)

    def abort(self, last: bytes) -> None:
        self._end("aborted", last)

    def drain(self) -> None:
        """Take writes again, and say so to whoever waits."""
        self.clogged, self.room = False, None
        resume, self.resume = self.resume, None
        if resume is not None and self.ended is None:
            resume()

    def take(self, data: bytes) -> None:
        """Keep what was sent."""
        assert self.ended is None, "written to after its end"
        if self.room is not None:
            self.room -= 1
        self.writes.append(data)
        self.received += data

    def _end(self, how: str, last: bytes) -> None:
        assert self.ended is None, f"{self.ended}, then {how}"
        self.ended = how
        self.last = last
        self.received += last


class FakeTransport:
    """The transport of a sink: it has bytes waiting while that is clogged, and is closed when that is lost."""

    def __init__(self, sink: FakeSink) -> None:
        self.sink = sink

    def get_write_buffer_size(self) -> int:
        return int(self.sink.clogged or self.sink.room == 0)

    def write(self, data: bytes) -> None:
        assert data
        assert not self.get_write_buffer_size(), "written to behind the back of its sink"
        if self.sink.lost:
            raise RuntimeError("closed")
        self.sink.take(data)

    def abort(self) -> None:
        self.sink.is_aborted = True


class FakeWriter:
    """A writer that notes what it is asked for, in order, and seals its stream when it is stopped."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.asked: list[str] = []
        stream.writer = self

    @property
    def paused(self) -> bool:
        turns = [word for word in self.asked if word in ("pause", "resume")]
        return turns[-1:] == ["pause"]

    def pause(self) -> None:
        self.asked.append("pause")

    def resume(self) -> None:
        self.asked.append("resume")

    def followed(self) -> None:
        """Not noted: it asks for nothing."""

    def last_left(self) -> None:
        self.asked.append("last_left")

    def stop(self, ending: Ending) -> None:
        self.asked.append("stop")
        self.stream.seal(ending)


class FakeLoop:
    """A loop whose turns are taken, and whose clock is moved, by hand; a `prompt` one takes its turns at once."""

    def __init__(self, *, prompt: bool = False) -> None:
        self._prompt = prompt
        self.now = 0.0
        self.timers: list[tuple[float, Callable[..., Any]]] = []
        self._due: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()

    def time(self) -> float:
        return self.now

    def call_later(self, after_s: float, call: Callable[..., Any]) -> None:
        self.timers.append((self.now + after_s, call))

    def elapse(self, seconds: float) -> None:
        """Let time pass, timer by timer."""
        until = self.now + seconds
        while due := [timer for timer in self.timers if timer[0] <= until]:
            first = min(due, key=lambda timer: timer[0])
            self.timers.remove(first)
            self.now = first[0]
            first[1]()
        self.now = until

    def call_soon(self, call: Callable[..., Any], *args: Any) -> None:
        self._due.append((call, args))
        if self._prompt:
            self.turn()

    def turn(self) -> bool:
        """Take one turn; False when nothing was due."""
        due, self._due = self._due, deque()
        for call, args in due:
            call(*args)
        return bool(due)

    def settle(self) -> None:
        """Take turns until nothing is due."""
        for _ in range(10_000):
            if not self.turn():
                return
        raise AssertionError("the loop never comes to rest")
