"""Lines of an event whose blank line comes late: mode raw has them at once, and nobody has anything twice."""

import pytest

from tests.event_loops import on_one_loop
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.proxy_under_test import Serve, begun
from tests.stage import Stage

ONE, TWO = chunk_frame("one"), chunk_frame("two")
LINE_ONE, LINE_TWO = ONE[:-1], TWO[:-1]


@on_one_loop
@pytest.mark.parametrize("others", [0, 3])
async def test_line_reaches_raw_clients_before_its_event_ends(perform: Serve, stage: Stage, others: int) -> None:
    """The blank line comes with the next event; the client that asked and followers have each line when it is there."""
    tee = await perform()
    asked, turn = await begun(tee, stage)
    raws = [asked, *[await tee.follow(asked.stream_id, "mode=raw") for _ in range(others)]]
    events = await tee.follow(asked.stream_id, "mode=events")
    said = b""
    for read in (LINE_ONE, b"\n" + LINE_TWO, b"\n: a comment\n", b"\n" + FINISH[:-1], b"\n" + DONE[:-1]):
        turn.chunk(read)
        said += read
        for answer in raws:
            assert await answer.bytes(len(said)) == said
    turn.end(b"\n")
    for answer in raws:
        assert (await answer.read(), answer.end) == (said + b"\n", "whole")
    had = await events.read()
    assert (had.count(b"data: "), had.count(b"\nid: ")) == (4, 4)
    assert (await tee.wait_ended(asked.stream_id))["state"] == "complete"


@on_one_loop
@pytest.mark.parametrize("had", [len(ONE), len(ONE) + 5, len(ONE + LINE_TWO)])
async def test_client_resumes_within_an_event_that_has_not_ended(perform: Serve, stage: Stage, had: int) -> None:
    """It has every byte once, by the offset of the bytes that it had."""
    tee = await perform()
    asked, turn = await begun(tee, stage)
    said = ONE + LINE_TWO
    turn.chunk(said)
    await asked.bytes(len(said))
    again = await tee.follow(asked.stream_id, f"mode=raw&offset={had}")
    assert (again.status, again.header("stream-offset")) == (200, str(had))
    await tee.wait_followers(2)
    for read in (b": one\n", b": two\n", b"\n" + LINE_TWO):
        turn.chunk(read)
        said += read
        for answer, start in ((asked, 0), (again, had)):
            assert await answer.bytes(len(said) - start) == said[start:]
    beyond = await tee.follow(asked.stream_id, f"mode=raw&offset={len(said) + 1}")
    assert (beyond.status, (await beyond.json())["error"]["code"]) == (416, "offset_beyond")
    turn.end(b"\n" + DONE)
    assert (await again.read(), again.end) == ((said + b"\n" + DONE)[had:], "whole")


@on_one_loop
async def test_stream_that_breaks_off_within_an_event_repeats_no_line(perform: Serve, stage: Stage) -> None:
    """The lines that were sent are the beginning of the tail, which is sent once."""
    tee = await perform()
    asked, turn = await begun(tee, stage)
    said = ONE + LINE_TWO
    turn.chunk(said)
    await asked.bytes(len(said))
    turn.chunk(b"data: hal")
    turn.close()
    assert (await asked.read(), asked.end) == (said + b"data: hal", "cut")
    again = await tee.follow(asked.stream_id, "mode=raw")
    assert (await again.read(), again.end) == (said + b"data: hal", "cut")
