"""Fakes of the seams of floor 2 (Sink, Writer, the loop's call_soon), and the settings of the property tests."""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from proxy.dialects.chat import CHAT
from proxy.dialects.dialect import Dialect
from proxy.stream.cohort import Pacer
from proxy.stream.endings import Ending
from proxy.stream.info import StreamInfo
from proxy.stream.interfaces import Transport
from proxy.stream.log import Ledger
from proxy.stream.projections import Span, View
from proxy.stream.stream import Stream
from proxy.stream.subscription import Subscription
from proxy.stream.vitals import Vitals

# `pytest --hypothesis-profile=thorough tests/test_laws.py` looks longer.
_QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("quick", max_examples=60, deadline=None, suppress_health_check=_QUIET)
settings.register_profile("thorough", max_examples=3000, deadline=None, suppress_health_check=_QUIET)
settings.load_profile("quick")

IDENT = "st_gen234abcdefghijklmnopqrst"
EPOCH = b"gen234"


@pytest.fixture
def background_log() -> Iterator[list[logging.LogRecord]]:
    """What is logged of background loops, for tests that have one fail: nobody else hears of it."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    log = logging.getLogger("streamtee.background")
    log.addHandler(handler)
    log.propagate = False
    yield records
    log.removeHandler(handler)
    log.propagate = True


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
        self.room = room
        self.writes: list[bytes] = []
        """The same objects that came; the span itself may be another one after the call."""
        self.received = b""
        self.last = b""
        """What came with the end."""
        self.ended: str | None = None
        self.resume: Callable[[], None] | None = None

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
        return (FakeTransport(self), False) if self.open else None

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


def new_stream(
    dialect: Dialect | None = None,
    *,
    max_log_bytes: int = 1 << 30,
    ledger: Ledger | None = None,
    loop: FakeLoop | None = None,
    ident: str = IDENT,
    on_subscription_ended: Callable[[Subscription], object] = lambda one: None,
) -> Stream:
    """Return an open stream without a writer."""
    loop = loop or FakeLoop(prompt=True)
    return Stream(
        StreamInfo(ident, "chat", b"someone", 0, 0.0, max_log_bytes),
        Vitals(dialect or CHAT, 0.0),
        ledger=ledger or Ledger(1 << 40),
        call_soon=loop.call_soon,
        pacer=Pacer(loop.call_later, loop.time),
        on_subscription_ended=on_subscription_ended,
        on_sealed=lambda stream: None,
    )


def follow(
    stream: Stream, sink: FakeSink, mode: str = "raw", offset: int = 0, *, flush_ms: int = 0, flush_bytes: int = 0
) -> Subscription:
    """Attach a follower."""
    subscription = Subscription(stream, View(mode, flush_ms, flush_bytes), sink, offset)
    stream.attach(subscription)
    return subscription
