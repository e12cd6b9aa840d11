"""The writer of a stream without an end: it asks the upstream again, and followers notice nothing but silence."""

import asyncio
import logging
import time
from typing import Any

import pytest

from proxy.dialects.plain import PLAIN
from proxy.stream.endings import DRAINED
from proxy.stream.faults import BackgroundLoop
from proxy.stream.stream import Stream
from proxy.upstream import broadcast
from proxy.upstream.broadcast import Ask, Broadcast
from proxy.upstream.exchange import Exchange, Timeouts
from proxy.upstream.pool import ConnectionPool
from proxy.wire.errors import Unreachable
from tests.event_loops import GUARD_S, until
from tests.event_streams import stamped
from tests.fakes import FakeSink
from tests.shared_route import first, own, tick, ticks
from tests.stage import Stage, staged
from tests.streams import follow, new_stream

pytestmark = pytest.mark.usefixtures("hasty")


BREAKS: dict[str, Any] = {
    "end": lambda turn: turn.end(),
    "fin": lambda turn: turn.close(),
    "reset": lambda turn: turn.reset(),
    "garbled": lambda turn: turn.say(b"zz\r\n"),
}


@pytest.mark.parametrize("breaks", BREAKS)
async def test_broken_upstream_is_asked_again_after_its_last_event(stage: Stage, breaks: str) -> None:
    """Followers are sent what comes then, numbered on; the block that was begun is void."""
    async with own(stage) as tee:
        early, turn = await first(tee, stage, 1, 2)
        turn.chunk(b"id: u9\ndata: half a block\n")
        BREAKS[breaks](turn)
        again = await stage.next()
        assert again.all("last-event-id") == [b"u2"]
        again.begin()
        again.chunk(tick(3))
        assert await early.until(b"-3\n\n") == stamped(ticks(1, 2, 3), early.epoch)
        assert (await tee.ask("GET", "/events")).stream_id == early.stream_id
        assert await tee.metric("streamtee_reopened_total", route="/events") == 1
        assert await tee.metric("streamtee_streams_active") == 1


async def test_last_event_id_outlives_a_connection_without_one(stage: Stage) -> None:
    """Also one that had no event at all; an empty id takes it back."""
    async with own(stage) as tee:
        early, turn = await first(tee, stage, 1)
        turn.end()
        turn = await stage.next()
        turn.begin()
        turn.chunk(b"data: no id\n\n")
        await early.until(b"-2\n\n")
        turn.end()
        turn = await stage.next()
        assert turn.all("last-event-id") == [b"u1"]
        turn.begin()
        turn.chunk(b"id\ndata: it is empty\n\n")
        await early.until(b"-3\n\n")
        turn.end()
        assert (await stage.next()).all("last-event-id") == []


async def test_body_is_asked_for_again_as_it_was(stage: Stage) -> None:
    """A POST's, with its type."""
    async with own(stage) as tee:
        await tee.send("POST", "/events?q", "Content-Type: text/plain", body=b"which")
        for _ in range(2):
            turn = await stage.next()
            assert (turn.method, turn.target, await turn.body()) == (b"POST", b"/events?q", b"which")
            assert turn.all("content-type") == [b"text/plain"]
            turn.begin()
            turn.end()


async def test_byte_order_mark_leads_a_body_only(stage: Stage) -> None:
    """Amid a stream it would hide the field that follows it."""
    async with own(stage) as tee:
        early, turn = await first(tee, stage)
        for number in (1, 2):
            turn.chunk(b"\xef\xbb\xbf" + tick(number))
            await early.until(b"-%d\n\n" % number)
            turn.end()
            turn = await stage.next()
            assert turn.all("last-event-id") == [b"u%d" % number]
            turn.begin()
        assert bytes(early.body) == stamped(ticks(1, 2), early.epoch)


REFUSALS: dict[str, Any] = {
    "503": lambda turn: turn.reply("503 Later", body=b"busy"),
    "500": lambda turn: turn.reply("500 Broken"),
    "429": lambda turn: turn.reply("429 Too Many"),
    "closed": lambda turn: turn.close(),
    "garbled": lambda turn: turn.say(b"SMTP\r\n\r\n"),
}


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_upstream_that_does_not_answer_is_asked_until_it_does(stage: Stage, refusal: str) -> None:
    """Nobody is told."""
    async with own(stage) as tee:
        early, turn = await first(tee, stage, 1)
        turn.reset()
        for _ in range(3):
            REFUSALS[refusal](await stage.next())
        turn = await stage.next()
        turn.begin()
        turn.chunk(tick(2))
        assert await early.until(b"-2\n\n") == stamped(ticks(1, 2), early.epoch)


async def test_upstream_that_has_no_more_ends_the_stream(stage: Stage) -> None:
    """204 is the standard's word for it: clients are closed properly, and told the same when they come back."""
    async with own(stage) as tee:
        early, turn = await first(tee, stage, 1)
        turn.end()
        (await stage.next()).reply("204 No Content", length=False)
        assert await early.read() == stamped(tick(1), early.epoch)
        assert early.end == "whole"
        assert await tee.metric("streamtee_streams_ended_total", ending="complete", route="/events") == 1
        back = await tee.send("GET", "/events", f"Last-Event-ID: {early.epoch}-1")
        turn = await stage.next()
        assert turn.all("last-event-id") == [b"u1"]
        turn.reply("204 No Content", length=False)
        assert (await back.answer()).status == 204


@pytest.mark.parametrize(
    "reply",
    [
        lambda turn: turn.reply("404 Gone Away", body=b"secret"),
        lambda turn: turn.reply("301 Moved", "Location: /elsewhere"),
        lambda turn: turn.reply("200 OK", "Content-Type: text/html", body=b"<p>"),
    ],
    ids=["404", "301", "html"],
)
async def test_upstream_that_refuses_when_asked_again_fails_the_stream(stage: Stage, reply: Any) -> None:
    """As it would fail each EventSource; the error event is numbered."""
    async with own(stage) as tee:
        early, turn = await first(tee, stage, 1)
        turn.end()
        reply(await stage.next())
        said = (await early.read()).removeprefix(stamped(tick(1), early.epoch))
        assert said.startswith(b'event: error\ndata: {"error":{"message":"on reconnecting, the upstream responded')
        assert said.endswith(f"\nid: {early.epoch}-2\n\n".encode())
        assert b"secret" not in said
        assert await tee.metric("streamtee_streams_ended_total", ending="upstream_error", route="/events") == 1


async def test_silent_upstream_is_asked_again(stage: Stage) -> None:
    """The idle time-out applies; the total one does not."""
    async with own(stage, timeouts={"idle_s": 0.2, "total_s": 0.1}) as tee:
        early, turn = await first(tee, stage, 1)
        again = await stage.next()
        await turn.wait_left()
        again.begin()
        again.chunk(tick(2))
        assert await early.until(b"-2\n\n") == stamped(ticks(1, 2), early.epoch)


async def test_time_in_all_does_not_end_a_stream(stage: Stage) -> None:
    """While events come."""
    async with own(stage, timeouts={"total_s": 0.1}) as tee:
        early, turn = await first(tee, stage)
        loop = asyncio.get_running_loop()
        until_s, number = loop.time() + 0.3, 0
        while loop.time() < until_s:
            number += 1
            turn.chunk(tick(number))
            await early.until(b"-%d\n\n" % number)
        assert len(stage.turns) == 1


async def test_frame_beyond_the_limit_fails_the_stream(stage: Stage) -> None:
    """It would not be smaller the next time."""
    async with own(stage, limits={"frame_bytes": 1000}) as tee:
        early, turn = await first(tee, stage, 1)
        turn.chunk(b"data: %b" % (b"x" * 2000))
        assert b'"code":"frame_limit"' in await early.read()
        await turn.wait_left()


async def test_last_follower_that_leaves_while_the_upstream_is_away_ends_it(stage: Stage) -> None:
    """It is not asked again for nobody."""
    async with own(stage) as tee:
        early, turn = await first(tee, stage, 1)
        turn.end()
        waiting = await stage.next()
        await early.client.leave()
        await waiting.wait_left()
        assert await tee.metric("streamtee_streams_active") == 0


async def test_stream_goes_on_when_it_is_larger_than_all_may_be(stage: Stage) -> None:
    """Its past is dropped: who has had it goes on, and the next client begins with what comes."""
    async with own(stage, limits={"total_log_bytes": 20_000}) as tee:
        early, turn = await first(tee, stage, 1)
        turn.chunk(large := b"data: %b\n\n" % (b"x" * 30_000))
        await early.until(large[:-2])
        await until(lambda: not tee.proxy.hub.ledger.over)
        turn.chunk(b"data: after\n\n")
        await early.until(b"data: after\n")


# How long it waits


class Times:
    """An upstream that never answers, and a clock on which waiting takes no time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
        self.waited: list[float] = []
        self.asked: list[bytes] = []
        self.done = asyncio.Event()
        self._calls = calls
        monkeypatch.setattr(broadcast, "_sleep", self._sleep)  # the test itself still takes its time

    async def _sleep(self, seconds: float) -> None:
        self.waited.append(seconds)
        if len(self.waited) > self._calls:
            self.done.set()
            await asyncio.Event().wait()

    async def ask(self, last_event_id: bytes) -> Exchange:
        self.asked.append(last_event_id)
        raise Unreachable("nobody is there")


def broadcast_of(stream: Stream, ask: Ask, background: BackgroundLoop) -> Broadcast:
    return Broadcast(
        stream,
        ask,
        background=background,
        last_event_id=b"",
        keep_s=0,
        max_frame_bytes=1000,
        on_reopened=lambda: None,
    )


async def test_unforeseen_failure_is_asked_over(
    monkeypatch: pytest.MonkeyPatch, background_log: list[logging.LogRecord]
) -> None:
    """It is logged and counted; followers go on as after any other failure."""
    monkeypatch.setattr(broadcast, "RECONNECTION_S", 0.001)
    monkeypatch.setattr(broadcast, "LEAST_S", 0.001)
    stream, sink, background = new_stream(PLAIN), FakeSink(), BackgroundLoop("reopening", time.monotonic)
    follow(stream, sink)
    async with staged() as stage, asyncio.timeout(GUARD_S):
        upstream = ConnectionPool(stage.url, Timeouts(0, 0, 0, 0))

        async def ask(last_event_id: bytes) -> Exchange:
            if not background.failures:
                raise ZeroDivisionError
            return await upstream.open(b"GET", b"/", [])

        writer = broadcast_of(stream, ask, background)
        opening = asyncio.create_task(upstream.open(b"GET", b"/", []))
        for number in (1, 2):
            turn = await stage.next()
            turn.begin()
            if number == 1:
                writer.start(await opening)
            turn.chunk(tick(number))
            await until(lambda count=number: stream.log.end == count)  # type: ignore[misc]
            turn.end()
        writer.stop(DRAINED)
        await upstream.close()
    assert (background.failures, len(background_log)) == (1, 1)
    assert sink.received.startswith(ticks(1, 2))


async def waits(monkeypatch: pytest.MonkeyPatch, said: bytes, calls: int) -> list[float]:
    """Return how long a broadcast waits between its calls, after an upstream said that and broke off."""
    times = Times(monkeypatch, calls)
    stream = new_stream(PLAIN)
    follow(stream, FakeSink())
    writer = broadcast_of(stream, times.ask, BackgroundLoop("reopening", time.monotonic))
    async with staged() as stage, asyncio.timeout(GUARD_S):
        upstream = ConnectionPool(stage.url, Timeouts(0, 0, 0, 0))
        opening = asyncio.create_task(upstream.open(b"GET", b"/", []))
        turn = await stage.next()
        turn.begin()
        writer.start(await opening)
        turn.chunk(said)
        await until(lambda: stream.log.end > 0)
        turn.end()
        await times.done.wait()
        writer.stop(DRAINED)
        await upstream.close()
    return times.waited[:calls]


async def test_wait_doubles_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never less than the reconnection time, and jittered, so that many proxies don't come at once."""
    monkeypatch.setattr(broadcast, "RECONNECTION_S", 1.0)
    monkeypatch.setattr(broadcast, "LEAST_S", 0.1)
    waited = await waits(monkeypatch, tick(1), 8)
    for seconds, least in zip(waited, (1, 2, 4, 8, 16, 30, 30, 30), strict=True):
        assert least <= seconds <= least * 1.25
    assert len(set(waited)) == len(waited)


@pytest.mark.parametrize(
    ("said", "least"), [(b"retry: 5000\n\n", 5), (b"retry: 0\n\n", 0.1), (b"retry: 60000\ndata: x\n\n", 60)]
)
async def test_reconnection_time_of_the_upstream_is_kept(
    monkeypatch: pytest.MonkeyPatch, said: bytes, least: float
) -> None:
    """`retry:`, in milliseconds; but not to ask without a pause."""
    monkeypatch.setattr(broadcast, "RECONNECTION_S", 1.0)
    monkeypatch.setattr(broadcast, "LEAST_S", 0.1)
    (first_wait,) = await waits(monkeypatch, said, 1)
    assert least <= first_wait <= least * 1.25
