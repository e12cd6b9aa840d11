"""What a log is made of in a store, written and read."""

import pytest

from proxy.store.entries import (
    ENTRY_BYTES,
    ENTRY_FRAMES,
    SEAL,
    START,
    Answer,
    Entry,
    EntryId,
    Frames,
    GapError,
    Record,
    Seal,
    UnreadableError,
    ending_of,
    fitting,
    read_answer,
    read_frames,
    read_id,
    read_record,
    read_seal,
)
from proxy.stream.endings import CANCELLED, COMPLETE, PRODUCER_LOST, UPSTREAM_RESET
from proxy.stream.info import StreamInfo
from proxy.wire.http import Head

FRAMES = [b"data: 1\n\n", b"data: two\n\n", b": no data\n\n", b"data: \xff\n\n"]


def test_frames_come_back_as_they_were() -> None:
    """Each, however they were cut into entries."""
    entry = fitting(FRAMES, START)
    assert read_frames(entry.entry()) == entry
    assert entry.id == (4, sum(map(len, FRAMES)))
    assert (entry.first_offset, entry.start_bytes) == (0, 0)


def test_entries_are_of_limited_size() -> None:
    """Or have a single frame."""
    large = [b"x" * ENTRY_BYTES, b"y" * 10, b"z" * ENTRY_BYTES * 2, b"w"]
    at, parts = EntryId(5, 50), []
    while at.seq < 9:
        parts.append(fitting(large[at.seq - 5 :], at))
        at = parts[-1].id
    assert [part.frames for part in parts] == [[frame] for frame in large]
    assert [part.first_offset for part in parts] == [5, 6, 7, 8]
    assert at == (9, 50 + sum(map(len, large)))


def test_entry_has_as_many_frames_as_fit() -> None:
    """By their size, and by their number."""
    tenth = b"x" * (ENTRY_BYTES // 10)
    assert len(fitting([tenth] * 15, START).frames) == 10
    assert fitting([tenth] * 15, START).id == (10, 10 * len(tenth))
    assert len(fitting([b"x"] * 2000, START).frames) == ENTRY_FRAMES
    assert fitting([b"x"] * 2000, START).id == (ENTRY_FRAMES, ENTRY_FRAMES)


@pytest.mark.parametrize("known", range(5))
def test_frames_that_are_known_already_are_left_out(known: int) -> None:
    """After a failover an owner writes some again, cut otherwise."""
    entry = fitting(FRAMES, START)
    at = EntryId(known, sum(map(len, FRAMES[:known])))
    assert entry.after(at) == FRAMES[known:]


@pytest.mark.parametrize("at", [EntryId(1, 9), EntryId(3, 50), EntryId(4, 1)])
def test_frames_that_do_not_follow_are_a_gap(at: EntryId) -> None:
    """Missing ones, and those that end elsewhere than the log."""
    with pytest.raises(GapError):
        Frames(EntryId(4, 60), [b"x" * 20, b"y" * 20]).after(at)


def test_record_comes_back_as_it_was() -> None:
    """With the digest of its caller."""
    info = StreamInfo("st_a", "chat", b"\x00\xff", 7, 300.0, 1000, ("k", "l"), "ab", True, "127.0.0.1")
    record = Record(info, "openai", "qwen-max", "node")
    assert read_record(bytes(record)) == record


def test_answer_comes_back_as_it_was() -> None:
    """Also that of a response that is no event stream."""
    head = Head(429, b"Too Many", [(b"X-A", b"\xe9")])
    for answer in (Answer("default", "q-1", None), Answer("spare", None, head)):
        assert read_answer(answer.entry()) == answer


def test_seal_comes_back_as_it_was() -> None:
    """With the words of the error and the incomplete frame."""
    for seal in (
        Seal(COMPLETE, EntryId(3, 30), b"", b"{}"),
        Seal(UPSTREAM_RESET.saying("why")._replace(clean=True, unrecognised=True), EntryId(1, 5), b"data: ha"),
        Seal(PRODUCER_LOST.saying("gone"), None),
    ):
        assert read_seal(seal.entry()) == seal


def test_ending_is_imposed_if_its_seal_does_not_say_where_the_log_ends() -> None:
    """Whatever it is: then its number is none that a frame can have."""
    for ending in (CANCELLED, PRODUCER_LOST):
        assert read_seal(Seal(ending).entry()).ending.imposed
        assert not read_seal(Seal(ending, EntryId(3, 30)).entry()).ending.imposed
    assert ending_of(Entry(SEAL, {b"e": b"no JSON"})).imposed


def test_ending_of_a_later_version_is_an_error() -> None:
    """Never complete."""
    entry = Entry(SEAL, {b"e": b'["invented", "", null, false, false]'})
    assert read_seal(entry).ending.reason == "producer_lost"


def test_what_is_not_ours_is_unreadable() -> None:
    """Whatever it is."""
    entry = Entry(EntryId(1, 1), {b"n": b"5", b"d": b"xy"})
    for read in (
        lambda: read_id(b"x-1"),
        lambda: read_record(b"[]"),
        lambda: read_record(b'{"info": {"caller": "zz"}}'),
        lambda: read_answer(entry),
        lambda: read_seal(entry),
        lambda: read_frames(entry),
        lambda: read_frames(Entry(EntryId(1, 1), {})),
    ):
        with pytest.raises(UnreadableError):
            read()
