"""The log against a plain list of all frames that ever were."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.stream.endings import CANCELLED, COMPLETE, PRODUCER_LOST
from proxy.stream.log import FRAME_BYTES, FrameLog

frames_of = st.lists(st.binary(min_size=1, max_size=9), max_size=6)


def log_of(*frames: bytes) -> FrameLog:
    log = FrameLog()
    log.extend(list(frames))
    return log


def test_empty_log_begins_and_ends_at_nothing() -> None:
    """Offset 0 is before the first frame."""
    log = FrameLog()
    assert (log.start, log.end, log.size_bytes, log.end_bytes, log.ending, log.tail) == (0, 0, 0, 0, None, b"")
    assert log.span(0, 0) == []
    assert log.locate(0) == (0, 0)


def test_extend_appends_and_tells_the_bytes() -> None:
    """One frame, several, none."""
    log = FrameLog()
    assert log.extend([b"aa"]) == 2
    assert log.extend([b"b", b"cccc"]) == 5
    assert log.extend([]) == 0
    assert (log.end, log.size_bytes, log.end_bytes) == (3, 7, 7)
    assert log.span(0, 3) == [b"aa", b"b", b"cccc"]
    assert log.span(1, 2) == [b"b"]
    assert log.span(2, 2) == []


def test_frames_in_one_piece_are_the_same_as_one_by_one() -> None:
    """With the numbers that are next, also after some were dropped; and none is nothing."""
    log = log_of(b"aa", b"b", b"cc")
    assert log.trim(2, 3) == 3
    assert log.append(b"ddde", [3, 1]) == 4
    assert log.append(b"", []) == 0
    assert (log.start, log.end, log.size_bytes, log.end_bytes) == (2, 5, 6, 9)
    assert log.frames == [b"cc", b"ddd", b"e"]
    assert log.locate(8) == (4, 0)


@given(
    st.lists(
        st.one_of(st.lists(st.integers(0, 3000), max_size=6), st.tuples(st.integers(0, 20_000), st.integers(0, 40)))
    ),
    st.data(),
)
def test_pieces_are_not_seen(steps: list[list[int] | tuple[int, int]], data: st.DataObject) -> None:
    """Frames that came in pieces, which are kept as they are if they are large, are those that came one by one."""
    pieces, single, number = FrameLog(), FrameLog(), 0
    for step in steps:
        if isinstance(step, list):
            frames = [bytes([number + at & 255]) * size for at, size in enumerate(step)]
            number += len(frames)
            assert pieces.append(b"".join(frames), step) == sum(step)
            for frame in frames:
                single.extend([frame])
        else:
            assert pieces.trim(*step) == single.trim(*step)
        assert (pieces.start, pieces.end, pieces.size_bytes) == (single.start, single.end, single.size_bytes)
        begin = data.draw(st.integers(pieces.start, pieces.end))
        end = data.draw(st.integers(begin, pieces.end))
        assert pieces.content(begin, end) == single.content(begin, end)
        assert pieces.span(begin, end) == single.span(begin, end)
        numbers = FRAME_BYTES * (pieces.end - pieces.start)
        assert numbers <= pieces.overhead_bytes() <= numbers + pieces.size_bytes + 100 * len(steps)
    assert pieces.frames == single.frames


def test_ending_has_a_number_that_no_frame_has() -> None:
    """The next one; if the ending was imposed, and frames may be missing, one that JavaScript has exactly."""
    for ending, seq in ((CANCELLED, 3), (CANCELLED._replace(imposed=True), 2**53 - 1), (PRODUCER_LOST, 2**53 - 1)):
        log = log_of(b"a", b"b")
        log.seal(ending)
        assert (log.ending_seq, log.seq_of(ending, 2)) == (seq, seq)
        assert log.seq_of(COMPLETE, 2) == 2  # a follower that is ended alone may go on


def test_log_keeps_its_own_list() -> None:
    """What the writer does with its list afterwards changes no frame."""
    given_frames = [b"a", b"b"]
    log = FrameLog()
    log.extend(given_frames)
    given_frames.clear()
    assert log.span(0, 2) == [b"a", b"b"]


def test_sealed_log_takes_nothing_more() -> None:
    """Neither frames nor another ending (law 4)."""
    log = log_of(b"a")
    log.seal(COMPLETE, b"rest")
    with pytest.raises(RuntimeError):
        log.extend([b"b"])
    with pytest.raises(RuntimeError):
        log.extend([])
    with pytest.raises(RuntimeError):
        log.append(b"b", [1])
    with pytest.raises(RuntimeError):
        log.seal(CANCELLED, b"other")
    assert (log.span(0, log.end), log.ending, log.tail, log.end_bytes) == ([b"a"], COMPLETE, b"rest", 1)


def test_trim_drops_from_the_start_until_few_enough_bytes_are_left() -> None:
    """Frame numbers stay; only the window's start moves."""
    log = log_of(b"aaa", b"bb", b"cccc", b"d")
    assert log.trim(5, below=4) == 5
    assert (log.start, log.end, log.size_bytes, log.trimmed_bytes, log.end_bytes) == (2, 4, 5, 5, 10)
    assert log.span(2, 4) == [b"cccc", b"d"]
    assert log.trim(5, below=4) == 0
    assert log.trim(0, below=4) == 5
    assert (log.start, log.end, log.size_bytes) == (4, 4, 0)


def test_trim_spares_what_somebody_has_yet_to_read() -> None:
    """No frame at or above `below` is dropped, however large the log is."""
    log = log_of(b"aaa", b"bb", b"cccc", b"d")
    assert log.trim(0, below=1) == 3
    assert log.trim(0, below=1) == 0
    assert log.span(1, 4) == [b"bb", b"cccc", b"d"]


def test_trim_below_the_start_drops_nothing() -> None:
    """Somebody who waits for frames long gone is no reason to drop those that are there."""
    log = log_of(b"aaa", b"bb", b"cccc", b"d")
    log.trim(5, below=4)
    assert log.trim(0, below=1) == 0
    assert log.span(2, 4) == [b"cccc", b"d"]


@given(st.lists(st.one_of(frames_of, st.tuples(st.integers(0, 30), st.integers(0, 40)))))
def test_log_is_a_window_on_all_frames_there_were(steps: list[list[bytes] | tuple[int, int]]) -> None:
    """After any appends and trims, every span, size and byte offset is that of a list that forgets nothing."""
    log, ever = FrameLog(), []
    for step in steps:
        if isinstance(step, list):
            assert log.extend(step) == sum(map(len, step))
            ever += step
        else:
            to_bytes, below = step[0], max(log.start, min(step[1], log.end))
            held_before, start_before = log.size_bytes, log.start
            assert log.trim(to_bytes, below) == held_before - log.size_bytes
            assert start_before <= log.start <= max(below, start_before)
            assert log.size_bytes <= to_bytes or log.start == below or start_before == log.start
            if log.start > start_before:  # no more than was needed
                assert log.size_bytes + len(ever[log.start - 1]) > to_bytes
        assert log.end == len(ever)
        assert log.span(log.start, log.end) == ever[log.start :]
        assert log.size_bytes == sum(map(len, ever[log.start :]))
        assert log.trimmed_bytes == sum(map(len, ever[: log.start]))
        assert log.end_bytes == sum(map(len, ever))
        for offset in range(log.start, log.end + 1):
            assert log.position(offset) == sum(map(len, ever[:offset]))
    for place in range(log.trimmed_bytes, log.end_bytes + 1):
        offset, within = log.locate(place)
        assert b"".join(ever[offset:])[within:] == b"".join(ever)[place:]
        assert within == 0 or within < len(ever[offset])


@given(st.lists(st.binary(max_size=9), max_size=20), st.integers(0, 40), st.integers(0, 20), st.data())
def test_span_reaches_as_far_as_its_room(frames: list[bytes], to_bytes: int, below: int, data: st.DataObject) -> None:
    """One frame at least, and as many more as fit in; with or without dropped frames."""
    log = log_of(*frames)
    log.trim(to_bytes, below)
    start = data.draw(st.integers(log.start, log.end))
    end, room_bytes = data.draw(st.integers(start, log.end)), data.draw(st.integers(0, 60))
    if start == end:
        return
    reached = log.reach(start, end, room_bytes)
    assert start < reached <= end
    assert reached == start + 1 or len(log.content(start, reached)) <= room_bytes
    assert reached == end or len(log.content(start, reached + 1)) > room_bytes
    assert log.content(start, end) == b"".join(log.span(start, end)) == b"".join(frames[start:end])
    assert log.frame(start) == frames[start]


def test_frame_that_was_read_stays_as_it_is() -> None:
    """Whatever is appended or dropped afterwards (law 3)."""
    log = log_of(b"aa", b"bb")
    read = log.frames, log.content(0, 2)
    log.extend([b"cc"] * 1000)
    log.trim(0, below=900)
    assert read == ([b"aa", b"bb"], b"aabb")


def test_log_takes_little_more_memory_than_its_bytes() -> None:
    """A number a frame, and what it may grow by without being copied."""
    log = FrameLog()
    for _ in range(10_000):
        log.extend([b"x" * 100])
    assert 10_000 * FRAME_BYTES <= log.overhead_bytes() < 10_000 * FRAME_BYTES + log.size_bytes / 7
