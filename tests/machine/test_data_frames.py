"""Frames of one line of data each, as most upstreams send them, are cut alike by both versions and by the splitter."""

from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.machine import plain
from proxy.wire.sse import Splitter

_FRAMES = [b"data: x\n\n", b"data: \n\n", b"data: data: \xc3\xa9\n\n", b"data: " + b"d" * 5000 + b"\n\n"]
_ODD = [
    b"", b"\n", b"\n\n", b"data", b"data: ", b"data: x", b"data: x\n", b"data:x\n\n", b": x\n\n", b"event: x\n\n",
    b"data: x\r\n\r\n", b"data: x\r\n\n", b"data: x\ry\n\n", b"data: x\ndata: y\n\n", b"data: x\n\n\n", b"{}\n",
    b" data: x\n\n",
]  # fmt: skip


@pytest.mark.parametrize("frames", [*([frame] for frame in _FRAMES), _FRAMES, _FRAMES * 3])
def test_frames_of_one_line_of_data_are_cut(version: ModuleType, frames: list[bytes]) -> None:
    assert version.data_frames(b"".join(frames)) == frames


@pytest.mark.parametrize("odd", _ODD)
def test_all_others_are_left_to_the_splitter(version: ModuleType, odd: bytes) -> None:
    """Also where frames of one line stand before and after: then none is cut."""
    assert version.data_frames(odd) == []
    if odd:
        assert version.data_frames(_FRAMES[0] + odd) == []
        assert version.data_frames(odd + _FRAMES[0]) == [] or odd == b"data: "  # with which it is a frame


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from((*_FRAMES, *_ODD)), max_size=6), st.integers(0, 12))
def test_frames_are_those_of_the_splitter(machine: Any, pieces: list[bytes], cut: int) -> None:
    """Which is given one byte after the other, so that it sees no whole frame."""
    data = b"".join(pieces)[cut:]
    frames = plain.data_frames(data)
    assert machine.data_frames(data) == frames
    if frames:
        splitter = Splitter(1 << 20)
        assert [frame for at in range(len(data)) for frame in splitter.feed(data[at : at + 1])] == frames
        assert not splitter.tail
