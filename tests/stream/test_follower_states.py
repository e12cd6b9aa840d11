"""The table of a follower's states on top of stream/cohort.py, and the code, held to each other.

The table is read from that page, so that it can't say one thing and the test another. Each of its cells is one test:
a real stream and its writer bring a follower into the state, the event happens, and the state after it is read off what
anybody can see. Then a random walk over the table does the same in any order. After each step laws 5, 6 and 7 hold.
"""

import ast
import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import proxy
from proxy.dialects.chat import CHAT
from proxy.dialects.dashscope import DASHSCOPE
from proxy.dialects.dialect import Dialect
from proxy.dialects.messages import MESSAGES
from proxy.dialects.responses import RESPONSES
from proxy.stream.endings import CAPABILITY_EXPIRED, UPSTREAM_RESET
from proxy.stream.modes.projection import SPAN_BYTES
from proxy.stream.rank import Rank
from proxy.stream.subscription import Subscription
from tests.cuts import messages
from tests.event_streams import chunk_frame
from tests.fakes import FakeLoop, FakeSink
from tests.message_events import delta, start
from tests.pumped import FRAME, Connected, Upstream
from tests.streams import follow

BROKE = UPSTREAM_RESET.saying("the upstream's response broke off")
FRAMES: dict[str, tuple[bytes, bytes]] = {  # of each API, by its name: one with a token, and one without
    # until the first token nothing is sent past the log
    CHAT.name: (chunk_frame("word"), b'data: {"choices":[]}\n\n'),
    DASHSCOPE.name: (
        b'id:1\nevent:result\n:HTTP_STATUS/200\ndata:{"output":{"choices":[{"message":{"content":"word"},'
        b'"finish_reason":"null"}]},"request_id":"r"}\n\n',
        b'id:1\nevent:result\ndata:{"output":{"choices":[{"message":{"content":""},"finish_reason":"null"}]}}\n\n',
    ),
    RESPONSES.name: (
        b'id:4\nevent:response.output_text.delta\ndata:{"type":"response.output_text.delta","delta":"word",'
        b'"output_index":0,"sequence_number":4}\n\n',
        b'event:response.created\ndata:{"type":"response.created","sequence_number":0,"response":{"id":"r"}}\n\n',
    ),
    MESSAGES.name: (delta("word"), start()),
}
APIS = (CHAT, DASHSCOPE, RESPONSES, MESSAGES)
each_dialect = pytest.mark.parametrize("dialect", APIS, ids=lambda dialect: dialect.name)
PART = b": lines\n"
BIG = b"data: " + b"x" * SPAN_BYTES + b"\n\n"  # more than a span
TURN = [BIG] * 67  # more than a turn's worth, and than is sent on as the chunks that it came in
FLUSH_MS = 1000


def rows(page: str, first: str) -> list[list[str]]:
    """Return the table whose first column is headed so, row by row."""
    lines = [[cell.strip() for cell in line.split("|")] for line in page.splitlines()]
    start = next(index for index, line in enumerate(lines) if line[0] == first)
    found = []
    for line in lines[start:]:
        if len(line) == 1:
            break
        if set("".join(line)) != {"-"}:
            found.append(line)
    return found


PAGE = ast.get_docstring(ast.parse((Path(proxy.__file__).parent / "stream/cohort.py").read_text())) or ""
(_, *STATES), *_ROWS = rows(PAGE, "event")
TABLE = {(state, event): cell for event, *cells in _ROWS for state, cell in zip(STATES, cells, strict=True)}
POSSIBLE = {at: cell for at, cell in TABLE.items() if cell in STATES}
IMPOSSIBLE = {at: cell for at, cell in TABLE.items() if cell not in STATES}


class Scene:
    """A follower of a stream in mode raw, the upstream that feeds it, and others beside it; within a running loop.

    `paced`: it is advanced once a second, and the log holds little, so that it can be outrun.
    """

    def __init__(self, dialect: Dialect = CHAT, *, paced: bool = False) -> None:
        self.loop = FakeLoop()
        self.sink = Connected()
        self.frame, self.role = FRAMES[dialect.name]
        limit = 10 * len(self.frame) if paced else 1 << 30
        self.upstream = Upstream(self.sink, loop=self.loop, max_log_bytes=limit, dialect=dialect)
        self.stream = self.upstream.stream
        self.follower = self.upstream.follower
        self.flush_ms = FLUSH_MS if paced else 0
        if paced:
            self.follower.leave("left")
            self.sink = Connected()
            self.follower = self.follow(self.sink)
        self.stream.originator = None  # for whom the log would wait
        self.ever: list[bytes] = []  # all frames that came
        self.partial = b""  # the lines of one that has not ended
        self.raw: list[tuple[Connected, int]] = []  # others of the same view, and the offset they began at
        self.numbered: list[FakeSink] = []  # others in mode events
        self.others: list[Subscription] = []

    def follow(self, sink: Connected, offset: int = 0) -> Subscription:
        """Attach one more follower of the same view."""
        return follow(
            self.stream, sink, offset=offset, flush_ms=self.flush_ms, flush_bytes=1 << 20 if self.flush_ms else 0
        )

    @property
    def state(self) -> str:
        """Return the follower's state, as the page defines it."""
        follower, stream = self.follower, self.stream
        if follower.ended is not None:
            assert follower not in stream.subscriptions
            return "ended"
        assert follower in stream.subscriptions
        if stream.log.ending is not None:
            assert not follower.cohort.live
            assert stream.bypass is None
            return "closing"
        if follower.is_ahead:
            assert follower.parked
            assert follower in stream._ahead
            assert stream.bypass is None
            return "ahead"
        if follower.parked:
            assert follower not in [member for member in follower.cohort.live if not member.parked]
            assert (self.sink.resume is not None) or self.loop._due
            assert stream.bypass is None
            return "parked"
        members = [member for member in follower.cohort.live if not member.parked]
        ranks = [member for member in members if isinstance(member, Rank) and follower in member._members]
        assert members.count(follower) + len(ranks) == 1, "one sweep would advance it twice, or never"
        if stream.bypass is not None:
            assert stream.subscriptions.keys() == (ranks[0]._members.keys() if ranks else {follower})
            return "ranked" if ranks else "bypassed"
        return "ranked" if ranks else "live"

    # What the events of the page are

    def send(self, *frames: bytes, whole: bool = True) -> None:
        """Have a read come from the upstream; `whole`: by the short way, if it is open."""
        self.ever += self.completed(frames)
        if whole:
            self.upstream.send(*frames)
        else:
            self.upstream.send_piece(b"".join(frames))

    def completed(self, frames: Sequence[bytes]) -> list[bytes]:
        """Return frames of which the first ends the one that has begun."""
        partial, self.partial = self.partial, b""
        return [partial + frames[0], *frames[1:]]

    def read(self) -> None:
        self.send(self.role)

    def part(self) -> None:
        """Lines of a frame."""
        if self.stream.log.ending is None:
            self.partial += PART
            self.upstream.send_piece(PART)

    def read_clogged(self) -> None:
        self.sink.clogged = True
        self.send(self.frame)

    def read_long(self) -> None:
        self.send(*TURN)

    def resume(self) -> None:
        """By whoever was asked to, the sink or the loop; a spurious one, if nobody was."""
        waited = self.sink.resume is not None
        self.sink.drain()
        if not self.loop.turn() and not waited:
            self.follower.resume()

    def resume_clogged(self) -> None:
        """The sink takes a single span."""
        self.sink.clogged, self.sink.room = False, 1
        resume, self.sink.resume = self.sink.resume, None
        if resume is not None:
            resume()
        elif not self.loop.turn():
            self.follower.resume()
        self.sink.room = None

    def outrun(self) -> None:
        """Let the log drop frames that the follower lacks, and advance it."""
        for _ in range(20 if self.stream.log.ending is None else 0):
            self.send(self.frame)
        if self.follower.ended is None:
            assert self.follower.offset < self.stream.log.start
        if self.follower.parked:
            self.resume()
        self.loop.elapse(FLUSH_MS / 1000)

    def another_comes(self) -> None:
        self.numbered.append(FakeSink())
        self.others.append(follow(self.stream, self.numbered[-1], "events"))

    def company(self) -> None:
        self.raw.append((Connected(), self.stream.log.end))
        self.others.append(self.follow(self.raw[-1][0], self.stream.log.end))
        self.send(self.frame)
        if self.flush_ms:
            self.loop.elapse(FLUSH_MS / 1000)

    def alone(self) -> None:
        for other in self.others:
            other.leave("left")
        self.send(self.frame, whole=False)

    def leave(self) -> None:
        self.follower.leave("left")

    def fail(self) -> None:
        self.follower.fail(CAPABILITY_EXPIRED)

    def seal(self) -> None:
        self.upstream.pump.stop(BROKE)

    def seal_long(self) -> None:
        if self.follower.ended is None and (not self.follower.parked or self.follower.ahead_bytes):
            self.sink.room = 1
        last = [BIG] * 4
        if self.stream.log.ending is None:
            last = self.completed(last)
            self.ever += last
        self.upstream.pump.seal(BROKE, last, b"")
        self.sink.room = None

    def happen(self, event: str) -> None:
        """Let an event of the page happen."""
        getattr(self, event.replace(", ", "_").replace(" ", "_"))()

    # The laws

    def check_laws(self) -> None:
        """Everybody had a prefix of what came, and nobody but the follower is behind or has ended (laws 5 and 6)."""
        frames = self.stream.log.frames  # what was sent past the log is in it now
        assert self.ever[-len(frames) :] == frames or not frames
        offset = self.follower.offset
        assert self.sink.received == self.due(self.follower)
        assert self.follower.sent_bytes == len(self.sink.received)
        if self.follower.ended is None:
            assert self.sink.ended is None
            assert self.follower.lag_bytes == sum(map(len, frames)) - sum(
                map(len, frames[: max(0, offset - self.stream.log.start)])
            )
        sealed = self.stream.log.ending is not None
        for (sink, began), other in zip(self.raw, [one for one in self.others if one.mode == "raw"], strict=True):
            assert sink.received == self.due(other, began)
            if not self.flush_ms and other.ended != "left" and not self.loop._due:
                assert other.offset == len(self.ever)
                assert sink.ended == ("aborted" if sealed else None)
        for said, other in zip(self.numbered, [one for one in self.others if one.mode == "events"], strict=True):
            if other.ended != "left" and not self.loop._due:
                assert len(messages(said.received)) == len(self.ever) + sealed
                assert said.ended == ("closed" if sealed else None)

    def due(self, follower: Subscription, start: int = 0) -> bytes:
        """Return what a follower must have been sent: whole frames, perhaps lines of one, at its end the tail."""
        came = b"".join(self.ever[start:]) + self.partial
        if follower.ended == "failed":
            return came
        return came[: len(b"".join(self.ever[start : follower.offset])) + follower.ahead_bytes]

    def check_end(self) -> None:
        """Once all have drained: who saw the end had everything, and a failed stream does not look complete (law 7)."""
        self.loop.settle()
        self.check_laws()
        self.seal()
        for _ in range(100):
            self.resume()
        self.check_laws()
        assert self.state == "ended"
        expected = {"left": None}.get(self.follower.ended or "", "aborted")
        assert self.sink.ended == expected
        if self.follower.ended == "failed":
            assert self.sink.received == b"".join(self.ever) + self.partial


# How to come into each state, and in which ways


def live(scene: Scene) -> None:
    """Alone, before the first token."""
    scene.send(scene.role)


def ranked(scene: Scene) -> None:
    scene.company()


def bypassed(scene: Scene) -> None:
    scene.send(scene.frame)


def ahead(scene: Scene) -> None:
    """Alone, before the first token."""
    live(scene)
    scene.part()


def ahead_of_company(scene: Scene) -> None:
    """Out of a rank, before the first token."""
    live(scene)
    scene.raw.append((Connected(), scene.stream.log.end))
    scene.others.append(scene.follow(scene.raw[-1][0], scene.stream.log.end))
    scene.send(scene.role)
    assert scene.state == "ranked"
    scene.part()


def parked(scene: Scene) -> None:
    """By its sink, with more due than a span."""
    live(scene)
    scene.sink.clogged = True
    scene.send(BIG, BIG, BIG, whole=False)


def paused(scene: Scene) -> None:
    """By the loop."""
    live(scene)
    scene.read_long()
    assert scene.sink.resume is None


def parked_in_company(scene: Scene) -> None:
    """Out of a rank."""
    ranked(scene)
    scene.sink.clogged = True
    scene.send(BIG, BIG, BIG, whole=False)


def closing(scene: Scene) -> None:
    parked(scene)
    scene.seal()


def closing_paused(scene: Scene) -> None:
    paused(scene)
    scene.seal()


def closing_at_its_last_frames(scene: Scene) -> None:
    bypassed(scene)
    scene.seal_long()


def left(scene: Scene) -> None:
    live(scene)
    scene.leave()


def failed(scene: Scene) -> None:
    bypassed(scene)
    scene.fail()


def over(scene: Scene) -> None:
    live(scene)
    scene.seal()


Way = Callable[[Scene], None]
WAYS: dict[str, list[Way]] = {
    "live": [live],
    "ranked": [ranked],
    "bypassed": [bypassed],
    "ahead": [ahead, ahead_of_company],
    "parked": [parked, paused, parked_in_company],
    "closing": [closing, closing_paused, closing_at_its_last_frames],
    "ended": [left, failed],
}
OVER = {"read", "read, clogged", "read, long", "company", "alone"}  # events that a sealed stream can't have


def outrun_from(state: str, scene: Scene) -> None:
    """Bring a paced follower into a state in which the next sweep comes too late for it."""
    if state == "ended":
        live(scene)
        scene.leave()
    elif state == "live":
        scene.send(scene.frame)
        scene.loop.elapse(1)
    elif state == "ranked":
        scene.send(scene.frame)
        scene.loop.elapse(1)
        scene.company()
    else:
        scene.sink.clogged = True
        scene.send(scene.frame)
        scene.loop.elapse(1)
        if state == "closing":
            for _ in range(20):
                scene.send(scene.frame)
            scene.seal()
    assert scene.state == state


def test_page_has_a_cell_for_every_state_and_event() -> None:
    """A state after it, or a letter that the page gives a reason for; and each state has its line of definition."""
    assert list(WAYS) == STATES
    assert len(TABLE) == len(STATES) * len(_ROWS)
    for letter in IMPOSSIBLE.values():
        assert f"\n* {letter}: " in PAGE
    for event, *_ in _ROWS:
        assert f"\n* {event}: " in PAGE, event
    for state in STATES:
        assert f"\n    {state}  " in PAGE


@pytest.mark.parametrize(
    ("way", "event", "after"),
    [
        pytest.param(way, event, cell, id=f"{way.__name__}-{event}")
        for (state, event), cell in POSSIBLE.items()
        if event != "outrun"
        for way in [*WAYS[state], *([over] if state == "ended" and event not in OVER else [])]
    ],
)
@each_dialect
async def test_event_in_a_state_leads_to_the_state_of_the_page(
    dialect: Dialect, way: Way, event: str, after: str
) -> None:
    """And the follower, the others and the end are as the laws say."""
    scene = Scene(dialect)
    way(scene)
    before = "ended" if way is over else next(state for state, ways in WAYS.items() if way in ways)
    assert scene.state == before
    scene.happen(event)
    assert scene.state == after
    scene.check_end()


@pytest.mark.parametrize("state", [state for state, event in POSSIBLE if event == "outrun"])
@each_dialect
async def test_outrun_follower_is_ended_with_an_error(dialect: Dialect, state: str) -> None:
    """Never served on with a gap (law 5), and its connection is broken off (law 7)."""
    scene = Scene(dialect, paced=True)
    outrun_from(state, scene)
    scene.outrun()
    assert scene.state == POSSIBLE[state, "outrun"]
    assert (scene.follower.ended, scene.sink.ended) == (("left", None) if state == "ended" else ("too_slow", "aborted"))
    scene.check_laws()


@pytest.mark.parametrize("event", [event for (_, event), letter in IMPOSSIBLE.items() if letter == "a"])
async def test_sealed_stream_can_have_no_such_event(event: str) -> None:
    """Reason a: its log refuses to grow."""
    scene = Scene()
    closing(scene)
    assert scene.stream.writer is None
    with pytest.raises(RuntimeError, match="sealed"):
        scene.happen(event)


async def test_advance_by_itself_leads_to_one_of_four_states() -> None:
    """The small table of the page, tried with followers that attach."""
    (_, *takes), *table = rows(PAGE, "a follower advances")
    assert takes == ["the sink took all", "the sink did not, or there is more than one turn allows"]
    for log, all_taken, more in table:
        for room, frames, after in ((None, [FRAME] * 2, all_taken), (1, [BIG] * 3, more), (None, TURN, more)):
            scene = Scene()
            scene.send(*frames)
            scene.follower.leave("left")
            if log == "the log is sealed":
                scene.seal()
            scene.sink = Connected()
            scene.sink.room = room
            scene.follower = follow(scene.stream, scene.sink)
            scene.stream.end_bypass()  # which has begun if it was sent all, as it is alone
            scene.sink.room = None
            assert scene.state == after, (log, room, len(frames))
            scene.check_end()


class Walk(RuleBasedStateMachine):
    """Events in any order; what the page says must come of each."""

    dialect = CHAT

    def __init__(self) -> None:
        super().__init__()
        self.expected = "live"

    @initialize()
    def begin(self) -> None:
        self.scene = Scene(self.dialect)
        live(self.scene)

    def step(self, event: str) -> None:
        """Let the event happen, unless the page says that it can't."""
        if event in ("company", "another comes") and self.scene.partial:
            return  # one ends the frame that has begun, the other has its lines sent to all: both are not on the page
        if (self.expected, event) in IMPOSSIBLE or (event in OVER and self.scene.stream.log.ending is not None):
            return
        self.expected = TABLE[self.expected, event]
        self.scene.happen(event)

    @rule()
    def read(self) -> None:
        """Whoever is beside it then, and whether the first token has come, makes this one of three events."""
        scene = self.scene
        if scene.stream.subscriptions.keys() == {scene.follower} and scene.stream.vitals.first_token_at:
            self.step("alone")
        elif self.expected == "live" and len(scene.stream.subscriptions) > 1:
            self.step("company")
        else:
            self.step("read")

    @rule(event=st.sampled_from(["part", "read, clogged", "resume", "another comes", "company", "alone", "seal"]))
    def event(self, event: str) -> None:
        self.step(event)

    @precondition(lambda self: BIG not in self.scene.ever)
    @rule()
    def long(self) -> None:
        self.step("read, long")

    @rule(event=st.sampled_from(["leave", "fail", "seal, long"]))
    @precondition(lambda self: len(self.scene.ever) > 6)
    def last(self, event: str) -> None:
        self.step(event)

    @invariant()
    def page_is_right(self) -> None:
        if hasattr(self, "scene"):
            assert self.scene.state == self.expected
            self.scene.check_laws()

    def teardown(self) -> None:
        if hasattr(self, "scene"):
            self.scene.check_end()


@each_dialect
def test_random_walk_over_the_table(dialect: Dialect) -> None:
    """Whatever happened before."""
    of_dialect = type(f"WalkOf{dialect.name}", (Walk,), {"dialect": dialect})
    examples = max(1, settings().max_examples // len(FRAMES))

    async def walk() -> None:
        run_state_machine_as_test(of_dialect, settings=settings(stateful_step_count=20, max_examples=examples))

    asyncio.run(walk())


async def test_follower_ahead_is_not_outrun_by_the_frame_that_it_has_a_part_of() -> None:
    """The log's limit drops no frame before who was sent its first lines has the rest."""
    scene = Scene()
    scene.stream.max_log_bytes = 10 * len(FRAME)
    live(scene)
    scene.part()
    assert scene.state == "ahead"
    scene.send(b"data: " + b"x" * 9 * len(FRAME) + b"\n\n", *[FRAME] * 9)
    assert scene.stream.log.start > 0
    assert (scene.follower.ended, scene.follower.offset) == (None, len(scene.ever))
    assert scene.sink.received == b"".join(scene.ever)
