"""The shortest way of an event, held to the long one: nobody can tell which it went."""

import asyncio
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from proxy.dialects.chat import CHAT
from proxy.stream.endings import CAPABILITY_EXPIRED, LOG_LIMIT
from proxy.stream.ledger import BODIES
from proxy.stream.modes.projection import SPAN_BYTES
from proxy.stream.modes.projections import Raw
from proxy.stream.rank import SIZE
from proxy.stream.subscription import Subscription
from proxy.upstream.bypass import Bypass
from proxy.wire.errors import Truncated
from proxy.wire.http import chunk
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.fakes import FakeLoop, FakeSink
from tests.pumped import FRAME, Chunked, Connected, Upstream
from tests.streams import follow

THOUGHT = FRAME.replace(b'"content": "word"', b'"content":null,"reasoning_content":"hm"')
ERROR = b'data: {"error":{"message":"inspected","code":"data_inspection_failed"}}\n\n'
LONG = chunk_frame("long " * 300)
HALVES = b'data: {"choi', b'ces":[]}\n\n'


def bypassed(**limits: int) -> Upstream:
    """Return the upstream of a stream whose events are sent on to its one follower."""
    upstream = Upstream(Connected(), **limits)
    upstream.send(FRAME)
    assert isinstance(upstream.stream.bypass, Bypass)
    return upstream


async def test_events_go_past_the_log_from_the_moment_a_lone_follower_comes() -> None:
    """Though the first text came before it, and no other reason to look for one comes."""
    upstream, sink = Upstream(Connected()), Connected()
    upstream.follower.leave("left")
    upstream.send(FRAME)
    assert upstream.stream.bypass is None
    follow(upstream.stream, sink)
    upstream.send(FRAME)
    assert sink.sent_on == 1
    assert sink.received == FRAME * 2


class Waiting(Connected):
    """A sink that takes more while bytes wait in its transport, as they do up to a high-water mark."""

    waits = False

    def transport(self) -> Any:
        found = Chunked(self)
        found.get_write_buffer_size = lambda: int(self.waits)  # type: ignore[method-assign]
        return found, True


def sent_on(upstream: Upstream) -> int:
    """Return how many reads went past the log."""
    assert isinstance(upstream.sink, Connected)
    return upstream.sink.sent_on


# Scripts: what an upstream, its client and others do to one stream, in any order.

steps = st.one_of(
    st.tuples(
        st.just("send"), st.lists(st.sampled_from([FRAME, FRAME, THOUGHT, FINISH, LONG]), min_size=1, max_size=3)
    ),
    st.tuples(st.just("many"), st.sampled_from([FRAME, THOUGHT])),
    st.tuples(st.just("piece"), st.sampled_from([*HALVES, b": comment\n\n", FRAME, FRAME + b": c"])),
    st.tuples(st.just("look"), st.none()),
    st.tuples(st.just("join"), st.sampled_from(["raw", "events"])),
    st.tuples(st.just("part"), st.none()),
    st.tuples(st.just("clog"), st.none()),
    st.tuples(st.just("empty"), st.none()),
    st.tuples(st.just("drain"), st.none()),
)
ends = st.sampled_from(["done", "last", "error", "broken", "leave", "fail"])


def run(upstream: Upstream, script: list[tuple[str, Any]], end: str) -> Iterator[Any]:
    """Do as the script says; yield whatever anybody can see."""
    stream = upstream.stream
    unbounded = stream.max_log_bytes > 1 << 20  # else what is dropped, and when, is not the same
    guests: list[FakeSink] = []
    others: list[Subscription] = []
    for step, what in script:
        if step == "send":
            upstream.send(*what)
        elif step == "many":
            for _ in range(70):
                upstream.send(what)
        elif step == "piece":
            upstream.send_piece(what)
        elif step == "look":
            yield stream.log.end, stream.log.end_bytes, upstream.follower.offset, upstream.follower.lag_bytes
        elif step == "join":
            guests.append(type(upstream.sink)())  # so that on the short way those in mode raw may be in a rank
            others.append(follow(stream, guests[-1], what, 0 if unbounded else stream.log.end))
        elif step == "part" and others:
            others.pop().leave("left")
        elif step == "clog":
            upstream.sink.clogged = True
        elif step == "empty":  # and its follower has not heard of it yet
            upstream.sink.clogged = False
        elif step == "drain":
            upstream.sink.drain()
        yield upstream.sink.received, upstream.pump.fed_at == upstream.now, upstream.connection.paused
    upstream.sink.drain()
    if end == "leave":
        upstream.follower.leave("left")
    elif end == "fail":
        upstream.follower.fail(CAPABILITY_EXPIRED.saying("cut"))
    else:
        upstream.send(*{"done": [FINISH, DONE], "error": [ERROR]}.get(end, [FRAME]))
        last = FRAME + DONE if end == "last" else b""
        upstream.pump.ended(last, upstream.now + 1, Truncated("broke off") if end == "broken" else None)
    follower, vitals, log = upstream.follower, stream.vitals, stream.log
    assert log.size_bytes == upstream.ledger.bytes
    assert log.size_bytes <= max(stream.max_log_bytes, 3 * len(LONG))
    yield log.frames[-(1 << 20 if unbounded else 1) :], log.end, log.end_bytes, log.tail, log.ending
    yield follower.offset, follower.sent_bytes, follower.ended, upstream.sink.received, upstream.sink.ended
    yield [(guest.received, guest.ended) for guest in guests]
    vitals.fold()
    yield vitals.first_token_at, vitals.first_content_at, vitals.gap_counts, vitals.gaps_s
    said = vitals.reader
    yield said.finish_reason, said.failure, said.ended, said.finished, said.usage


@given(st.lists(steps, max_size=12), ends, st.sampled_from([1 << 30, 4000]))
def test_nobody_can_tell(script: list[tuple[str, Any]], end: str, max_log_bytes: int) -> None:
    """Laws 3 to 8 hold on the short way as on the long one: the same bytes, cursors, endings, counts and times."""

    async def both() -> Upstream:
        short = Upstream(Connected(), max_log_bytes=max_log_bytes)
        long = Upstream(FakeSink(), max_log_bytes=max_log_bytes)
        for seen, due in zip(run(short, script, end), run(long, script, end), strict=True):
            assert seen == due
        assert short.stream.bypass is None
        return short

    short = asyncio.run(both())
    event(f"sent on: {min(sent_on(short), 100) // 10 * 10}")


async def test_event_reaches_its_follower_before_the_log() -> None:
    """The log has it as soon as somebody looks, and each with its time."""
    upstream = bypassed()
    vitals = upstream.stream.vitals
    upstream.send(FRAME)
    upstream.send(FRAME, FRAME)
    assert upstream.sink.received == FRAME * 4
    assert sent_on(upstream) == 2
    assert not vitals.gap_counts
    assert upstream.pump.fed_at == upstream.now
    assert upstream.stream.log.frames == [FRAME] * 4
    assert (vitals.last_token_at, sum(vitals.gap_counts or ())) == (3.0, 3)
    assert (upstream.follower.offset, upstream.follower.sent_bytes) == (4, 4 * len(FRAME))
    assert upstream.pump.fed_at == upstream.now


async def test_log_is_told_now_and_then() -> None:
    """Of 256 events at the latest, so that little memory is not accounted for; the overhead is sampled then."""
    upstream = bypassed()
    most = 0
    for _ in range(800):
        upstream.send(FRAME)
        most = max(most, len(upstream.sink.received) - upstream.ledger.bytes)
    assert most == 255 * len(FRAME)
    assert len(upstream.overheads) == 3
    before = upstream.ledger.bytes
    upstream.send(LONG)
    assert upstream.ledger.bytes > before


async def test_overhead_is_sampled_where_forward_takes_no_event() -> None:
    """As if each event began with a comment, which is left to the parsers."""
    upstream = bypassed()
    for _ in range(600):
        upstream.connection.take_event = None
        upstream.send(FRAME)
    assert sent_on(upstream) == 600
    assert len(upstream.overheads) == 2


async def test_what_is_not_in_the_ledger_yet_is_a_part_of_what_may_be_held() -> None:
    """Of all streams together: where many share a small limit, each has less that was sent and not counted."""
    upstream = bypassed(allowed_bytes=8 * 100 * 10 * len(FRAME))
    upstream.ledger.divide(100)
    upstream.send(FRAME)
    assert upstream.stream.log.end == 2  # whoever looks has the bypass settle
    assert isinstance(upstream.sink, Connected)
    most = 0
    for _ in range(40):
        upstream.send(FRAME)
        most = max(most, len(upstream.sink.received) - upstream.ledger.bytes)
    assert most == 9 * len(FRAME)


async def test_waiting_client_is_served_from_the_log() -> None:
    """It has the limits: its follower is parked, and gets what it missed; then events are sent on again."""
    upstream = bypassed()
    upstream.send(FRAME)
    upstream.sink.clogged = True
    upstream.send(FRAME)
    upstream.send(FRAME)
    assert upstream.follower.parked
    assert upstream.sink.received == FRAME * 2
    assert upstream.stream.log.end == 4
    upstream.sink.clogged = False  # and its follower has not heard of it yet
    upstream.send_piece(FRAME)
    upstream.send(FRAME)
    assert upstream.sink.received == FRAME * 2
    upstream.sink.drain()
    assert upstream.sink.received == FRAME * 6
    for _ in range(64):
        upstream.send(FRAME)
    assert upstream.stream.bypass is not None
    upstream.send(FRAME)
    assert sent_on(upstream) > 1
    assert upstream.sink.received == FRAME * 71


async def test_connection_that_was_lost_parks_its_follower() -> None:
    """As a write of a span does: its task is about to hear of it."""
    upstream = bypassed()
    assert isinstance(upstream.sink, Connected)
    upstream.sink.lost = True
    upstream.send(FRAME)
    assert upstream.follower.parked
    assert upstream.stream.bypass is None
    assert upstream.stream.log.end == 2


async def ranked(loop: FakeLoop | None = None) -> tuple[Upstream, list[FakeSink]]:
    """Return the upstream of a stream whose events are sent on to all of its followers, and their sinks."""
    upstream = Upstream(Connected(), loop=loop)
    sinks: list[FakeSink] = [upstream.sink, Connected(), Connected()]
    for sink in sinks[1:]:
        follow(upstream.stream, sink)
    upstream.send(FRAME)
    upstream.send_piece(FRAME)
    assert isinstance(upstream.stream.bypass, Bypass)
    return upstream, sinks


async def test_event_reaches_all_followers_before_the_log() -> None:
    """If they are in one rank, which moves with the log as soon as somebody looks."""
    upstream, sinks = await ranked()
    upstream.send(FRAME)
    upstream.send(FINISH)
    upstream.send(FRAME, FRAME)
    upstream.send(FRAME)
    assert upstream.ledger.bytes == len(FRAME * 3 + FINISH)  # the others wait
    assert [sink.received for sink in sinks] == [FRAME * 3 + FINISH + FRAME * 3] * 3
    assert upstream.stream.log.end == 7
    followers = list(upstream.stream.subscriptions)
    assert [(one.offset, one.sent_bytes) for one in followers] == [(7, len(sinks[0].received))] * 3
    upstream.pump.ended(DONE, 9.0, None)
    assert [(sink.received[-len(DONE) :], sink.ended) for sink in sinks] == [(DONE, "closed")] * 3
    assert [one.sent_bytes for one in followers] == [len(sinks[0].received)] * 3


async def test_follower_that_leaves_had_what_was_sent_on() -> None:
    """Its cursor and its count say so; the others are sent on to again."""
    upstream, sinks = await ranked()
    upstream.send(FRAME)
    follower = list(upstream.stream.subscriptions)[1]
    follower.leave("left")
    assert (follower.offset, follower.sent_bytes) == (3, len(FRAME) * 3)
    for _ in range(64):
        upstream.send(FRAME)
    assert upstream.stream.bypass is not None
    upstream.send(FRAME)
    assert [sink.received for sink in sinks] == [FRAME * 68, FRAME * 3, FRAME * 68]


async def test_follower_whose_leaving_a_rank_fills_the_ledger_ends_once() -> None:
    """As below, and so do those who stay."""
    upstream, sinks = await ranked()
    upstream.ledger.count(BODIES, upstream.ledger.max_bytes - 20 * len(FRAME))
    upstream.ledger.on_over_limit = lambda _: upstream.pump.stop(LOG_LIMIT.saying("too much"))
    for _ in range(30):
        upstream.send(FRAME)
    leaving, *others = list(upstream.stream.subscriptions)
    leaving.leave("left")
    assert upstream.reports == ["failed", "failed", "left"]
    assert [sink.ended for sink in sinks] == [None, "aborted", "aborted"]
    assert [sink.received for sink in sinks] == [b"".join(upstream.stream.log.frames)] * 3
    assert [one.sent_bytes for one in (leaving, *others)] == [len(sinks[0].received)] * 3


@pytest.mark.parametrize("slow", [0, 1, 2])
async def test_one_that_waits_has_all_served_from_the_log(slow: int) -> None:
    """Nobody is sent an event twice, whoever it is."""
    upstream, sinks = await ranked()
    sinks[slow].clogged = True
    upstream.send(FRAME)
    assert upstream.stream.bypass is None
    assert [len(sink.received) // len(FRAME) for sink in sinks] == [2 if sink is sinks[slow] else 3 for sink in sinks]
    sinks[slow].drain()
    for _ in range(64):
        upstream.send(FRAME)
    assert upstream.stream.bypass is not None
    assert [sink.received for sink in sinks] == [FRAME * 67] * 3


@pytest.mark.parametrize("lost", [0, 1, 2])
async def test_one_whose_connection_is_lost_lacks_what_the_others_are_sent(lost: int) -> None:
    """So its connection ends, whatever the error was: it must not go on after a gap."""
    upstream, sinks = await ranked()
    sinks[lost].lost = True
    upstream.send(FRAME)
    follower = list(upstream.stream.subscriptions)[lost]
    assert sinks[lost].is_aborted or follower.parked
    assert [sink.received for sink in sinks if not sink.lost] == [FRAME * 3] * 2
    upstream.send(FRAME)
    assert [sink.received for sink in sinks if not sink.lost] == [FRAME * 4] * 2
    assert sinks[lost].received == FRAME * 2


async def test_long_read_is_sent_to_a_rank_in_turns() -> None:
    """Others would wait for it, as many times as there are members."""
    loop = FakeLoop()
    upstream, sinks = await ranked(loop=loop)
    long, turn = b"data: " + b"x" * SPAN_BYTES + b"\n\n", Raw.spans_a_turn
    upstream.send(*[long] * (turn + 1))
    assert [sink.received for sink in sinks] == [FRAME * 2 + long * turn] * 3
    loop.settle()
    upstream.send(FRAME)
    assert [sink.received for sink in sinks] == [FRAME * 2 + long * (turn + 1) + FRAME] * 3


@pytest.mark.parametrize("count", [SIZE, SIZE + 1])
async def test_more_than_a_rank_are_served_from_the_log(count: int) -> None:
    """In slices, between which other streams have their turn."""
    upstream = Upstream(Connected(), loop=FakeLoop())
    for _ in range(count - 1):
        follow(upstream.stream, Connected())
    upstream.send(FRAME)
    upstream.send_piece(FRAME)
    assert (upstream.stream.bypass is not None) == (count <= SIZE)


async def test_second_follower_ends_it() -> None:
    """Then all are served from the log; when it has left, the one that is left gets events straight again."""
    upstream, guest = bypassed(), FakeSink()
    upstream.send(FRAME)
    other = follow(upstream.stream, guest, "events")
    assert upstream.stream.bypass is None
    upstream.send(FRAME)
    assert (guest.received.count(b"data: "), upstream.sink.received) == (3, FRAME * 3)
    other.leave("left")
    for _ in range(64):
        upstream.send(FRAME)
    assert upstream.stream.bypass is not None


async def test_one_left_of_many_while_a_sweep_goes_on_is_sent_nothing_twice() -> None:
    """The sweep's last slice comes after events are sent on: it must not put the follower into a rank."""
    loop = FakeLoop()
    upstream = Upstream(Connected(), loop=loop)
    others = [follow(upstream.stream, Connected()) for _ in range(320)]
    upstream.send(FRAME)
    loop.settle()
    upstream.send(FRAME)
    assert upstream.follower.offset == 2 > others[-1].offset, "no slice is left"
    for other in others:
        other.leave("left")
    upstream.send(FRAME)
    upstream.send_piece(FRAME)
    assert upstream.stream.bypass is not None
    loop.settle()
    upstream.send(FRAME)
    assert upstream.stream.log.end == upstream.follower.offset == 5
    follow(upstream.stream, Connected())
    upstream.send(FRAME)
    loop.settle()
    assert upstream.sink.received == FRAME * 6


async def test_it_begins_only_where_bytes_cross_as_they_are() -> None:
    """Not in another mode, at a pace, with a usage to hide, before the first token, nor for a sink without one."""
    for mode, pace in (("events", 0), ("text", 0), ("raw", 50)):
        upstream = Upstream(FakeSink())
        upstream.follower.leave("left")
        follow(upstream.stream, Connected(), mode, flush_ms=pace, flush_bytes=1000)
        for _ in range(70):
            upstream.send(FRAME)
        assert upstream.stream.bypass is None, (mode, pace)
    upstream = Upstream(Connected())
    upstream.send(b'data: {"choices":[]}\n\n')
    assert upstream.stream.bypass is None
    upstream.send(FRAME)
    assert upstream.stream.bypass is not None


async def test_what_is_not_just_text_is_known_when_it_was_sent_on() -> None:
    """Nobody need look at the log for it."""
    upstream, said = bypassed(), []
    for frame in (FRAME, FINISH, FRAME, DONE):
        upstream.send(frame)
        reader = upstream.stream.vitals.reader
        said.append((reader.finish_reason, reader.ended))
    assert said == [(None, False), ("stop", False), ("stop", False), ("stop", True)]
    assert sent_on(upstream) == 4
    upstream.pump.ended(b"", 9.0, None)


async def test_frame_that_is_cut_ends_it() -> None:
    """What comes next is no whole event, though it is a whole chunk."""
    upstream = bypassed()
    upstream.send(FRAME)
    upstream.send_piece(HALVES[0])
    upstream.send(FRAME)
    assert upstream.sink.received == FRAME * 2 + HALVES[0] + FRAME
    assert upstream.stream.log.frames == [FRAME, FRAME, HALVES[0] + FRAME]


async def test_times_of_the_last_read_come_after_those_before() -> None:
    """Though it is no read of whole events."""
    upstream = bypassed()
    upstream.send(FRAME)
    upstream.send(FRAME)
    upstream.pump.ended(FRAME + DONE, 7.0, None)
    vitals = upstream.stream.vitals
    assert (vitals.last_token_at, vitals.gaps_s, sum(vitals.gap_counts or ())) == (7.0, 6.0, 3)


async def test_full_ledger_ends_the_stream_with_all_that_was_sent() -> None:
    """Its log holds what its follower had, to the byte."""
    upstream = bypassed()
    upstream.ledger.count(BODIES, upstream.ledger.max_bytes - 20 * len(FRAME))
    upstream.ledger.on_over_limit = lambda _: upstream.pump.stop(LOG_LIMIT.saying("too much"))
    for _ in range(256):
        upstream.send(FRAME)
    assert upstream.transport.aborted
    assert upstream.stream.bypass is None
    assert b"".join(upstream.stream.log.frames) == upstream.sink.received
    assert (upstream.sink.ended, upstream.follower.ended) == ("aborted", "failed")


@pytest.mark.parametrize(
    ("leave", "ended", "sink_ended"),
    [
        (lambda follower: follower.leave("left"), "left", None),
        (lambda follower: follower.fail(CAPABILITY_EXPIRED), "capability_expired", "aborted"),
    ],
)
async def test_follower_whose_leaving_fills_the_ledger_ends_once(
    leave: Callable[[Subscription], None], ended: str, sink_ended: str | None
) -> None:
    """The log takes what was sent on when it leaves; that may seal the stream, which ends those who are still there."""
    upstream = bypassed()
    upstream.ledger.count(BODIES, upstream.ledger.max_bytes - 20 * len(FRAME))
    upstream.ledger.on_over_limit = lambda _: upstream.pump.stop(LOG_LIMIT.saying("too much"))
    for _ in range(30):
        upstream.send(FRAME)
    leave(upstream.follower)
    assert (upstream.follower.ended, upstream.sink.ended, upstream.reports) == (ended, sink_ended, [ended])
    assert b"".join(upstream.stream.log.frames) == upstream.sink.received
    assert upstream.follower.sent_bytes == len(upstream.sink.received)
    assert upstream.stream.log.ending == LOG_LIMIT.saying("too much")


async def test_pause_is_none_of_the_upstream_s_time() -> None:
    """Though events that came before it wait for the log, and also once the log has them."""
    upstream = bypassed()
    upstream.send(FRAME)
    upstream.stream.throttle(True)
    resumed_at = monotonic()
    upstream.stream.throttle(False)
    assert upstream.pump.fed_at >= resumed_at
    assert upstream.stream.log.end == 2
    assert upstream.pump.fed_at >= resumed_at
    upstream.now = resumed_at + 100
    upstream.send(FRAME)
    assert upstream.pump.fed_at == upstream.now


class Failing:
    """The frames of chat completions, and a reader of them that fails at a finish reason, and whatever comes later."""

    def __init__(self, other: Any) -> None:
        self._other = other
        self._has_failed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._other, name)

    def reader(self) -> Any:
        return Failing(self._other.reader())

    def note(self, frame: bytes) -> Any:
        self._has_failed = self._has_failed or frame == FINISH
        return self._fail() if self._has_failed else self._other.note(frame)

    def ordinary(self, frame: bytes) -> Any:
        return self._fail() if self._has_failed else self._other.ordinary(frame)

    def _fail(self) -> None:
        raise ValueError


@pytest.mark.parametrize("through_log", [False, True])
async def test_reader_that_has_failed_is_asked_nothing_more(through_log: bool, background_log: list[Any]) -> None:
    """Wherever the frame went that it failed at: what follows is not read, and that is logged once."""
    frames: Any = Failing(CHAT.frames)
    sink = Waiting()
    upstream = Upstream(sink, dialect=CHAT._replace(frames=frames))
    upstream.send(FRAME)
    sink.waits = through_log
    upstream.send(FINISH)
    sink.waits = False
    for _ in range(3):
        upstream.send(FRAME)
    assert upstream.stream.bypass is not None
    assert sink.received == FRAME + FINISH + FRAME * 3
    assert upstream.stream.log.end == 5
    assert not upstream.stream.vitals.gap_counts
    assert len(background_log) == 1


async def test_first_answer_text_behind_thoughts_is_timed() -> None:
    """Though it was sent on like the thoughts."""
    upstream = Upstream(Connected())
    for frame in (THOUGHT, THOUGHT, THOUGHT, FRAME, FRAME):
        upstream.send(frame)
    assert sent_on(upstream) == 4
    assert upstream.stream.log.end == 5
    vitals = upstream.stream.vitals
    assert (vitals.first_token_at, vitals.first_content_at, sum(vitals.gap_counts or ())) == (1.0, 4.0, 4)
    assert vitals.last_token_at == 5.0


ALMOST = [  # a chunk with an ordinary frame, but for one thing
    chunk(FRAME + FRAME),
    chunk(FRAME) * 2 + b"1",
    chunk(FRAME) + chunk(FINISH),
    chunk(FRAME) * 256,
    chunk(FRAME)[:-1],
    b"0" + chunk(FRAME),
    chunk(FRAME).replace(b"\r\n", b";x=1\r\n", 1),
    chunk(FRAME[:-1]),
    chunk(FRAME.replace(b"word", b"")),
    chunk(FRAME.replace(b"word", b"a\nb")),
    chunk(FRAME.replace(b"word", b"a\rb")),
    chunk(FRAME.replace(b"word", b'a","x":"b')),
    chunk(FRAME.replace(b"data", b"date")),
    chunk(chunk_frame("x" * 1024)),
    chunk(FINISH),
    chunk(DONE),
    b"",
    b"\n",
]


@pytest.mark.parametrize("read", ALMOST)
async def test_read_that_is_not_one_ordinary_event_is_left_to_the_parsers(read: bytes) -> None:
    """Such a read changes nothing, so that the parsers may take it."""
    upstream = bypassed()
    take_event = upstream.connection.take_event
    assert take_event is not None
    assert not take_event(read, 9.0)
    assert (sent_on(upstream), upstream.pump.fed_at) == (0, upstream.now)


@pytest.mark.parametrize("text", ["x", "x" * 200, "\u00e9\u4e2d", "x" * 800])
async def test_read_of_one_ordinary_event_is_forwarded_without_parsing(text: str) -> None:
    """However long its text is, up to reads of 1 KiB, and the log has its frame."""
    upstream = bypassed()
    take_event = upstream.connection.take_event
    assert take_event is not None
    frame = chunk_frame(text)
    assert take_event(chunk(frame), 9.0)
    assert sent_on(upstream) == 1
    assert upstream.stream.log.frames == [FRAME, frame]
    assert upstream.stream.vitals.last_token_at == 9.0
