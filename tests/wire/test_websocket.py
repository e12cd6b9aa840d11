"""WebSocket as bytes: what a server sends, and what is heard of a client however its frames are cut."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.errors import BadRequest, TooLarge
from proxy.wire.websocket import (
    CLOSE,
    FRAMES_A_FEED,
    PING,
    PONG,
    TEXT,
    Control,
    FrameReader,
    Message,
    MessageReader,
    accept,
    close_frame,
    frame,
    masked_frame,
    messages,
    stated_code,
)
from tests.cuts import cuts
from tests.frames import MASK, heard, masked

CONTINUATION, BINARY = 0x0, 0x2


def test_key_is_accepted_as_in_the_standard() -> None:
    """RFC 6455 section 1.3."""
    assert accept("dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize(
    ("size", "header"),
    [
        (0, b"\x81\x00"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (65535, b"\x81\x7e\xff\xff"),
        (65536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_frame_tells_its_length_in_as_few_bytes_as_there_are(size: int, header: bytes) -> None:
    """Section 5.2; unmasked and whole."""
    sent = frame(TEXT, b"x" * size)
    assert sent == header + b"x" * size
    assert heard(sent) == [(TEXT, b"x" * size)]


def test_close_frame_has_code_and_reason() -> None:
    """Section 5.5.1."""
    assert heard(close_frame(4502, "upstream_reset")) == [(CLOSE, (4502, "upstream_reset"))]


# Messages


def said(blocks: bytes) -> list[dict[str, str]]:
    return [json.loads(data) for _, data in heard(messages(blocks))]


def test_event_is_a_message_in_the_words_of_sse() -> None:
    """The last id counts, several data lines are joined, and the type is `message` unless it is named."""
    blocks = (
        b"data: {}\nid: g-1\n\n"
        b": c\r\nid:7\r\nevent:result\r\ndata:a\r\ndata: b\r\nid: g-2\r\n\r\n"
        b"data\rid: g-3\r\r"
        b"data: last\n\n"
    )
    assert said(blocks) == [
        {"id": "g-1", "event": "message", "data": "{}"},
        {"id": "g-2", "event": "result", "data": "a\nb"},
        {"id": "g-3", "event": "message", "data": ""},
        {"id": "", "event": "message", "data": "last"},
    ]


def test_block_that_dispatches_no_event_is_no_message() -> None:
    """Comments, and an id without data."""
    assert messages(b": c\n\nid: g-1\n\nevent: x\n\n: no blank line\n") == b""
    assert messages(b"") == b""


def test_message_is_utf_8_whatever_came() -> None:
    """A client must fail a connection that sends another text; a decoder of SSE puts U+FFFD."""
    assert said(b"data: a\xffb \xe8\x8c\xb6\nid: g-1\n\n")[0]["data"] == "a\ufffdb 茶"


# FrameReader


def feed(reads: list[bytes]) -> list[Control]:
    """Return what a receiver hears of these reads."""
    receiver = FrameReader()
    return [control for read in reads for control in receiver.feed(read)]


@pytest.mark.parametrize("opcode", [PING, TEXT])
def test_frames_of_one_read_are_read_some_at_a_time(opcode: int) -> None:
    """Whoever feeds is told that there may be more, and gets it by feeding nothing."""
    receiver, found, feeds = FrameReader(), list[Control](), 0
    data = masked(opcode, b"") * (3 * FRAMES_A_FEED) + masked(PONG, b"last")
    while not feeds or receiver.behind:
        found += receiver.feed(data if not feeds else b"")
        feeds += 1
        assert len(found) <= feeds * FRAMES_A_FEED
    assert feeds == 4
    assert found[-1] == (PONG, b"last")


def test_control_frames_are_heard_however_they_are_cut() -> None:
    """Between messages, and between the parts of one; the messages themselves are passed over."""
    body = (
        masked(PING, b"one")
        + masked(TEXT, b"a" * 300, final=False)
        + masked(PONG, b"")
        + masked(CONTINUATION, b"b" * 70_000)
        + masked(BINARY, b"")
        + masked(PING, b"x" * 125, mask=b"\0\0\0\0")
    )
    wanted = [(PING, b"one"), (PONG, b""), (PING, b"x" * 125)]
    for reads, _ in cuts(body, trailer=b""):
        assert feed(reads) == wanted


frames = st.lists(
    st.tuples(
        st.sampled_from([TEXT, BINARY, PING, PONG]),
        st.binary(max_size=200),
        st.binary(min_size=4, max_size=4),
    )
)


@given(frames, st.data())
def test_receiver_hears_what_a_whole_reader_hears(sent: list[tuple[int, bytes, bytes]], data: st.DataObject) -> None:
    """Any frames, any masks, any reads."""
    sent = [(opcode, payload[:125] if opcode >= CLOSE else payload, mask) for opcode, payload, mask in sent]
    body = b"".join(masked(opcode, payload, mask=mask) for opcode, payload, mask in sent)
    receiver, found = FrameReader(), list[Control]()
    while body:
        size = data.draw(st.integers(1, len(body)))
        found += receiver.feed(body[:size])
        body = body[size:]
    assert found == [(opcode, payload) for opcode, payload, _ in sent if opcode >= CLOSE]


def test_nothing_of_a_message_is_kept() -> None:
    """However large it says it is."""
    receiver = FrameReader()
    receiver.feed(masked(TEXT, b"")[:1] + b"\xff" + (1 << 60).to_bytes(8, "big") + MASK)
    for _ in range(100):
        assert receiver.feed(b"x" * 65536) == []
        assert len(receiver._held) == 0


def test_nothing_after_a_close_is_heard() -> None:
    """Section 5.5.1: it is the last frame."""
    assert FrameReader().feed(masked(CLOSE, b"\x03\xe8") + masked(PING, b"") + b"\xff") == [(CLOSE, b"\x03\xe8")]


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"\x81\x01x", "not masked"),
        (b"\xc1\x80" + MASK, "0xc1"),
        (b"\x91\x80" + MASK, "0x91"),
        (b"\x83\x80" + MASK, "0x83"),
        (b"\x8b\x80" + MASK, "0x8b"),
        (b"\x09\x80" + MASK, "fragmented"),
        (b"\x89\xfe\x00\x7e" + MASK, "125"),
        (b"GET / HTTP/1.1\r\n\r\n", "0x47"),
    ],
)
def test_what_no_client_may_send_raises(sent: bytes, why: str) -> None:
    """At the frame's first two bytes, or later."""
    for reads, _ in cuts(masked(PING, b"") + sent, trailer=b""):
        with pytest.raises(BadRequest, match=why):
            feed(reads)


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", 1000),
        (b"\x03\xe8", 1000),
        (b"\x03\xe9bye", 1001),
        (b"\x0f\xa0", 4000),
        (b"\x03\xed", 1002),
        (b"\x03\xee", 1002),
        (b"\x00\x01", 1002),
        (b"\x03", 1002),
    ],
)
def test_close_is_answered_with_its_own_code_if_it_is_one(payload: bytes, code: int) -> None:
    """Section 7.4.1: 1005 and 1006 are never sent."""
    assert Control(CLOSE, payload).code == code


# MessageReader


def read(reads: list[bytes], *, max_bytes: int = 1 << 20, masks: bool = True) -> list[Message]:
    """Return what a reader makes of these reads."""
    reader, found = MessageReader(max_bytes, masked=masks), list[Message]()
    for data in reads:
        found += reader.feed(data)
        while reader.behind:
            found += reader.feed(b"")
    return found


@given(frames, st.booleans(), st.data())
def test_messages_are_read_however_frames_are_cut(
    sent: list[tuple[int, bytes, bytes]], masks: bool, data: st.DataObject
) -> None:
    """Whole or in fragments, with control frames between these; of either side, in any reads."""
    body, wanted = b"", []
    for opcode, payload, mask in sent:
        payload = payload[:125] if opcode >= CLOSE else payload
        wanted.append((opcode, payload))
        pieces = [payload]
        if opcode < CLOSE and data.draw(st.booleans()):
            cut = data.draw(st.integers(0, len(payload)))
            pieces = [payload[:cut], b"", payload[cut:]]
            wanted.insert(-1, (PONG, b"amid"))
        for number, piece in enumerate(pieces):
            final, code = number == len(pieces) - 1, opcode if not number else CONTINUATION
            whole = masked(code, piece, final=final, mask=mask) if masks else unmasked(code, piece, final=final)
            body += whole
            if not number and len(pieces) > 1:
                body += masked(PONG, b"amid") if masks else frame(PONG, b"amid")
    reads = []
    while body:
        size = data.draw(st.integers(1, len(body)))
        reads.append(body[:size])
        body = body[size:]
    assert read(reads, masks=masks) == wanted


def unmasked(opcode: int, payload: bytes, *, final: bool) -> bytes:
    whole = frame(opcode, payload)
    return whole if final else bytes([whole[0] & 0x7F]) + whole[1:]


@given(st.sampled_from([TEXT, BINARY, PING]), st.binary(max_size=125) | st.binary(min_size=126, max_size=70_000),
       st.binary(min_size=4, max_size=4))  # fmt: skip
def test_masked_frame_is_what_a_client_sends(opcode: int, payload: bytes, mask: bytes) -> None:
    """Byte for byte as the tests' own, which is written more slowly."""
    payload = payload[:125] if opcode == PING else payload
    assert masked_frame(opcode, payload, mask) == masked(opcode, payload, mask=mask)


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (masked(CONTINUATION, b"x"), "continues no message"),
        (masked(TEXT, b"a", final=False) + masked(TEXT, b"b"), "begins a message within another"),
        (masked(TEXT, b"a", final=False) + masked(BINARY, b"b", final=False), "begins a message within another"),
        (masked(TEXT, b"a", final=False) + masked(CONTINUATION, b"b") + masked(CONTINUATION, b"c"), "continues no"),
        (frame(TEXT, b"x"), "not masked"),
        (b"\xc1\x80" + MASK, "0xc1"),
        (masked(PING, b"", final=False), "fragmented"),
    ],
)
def test_sequence_that_no_client_may_send_raises(sent: bytes, why: str) -> None:
    """However it is cut."""
    for reads, _ in cuts(masked(TEXT, b"before") + sent, trailer=b""):
        with pytest.raises(BadRequest, match=why):
            read(reads)


def test_masked_frame_of_a_server_raises() -> None:
    """Section 5.1."""
    with pytest.raises(BadRequest, match="is masked"):
        read([masked(TEXT, b"x")], masks=False)


@pytest.mark.parametrize(
    ("sent", "size"),
    [
        (masked(TEXT, b"x" * 11), 11),
        (masked(TEXT, b"x" * 6, final=False) + masked(CONTINUATION, b"y" * 5), 11),
        (b"\x82\xff" + (1 << 62).to_bytes(8, "big") + MASK + b"1234", 1 << 62),
    ],
)
def test_message_larger_than_allowed_raises_before_it_is_whole(sent: bytes, size: int) -> None:
    """What its frames say is enough."""
    with pytest.raises(TooLarge, match=f"has {size} bytes or more, 10 are allowed"):
        read([sent[: len(sent) - min(4, size)]], max_bytes=10)
    assert read([masked(TEXT, b"x" * 10)], max_bytes=10) == [(TEXT, b"x" * 10)]


def test_many_messages_of_one_read_are_read_some_at_a_time() -> None:
    """Empty fragments, too: none of them is a message."""
    reader = MessageReader(100, masked=True)
    begun = masked(TEXT, b"a", final=False) + masked(CONTINUATION, b"", final=False) * FRAMES_A_FEED
    assert reader.feed(begun + masked(CONTINUATION, b"b")) == []
    assert reader.behind
    assert reader.held_bytes > 1
    assert reader.feed(b"") == [(TEXT, b"ab")]
    assert (reader.behind, reader.held_bytes) == (False, 0)


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", None),
        (b"\x03", None),
        (b"\x03\xe8", 1000),
        (b"\x03\xedx", None),
        (b"\x03\xeex", None),
        (b"\x13\x88", None),
    ],
)
def test_code_that_may_not_be_sent_is_none(payload: bytes, code: int | None) -> None:
    """Section 7.4.1."""
    assert stated_code(payload) == code
