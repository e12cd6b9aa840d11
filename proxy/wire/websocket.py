"""WebSocket as bytes: the handshake's key, the frames that either side sends, and parsers of frames.

Followers of a stream receive each event as a text message, a JSON object whose members are the fields of SSE:
`{"id": "gen234-7", "event": "message", "data": "..."}`, so that `JSON.parse(e.data)` is all that a client needs.

Knows nothing of streams, sockets or time. Source: RFC 6455.
"""

from base64 import b64encode
from hashlib import sha1
from typing import Final, NamedTuple

import orjson

from proxy.wire.errors import BadRequest, TooLarge
from proxy.wire.sse import dispatched

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
COMPLETE, GOING_AWAY, PROTOCOL_ERROR, POLICY_VIOLATION, MESSAGE_TOO_BIG, INTERNAL_ERROR, TRY_AGAIN_LATER = (
    1000, 1001, 1002, 1008, 1009, 1011, 1013,
)  # fmt: skip
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CONTINUATION: Final = 0x0
_DATA: Final = frozenset((_CONTINUATION, TEXT, BINARY))
_CONTROL: Final = frozenset((CLOSE, PING, PONG))
_LONGEST_CONTROL: Final = 125
_LONGEST_SHORT: Final = 0xFFFF
FRAMES_A_FEED: Final = 64  # 0.2 ms


def accept(key: str) -> bytes:
    """Return the Sec-WebSocket-Accept that answers a Sec-WebSocket-Key (section 4.2.2)."""
    return b64encode(sha1(key.encode("latin-1") + _GUID, usedforsecurity=False).digest())


def frame(opcode: int, payload: bytes) -> bytes:
    """Return a complete message or a control frame as a server sends it: unmasked (section 5.2)."""
    size = len(payload)
    if size <= _LONGEST_CONTROL:
        return b"%c%c%b" % (0x80 | opcode, size, payload)
    if size <= _LONGEST_SHORT:
        return b"%c\x7e%b%b" % (0x80 | opcode, size.to_bytes(2, "big"), payload)
    return b"%c\x7f%b%b" % (0x80 | opcode, size.to_bytes(8, "big"), payload)


def masked_frame(opcode: int, payload: bytes, mask: bytes) -> bytes:
    """Return the frame as a client sends it: masked with four bytes that must be unpredictable (section 5.3)."""
    plain = frame(opcode, payload)
    start = len(plain) - len(payload)
    return b"%c%c%b%b%b" % (plain[0], plain[1] | 0x80, plain[2:start], mask, _unmask(payload, mask))


def close_frame(code: int, reason: str = "") -> bytes:
    """Return a close frame; the reason must have at most 123 bytes (section 5.5.1)."""
    return frame(CLOSE, code.to_bytes(2, "big") + reason.encode())


def stated_code(payload: bytes) -> int | None:
    """Return the code in the payload of a close frame; None, if there is none, or no side may send it (section 7.4)."""
    code = int.from_bytes(payload[:2], "big")
    known = code in range(1000, 1004) or code in range(1007, 1015) or code in range(3000, 5000)
    return code if known and len(payload) > 1 else None


def messages(blocks: bytes) -> bytes:
    """Return the events of SSE blocks as text messages; a block that dispatches no event gives none.

    Bytes that are not UTF-8 are replaced, as in decoding SSE: a client must fail a connection that sends them (8.1).
    """
    found = []
    for event in dispatched(blocks):
        members = {"id": event.id or b"", "event": event.type or b"message", "data": event.data or b""}
        text = {name: value.decode(errors="replace") for name, value in members.items()}
        found.append(frame(TEXT, orjson.dumps(text)))
    return b"".join(found)


class Control(NamedTuple):
    """A ping, pong or close frame from a client, unmasked."""

    opcode: int
    payload: bytes

    @property
    def code(self) -> int:
        """The code to answer a close frame with: the client's code, if it is one that may be sent (section 7.4)."""
        if not self.payload:
            return COMPLETE
        return stated_code(self.payload) or PROTOCOL_ERROR


class FrameReader:
    """Parses a client's frames, independently of how they were cut into reads. Messages are skipped and never kept."""

    __slots__ = ("_held", "_skip", "behind")

    def __init__(self) -> None:
        self.behind = False  # `feed` stopped early: call it with b"" to parse the rest
        self._held = bytearray()  # the beginning of a frame: its header, and its payload if it is a control frame
        self._skip = 0  # bytes of a message's payload that have not come yet

    def feed(self, data: bytes) -> list[Control]:
        """Return the control frames that `data` completes, in order; frames after a close are ignored.

        No more than `FRAMES_A_FEED` frames are read at once: a client may send tens of thousands in one read.
        Raises: BadRequest, if a client may not send such a frame; the connection can't be used any more.
        """
        held = self._held
        held += data
        found: list[Control] = []
        self.behind = False
        for _ in range(FRAMES_A_FEED):
            skipped = min(self._skip, len(held))
            del held[:skipped]
            self._skip -= skipped
            header = _header(held, masked=True)
            if header is None:
                return found
            opcode, start, size = header
            if opcode in _DATA:
                del held[:start]
                self._skip = size
                continue
            if len(held) < start + size:
                return found
            found.append(Control(opcode, _unmask(bytes(held[start : start + size]), held[start - 4 : start])))
            del held[: start + size]
            if opcode == CLOSE:
                return found
        self.behind = True
        return found


class Message(NamedTuple):
    """A message of either side, its fragments joined; or a control frame."""

    opcode: int
    payload: bytes


class MessageReader:
    """Parses the frames of one side into messages, independently of how they were cut into reads."""

    __slots__ = ("_held", "_masked", "_max_bytes", "_opcode", "_parts", "behind")

    def __init__(self, max_bytes: int, *, masked: bool) -> None:
        """`max_bytes`: of one message; `masked`: the frames are a client's."""
        self.behind = False  # `feed` stopped early: call it with b"" to parse the rest
        self._max_bytes = max_bytes
        self._masked = masked
        self._held = bytearray()  # the beginning of a frame
        self._opcode = _CONTINUATION  # of the message that has begun, if one has
        self._parts = bytearray()  # its fragments that are complete

    @property
    def held_bytes(self) -> int:
        """Return how many bytes of an incomplete message are held."""
        return len(self._held) + len(self._parts)

    def feed(self, data: bytes) -> list[Message]:
        """Return the messages and control frames that `data` completes, in order; what follows a close is ignored.

        No more than `FRAMES_A_FEED` frames are read at once. Raises: BadRequest, if the side may not send such a frame;
        TooLarge. Then the connection can't be used any more.
        """
        held = self._held
        held += data
        found: list[Message] = []
        self.behind = False
        for _ in range(FRAMES_A_FEED):
            header = _header(held, masked=self._masked)
            if header is None:
                return found
            opcode, start, size = header
            if opcode in _DATA:
                self._check(opcode, size)
            if len(held) < start + size:
                return found
            message = self._message(opcode, self._payload(start, size), final=bool(held[0] & 0x80))
            del held[: start + size]
            if message is not None:
                found.append(message)
                if opcode == CLOSE:
                    return found
        self.behind = True
        return found

    def _check(self, opcode: int, size: int) -> None:
        """Check that a message may begin or continue with this frame. Raises: BadRequest, TooLarge."""
        if (opcode == _CONTINUATION) is (self._opcode == _CONTINUATION):
            what = "continues no message" if opcode == _CONTINUATION else "begins a message within another"
            raise BadRequest(f"a WebSocket frame {what}")
        size += len(self._parts)
        if size > self._max_bytes:
            raise TooLarge(f"a WebSocket message has {size} bytes or more, {self._max_bytes} are allowed")

    def _payload(self, start: int, size: int) -> bytes:
        payload = bytes(self._held[start : start + size])
        return _unmask(payload, self._held[start - 4 : start]) if self._masked else payload

    def _message(self, opcode: int, payload: bytes, *, final: bool) -> Message | None:
        """Return the message that a frame completes, or the control frame that it is."""
        if opcode in _CONTROL or (final and opcode != _CONTINUATION):
            return Message(opcode, payload)
        if opcode != _CONTINUATION:
            self._opcode = opcode
        self._parts += payload
        if not final:
            return None
        message = Message(self._opcode, bytes(self._parts))
        self._opcode = _CONTINUATION
        self._parts.clear()
        return message


def _header(held: bytearray, *, masked: bool) -> tuple[int, int, int] | None:
    """Return the opcode of the frame that begins here, and where its payload begins and how many bytes it has.

    None, if the header is incomplete. Raises: BadRequest.
    """
    if len(held) < 2:
        return None
    opcode, size, start = held[0] & 0x0F, held[1] & 0x7F, 2
    if held[0] & 0x70 or opcode not in _DATA | _CONTROL:
        first = f"a WebSocket frame begins with the byte {held[0]:#04x}"
        raise BadRequest(f"{first}; only opcodes 0-2 and 8-10 are allowed, and no reserved bits")
    if bool(held[1] & 0x80) is not masked:
        raise BadRequest(
            "a WebSocket frame is not masked; frames from clients must be"
            if masked
            else "a WebSocket frame is masked; frames from servers must not be"
        )
    if opcode in _CONTROL and (size > _LONGEST_CONTROL or not held[0] & 0x80):
        raise BadRequest(
            f"a WebSocket control frame is fragmented or has more than the {_LONGEST_CONTROL} bytes allowed"
        )
    if size > _LONGEST_CONTROL:
        start += 2 if size == 126 else 8
        size = int.from_bytes(held[2:start], "big")
    if masked:
        start += 4
    return (opcode, start, size) if len(held) >= start else None


def _unmask(payload: bytes, mask: bytes | bytearray) -> bytes:
    """Return a payload with each byte combined with one of the mask's, which masks and unmasks (section 5.3).

    As two long numbers: a hundred times faster than byte by byte.
    """
    size = len(payload)
    key = (bytes(mask) * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(key, "little")).to_bytes(size, "little")
