"""How a stream reaches a client: whose headers stand in the head of its response."""

import pytest

from proxy.server.delivery import refusal
from proxy.wire.http import Head
from tests.event_streams import FINISH
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
        turn.end(FINISH)
    else:
        turn.reply("200 OK", *FALSE, "X-Kept: 1", body=b"{}")
    answers = [await client.answer(), await tee.chat(KEYED, stream=stream)]
    for answer, replayed in zip(answers, (None, "true"), strict=True):
        assert (await answer.read(), answer.header("x-kept")) == (FINISH if stream else b"{}", "1")
        assert answer.header("idempotency-replayed") == replayed
        assert answer.header("location") == (f"/v1/streams/{answer.stream_id}" if stream else "/elsewhere")
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
            turn.end(FINISH)
        else:
            turn.reply("200 OK", "Content-Type: text/plain", body=b"{}")
        first, late = await client.answer(), await tee.chat(KEYED, stream=stream)
        handle = await tee.chat(KEYED, "Prefer: respond-async", stream=stream)
        assert handle.status == 202
        for answer in (first, late, handle):
            await answer.read()
            url = answer.header("stream-follow-url")
            assert url is not None
            followed = await tee.ask("GET", f"{url}&mode=raw", "Authorization:")
            assert (followed.status, await followed.read()) == (200, FINISH if stream else b"{}")


@pytest.mark.parametrize("status", [204, 304])
async def test_answer_without_a_body_is_delivered(tee: Tee, stage: Stage, status: int) -> None:
    """To each who shares it, without a chunk."""
    client = await tee.send_chat(KEYED)
    turn = await stage.next()
    turn.reply(f"{status} None", length=False)
    answer = await client.answer()
    assert (answer.status, await answer.read(), answer.end) == (status, b"", "whole")
    assert answer.header("transfer-encoding") is None


@pytest.mark.parametrize(
    "status", ["201 Created", "301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Moved"]
)
@pytest.mark.parametrize(
    ("way", "shared"),
    [
        ((), "none"),
        (("Stream-Key: k",), "none"),
        (("Idempotency-Key: k",), "none"),
        (("Stream-On-Disconnect: grace=5",), "none"),
        (("Stream-Mode: json",), "none"),
        (("Stream-Mode: text", "Stream-Key: k"), "none"),
        ((), "body"),
    ],
)
async def test_location_is_the_upstreams_where_there_is_no_stream(
    stage: Stage, way: tuple[str, ...], shared: str, status: str
) -> None:
    """A redirect leads where the upstream says (RFC 9110 section 10.2.2), however its call is made."""
    async with teed(stage.url, generations={"share": shared}) as tee:
        client = await tee.send_chat(*way)
        turn = await stage.next()
        turn.reply(status, "Location: /v1/chat/completions/", "Content-Location: /there")
        answer = await client.answer()
        assert f"{answer.status} {answer.reason.decode()}" == status
        assert (answer.header("location"), answer.header("content-location")) == ("/v1/chat/completions/", "/there")
        assert await answer.read() == b""


async def test_location_is_kept_with_an_answer(tee: Tee, stage: Stage) -> None:
    """For a client that asked for a handle, and comes for a redirect."""
    client = await tee.send_chat("Prefer: respond-async")
    turn = await stage.next()
    turn.reply("307 Temporary Redirect", "Location: https://elsewhere.test/")
    handle = await client.answer()
    await tee.wait_ended(handle.stream_id)
    answer = await tee.follow(handle.stream_id)
    assert (answer.status, answer.header("location")) == (307, "https://elsewhere.test/")


REFUSAL = b'{"error":{"code":"invalid_parameter_error","message":"no","type":"invalid_request_error"}}'


@pytest.mark.parametrize("status", ["400 Bad Request", "429 Too Many", "500 Oh No"])
@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/event-stream", b"data: " + REFUSAL + b"\n\n"),
        ("text/event-stream", b"\xef\xbb\xbfevent: error\r\ndata: " + REFUSAL + b"\r\n\r\ndata: [DONE]\r\n\r\n"),
        ("application/json", b"data: " + REFUSAL + b"\n\n"),
        ("text/event-stream;charset=UTF-8", REFUSAL),
    ],
)
@pytest.mark.parametrize(
    ("way", "streamed", "generations"),
    [
        ((), False, {"upgrade": "always"}),
        ((), False, {"upgrade": "auto"}),
        (("Stream-Key: k",), False, {"upgrade": "always"}),
        (("Idempotency-Key: k",), False, {"upgrade": "always"}),
        (("Stream-Mode: json",), True, {}),
    ],
)
async def test_refusal_for_who_asked_for_json_is_json(
    stage: Stage, way: tuple[str, ...], streamed: bool, generations: dict[str, str], kind: str, body: bytes, status: str
) -> None:
    """Its client knows nothing of a stream, which was asked for in its place."""
    async with teed(stage.url, generations=generations) as tee:
        client = await tee.send_chat(*way, stream=streamed)
        if generations.get("upgrade") == "auto":
            stream_only = b'{"error":{"message":"This model only support stream mode"}}'
            (await stage.next()).reply("400 Bad Request", "Content-Type: application/json", body=stream_only)
        turn = await stage.next()
        turn.reply(status, f"Content-Type: {kind}", body=body)
        answer = await client.answer()
        assert f"{answer.status} {answer.reason.decode()}" == status
        assert (answer.header("content-type"), await answer.read()) == ("application/json", REFUSAL)


def test_refusal_names_the_status() -> None:
    """It is no proper end."""
    ending = refusal(Head(429, b"Slow Down", []))
    assert (ending.reason, "429" in ending.message, ending.clean) == ("refused", True, False)
