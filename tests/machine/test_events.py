"""The short way through both framings, held to the long one; in both versions."""

from types import ModuleType
from typing import Any

import httptools
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.machine import plain
from proxy.wire.http import chunk
from proxy.wire.sse import Splitter

_EVENT = b"data: x\n\n"
_NATIVE = b"id:1\nevent:result\n:HTTP_STATUS/200\ndata:{}\n\n"
_PIECES = (_EVENT, _NATIVE, b"\n\n", b"a\n\n", b"data: \xc3\xa9\n\n", b"d" * 300 + b"\n\n")
_ODD = (
    b": x\n\n",
    b"\n",
    b"x",
    b"\n\n\n",
    b"a\n\nb\n\n",
    b"a\r\n\r\n",
    b"a\r\rb\n\n",
    b"9\r\ndata: y\n\n\r\n",
    b"x\n\n\r\n\n\n",
)
_SIZES = (b"%x", b"%X", b"0%x", b"%x ", b"+%x", b"%x;extension=1")


class _Body:
    """What llhttp makes of chunks."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.on_body = self.pieces.append
        self._parser = httptools.HttpResponseParser(self)
        self._parser.feed_data(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")

    def feed(self, data: bytes) -> bytes:
        self._parser.feed_data(data)
        return b"".join(self.pieces)


@pytest.mark.parametrize("pieces", [[_EVENT], [_NATIVE], [_EVENT] * 3, [_NATIVE, _EVENT], [b"\n\n"]])
def test_chunks_that_are_events_are_seen(version: ModuleType, pieces: list[bytes]) -> None:
    """One or several, of one line or of more."""
    assert version.events(b"".join(map(chunk, pieces))) == pieces


_SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@_SHARED
@given(st.lists(st.tuples(st.sampled_from((*_PIECES, *_ODD)), st.sampled_from(_SIZES)), max_size=4), st.integers(0, 40))
def test_frames_are_those_of_the_parsers(machine: Any, chunks: list[tuple[bytes, bytes]], cut: int) -> None:
    """Whatever is seen in data, llhttp and the splitter see, too, and nothing is left over."""
    data = b"".join((size % len(piece)) + b"\r\n" + piece + b"\r\n" for piece, size in chunks)
    for read in (data, data[: len(data) - cut], data[cut:]):
        frames = plain.events(read)
        assert machine.events(read) == frames
        if frames:
            assert read == b"".join(map(chunk, frames))
            splitter = Splitter(1 << 20)
            assert splitter.feed(_Body().feed(read)) == frames
            assert not splitter.tail


@pytest.mark.parametrize("odd", [*_ODD, b""])
def test_what_is_odd_is_left_to_the_parsers(version: ModuleType, odd: bytes) -> None:
    """Comments alone, halves of frames, two in one chunk, CRs, and the end of the body."""
    assert version.events(chunk(_EVENT) + chunk(odd)) == []
    assert version.events(chunk(odd)) == []


@pytest.mark.parametrize("size", _SIZES[1:])
def test_size_in_other_words_is_left_to_the_parser(version: ModuleType, size: bytes) -> None:
    """Data is sent on as it is, so its sizes must be the ones that every client reads."""
    piece = b"data: 12\n\n"
    assert version.events(b"%b\r\n%b\r\n" % (size % len(piece), piece)) == []


def test_size_without_a_line_end_is_left_to_the_parser(version: ModuleType) -> None:
    """Where the line end of the data stands in the place of the one after the size."""
    assert version.events(b"2\n\n\r\n") == []
    assert version.events(chunk(_EVENT) + b"2\n\n\r\n") == []


def test_large_chunk_is_left_to_the_parser(version: ModuleType) -> None:
    """It takes longer to look through."""
    assert version.events(chunk(b"d" * 4093 + b"\n\n"))
    assert version.events(chunk(b"d" * 4094 + b"\n\n")) == []


def test_part_of_a_chunk_is_left_to_the_parser(version: ModuleType) -> None:
    """Its beginning, its end, and what follows a whole one."""
    whole = chunk(_EVENT)
    for at in range(1, len(whole)):
        assert version.events(whole[:at]) == []
        assert version.events(whole[at:]) == []
        assert version.events(whole + whole[:at]) == []
    assert version.events(b"") == []
