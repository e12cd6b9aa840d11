"""The other end of a WebSocket: frames as a client sends them, and what it makes of a server's."""

from websockets.frames import Close, Frame, Opcode
from websockets.protocol import Protocol, Side, State

MASK = b"\x01\x80\xff\x00"
ASK = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
"""The headers of a handshake (RFC 6455 1.2)."""


def masked(opcode: int, payload: bytes, *, final: bool = True, mask: bytes = MASK) -> bytes:
    """Return a frame as a client sends it."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 1 << 16:
        length = b"\xfe" + size.to_bytes(2, "big")
    else:
        length = b"\xff" + size.to_bytes(8, "big")
    hidden = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    return bytes([opcode | 0x80 * final]) + length + mask + hidden


def heard(sent: bytes) -> list[tuple[int, bytes | tuple[int, str]]]:
    """Return the frames that a strict client reads, each its opcode with its payload, or a close's code and reason."""
    client = Protocol(Side.CLIENT, state=State.OPEN, max_size=None)
    client.receive_data(sent)
    assert client.parser_exc is None
    found: list[tuple[int, bytes | tuple[int, str]]] = []
    for frame in client.events_received():
        assert isinstance(frame, Frame)
        assert frame.fin
        close = Close.parse(frame.data) if frame.opcode is Opcode.CLOSE else None
        found.append((int(frame.opcode), bytes(frame.data) if close is None else (int(close.code), close.reason)))
    return found
