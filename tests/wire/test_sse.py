"""Cutting a body into frames, reading a frame's fields, writing an id into it."""

import re
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.wire.errors import TooLarge
from proxy.wire.sse import Event, Splitter, fields, payload, respell, spaced, stamp
from tests.cuts import TRAILER, cuts, messages

LIMIT = 1 << 20
IDENT = b"gen234-7"

# Bodies as the frames they consist of.
BODIES = {
    "LF": [b"data: a\n\n", b"data: b\n\n"],
    "CRLF": [b"data: a\r\n\r\n", b"data: b\r\n\r\n"],
    "CR": [b"data: a\r\r", b"data: b\r\r"],
    "a line ended by LF, the blank one by CRLF": [b"data: a\n\r\n", b"data: b\n\n"],
    "a line ended by CRLF, the blank one by LF": [b"data: a\r\n\n", b"data: b\r\n\n"],
    "a line ended by LF, the blank one by CR": [b"data: a\n\r", b"data: b\n\n"],
    "a line ended by CRLF, the blank one by CR": [b"data: a\r\n\r", b"data: b\n\n"],
    "CR CR LF: the LF leads the next frame": [b"data: a\r\r", b"\ndata: b\n\n"],
    "all line endings in turn": [b"data: a\n\n", b"data: b\r\r", b"data: c\r\n\r\n", b"data: d\n\n"],
    "several lines": [b"id: 1\nevent: result\n:HTTP_STATUS/200\ndata: {}\n\n", b"data: x\ndata: y\n\n"],
    "comments": [b": ping\n\n", b":\n\n", b"data: a\n\n"],
    "three blank lines": [b"data: a\n\n", b"\n\n", b"data: b\n\n"],
    "two blank lines": [b"data: a\n\n", b"\ndata: b\n\n"],
    "a blank line first": [b"\ndata: a\n\n"],
    "blank lines of CR": [b"data: a\r\r", b"\r\r", b"data: b\r\r"],
    "blank lines of CRLF": [b"data: a\r\n\r\n", b"\r\ndata: b\r\n\r\n"],
    "a byte order mark": [b"\xef\xbb\xbfdata: a\n\n", b"data: b\n\n"],
    "Chinese, and an emoji of four bytes": ["data: 你好，世界\n\n".encode(), "data: 🎏\r\n\r\n".encode()],
    "line separators that end no line here": ["data: a\u2028b\u0085c\x0b\x0c\n\n".encode()],
    "bytes that are not UTF-8": [b"\xff\xfe\x00\n\n", b"data: \xc3\x28\n\n"],
    "no blank line": [],
}

PIECES = (
    b"\n", b"\r", b"\r\n", b"\n\n", b"data: x", b"data:y", b"data", b": c", b":", b"id: 3", b"id: \0", b"event: error",
    b"retry: 1", b" ", "你".encode(), b"\xe4\xbd", b"\xff", b"[DONE]",
)  # fmt: skip
bodies = st.lists(st.sampled_from(PIECES), max_size=24).map(b"".join)


def split(reads: list[bytes], limit: int = LIMIT) -> tuple[list[bytes], bytes]:
    splitter = Splitter(limit)
    frames = [frame for read in reads for frame in splitter.feed(read)]
    return frames, splitter.tail


@pytest.mark.parametrize("expected", BODIES.values(), ids=BODIES)
def test_body_in_any_reads_gives_its_frames(expected: list[bytes]) -> None:
    """However a body is cut into reads, the same frames come out and nothing is left."""
    for reads, trailer in cuts(b"".join(expected)):
        frames, tail = split([*reads, TRAILER.removeprefix(trailer)])
        assert frames == expected, reads
        assert tail == TRAILER, reads


@pytest.mark.parametrize(
    "tail", [b"data: a", b"data: a\n", b"data: a\r", b"data: a\r\n", b"\n", "data: 你".encode()[:-1], b"\xef\xbb"]
)
def test_unterminated_end_is_the_tail(tail: bytes) -> None:
    """What follows the last blank line is not a frame, and not lost."""
    for reads, _ in cuts(b"data: 0\n\n" + tail, trailer=b""):
        assert split(reads) == ([b"data: 0\n\n"], tail), reads


def test_frame_is_given_with_the_read_that_completes_it() -> None:
    """Nothing is held back that is complete, not even to see whether an LF follows two CRs."""
    splitter = Splitter(LIMIT)
    assert splitter.feed(b"data: a\r") == []
    assert splitter.feed(b"\r") == [b"data: a\r\r"]
    assert splitter.feed(b"data: b\r\n\r") == []
    assert splitter.feed(b"\n") == [b"data: b\r\n\r\n"]
    assert splitter.feed(b"data: c\n") == []
    assert splitter.feed(b"\ndata: d\n\ndata") == [b"data: c\n\n", b"data: d\n\n"]
    assert splitter.tail == b"data"


def test_cr_after_lf_waits_for_the_next_byte() -> None:
    """LF CR may be LF CRLF: only the next byte tells, and the frame has the LF in it or not."""
    assert split([b"data: a\n\r"]) == ([], b"data: a\n\r")
    assert split([b"data: a\n\r", b"\n"]) == ([b"data: a\n\r\n"], b"")
    assert split([b"data: a\n\r", b"d"]) == ([b"data: a\n\r"], b"d")
    assert split([b"data: a\n\r", b"\r"]) == ([b"data: a\n\r"], b"\r")


def test_empty_read_changes_nothing() -> None:
    """A read of no bytes gives no frame, neither first nor within one."""
    assert split([b"", b"data: a", b"", b"\n", b"", b"\n", b""]) == ([b"data: a\n\n"], b"")


def test_frames_are_bytes() -> None:
    """A frame that was held is immutable bytes as any other."""
    for reads, _ in cuts(b"data: a\r\n\r\ndata: b\n\n"):
        assert {type(frame) for frame in split(reads)[0]} == {bytes}


@given(bodies)
def test_frames_say_what_a_browser_reads(body: bytes) -> None:
    """Each frame is at most one message, and together they are the messages of the whole body."""
    frames, tail = split([body])
    said = [messages(frame) for frame in frames]
    assert all(len(one) <= 1 for one in said)
    assert not any(messages(frame[:-2]) for frame in frames), "a frame goes on after its blank line"
    rest = messages(tail)  # of a body that ends in LF CR a browser takes the CR for the blank line
    assert not rest or tail.endswith(b"\n\r")
    assert [message for one in [*said, rest] for message in one] == messages(body)


def test_frame_within_the_limit_passes_however_cut() -> None:
    """The limit is of one frame: exactly as many bytes pass, and frames without number."""
    body = (b"data: " + b"x" * 92 + b"\n\n") * 5
    for reads, _ in cuts(body, trailer=b""):
        splitter = Splitter(100)
        assert b"".join(frame for read in reads for frame in splitter.feed(read)) == body


def test_unfinished_frame_over_the_limit_raises_and_stays_in_the_tail() -> None:
    """The error gives the allowed and the observed number; what was received is not lost."""
    splitter = Splitter(100)
    assert splitter.feed(b"data: " + b"x" * 94) == []
    with pytest.raises(TooLarge, match=re.escape("100 bytes (101 ")):
        splitter.feed(b"x")
    assert splitter.tail == b"data: " + b"x" * 95


def test_complete_frame_over_the_limit_raises_however_cut() -> None:
    """Whether a frame is too large does not depend on the reads it came in (law 2)."""
    for reads, _ in cuts(b"data: " + b"x" * 93 + b"\n\n"):
        with pytest.raises(TooLarge):
            split(reads, limit=100)


def test_frames_before_the_one_over_the_limit_are_not_lost() -> None:
    """Frames and tail are what was received (law 1), also when the same read holds too large a frame."""
    for reads, _ in cuts(b"data: a\n\ndata: b\n\ndata: " + b"x" * 95, trailer=b""):
        splitter, frames, received = Splitter(100), b"", b""
        for read in reads:
            received += read
            try:
                frames += b"".join(splitter.feed(read))
            except TooLarge:
                break
        assert frames + splitter.tail == received, reads


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (b"data: a\n\n", Event(b"a", b"", None)),
        (b"data:a\n\n", Event(b"a", b"", None)),
        (b"data:  a\n\n", Event(b" a", b"", None)),
        (b"data\n\n", Event(b"", b"", None)),
        (b"data\ndata\n\n", Event(b"\n", b"", None)),
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", Event(b"YHOO\n+2\n10", b"", None)),
        (b"data: a\r\ndata: b\r\n\r\n", Event(b"a\nb", b"", None)),
        (b"data: a\rdata: b\r\r", Event(b"a\nb", b"", None)),
        (b"id:1\nevent:result\n:HTTP_STATUS/200\ndata:{}\n\n", Event(b"{}", b"result", b"1")),
        (b"event: a\nevent: b\ndata: x\n\n", Event(b"x", b"b", None)),
        (b"id: 1\nid: 2\ndata: x\n\n", Event(b"x", b"", b"2")),
        (b"id\ndata: x\n\n", Event(b"x", b"", b"")),
        (b"id: 1\nid: 2\0\ndata: x\n\n", Event(b"x", b"", b"1")),
        (b"Data: x\ndata : y\n data: z\nretry: 5\n\n", Event(None, b"", None)),
        (b": comment\n\n", Event(None, b"", None)),
        (b":data: x\n\n", Event(None, b"", None)),
        (b"id: 5\n\n", Event(None, b"", b"5")),
        (b"\xef\xbb\xbfdata: x\n\n", Event(b"x", b"", None)),
        (b"\n\n", Event(None, b"", None)),
        (b"data: a: b:c\n\n", Event(b"a: b:c", b"", None)),
        ("data: a\u2028b\u0085c\n\n".encode(), Event("a\u2028b\u0085c".encode(), b"", None)),
        (b"data: unfinished", Event(b"unfinished", b"", None)),
        (b"", Event(None, b"", None)),
    ],
)
def test_fields_follow_the_standard(frame: bytes, expected: Event) -> None:
    """One case a rule of WHATWG 9.2.6; an unterminated frame is read as if it were finished."""
    assert fields(frame) == expected


@given(bodies)
def test_fields_of_any_frame_are_what_a_browser_dispatches(body: bytes) -> None:
    """A frame has data exactly when a browser dispatches a message for it, and then the same one."""
    for frame in split([body])[0]:
        event = fields(frame)
        said = messages(frame)
        assert said == ([] if event.data is None else [(event.type, event.data, event.id)])


@given(bodies)
@example(b"data: x\r\n\n")
def test_payload_of_any_frame_is_its_data(body: bytes) -> None:
    """The quick way to the data agrees with the slow one."""
    for frame in split([body])[0]:
        assert payload(frame) == fields(frame).data


@pytest.mark.parametrize(
    ("frame", "stamped"),
    [
        (b"data: x\n\n", b"data: x\nid: gen234-7\n\n"),
        (b"data:x\n\n", b"data:x\nid: gen234-7\n\n"),
        (b"data: x\r\n\r\n", b"data: x\r\nid: gen234-7\r\n\r\n"),
        (b"data: x\r\r", b"data: x\rid: gen234-7\r\r"),
        (b"data: x\ndata: y\n\n", b"data: x\ndata: y\nid: gen234-7\n\n"),
        (b"id:1\nevent:result\n:HTTP_STATUS/200\ndata:x\n\n",
         b"id:1\nevent:result\n:HTTP_STATUS/200\ndata:x\nid: gen234-7\n\n"),
        (b"data: x\nid: 99\n\n", b"data: x\nid: 99\nid: gen234-7\n\n"),
        (b"data\n\n", b"data\nid: gen234-7\n\n"),
        (b"\ndata: x\n\n", b"data: x\nid: gen234-7\n\n"),
        (b"\r\n\r\ndata: x\r\n\r\n", b"data: x\r\nid: gen234-7\r\n\r\n"),
        (b"\nid:1\ndata:x\n\n", b"id:1\ndata:x\nid: gen234-7\n\n"),
        (b": ping\ndata: x\n\n", b": ping\ndata: x\nid: gen234-7\n\n"),
    ],
)  # fmt: skip
def test_stamp_puts_the_id_last_in_the_blocks_own_line_ending(frame: bytes, stamped: bytes) -> None:
    """The id stands right before the blank line, so that it wins over one of the upstream's."""
    assert stamp(frame, IDENT) == stamped


@pytest.mark.parametrize(
    ("frame", "stamped"),
    [
        (b": ping\n\n", b": ping\n"),
        (b":\r\n\r\n", b":\r\n"),
        (b": a\n: b\n\n", b": a\n: b\n"),
        (b":\r\r", b":\r"),
        (b"\n\n", b""),
        (b"\r\n\r\n", b""),
        (b"retry: 3\n\n", b"retry: 3\n"),
        (b"x-padding: 000\n\n", b"x-padding: 000\n"),
        (b"event: x\n\n", b":event: x\n"),
        (b"id: 99\n\n", b":id: 99\n"),
        (b": a\r\nevent\r\nid:5\0\r\n\r\n", b": a\r\n:event\r\n:id:5\0\r\n"),
        (b"eventual: x\nidle\n\n", b"eventual: x\nidle\n"),
    ],
)
def test_stamp_takes_the_blank_line_from_a_block_without_data(frame: bytes, stamped: bytes) -> None:
    """Such a block makes openai-python raise; what leads the next one does not, and must not name it."""
    assert stamp(frame, IDENT) == stamped


@pytest.mark.parametrize(
    ("frame", "stamped"),
    [
        (b"\xef\xbb\xbfdata: x\n\n", b"data: x\nid: gen234-7\n\n"),
        (b"\xef\xbb\xbfid:1\ndata:x\n\n", b"id:1\ndata:x\nid: gen234-7\n\n"),
        (b"\xef\xbb\xbf: ping\r\n\r\n", b": ping\r\n"),
    ],
)
def test_stamp_takes_the_byte_order_mark_away(frame: bytes, stamped: bytes) -> None:
    """To openai-python `data` with one before it is no data, and an id alone makes it raise."""
    assert stamp(frame, IDENT) == stamped


@pytest.mark.parametrize(
    ("tail", "stamped"),
    [
        (b"data: [DONE]", b"data: [DONE]\nid: gen234-7\n\n"),
        (b"data: [DONE]\n", b"data: [DONE]\nid: gen234-7\n\n"),
        (b"data: [DONE]\r\n", b"data: [DONE]\r\nid: gen234-7\r\n\r\n"),
        (b"data: [DONE]\r", b"data: [DONE]\rid: gen234-7\r\r"),
        (b"event: end\ndata: [DONE]", b"event: end\ndata: [DONE]\nid: gen234-7\n\n"),
        (b"event: end\r\ndata: [DONE]", b"event: end\r\ndata: [DONE]\r\nid: gen234-7\r\n\r\n"),
    ],
)
def test_stamp_finishes_a_tail_that_was_taken_as_a_frame(tail: bytes, stamped: bytes) -> None:
    """The last frame of a body may lack its blank line; stamped it has one."""
    assert stamp(tail, IDENT) == stamped


@pytest.mark.parametrize("frame", [b"data: a\n\r\n", b"data: a\r\n\n", b"data: a\n\r", b"event: e\rdata: a\n\n"])
def test_stamp_adds_one_line_and_changes_no_byte(frame: bytes) -> None:
    """Without the line that was added, a frame of mixed line endings is as it was."""
    assert re.sub(rb"id: gen234-7(\r\n|\n|\r)", b"", stamp(frame, IDENT), count=1) == frame


@given(bodies)
def test_stamped_frames_say_the_same_with_our_ids(body: bytes) -> None:
    """Stamping each frame changes nothing a browser reads of the whole but the ids."""
    frames, _ = split([body])
    stamped = b"".join(stamp(frame, b"g-%d" % seq) for seq, frame in enumerate(frames, 1))
    numbers = [b"g-%d" % seq for seq, frame in enumerate(frames, 1) if messages(frame)]
    expected = [m._replace(id=number) for m, number in zip(messages(b"".join(frames)), numbers, strict=True)]
    assert messages(stamped) == expected


@pytest.mark.parametrize(
    ("frame", "respelled"),
    [
        (b"data: a\n\n", b"data: new\n\n"),
        (b"data:a\n\n", b"data:new\n\n"),
        (b"id:1\nevent:result\n:HTTP_STATUS/200\ndata:{}\n\n", b"id:1\nevent:result\n:HTTP_STATUS/200\ndata:new\n\n"),
        (b"id: 1\ndata: {}\nretry: 5\n\n", b"id: 1\ndata: new\nretry: 5\n\n"),
        (b"data: a\r\nid: 1\r\n\r\n", b"data: new\r\nid: 1\r\n\r\n"),
        (b"event: e\rdata: a\r\r", b"event: e\rdata: new\r\r"),
        (b"data: {\ndata: }\n: c\n\n", b"data: new\n: c\n\n"),
        (b"event: e\ndata: {\ndata: }\n\n", b"event: e\ndata: new\n\n"),
        (b"\xef\xbb\xbfdata: a\n\n", b"\xef\xbb\xbfdata: new\n\n"),
        (b"data\n\n", b"data: new\n\n"),
        (b"data: a", b"data: new\n\n"),
        (b"database: x\ndata: a\n\n", b"database: x\ndata: new\n\n"),
    ],
)
def test_respell_changes_the_data_alone(frame: bytes, respelled: bytes) -> None:
    """Lines beside it, their order, the space after the colon and the line endings stay."""
    assert respell(frame, b"new") == respelled


@given(bodies)
def test_respelled_frames_say_the_new_data(body: bytes) -> None:
    """And type and id as before; a frame without data has none afterwards."""
    frames, _ = split([body])
    for frame in frames:
        before, after = fields(frame), fields(respell(frame, b"new"))
        assert after == before._replace(data=None if before.data is None else b"new")


@given(bodies)
def test_payload_is_the_data_of_the_fields(body: bytes) -> None:
    """However quickly it is found."""
    for frame in split([body])[0]:
        assert payload(frame) == fields(frame).data


@pytest.mark.parametrize(
    ("reads", "in_comment"),
    [([], False), ([b": o"], True), ([b":\n", b"data: x"], True), ([b"data: x\n:"], False), ([b":\n\n"], False)],
)
def test_comment_is_known_before_its_frame_is_whole(reads: list[bytes], in_comment: bool) -> None:
    """By the first byte that is held."""
    splitter = Splitter(100)
    for data in reads:
        splitter.feed(data)
    assert splitter.in_comment == in_comment


@pytest.mark.parametrize("frame", [b'{"error":"m"}', b"<html></html>", b"data", b"Internal Server Error"])
def test_what_follows_a_stamped_tail_is_no_part_of_its_line(frame: bytes) -> None:
    """Also where the tail is no event, and gets no id."""
    assert messages(stamp(frame, b"e-1") + b"data: x\n\n")[-1].data.endswith(b"x")


BY_LINES = [
    [b'data: {"a":1}\n', b'data: {"b":2}\n', b"data: [DONE]\n"],
    [b'data:{"a":1}\r\n', b"data:[DONE]\r\n", b"\r\ndata: x\n"],
    [b'{"a":1}\n', b'{"b":2}\n', b'\n{"c":3}\n'],
    [b'\xef\xbb\xbfdata: {"a":1}\n', b'data: {"b":[]}\n', b': ping\ndata: {"c":[]}\n', b"data\n"],
    [b'data: {"a":1}\r', b'data: {"b":2}\r', b"data: [DONE]\n"],
    [b'id:1\nevent:x\n:c\ndata:{"a":1}\n', b'id:2\nevent:x\n:c\ndata:{"b":2}\n'],
    [b":c\n\n", b"id:1\n\n", b'event: x\ndata: {"a":1}  \n', b': c\ndata: {"b":2}\n', b"retry: 1\n\n"],
    [b'event: x\ndata: {"a":1}\n', b'data: {"a":1}\n', b"\ndata: x\n"],
    [b'data: {"a":1}\n', b' \ndata: {"b":2}\n'],
]
IN_BLOCKS = [
    [b'data: {"a":1}\n\n', b'data: {"a":1}\ndata: {"b":2}\n\n'],
    [b'data: {\ndata: "a":{}\ndata: }\n\n', b"data: x\n\n"],
    [b'data: {"a":1}\ndata\n\n'],
    [b'data: {"a":1}\nid: 1\n\n'],
    [b'data: {"a":1}\r\r', b'data: {"b":2}\n\n'],
    [b":c\n\n", b'data: {"a":1}\nevent: x\n\n', b'data: {"a":1}\ndata: {"b":2}\n\n'],
]


@pytest.mark.parametrize("frames", BY_LINES + IN_BLOCKS)
def test_lines_of_json_without_blank_lines_are_frames(frames: list[bytes]) -> None:
    """However they are cut into reads; a body that is not so from its first data on goes by blank lines."""
    for cut in cuts(b"".join(frames), b""):
        found, tail = split(cut.reads)
        assert (found, tail) == (frames, b"")


_LINES = [b'data: {"a":1}', b'data:{"b":2} ', b"data: [DONE]", b'{"c":3}', b"data: x", b": c", b"id: 1", b"data", b""]
_soups = st.lists(st.tuples(st.sampled_from(_LINES), st.sampled_from([b"\n", b"\n", b"\r\n", b"\r"])), max_size=12)


@given(_soups, st.lists(st.floats(0, 1), max_size=6))
@example([(b'data: {"a":1}', b"\r"), (b'data: {"a":1}', b"\n"), (b"", b"\n")], [])
def test_lines_of_json_are_cut_the_same_however_they_come(soup: list[tuple[bytes, bytes]], parts: list[float]) -> None:
    """Whether or not it turns out that lines end frames (law 2); and all frames together are the body (law 1)."""
    body = b"".join(line + end for line, end in soup)
    places = sorted(round(part * len(body)) for part in parts)
    whole, tail = split([body])
    assert b"".join(whole) + tail == body
    for reads in ([body[a:b] for a, b in pairwise([0, *places, len(body)])], [bytes([byte]) for byte in body]):
        assert split([read for read in reads if read]) == (whole, tail)


_SPACED = [b"data: ", b"data: x", b'data: {"a":1}', b"data: data: ", b"data:y", b"data", b"id: 1", b": c", b"x", b""]
_ENDS = [b"\n\n", b"\n\n", b"\n\n", b"\n", b"\n\n\n", b"\r\n\r\n", b"\n\r\n"]
_reads = st.lists(st.tuples(st.sampled_from(_SPACED), st.sampled_from(_ENDS)), max_size=5)


@given(_reads, _reads, st.sampled_from([5, 12, 100]))
@example([(b'data: {"a":1}', b"\n"), (b'data: {"a":1}', b"\n")], [(b"data: x", b"\n\n"), (b"data: x", b"\n\n")], 100)
def test_read_of_data_lines_gives_the_frames_that_its_bytes_give(
    first: list[tuple[bytes, bytes]], second: list[tuple[bytes, bytes]], limit: int
) -> None:
    """Or of what resembles data lines; in one read, in two, or one byte at a time."""
    one, two = (b"".join(line + end for line, end in lines) for lines in (first, second))
    whole, bytewise = Splitter(limit), Splitter(limit)
    for reads, splitter in (([one, two], whole), ([bytes([byte]) for byte in one + two], bytewise)):
        frames: list[bytes] = []
        try:
            for read in filter(None, reads):
                frames += splitter.feed(read)
        except TooLarge:
            break
        if splitter is whole:
            expected = frames
        assert (frames, splitter.tail) == (expected, whole.tail)
        assert splitter.holds == whole.holds


def test_line_of_json_leaves_before_the_next_one_is_whole() -> None:
    """The first as soon as it is known what the second is, each of the others at once."""
    splitter = Splitter(100)
    assert splitter.feed(b'data: {"a":1}\n') == []
    assert splitter.feed(b"data: {") == [b'data: {"a":1}\n']
    assert splitter.feed(b'"b":2}\n') == [b'data: {"b":2}\n']
    assert splitter.holds


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (b"data:x\n\n", b"data: x\n\n"),
        (b"data: x\n\n", b"data: x\n\n"),
        (b"data:  x\n\n", b"data:  x\n\n"),
        (b"data:\n\n", b"data: \n\n"),
        (b"data\n\n", b"data\n\n"),
        (b"id:1\nevent:result\n:HTTP_STATUS/200\ndata:{\"a\":\"data:b\"}\n\n",
         b"id: 1\nevent: result\n:HTTP_STATUS/200\ndata: {\"a\":\"data:b\"}\n\n"),
        (b"data:a\r\ndata:b\rretry:3\r\r", b"data: a\r\ndata: b\rretry: 3\r\r"),
        (b"\xef\xbb\xbfdata:x\n\n", b"\xef\xbb\xbfdata: x\n\n"),
        (b"xdata:x\n\n", b"xdata:x\n\n"),
        (b'{"data:":1}\n', b'{"data:":1}\n'),
    ],
)  # fmt: skip
def test_field_without_a_space_gets_one(frame: bytes, said: bytes) -> None:
    """And no other byte; a comment is no field."""
    assert spaced(frame) == said
    assert spaced(said) == said


@given(bodies)
def test_spaced_frames_say_the_same(body: bytes) -> None:
    """To every parser of the standard."""
    frames, _ = split([body])
    assert messages(b"".join(map(spaced, frames))) == messages(b"".join(frames))
