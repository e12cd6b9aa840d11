"""What the proxy itself raises, put in at each call in turn: it hurts whom it concerns, and nobody else.

After every run each follower has ended, none is counted any more, the stream is sealed, and mode raw had every byte
that came, or was broken off. Nothing has escaped to the caller, which is the event loop.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from proxy.dialects.chat import CHAT
from proxy.dialects.dashscope import DASHSCOPE
from proxy.dialects.dialect import Dialect
from proxy.dialects.messages import MESSAGES
from proxy.dialects.plain import PLAIN
from proxy.dialects.responses import RESPONSES
from proxy.stream.endings import COMPLETE, INTERNAL_ERROR
from proxy.stream.modes.projections import MODES
from proxy.stream.observer import Observers
from proxy.tools.fake.qwen import FakeQwen
from tests import message_events
from tests.dialects.response_events import message, numbered, response
from tests.event_loops import until
from tests.event_streams import FINISH, chunk_frame
from tests.fakes import FakeSink
from tests.message_events import Block
from tests.played import MODES_OF, Play
from tests.proxy_under_test import teed
from tests.pumped import Connected

SECRET = "what was asked"


class Fault(Exception):
    """What nobody expects."""


class Faults:
    """Counts calls, and raises at one of them, or from it on."""

    def __init__(self, at: int, *, lasting: bool) -> None:
        self._at = at
        self._lasting = lasting
        self.calls = 0

    def call(self) -> None:
        self.calls += 1
        if self.calls == self._at or (self._lasting and self.calls > self._at):
            raise Fault(SECRET)


class Faulty:
    """Stands for another, and lets some of its methods fail before they do anything."""

    def __init__(self, other: Any, faults: Faults, *names: str) -> None:
        self._other, self._faults, self._names = other, faults, names

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._other, name)
        if name not in self._names:
            return found

        def called(*given: Any, **named: Any) -> Any:
            self._faults.call()
            return found(*given, **named)

        return called


class FaultySink(Connected):
    """A sink whose calls may fail."""

    def __init__(self, faults: Faults, **named: Any) -> None:
        super().__init__()
        self._faults = faults
        for name, value in named.items():
            setattr(self, name, value)

    def __getattribute__(self, name: str) -> Any:
        if name in ("write", "transport", "on_writable", "close", "abort"):
            self._faults.call()
        return super().__getattribute__(name)


def bodies(dialect: Dialect) -> list[bytes]:
    """Return the frames of a whole answer."""
    words = ["one", " two", " three", " four"]
    if dialect is DASHSCOPE:
        said = ["".join(words[: count + 1]) for count in range(len(words))]
        ends = ["null", "null", "null", "stop"]
        output = (
            b'data:{"output":{"choices":[{"message":{"role":"assistant","content":"%b"},"finish_reason":"%b"}]}}\n\n'
        )
        return [output % (text.encode(), end.encode()) for text, end in zip(said, ends, strict=True)]
    if dialect is RESPONSES:
        return numbered(response(message(0, words)), by_dashscope=True)
    if dialect is MESSAGES:
        return message_events.message([Block("text", tuple(words))])
    if dialect is PLAIN:
        return [b"data: %b\n\n" % word.encode() for word in words]
    return [*map(chunk_frame, words), FINISH, b"data: [DONE]\n\n"]


def in_pieces(body: list[bytes]) -> list[bytes]:
    """Return the reads of frames of which every third comes in two."""
    return [piece for n, one in enumerate(body) for piece in ([one[:7], one[7:]] if n % 3 == 0 else [one])]


dialects = pytest.mark.parametrize("dialect", [CHAT, DASHSCOPE, RESPONSES, MESSAGES, PLAIN], ids=lambda one: one.name)


@contextmanager
def logged(log: list[Any]) -> Iterator[None]:
    """Assert that what failed is logged, without what it said."""
    yield
    for record in log:
        assert SECRET not in record.getMessage()
        assert not record.exc_info


def each_call(run: Callable[[Faults], None]) -> None:
    """Run with a fault at the first call, at the second, and so on, until there are no more; each for once and ever."""
    for lasting in (False, True):
        at = 0
        while True:
            at += 1
            faults = Faults(at, lasting=lasting)
            run(faults)
            if faults.calls < at or at > 150:
                break


def failing(dialect: Dialect, faults: Faults) -> Dialect:
    """Return a dialect whose readers of frames and of documents fail."""
    frames: Any = Faulty(dialect.frames, faults)
    reader = dialect.frames.reader
    frames.reader = lambda: Faulty(reader(), faults, "note", "ordinary", "error_frame")
    return dialect._replace(frames=frames)


@dialects
async def test_reader_that_raises_leaves_the_stream_going_and_no_success(
    dialect: Dialect, background_log: list[Any]
) -> None:
    """Mode raw has every byte; the ending is the proxy's own."""
    body = bodies(dialect)

    def run(faults: Faults) -> None:
        one = Play(failing(dialect, faults))
        for mode in MODES_OF[dialect]:
            one.follow(mode, Connected())
        before = len(background_log)
        one.play(in_pieces(body))
        one.assert_over(body)
        assert one.sinks[0].received == b"".join(body)
        if len(background_log) > before:
            assert one.stream.log.ending is not None
            assert one.stream.log.ending.reason in (INTERNAL_ERROR.reason, COMPLETE.reason)

    with logged(background_log):
        each_call(run)


@dialects
async def test_reader_that_raises_in_a_bypass_leaves_the_stream_going(
    dialect: Dialect, background_log: list[Any]
) -> None:
    """The one follower of mode raw has every byte once."""
    body = bodies(dialect)

    def run(faults: Faults) -> None:
        one = Play(failing(dialect, faults))
        one.follow("raw", Connected())
        one.play(body)
        one.assert_over(body)
        assert one.sinks[0].received == b"".join(body)

    with logged(background_log):
        each_call(run)


@dialects
async def test_transcript_that_raises_ends_those_who_read_it(dialect: Dialect, background_log: list[Any]) -> None:
    """The others are complete, and nobody is told a text that lacks something as if it were whole."""
    body = bodies(dialect)

    def run(faults: Faults) -> None:
        documents: Any = Faulty(dialect.documents, faults)
        assembler = dialect.documents.assembler
        documents.assembler = lambda: Faulty(assembler(), faults, "take", "read", "document")
        one = Play(dialect._replace(documents=documents))
        for mode in MODES_OF[dialect]:
            one.follow(mode, FakeSink())
        one.play(body)
        one.assert_over(body)
        assert one.followers[0].ended == one.followers[1].ended == COMPLETE.reason

    with logged(background_log):
        each_call(run)


@pytest.mark.skipif("TEST_COMPILED" in os.environ, reason="no class can be derived from a mode that is compiled")
@dialects
@pytest.mark.parametrize("mode", list(MODES))
async def test_mode_that_raises_ends_its_followers_alone(
    dialect: Dialect, mode: str, background_log: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In ranks and by themselves; those of other modes have everything."""
    if mode not in MODES_OF[dialect]:
        return
    body = bodies(dialect)
    kind = MODES[mode]

    def run(faults: Faults) -> None:
        class Failing(kind):  # type: ignore[misc, valid-type]
            def render(self, start: int, end: int) -> bytes:
                faults.call()
                return super().render(start, end)  # type: ignore[no-any-return]

            def ending(self, ending: Any, offset: int) -> tuple[bytes, bool]:
                faults.call()
                return super().ending(ending, offset)  # type: ignore[no-any-return]

        monkeypatch.setitem(MODES, mode, Failing)
        one = Play(dialect)
        for other in (mode, mode, "raw" if mode != "raw" else "events", mode):
            one.follow(other, FakeSink())
        one.play(body)
        one.assert_over(body)
        assert one.followers[2].ended == COMPLETE.reason
        assert one.stream.log.ending is COMPLETE

    with logged(background_log):
        each_call(run)


async def test_mode_that_raises_for_thousands_does_not_fill_the_log(background_log: list[Any]) -> None:
    """One line when the first follower fails, and one with their number when the stream is over."""
    documents: Any = Faulty(CHAT.documents, Faults(1, lasting=True))
    documents.assembler = lambda: Faulty(CHAT.documents.assembler(), Faults(1, lasting=True), "read")
    one = Play(CHAT._replace(documents=documents))
    for _ in range(80):
        one.follow("cumulative", FakeSink())
    one.follow("raw", FakeSink())
    with logged(background_log):
        one.play(bodies(CHAT))
    one.assert_over(bodies(CHAT))
    first, last = [record.getMessage() for record in background_log]
    assert first.startswith("rendering for a follower or writing to it failed: Fault in ")
    assert last == f"{first}, 80 times in all"


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("clogged", [False, True])
async def test_sink_that_raises_ends_its_follower_alone(alone: bool, clogged: bool, background_log: list[Any]) -> None:
    """Whichever of its methods it is, in a rank, bypassed, and while it is parked."""
    body = bodies(CHAT)

    def run(faults: Faults) -> None:
        one = Play(CHAT)
        one.follow("raw", FaultySink(faults, room=2 if clogged else None))
        if not alone:
            one.follow("raw", Connected())
            one.follow("events", Connected())
        one.play(body)
        faulty = one.sinks[0]
        one.assert_over(body)
        assert one.stream.log.ending is COMPLETE
        assert [follower.ended for follower in one.followers[1:]] == [COMPLETE.reason] * (len(one.followers) - 1)
        assert b"".join(body).startswith(faulty.received)

    with logged(background_log):
        each_call(run)


async def test_who_is_told_of_a_stream_may_raise_and_nobody_notices(background_log: list[Any]) -> None:
    """Observers, and whoever waits for the answer or the seal."""
    body = bodies(CHAT)

    def run(faults: Faults) -> None:
        def told(stream: object) -> None:
            faults.call()

        one = Play(CHAT, Observers(begun=[told], answered=[told], ended=[told]))
        one.stream.when_sealed(told)
        one.stream.when_answered(told)
        one.follow("raw", FakeSink())
        one.play(in_pieces(body))
        one.assert_over(body)
        assert one.followers[0].ended == COMPLETE.reason

    with logged(background_log):
        each_call(run)


async def test_writer_that_raises_seals_its_stream(background_log: list[Any]) -> None:
    """Upstream is closed, and followers are told that the proxy failed."""
    body = bodies(CHAT)

    def run(faults: Faults) -> None:
        one = Play(CHAT._replace(frames=cast(Any, Faulty(CHAT.frames, faults, "only_counts"))), hides_usage=True)
        for mode in ("raw", "events", "text"):
            one.follow(mode, FakeSink())
        one.play(in_pieces(body))
        one.assert_over(body)

    with logged(background_log):
        each_call(run)


@pytest.mark.parametrize("headers", [(), ("Idempotency-Key: k",), ("Stream-Mode: json",)])
async def test_failure_while_a_call_opens_is_told_and_nothing_is_left(
    upstream_url: str, headers: tuple[str, ...], background_log: list[Any], fake: FakeQwen
) -> None:
    """The client is answered with 500 in its dialect's shape, and the stream is sealed."""

    async def failing_way(request: object) -> Any:
        raise Fault(SECRET)

    async with teed(upstream_url) as tee:
        generations = tee.proxy.route_table.generations
        generations._finder._open_exchange = generations._unshared._open_exchange = failing_way
        answer = await tee.chat(*headers)
        assert answer.status == 500
        assert (await answer.json())["error"]["code"] == INTERNAL_ERROR.reason
        await until(lambda: tee.proxy.hub.running == 0 == tee.proxy.hub.followers)
        assert SECRET not in (await tee.metrics())
    with logged(background_log):
        assert background_log
