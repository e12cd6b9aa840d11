"""How a stream reaches a client: whose headers stand in the head of its response."""

from collections.abc import AsyncIterator

import pytest

from proxy.server.delivery import refusal
from proxy.wire.http import Head
from tests.end_to_end.conftest import DONE, Stage, Tee, staged, teed

KEYED = "Idempotency-Key: one"
FALSE = ["Stream-Id: st_of_another", "Location: /elsewhere", "Content-Location: /e", "Idempotency-Replayed: no"]


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with staged() as one:
        yield one


@pytest.fixture
async def tee(stage: Stage) -> AsyncIterator[Tee]:
    async with teed(stage.url) as one:
        yield one


@pytest.mark.parametrize("stream", [True, False])
async def test_what_we_say_is_not_said_by_the_upstream(tee: Tee, stage: Stage, stream: bool) -> None:
    """Another proxy above may have ids of its own: each header stands once, and is ours."""
    client = await tee.send_chat(KEYED, stream=stream)
    turn = await stage.next()
    if stream:
        turn.begin(*FALSE, "X-Kept: 1")
        turn.end(DONE)
    else:
        turn.reply("200 OK", *FALSE, "X-Kept: 1", body=DONE)
    answers = [await client.answer(), await tee.chat(KEYED, stream=stream)]
    for answer, replayed in zip(answers, (None, "true"), strict=True):
        assert (await answer.read(), answer.header("x-kept")) == (DONE, "1")
        assert answer.header("idempotency-replayed") == replayed
        assert answer.header("location") == (f"/v1/streams/{answer.stream_id}" if stream else None)
        assert answer.stream_id != "st_of_another"
    assert len({answer.stream_id for answer in answers}) == 1


@pytest.mark.parametrize("status", [204, 304])
async def test_answer_without_a_body_is_delivered(tee: Tee, stage: Stage, status: int) -> None:
    """To each who shares it, without a chunk."""
    client = await tee.send_chat(KEYED)
    turn = await stage.next()
    turn.reply(f"{status} None", length=False)
    answer = await client.answer()
    assert (answer.status, await answer.read(), answer.end) == (status, b"", "whole")
    assert answer.header("transfer-encoding") is None


def test_refusal_names_the_status() -> None:
    """It is no proper end."""
    ending = refusal(Head(429, b"Slow Down", []))
    assert (ending.reason, "429" in ending.message, ending.clean) == ("refused", True, False)
