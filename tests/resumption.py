"""What laws 5 and 8 say of the events of any API: rendered in any spans, and resumed after any event."""

from collections.abc import Iterator
from itertools import pairwise

from hypothesis import strategies as st

from proxy.dialects.dialect import Dialect
from proxy.stream.modes.projection import View
from proxy.stream.stream import Stream
from proxy.wire.sse import Splitter
from tests.cuts import messages
from tests.streams import EPOCH, new_stream

COALESCED, TEXT = View("coalesced"), View("text")


def stream_of(dialect: Dialect, frames: list[bytes]) -> Stream:
    """Return an open stream with these frames."""
    stream = new_stream(dialect)
    stream.extend(frames)
    return stream


def in_drawn_spans(dialect: Dialect, frames: list[bytes], data: st.DataObject) -> tuple[bytes, bytes]:
    """Return a stream in modes coalesced and text, in spans that are drawn.

    What is rendered as the frames come is what is rendered when all have come.
    """
    places = data.draw(st.lists(st.integers(0, len(frames)), max_size=6).map(lambda drawn: {0, *drawn, len(frames)}))
    spans, complete, live, had = list(pairwise(sorted(places))), stream_of(dialect, frames), new_stream(dialect), b""
    for start, end in spans:
        live.extend(frames[start:end])
        had += live.projection(COALESCED).render(start, end)
    assert had == b"".join(complete.projection(COALESCED).render(start, end) for start, end in spans)
    return had, b"".join(complete.projection(TEXT).render(start, end) for start, end in spans)


def resumed_after_each(dialect: Dialect, frames: list[bytes]) -> Iterator[bytes]:
    """Yield, for each event of mode coalesced, all up to it, and what a client is sent that resumes after its id."""
    coalesced = stream_of(dialect, frames).projection(COALESCED)
    blocks = Splitter(1 << 20).feed(coalesced.render(0, len(frames)))
    for place, block in enumerate(blocks, 1):
        seq = int(messages(block)[0].id.removeprefix(EPOCH + b"-"))  # type: ignore[union-attr]
        rest = coalesced.render(seq, len(frames)) if seq < len(frames) else b""
        yield b"".join(blocks[:place]) + rest
