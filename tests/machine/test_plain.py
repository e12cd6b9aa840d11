"""What events and requests pass, in both versions: events and spans on their way to clients, and heads."""

from time import monotonic
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from proxy.machine import LONG_READ, MOST_FRAMES, plain
from proxy.machine.plain import MOST_BYTES
from proxy.wire.http import chunk

HEAD, TAIL = b'data: {"text":"', b'"}\n\n\r\n'
FRAME = HEAD + b"word" + TAIL[:-2]
EVENT = chunk(FRAME)


class Written:
    """A transport that notes what it is given; `waiting` bytes wait in it, and it may raise."""

    def __init__(self, waiting: int = 0, fault: Exception | None = None) -> None:
        self.waiting, self.fault = waiting, fault
        self.writes: list[bytes] = []
        self.aborted = 0

    def abort(self) -> None:
        self.aborted += 1

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def write(self, data: bytes) -> None:
        if self.fault is not None:
            raise self.fault
        self.writes.append(data)


def forward(version: ModuleType, transports: Written | tuple[Written, ...], room: int = 63) -> Any:
    one = version.Forward(transports if isinstance(transports, tuple) else (transports,))
    one.surround(HEAD, TAIL)
    one.room = room
    return one


def kept(one: Any) -> tuple[list[bytes], list[float]]:
    """Return the frames that wait, and when they came; none do afterwards."""
    frames = one.frames(0)
    assert [one.frames(n) for n in range(len(frames) + 2)] == [frames[n:] for n in range(len(frames) + 2)]
    assert one.waiting == len(frames)
    piece, sizes, times = one.drain()
    assert (piece, sizes) == (b"".join(frames), [len(frame) for frame in frames])
    assert (one.waiting, one.frames(0), one.drain()) == (0, [], (b"", [], []))
    return frames, times


def test_read_of_one_ordinary_event_is_forwarded_and_noted(version: ModuleType) -> None:
    """As it came, with the time when it came."""
    transport = Written()
    one = forward(version, transport)
    assert [one.take(EVENT, at) for at in (1.5, 2.5)] == [True, True]
    assert (transport.writes, one.at, one.room) == ([EVENT] * 2, 2.5, 61)
    assert kept(one) == ([FRAME] * 2, [1.5, 2.5])


def test_read_of_several_ordinary_events_is_forwarded_in_one_write(version: ModuleType) -> None:
    """As when there is much to do; each is noted by itself."""
    transport, longer = Written(), HEAD + b"another word" + TAIL[:-2]
    one = forward(version, transport)
    read = EVENT + chunk(longer) + EVENT
    assert one.take(read, 1.5)
    assert (transport.writes, one.at, one.room) == ([read], 1.5, 60)
    assert kept(one) == ([FRAME, longer, FRAME], [1.5] * 3)


def test_frames_that_were_forwarded_elsewhere_are_kept_in_their_place(version: ModuleType) -> None:
    """Between those that were here; also after some were drained."""
    one = forward(version, Written(), room=4)
    for _ in range(2):
        one.room = 4
        assert one.take(EVENT, 1.0)
        assert one.add(b"other", 2.0)
        assert (one.at, one.room) == (2.0, 2)
        assert one.take(EVENT, 3.0)
        assert kept(one) == ([FRAME, b"other", FRAME], [1.0, 2.0, 3.0])


def test_delay_of_the_first_read_that_waits_is_noted(version: ModuleType) -> None:
    """From when it came until it was written; of others it is not measured."""
    one = forward(version, Written())
    assert one.delay_s == 0.0
    assert one.take(EVENT, monotonic() - 100.0)
    assert 100.0 <= one.delay_s < 200.0
    assert one.take(EVENT, monotonic() - 300.0)
    assert one.delay_s < 200.0
    one.drain()
    assert one.add(b"other", 1.0)
    assert one.take(EVENT, monotonic() - 300.0)
    assert one.delay_s < 200.0
    one.drain()
    assert one.take(EVENT, monotonic() - 300.0)
    assert one.delay_s >= 300.0


def test_frames_that_wait_are_drained_together_with_others(version: ModuleType) -> None:
    """These have no times, and may be longer than what is kept; what was drained stays as it is."""
    one = forward(version, Written(), room=1000)
    assert one.take(EVENT, 1.0)
    long = [b"a" * 5000, b"", b"b" * 70_000]
    first = one.drain([b"other"])
    assert first == (FRAME + b"other", [len(FRAME), 5], [1.0])
    assert one.drain(long) == (b"".join(long), [5000, 0, 70_000], [])
    assert one.take(EVENT, 2.0)
    assert one.drain(long) == (FRAME + b"".join(long), [len(FRAME), 5000, 0, 70_000], [2.0])
    assert (one.waiting, one.frames(0), one.drain(), one.drain([])) == (0, [], *[(b"", [], [])] * 2)
    assert first[0] == FRAME + b"other"


@pytest.mark.parametrize("wrong", [["text"], 1, [b"a", None]])
def test_what_is_no_frame_is_refused(version: ModuleType, wrong: Any) -> None:
    """Whatever it is."""
    one = forward(version, Written())
    assert one.take(EVENT, 1.0)
    with pytest.raises(TypeError):
        one.drain(wrong)


def test_no_more_is_kept_than_there_is_room_for(version: ModuleType) -> None:
    """As many as may wait, however much room is said to be, and no long frame."""
    one = forward(version, Written(), room=1000)
    assert not one.add(bytes(LONG_READ + 1), 0.0)
    assert one.add(bytes(LONG_READ), 0.0)
    for _ in range(MOST_FRAMES - 3):
        assert one.add(b"short", 0.0)
    assert not one.take(EVENT * 3, 0.0)
    assert one.take(EVENT * 2, 0.0)
    assert not one.take(EVENT, 0.0)
    assert not one.add(b"", 0.0)
    assert one.waiting == MOST_FRAMES
    assert len(kept(one)[0]) == MOST_FRAMES
    one.room = 1
    assert one.add(b"", 1.0)
    assert not one.add(b"", 1.0)
    assert kept(one) == ([b""], [1.0])


def test_no_more_bytes_are_kept_than_may_be(version: ModuleType) -> None:
    """However many frames they are; those that were kept are whole, and there is room again once they are drained."""
    one = forward(version, Written(), room=1000)
    longest = HEAD + b"word" * 200 + TAIL[:-2]
    count = MOST_BYTES // len(longest)
    for _ in range(count - 1):
        assert one.take(chunk(longest), 1.0)
    assert not one.take(chunk(longest) * 2, 2.0)
    assert one.take(chunk(longest), 2.0)
    left = MOST_BYTES - count * len(longest)
    assert not one.take(chunk(longest), 3.0)
    assert not one.add(bytes(left + 1), 3.0)
    assert one.add(bytes(left), 3.0)
    assert kept(one)[0] == [longest] * count + [bytes(left)]
    assert one.take(chunk(longest), 4.0)
    assert kept(one)[0] == [longest]


def test_c_version_writes_no_frame_behind_its_memory(machine: Any) -> None:
    """Even if the transport has it keep so many frames within a write that there is no room for what is written."""

    class Nested(Written):
        def write(self, data: bytes) -> None:
            while one.add(b"other", 1.0):
                pass

    one = forward(machine, Nested(), room=1000)
    with pytest.raises(RuntimeError):
        one.take(EVENT * 200, 2.0)
    assert kept(one) == ([b"other"] * MOST_FRAMES, [1.0] * MOST_FRAMES)


@pytest.mark.parametrize(
    "transport",
    [Written(waiting=1), Written(fault=RuntimeError("lost")), Written(waiting=-1)],
    ids=["full", "lost", "wrong"],
)
def test_read_that_can_not_be_sent_is_not_taken(version: ModuleType, transport: Written) -> None:
    """So that its frame goes through the log, and its sink sees what became of the connection."""
    one = forward(version, transport)
    assert not one.take(EVENT, 1.0)
    assert (transport.writes, one.waiting, one.at, one.room) == ([], 0, 0.0, 63)


def test_read_is_sent_to_all_or_to_none(version: ModuleType) -> None:
    """To none if bytes wait in one, or the first raises. Another that raises is aborted, since it lacks the read."""
    idle, others = Written(), [Written(), Written(waiting=1)]
    for send in (lambda one: one.take(EVENT, 1.0), lambda one: one.send(EVENT)):
        for transports in ((idle, *others), (others[1], idle), (Written(fault=RuntimeError("lost")), idle)):
            assert not send(forward(version, transports))
        assert not idle.writes
        lost, last = Written(fault=MemoryError()), Written()
        assert send(forward(version, (idle, lost, last)))
        assert (idle.writes, lost.aborted, last.writes, last.aborted) == ([EVENT], 1, [EVENT], 0)
        idle.writes.clear()


def test_transport_that_can_not_even_be_aborted_stops_nobody(version: ModuleType) -> None:
    """Its error is no other client's."""

    class Broken(Written):
        def abort(self) -> None:
            raise RuntimeError

    first, last = Written(), Written()
    assert forward(version, (first, Broken(fault=RuntimeError("lost")), last)).send(EVENT)
    assert first.writes == last.writes == [EVENT]


def test_interrupt_is_not_swallowed(version: ModuleType) -> None:
    """A KeyboardInterrupt in a write ends the process, as anywhere."""

    class Interrupted(Written):
        def write(self, data: bytes) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        forward(version, Interrupted()).take(EVENT, 1.0)
    with pytest.raises(KeyboardInterrupt):
        version.write_all([Interrupted()], b"x")


def test_no_more_are_taken_than_there_is_room_for(version: ModuleType) -> None:
    """So that what is not in the log yet has a limit."""
    one = forward(version, Written(), room=2)
    assert not one.take(EVENT * 3, 1.0)
    assert [one.take(EVENT, 1.0) for _ in range(4)] == [True, True, False, False]


_PIECES = st.sampled_from(
    [
        HEAD,
        TAIL,
        TAIL[:-2],
        b"word",
        b'"',
        b"\n",
        b"\r",
        b"\r\n",
        b"\\",
        b"",
        b"0",
        b"f",
        b"1a",
        b"x" * 1000,
        b";x",
        b"\0",
    ]
)
_READS = st.one_of(
    st.lists(_PIECES, max_size=8).map(b"".join),
    st.lists(_PIECES, max_size=8).map(lambda pieces: chunk(b"".join(pieces) or b"x")),
    st.lists(_PIECES, max_size=4).map(lambda pieces: chunk(HEAD + b"".join(pieces) + TAIL[:-2])),
    st.tuples(st.integers(0, 80), st.binary(max_size=3)).map(lambda cut: EVENT[: cut[0]] + cut[1] + EVENT[cut[0] :]),
    st.integers(LONG_READ - 40, LONG_READ + 10).map(
        lambda size: chunk(HEAD + b"x" * (size - len(HEAD + TAIL)) + TAIL[:-2])
    ),
    st.binary(max_size=60),
)
_SEVERAL = st.lists(st.one_of(st.just(EVENT), st.just(EVENT * 2), _READS), max_size=5).map(b"".join)


@given(st.lists(st.one_of(_READS, _SEVERAL), max_size=6), st.binary(max_size=3), st.binary(max_size=3))
@example([EVENT.upper()], HEAD, TAIL)
@example([b"0" + EVENT], HEAD, TAIL)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=300)
def test_both_versions_take_the_same_reads(machine: Any, reads: list[bytes], head: bytes, tail: bytes) -> None:
    """What C takes, Python does, and what it leaves; whatever is read, and whatever surrounds the text."""
    for surroundings in ((HEAD, TAIL), (head, tail + b"\n\n\r\n"), (head, tail + b"\r\n"), (b"", b"\r\n")):
        both = []
        for version in (plain, machine):
            transport = Written()
            one = version.Forward((transport,))
            one.surround(*surroundings)
            one.room = 4
            taken = [one.take(read, float(at)) for at, read in enumerate(reads)]
            both.append((taken, transport.writes, one.frames(0), one.drain(reads[:2]), one.drain(), one.at, one.room))
        assert both[0] == both[1]


def test_same_bytes_are_written_to_all_in_which_nothing_waits(version: ModuleType) -> None:
    """And the others are named, in their order, whatever they have."""
    idle, full, lost = Written(), Written(waiting=1), Written(fault=RuntimeError("lost"))
    assert version.write_all([full, idle, lost, idle], b"span") == [full, lost]
    assert (idle.writes, full.writes, lost.writes) == ([b"span"] * 2, [], [])
    assert version.write_all([], b"span") == []


_HEADERS = st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=40)), max_size=8)


@given(st.binary(max_size=40), _HEADERS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_both_versions_write_the_same_head(machine: Any, start_line: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    """Of a list, or of anything that headers can be read from."""
    due = plain.head(start_line, headers)
    assert machine.head(start_line, headers) == due
    assert machine.head(start_line, iter(headers)) == machine.head(start_line, tuple(headers)) == due


def test_wrong_arguments_are_refused_by_the_c_version(machine: Any) -> None:
    """It must not read memory that is no bytes."""
    one = forward(machine, Written())
    for call in (
        lambda: one.take("text", 1.0),
        lambda: one.take(EVENT),
        lambda: one.take(EVENT, 1),
        lambda: one.surround("head", b""),
        lambda: machine.write_all([], "text"),
        lambda: machine.write_all(b"span"),
        lambda: machine.write_all(None, b"span"),
        lambda: machine.head("GET / HTTP/1.1", []),
        lambda: machine.head(b"", [(b"a", "b")]),
        lambda: machine.head(b"", [[b"a", b"b"]]),
        lambda: machine.head(b"", [(b"a", b"b", b"c")]),
        lambda: machine.head(b"", 1),
        lambda: machine.DirectWriter(),
        lambda: machine.Forward(),
        lambda: machine.Forward([Written()]),
        lambda: machine.Forward((Written(),)).send("text"),
        lambda: one.add("text", 1.0),
        lambda: one.add(b"text", 1),
        lambda: one.frames("0"),
        lambda: machine.events("text"),
        lambda: machine.data_frames("text"),
    ):
        with pytest.raises(TypeError):
            call()
    with pytest.raises(AttributeError):
        one.waiting = 1
