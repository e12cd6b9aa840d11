"""The contract of Sink (proxy/stream/interfaces.py), which every sink keeps: responses, WebSockets, and the fake."""

import asyncio

import pytest

from tests.event_loops import GUARD_S, on_each_loop
from tests.sinks import SINKS, Rig

LARGE = bytes(65536)
every_sink = pytest.mark.parametrize("kind", SINKS)


def fill(rig: Rig) -> int:
    """Write until the sink takes no more, to a client that has stalled; return how many spans it took."""
    count = 0
    while rig.sink.write(rig.span(LARGE)):
        count += 1
        assert count < 2000
    return count


@every_sink
@on_each_loop
async def test_spans_and_the_last_bytes_arrive_in_order(kind: str) -> None:
    """And the client takes them for complete."""
    async with SINKS[kind]() as rig:
        for data in (b"one,", b"two,"):
            assert rig.sink.write(rig.span(data))
        rig.sink.close(rig.last(b"three"))
        assert await rig.outcome() == (b"one,two,three", True)


@every_sink
@on_each_loop
async def test_response_may_end_without_a_word(kind: str) -> None:
    """It is complete, and empty."""
    async with SINKS[kind]() as rig:
        rig.sink.close(rig.last(b""))
        assert await rig.outcome() == (b"", True)


@every_sink
@pytest.mark.parametrize("last", [b"", b"last"])
@on_each_loop
async def test_aborted_response_is_not_taken_for_complete(kind: str, last: bytes) -> None:
    """Whatever was written before has arrived."""
    async with SINKS[kind]() as rig:
        assert rig.sink.write(rig.span(b"begun"))
        await rig.wait_received(b"begun")
        rig.sink.abort(rig.span(last).plain if last else b"")
        said, complete = await rig.outcome()
        assert not complete
        assert said in (b"begun", b"begun" + last)  # a reset may overtake what was sent right before it


@every_sink
@on_each_loop
async def test_full_sink_takes_nothing_and_calls_when_it_does_again(kind: str) -> None:
    """`write` returns False and sends nothing; `resume` is called once; every span that was taken arrives once."""
    async with SINKS[kind]() as rig:
        taken = 0
        for _ in range(3):
            rig.stall()
            taken += fill(rig)
            assert not rig.sink.write(rig.span(LARGE))
            resumed: asyncio.Queue[None] = asyncio.Queue()
            rig.sink.on_writable(lambda resumed=resumed: resumed.put_nowait(None))  # type: ignore[misc]
            rig.read_on()
            async with asyncio.timeout(GUARD_S):
                await resumed.get()
            assert rig.sink.write(rig.span(b"again"))
            assert resumed.empty()
        rig.sink.close(rig.last(b"the end"))
        said, complete = await rig.outcome()
        assert complete
        assert said.endswith(b"againthe end")
        assert len(said) == taken * len(LARGE) + 3 * len(b"again") + len(b"the end")


@every_sink
@on_each_loop
async def test_full_sink_that_is_closed_sends_what_it_holds(kind: str) -> None:
    """The client gets everything in its own time."""
    async with SINKS[kind]() as rig:
        rig.stall()
        taken = fill(rig)
        rig.sink.close(rig.last(b"the end"))
        assert await rig.outcome() == (LARGE * taken + b"the end", True)


@every_sink
@pytest.mark.parametrize("end", ["close", "abort"])
@on_each_loop
async def test_response_that_has_ended_resumes_nobody(kind: str, end: str) -> None:
    """Though somebody waited until it was writable."""
    async with SINKS[kind]() as rig:
        rig.stall()
        fill(rig)
        rig.sink.on_writable(lambda: pytest.fail("resumed after its end"))
        if end == "close":
            rig.sink.close(rig.last(b""))
            assert (await rig.outcome())[1]
        else:
            rig.sink.abort(b"")
        rig.read_on()
        await asyncio.sleep(0)


@every_sink
@on_each_loop
async def test_transport_sends_in_order_with_the_sink(kind: str) -> None:
    """A span written to it arrives between those that are written to the sink; after the end there is none."""
    async with SINKS[kind]() as rig:
        assert rig.sink.write(rig.span(b"one,"))
        found = rig.sink.transport()
        if found is None:  # only the sink knows how to write
            assert rig.sink.write(rig.span(b"two,"))
        else:
            transport, chunked = found
            assert transport.get_write_buffer_size() == 0
            span = rig.span(b"two,")
            transport.write(span.chunked if chunked else span.plain)
        assert rig.sink.write(rig.span(b"three,"))
        rig.sink.close(rig.last(b"four"))
        assert rig.sink.transport() is None
        assert await rig.outcome() == (b"one,two,three,four", True)


@every_sink
@on_each_loop
async def test_transport_of_a_full_sink_has_bytes_waiting(kind: str) -> None:
    """So that nobody writes past what the sink holds back."""
    async with SINKS[kind]() as rig:
        rig.stall()
        fill(rig)
        found = rig.sink.transport()
        assert found is None or found[0].get_write_buffer_size() > 0


@every_sink
@pytest.mark.parametrize("end", ["close", "abort"])
@pytest.mark.parametrize("noticed", [True, False])
@on_each_loop
async def test_sink_whose_client_has_left_may_be_used_and_ended(kind: str, end: str, noticed: bool) -> None:
    """In the same turn of the loop, and after that is noticed; nothing is raised."""
    async with SINKS[kind]() as rig:
        rig.leave()
        if noticed:
            await rig.wait_left()
        rig.sink.write(rig.span(b"one"))
        rig.sink.on_writable(lambda: None)
        (rig.sink.close if end == "close" else rig.sink.abort)(rig.last(b"last"))
