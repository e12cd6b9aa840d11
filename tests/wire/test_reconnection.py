"""The last event id and the reconnection time, compared with the standard's own parser written the slow way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.reconnection import Reconnection
from proxy.wire.sse import Splitter

LINES = st.sampled_from([
    b"id: a", b"id:b", b"id", b"id:", b"id: ", b"id:  c", b"id: d\0", b"idx: e", b"xid: f", b": id: g", b"data: id: h",
    b"retry: 5", b"retry:70", b"retry", b"retry: ", b"retry: x", b"retry: 5s", b"retry: -1", b"retry:  5", b"data: x",
    b"data: retry: 9", b"event: id", b"", b"",
])  # fmt: skip
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


def slowly(body: bytes) -> tuple[bytes, float]:
    """Read the id and the retry time of complete blocks, line by line (WHATWG HTML, 9.2.6)."""
    ident, buffer, retry_s = b"", b"", 1.0
    for line in body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")[:-1]:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not line:
            ident = buffer
        elif name == b"id" and b"\0" not in value:
            buffer = value
        elif name == b"retry" and value and not value.strip(b"0123456789"):
            retry_s = int(value) / 1000
    return ident, retry_s


@given(st.lists(st.lists(LINES, min_size=1, max_size=4), max_size=6), ENDS)
def test_complete_blocks_set_what_the_standard_says(blocks: list[list[bytes]], end: bytes) -> None:
    """Whatever else stands in them, with data or without."""
    body = b"".join(end.join([*lines, b"", b""]) for lines in blocks)
    frames = Splitter(10_000).feed(body)
    known = Reconnection(1.0)
    for frame in frames:
        known.note([frame])
    assert (known.last_event_id, known.retry_s) == slowly(b"".join(frames))


def test_frames_of_one_read_are_noted_in_order() -> None:
    """The last one counts."""
    known = Reconnection(1.0)
    known.note([b"id: 1\n\n", b"retry: 20\nid: 2\n\n", b"data: x\n\n", b"retry: 30\nretry: 40\n\n"])
    assert (known.last_event_id, known.retry_s) == (b"2", 0.04)


@pytest.mark.parametrize(("frame", "ident"), [(b"data: x\n\n", b"first"), (b"id: a\n\n", b"a"), (b"id\n\n", b"")])
def test_first_id_holds_until_another_is_set(frame: bytes, ident: bytes) -> None:
    """The one that the stream was asked for with; an empty one takes it back."""
    known = Reconnection(1.0, b"first")
    known.note([frame])
    assert known.last_event_id == ident


def test_time_beyond_all_reason_is_no_time() -> None:
    """More digits than eleven days have."""
    known = Reconnection(1.0)
    known.note([b"retry: 99999999999999999999\n\n"])
    assert known.retry_s == 1.0
