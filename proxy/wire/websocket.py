"""WebSocket as bytes: the handshake's key, the frames that a server sends, and a parser of a client's frames.

Each event becomes a text message, a JSON object whose members are the fields of SSE: `{"id": "gen234-7",
"event": "message", "data": "..."}`, so that `JSON.parse(e.data)` is all that a client needs.

Knows nothing of streams, sockets or time. Source: RFC 6455.
"""

from base64 import b64encode
from hashlib import sha1
from typing import NamedTuple

import orjson

from proxy.wire.errors import BadRequest
from proxy.wire.sse import dispatched

TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA
COMPLETE, GOING_AWAY, PROTOCOL_ERROR, INTERNAL_ERROR, TRY_AGAIN_LATER = 1000, 1001, 1002, 1011, 1013
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_DATA = frozenset((0x0, TEXT, 0x2))
_CONTROL = frozenset((CLOSE, PING, PONG))
_LONGEST_CONTROL = 125
_LONGEST_SHORT = 0xFFFF
FRAMES_A_FEED = 64  # 0.2 ms


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


def close_frame(code: int, reason: str = "") -> bytes:
    """Return a close frame; the reason must have at most 123 bytes (section 5.5.1)."""
    return frame(CLOSE, code.to_bytes(2, "big") + reason.encode())


def messages(blocks: bytes) -> bytes:
    """Return the events of SSE blocks as text messages; a block that dispatches no event gives none.

    Bytes that are not UTF-8 are replaced, as in decoding SSE: a client must fail a connection that sends them (8.1).
    """
    found = []
    for event in dispatched(blocks):
        words = {"id": event.id or b"", "event": event.type or b"message", "data": event.data or b""}
        text = {name: value.decode(errors="replace") for name, value in words.items()}
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
        code = int.from_bytes(self.payload[:2], "big")
        known = code in range(1000, 1004) or code in range(1007, 1015) or code in range(3000, 5000)
        return code if known and len(self.payload) > 1 else PROTOCOL_ERROR


class FrameReader:
    """Parses a client's frames, independently of how they were cut into reads. Messages are skipped and never kept."""

    __slots__ = ("_held", "_skip", "behind")

    def __init__(self) -> None:
        self.behind = False  # there may be more frames than were read: feed nothing, to go on
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
            header = _header(held)
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


def _header(held: bytearray) -> tuple[int, int, int] | None:
    """Return the opcode of the frame that begins here, and where its payload begins and how many bytes it has.

    None, if the header is incomplete. Raises: BadRequest.
    """
    if len(held) < 2:
        return None
    opcode, size, start = held[0] & 0x0F, held[1] & 0x7F, 6
    if held[0] & 0x70 or opcode not in _DATA | _CONTROL:
        first = f"a WebSocket frame begins with the byte {held[0]:#04x}"
        raise BadRequest(f"{first}; only opcodes 0-2 and 8-10 are allowed, and no reserved bits")
    if not held[1] & 0x80:
        raise BadRequest("a WebSocket frame is not masked; frames from clients must be")
    if opcode in _CONTROL and (size > _LONGEST_CONTROL or not held[0] & 0x80):
        raise BadRequest(
            f"a WebSocket control frame is fragmented or has more than the {_LONGEST_CONTROL} bytes allowed"
        )
    if size > _LONGEST_CONTROL:
        start += 2 if size == 126 else 8
        size = int.from_bytes(held[2 : start - 4], "big")
    return (opcode, start, size) if len(held) >= start else None


def _unmask(payload: bytes, mask: bytearray) -> bytes:
    return bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
