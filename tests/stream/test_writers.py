"""The contract of Writer (proxy/stream/interfaces.py), which every writer keeps: pumps, broadcasts, and the fake."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from proxy.dialects.plain import PLAIN
from proxy.stream.endings import CANCELLED, CLIENT_GONE, COMPLETE, DRAINED
from proxy.stream.faults import BackgroundLoop
from proxy.stream.interfaces import Writer
from proxy.stream.stream import Stream
from proxy.upstream.broadcast import Broadcast
from proxy.upstream.exchange import Exchange
from proxy.upstream.on_disconnect import OnDisconnect
from proxy.upstream.pump import Pump
from proxy.wire.errors import Unreachable
from tests.event_loops import on_each_loop, until
from tests.event_streams import chunk_frame
from tests.exchanges import opening, upstream
from tests.fakes import FakeSink, FakeWriter
from tests.stage import Turn, staged
from tests.streams import follow, new_stream

FRAMES = [chunk_frame(f"word {number}") for number in range(6)]
KEPT_S = 0.05


class Written:
    """A writer at work: its stream, and the upstream that it writes from."""

    def __init__(self, stream: Stream, writer: Any, sealed: list[Stream], turn: Turn | None = None) -> None:
        self.stream = stream
        self.writer: Writer = writer
        self.real = writer
        self.sealed = sealed
        self._turn = turn

    async def say(self, *frames: bytes) -> None:
        """Have the upstream send events, if it is still there."""
        if self._turn is not None:
            self._turn.chunk(b"".join(frames))
        elif self.stream.log.ending is None:
            self.stream.extend(list(frames))

    async def wait_frames(self, *frames: bytes) -> None:
        """Wait until the log has these frames; it has them and no others."""
        await until(lambda: self.stream.log.end >= len(frames))
        assert self.stream.log.frames == list(frames)

    async def wait_upstream_closed(self) -> None:
        """Wait until the upstream sees that the connection is closed."""
        if self._turn is not None:
            await self._turn.wait_left()


@asynccontextmanager
async def _faked(kept_s: float) -> AsyncIterator[Written]:
    sealed: list[Stream] = []
    stream = new_stream(on_sealed=sealed.append)
    yield Written(stream, FakeWriter(stream), sealed)


Make = Callable[[Stream, float], Any]


def _pump(stream: Stream, kept_s: float) -> Pump:
    return Pump(stream, OnDisconnect(kept_s), max_frame_bytes=1000, overhead=float)


def _broadcast(stream: Stream, kept_s: float) -> Broadcast:
    async def refuse(last_event_id: bytes) -> Exchange:
        raise Unreachable("nobody is there")

    return Broadcast(
        stream,
        refuse,
        background=BackgroundLoop("reopening", time.monotonic),
        last_event_id=b"",
        keep_s=kept_s,
        max_frame_bytes=1000,
        on_reopened=lambda: None,
    )


def _real(make: Make) -> Callable[[float], AbstractAsyncContextManager[Written]]:
    @asynccontextmanager
    async def begin(kept_s: float) -> AsyncIterator[Written]:
        async with staged() as stage, upstream(stage.url) as pool:
            opened = opening(pool)
            turn = await stage.next()
            turn.begin()
            sealed: list[Stream] = []
            stream = new_stream(PLAIN if make is _broadcast else None, on_sealed=sealed.append)
            written = Written(stream, None, sealed, turn)
            written.writer = written.real = make(stream, kept_s)
            written.real.start(await opened)
            yield written
            written.writer.stop(COMPLETE)

    return begin


REAL = {"pump": _real(_pump), "broadcast": _real(_broadcast)}
WRITERS: dict[str, Callable[[float], AbstractAsyncContextManager[Written]]] = {**REAL, "fake": _faked}
every_writer = pytest.mark.parametrize("kind", WRITERS)
every_real_writer = pytest.mark.parametrize("kind", REAL)


@every_writer
@on_each_loop
async def test_pause_loses_nothing_and_repeats_nothing(kind: str) -> None:
    """Whatever the upstream says meanwhile; to pause or resume twice is as once."""
    async with WRITERS[kind](0) as one:
        follow(one.stream, FakeSink())
        await one.say(*FRAMES[:2])
        await one.wait_frames(*FRAMES[:2])
        one.writer.pause()
        one.writer.pause()
        await one.say(*FRAMES[2:4])
        one.writer.resume()
        one.writer.resume()
        await one.wait_frames(*FRAMES[:4])
        await one.say(*FRAMES[4:])
        await one.wait_frames(*FRAMES)


@every_writer
@pytest.mark.parametrize("paused", [False, True])
@on_each_loop
async def test_stop_seals_once_and_closes_the_upstream(kind: str, paused: bool) -> None:
    """With the ending it is given; later ones, and what the upstream says then, change nothing."""
    async with WRITERS[kind](0) as one:
        sink = FakeSink()
        follow(one.stream, sink)
        await one.say(*FRAMES[:2])
        await one.wait_frames(*FRAMES[:2])
        if paused:
            one.writer.pause()
        if kind in REAL:
            await one.say(FRAMES[2])  # it is on its way
        one.writer.stop(DRAINED)
        one.writer.stop(CANCELLED)
        assert one.stream.log.ending is DRAINED
        assert one.stream.log.frames == FRAMES[:2]
        assert one.stream.writer is None
        await one.wait_upstream_closed()
        assert one.stream.log.frames == FRAMES[:2]
        assert sink.ended is not None
        assert one.sealed == [one.stream]


@every_writer
@on_each_loop
async def test_writer_that_has_stopped_takes_every_other_call(kind: str) -> None:
    """They may come in the same turn; nothing happens."""
    async with WRITERS[kind](0) as one:
        one.writer.stop(DRAINED)
        one.writer.pause()
        one.writer.resume()
        one.writer.last_left()
        assert one.stream.log.ending is DRAINED
        assert one.sealed == [one.stream]


@every_real_writer
@on_each_loop
async def test_last_follower_that_leaves_closes_the_upstream(kind: str) -> None:
    """The last, not one of several; the stream did not come to its end."""
    async with REAL[kind](0) as one:
        first, second = follow(one.stream, FakeSink()), follow(one.stream, FakeSink())
        await one.say(FRAMES[0])
        await one.wait_frames(FRAMES[0])
        first.leave("left")
        assert one.stream.log.ending is None
        second.leave("left")
        assert one.stream.log.ending is CLIENT_GONE
        await one.wait_upstream_closed()


@every_real_writer
@on_each_loop
async def test_upstream_is_kept_for_those_who_are_still_to_follow(kind: str) -> None:
    """Until they have followed and left, too."""
    async with REAL[kind](0) as one:
        one.stream.hold("test")
        follow(one.stream, FakeSink()).leave("left")
        assert one.stream.log.ending is None
        one.stream.release("test")
        follow(one.stream, FakeSink()).leave("left")
        assert one.stream.log.ending is CLIENT_GONE


@every_real_writer
@on_each_loop
async def test_upstream_is_kept_for_a_while_for_nobody(kind: str) -> None:
    """Then it is closed, unless somebody has come; the time is counted anew when the last leaves again."""
    async with REAL[kind](KEPT_S) as one:
        follow(one.stream, FakeSink()).leave("left")
        assert one.stream.log.ending is None
        again = follow(one.stream, FakeSink())
        over = asyncio.get_running_loop().time() + 1.5 * KEPT_S
        await until(lambda: asyncio.get_running_loop().time() > over)
        assert one.stream.log.ending is None
        again.leave("left")
        assert one.stream.log.ending is None
        await until(lambda: one.stream.log.ending is CLIENT_GONE)
        await one.wait_upstream_closed()
