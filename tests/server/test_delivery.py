"""How a stream reaches a client: whose headers stand in the head of its response."""

import pytest

from proxy.server.delivery import refusal
from proxy.wire.http import Head
from tests.event_streams import DONE
from tests.proxy_under_test import Tee, teed
from tests.stage import Stage

KEYED = "Idempotency-Key: one"
FALSE = ["Stream-Id: st_of_another", "Location: /elsewhere", "Content-Location: /e", "Idempotency-Replayed: no"]


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


@pytest.mark.parametrize("stream", [True, False])
async def test_everyone_who_shares_gets_a_signed_url(stage: Stage, stream: bool) -> None:
    """The first, a late one, one who only wants a handle: with each of their URLs the answer is had without a key."""
    async with teed(stage.url, capabilities={"secrets": ["a secret of thirty-two characters"]}) as tee:
        client = await tee.send_chat(KEYED, stream=stream)
        turn = await stage.next()
        if stream:
            turn.begin("Stream-Follow-URL: /of-another")
            turn.end(DONE)
        else:
            turn.reply("200 OK", "Content-Type: text/plain", body=DONE)
        first, late = await client.answer(), await tee.chat(KEYED, stream=stream)
        handle = await tee.chat(KEYED, "Prefer: respond-async", stream=stream)
        assert handle.status == 202
        for answer in (first, late, handle):
            await answer.read()
            url = answer.header("stream-follow-url")
            assert url is not None
            followed = await tee.ask("GET", f"{url}&mode=raw", "Authorization:")
            assert (followed.status, await followed.read()) == (200, DONE)


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
