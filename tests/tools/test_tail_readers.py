"""What `streamtee tail` prints of what comes: every text and every byte once, however it was cut."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.tools.tail_readers import FAILED, LOST, Bytes, Events, TailError, text_of
from proxy.wire.sse import fields
from tests.cuts import cuts
from tests.event_streams import DONE, chunk_frame, stamped

EPOCH = "gen234"
HEADERS = {"Stream-Id": f"st_{EPOCH}abcdefghijklmnopqrst"}
WORDS = ["one ", "two ", "三", "👩‍🚀 ", "five"]
TEXT = "".join(WORDS).encode()
FRAMES = [stamped(chunk_frame(word), EPOCH, seq) for seq, word in enumerate(WORDS, 1)]
FRAMES.append(stamped(DONE, EPOCH, 6))


class Printed:
    """What was printed."""

    def __init__(self) -> None:
        self.data = b""

    def __call__(self, data: bytes) -> None:
        self.data += data


def events(printed: Printed, *, whole: bool = False) -> Events:
    """Return a reader that prints texts, or the blocks as they are, and has begun to read."""
    reader = Events(printed, lambda frame, event: frame if whole else text_of(event))
    reader.begin(HEADERS)
    return reader


def test_print_does_not_depend_on_the_reads() -> None:
    """Neither texts nor blocks."""
    for reads, _ in cuts(b"".join(FRAMES), trailer=b""):
        text, blocks = Printed(), Printed()
        readers = events(text), events(blocks, whole=True)
        for read in reads:
            for reader in readers:
                reader.feed(read)
        assert text.data == TEXT
        assert blocks.data == b"".join(FRAMES)
        assert readers[0].finished


LONG = sum(map(len, FRAMES))
connections = st.lists(st.lists(st.integers(0, LONG), max_size=3), max_size=6)


@given(st.sets(st.integers(0, 4)), connections)
def test_reader_that_is_cut_goes_on_without_gap_or_repeat(unnumbered: set[int], connections: list[list[int]]) -> None:
    """Whatever of each response came, wherever it was cut; blocks without an id lead the next that has one."""
    frames = [
        frame.partition(b"id: ")[0] + b"\n" if place in unnumbered else frame for place, frame in enumerate(FRAMES)
    ]
    printed = Printed()
    reader = events(printed)
    for sizes in [*connections, [LONG]]:
        _, headers = reader.place()
        had = int(headers.get("Last-Event-ID", "-0").rpartition("-")[2])
        body = b"".join(frames[had:])
        reader.begin(HEADERS)
        for size in sizes:
            reader.feed(body[:size])
            body = body[size:]
    assert reader.finished
    assert printed.data == TEXT


def test_cursor_of_an_answer_is_where_the_next_one_begins() -> None:
    """So that one that began at the end, and was cut before its first event, misses nothing."""
    reader = events(Printed())
    assert reader.place() == ({}, {})
    reader.begin({**HEADERS, "Stream-Resumed-From": "gen234-4"})
    assert reader.place() == ({}, {"Last-Event-ID": "gen234-4"})
    reader.feed(FRAMES[4])
    reader.begin({**HEADERS, "Stream-Resumed-From": "gen234-2"})
    assert reader.place() == ({}, {"Last-Event-ID": "gen234-5"})


@pytest.mark.parametrize("told", [True, False])
def test_another_stream_is_not_taken_for_this_one(told: bool) -> None:
    """Told by the answer's head, or by the first id in it, when the head had left before the stream began."""
    printed = Printed()
    reader = events(printed)
    reader.feed(FRAMES[0])
    with pytest.raises(TailError, match="another stream") as error:
        reader.begin({"Stream-Id": "st_other7abc"} if told else {}) or reader.feed(stamped(chunk_frame(), "other7"))
    assert error.value.status == LOST
    assert printed.data == b"one "


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (b'data: {"error":{"message":"it broke","type":"stream_error","code":"upstream_reset"}}\n\n', "upstream_reset"),
        (b'event:error\nstatus:502\ndata:{"code":"upstream_reset","message":"it broke"}\nid:g-1\n\n', "upstream_reset"),
    ],
)
def test_error_event_is_the_end_after_what_came_before(block: bytes, message: str) -> None:
    """It is not printed as text, but as it is where blocks are."""
    for whole in (False, True):
        printed = Printed()
        reader = events(printed, whole=whole)
        with pytest.raises(TailError, match=f"{message}: it broke") as error:
            reader.feed(chunk_frame("a") + block)
        assert error.value.status == FAILED
        assert printed.data == (chunk_frame("a") + block if whole else b"a")


def test_what_has_no_id_is_printed_when_all_is_there() -> None:
    """At the proper end of an ended stream, not when it is cut."""
    printed = Printed()
    reader = events(printed)
    reader.feed(chunk_frame("a"))
    assert not reader.has_all("complete", properly=False, heard=True)
    assert printed.data == b""
    assert reader.has_all("complete", properly=True, heard=True)
    assert printed.data == b"a"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"choices": [{"index": 0, "delta": {"content": "a茶"}}]}, "a茶"),
        ({"choices": [{"index": 1, "delta": {"content": "b"}}, {"index": 0, "delta": {"content": "a"}}]}, "a"),
        ({"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}}]}, ""),
        ({"choices": [{"index": 0, "delta": {"reasoning_content": "hm"}}]}, ""),
        ({"choices": [], "usage": {"total_tokens": 3}}, ""),
        ({"choices": None}, ""),
        ({"output": {"text": "a", "finish_reason": "null"}}, "a"),
        ({"output": {"choices": [{"message": {"content": "a"}}]}}, "a"),
        ({"output": {"choices": [{"message": {"content": [{"text": "a"}, {"text": "b"}]}}]}}, "ab"),
        ({"output": {"choices": [{"message": {"content": []}}]}}, ""),
        ({"price": 3}, '{"price": 3}\n'),
        ("[DONE]", ""),
        ("plain", "plain\n"),
    ],
)
def test_text_is_that_of_the_first_choice(data: Any, text: str) -> None:
    """In both dialects; what is neither is a line."""
    encoded = data if isinstance(data, str) else json.dumps(data)
    assert text_of(fields(f"data: {encoded}\n\n".encode())).decode() == text
    assert text_of(fields(b": nothing\n\n")) == b""


def test_bytes_are_counted_from_where_the_first_answer_began() -> None:
    """The offset of the next request."""
    printed = Printed()
    reader = Bytes(printed)
    assert reader.place() == ({}, {})
    reader.begin({"Stream-Offset": "100"})
    reader.feed(b"abc")
    reader.begin({"Stream-Offset": "103"})
    assert reader.place() == ({"offset": "103"}, {})
    reader.feed(b"de")
    assert reader.place() == ({"offset": "105"}, {})
    assert printed.data == b"abcde"


@pytest.mark.parametrize(
    ("state", "properly", "heard", "all_there"),
    [
        ("complete", True, True, True),
        ("complete", False, False, False),
        ("failed", False, True, False),
        ("failed", False, False, True),
    ],
)
def test_bytes_of_a_failed_stream_are_all_there_when_it_breaks_at_once(
    state: str, properly: bool, heard: bool, all_there: bool
) -> None:
    """It always breaks off; a complete one that does has been cut."""
    assert Bytes(Printed()).has_all(state, properly=properly, heard=heard) is all_there
