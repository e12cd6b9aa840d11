"""One body in many reads, and the standard's own parser written the slow way, to compare with.

A test that feeds a body in every one of `cuts(body)` is worth fifty cuts made by hand.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import NamedTuple

TRAILER = b": the next frame begins"
NOT_RECORDED = "no recorded streams: they are looked for in STREAMTEE_SAMPLES, else in ../shared/samples"
_SPLITS = 200  # of a longer body, so many places are tried
_EDGE = 40  # and all of them within so many bytes of its ends


class Cut(NamedTuple):
    """The reads a body arrives in, and what has come behind it in the last one."""

    reads: list[bytes]
    trailer: bytes


def cuts(body: bytes, trailer: bytes = TRAILER) -> Iterator[Cut]:
    """Yield the body whole, byte by byte, in two reads cut at every place, and each way with a trailer appended."""
    bytewise = [body[at : at + 1] for at in range(len(body))]
    yield Cut([body], b"")
    yield Cut(bytewise, b"")
    for at in _places(len(body)):
        yield Cut([body[:at], body[at:]], b"")
    if trailer:
        yield Cut([body + trailer], trailer)
        yield Cut([*bytewise, trailer], trailer)
        for at in _places(len(body)):
            yield Cut([body[:at], body[at:] + trailer], trailer)


def _places(length: int) -> list[int]:
    """Return where to cut: everywhere, or in a sample of places when the body is long. The same ones each time."""
    everywhere = range(1, length)
    if length <= _SPLITS:
        return list(everywhere)
    sample = Random(length).sample(everywhere, _SPLITS - 2 * _EDGE)
    return sorted({*everywhere[:_EDGE], *sample, *everywhere[-_EDGE:]})


class Message(NamedTuple):
    """What a browser dispatches for one block."""

    type: bytes
    data: bytes
    id: bytes | None
    """As the block itself sets it, if it does."""


def messages(body: bytes) -> list[Message]:
    """Return what a stream of server-sent events says (WHATWG HTML, 9.2.6), an unfinished block left out."""
    text = body.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    *lines, _unfinished = text.split(b"\n")
    found: list[Message] = []
    kind = b""
    data: list[bytes] = []
    ident: bytes | None = None
    for line in lines:
        if line == b"":
            if data:
                found.append(Message(kind, b"\n".join(data), ident))
            kind, data, ident = b"", [], None
            continue
        colon = line.find(b":")
        name, value = (line, b"") if colon < 0 else (line[:colon], line[colon + 1 :])
        if value[:1] == b" ":
            value = value[1:]
        if name == b"event":
            kind = value
        elif name == b"data":
            data = [*data, value]
        elif name == b"id" and 0 not in value:
            ident = value
    return found


def recorded(prefix: str = "") -> list[Path]:
    """Return the recorded streams whose names begin so; none where they are not at hand."""
    folder = os.environ.get("STREAMTEE_SAMPLES")
    samples = Path(folder) if folder else Path(__file__).parents[2] / "shared" / "samples"
    return sorted(samples.glob(f"{prefix}*.sse"))
