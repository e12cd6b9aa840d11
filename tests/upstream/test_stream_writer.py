"""How every writer of a stream leaves and ends it, whatever it writes."""

import pytest

from proxy.stream.endings import CLIENT_GONE, COMPLETE, UPSTREAM_RESET
from proxy.upstream.on_disconnect import OnDisconnect
from proxy.upstream.stream_writer import StreamWriter
from tests.event_loops import until
from tests.fakes import FakeSink
from tests.streams import follow, new_stream


def test_writer_leaves_at_once_when_nobody_is_waited_for() -> None:
    """With the last follower."""
    stream = new_stream()
    StreamWriter(stream, OnDisconnect(0))
    first, last = follow(stream, FakeSink()), follow(stream, FakeSink())
    first.leave("left")
    assert stream.log.ending is None
    last.leave("left")
    assert stream.log.ending is CLIENT_GONE


def test_writer_never_leaves_if_that_is_its_policy() -> None:
    """The stream goes on for nobody."""
    stream = new_stream()
    StreamWriter(stream, OnDisconnect(None))
    follow(stream, FakeSink()).leave("left")
    assert stream.log.ending is None


@pytest.mark.parametrize("comes_back", ["follower", "hold", None])
async def test_writer_leaves_after_the_grace_if_nobody_wants_the_stream_then(comes_back: str | None) -> None:
    """Who follows or holds it by then keeps it."""
    stream, other = new_stream(), new_stream()
    for one in (stream, other):
        StreamWriter(one, OnDisconnect(0.001))
        follow(one, FakeSink()).leave("left")
    assert stream.log.ending is None
    if comes_back == "follower":
        follow(stream, FakeSink())
    elif comes_back == "hold":
        stream.hold("asking")
    await until(lambda: other.log.ending is CLIENT_GONE)
    assert (stream.log.ending is None) == (comes_back is not None)


@pytest.mark.parametrize("grace_s", [0, 60])
async def test_stream_is_sealed_once(grace_s: float) -> None:
    """The first ending counts, with its frames; a grace that has begun ends with it."""
    stream = new_stream()
    writer = StreamWriter(stream, OnDisconnect(grace_s))
    follow(stream, FakeSink())
    writer.seal(COMPLETE, [b"data: a\n\n"], b"")
    writer.seal(UPSTREAM_RESET, [b"data: b\n\n"], b"tail")
    writer.stop(UPSTREAM_RESET)
    assert (stream.log.ending, stream.log.frames, stream.log.tail) == (COMPLETE, [b"data: a\n\n"], b"")
