"""Answers that are no event stream, read to their end for all who asked."""

from typing import Any

import pytest

from tests.http_client import zipped
from tests.shared_route import first, own, tick
from tests.stage import Stage


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("body", [b"", b"x" * 2000])
async def test_answer_is_given_as_it_came(stage: Stage, framing: str, body: bytes) -> None:
    """However its end was told, it has a length then."""
    async with own(stage, limits={"frame_bytes": 2000}) as tee:
        client = await tee.send("GET", "/events")
        turn = await stage.next()
        if framing == "length":
            turn.reply("418 I am a teapot", "X-Own: yes", "Content-Encoding: br", body=body)
        else:
            lines = ["X-Own: yes", "Content-Encoding: br"] + ["Transfer-Encoding: chunked"] * (framing == "chunked")
            turn.say("\r\n".join(["HTTP/1.1 418 I am a teapot", *lines, "", ""]).encode())
            if framing == "chunked":
                turn.end(*([body] if body else []))
            else:
                turn.say(body)
                turn.close()
        answer = await client.answer()
        assert await answer.read() == body
        assert (answer.status, answer.reason) == (418, b"I am a teapot")
        assert (answer.header("x-own"), answer.header("content-encoding")) == ("yes", "br")
        assert answer.header("content-length") == str(len(body))


@pytest.mark.parametrize(("status", "line"), [(204, "204 No Content"), (304, "304 Not Modified")])
async def test_answer_without_a_body_has_no_length(stage: Stage, status: int, line: str) -> None:
    """The connection goes on to the next request."""
    async with own(stage) as tee:
        client = await tee.send("GET", "/events")
        (await stage.next()).reply(line, length=False)
        answer = await client.answer()
        assert (answer.status, answer.header("content-length")) == (status, None)


@pytest.mark.parametrize(
    ("reply", "status", "code"),
    [
        (lambda turn: turn.close(), 502, "upstream_unreachable"),
        (lambda turn: turn.reply("200 OK", "Content-Length: 9", body=b"part", length=False) or turn.close(), 502, None),
        (lambda turn: turn.reply("200 OK", body=b"x" * 3000), 502, "upstream_garbled"),
        (
            lambda turn: turn.reply(
                "200 OK", "Content-Type: text/event-stream", "Content-Encoding: gzip", body=zipped(tick(1))
            ),
            502,
            "upstream_garbled",
        ),
    ],
    ids=["closed", "broken", "too large", "compressed"],
)
async def test_first_call_that_fails_is_an_error(stage: Stage, reply: Any, status: int, code: str | None) -> None:
    """For everyone who asked; nothing is kept of it."""
    async with own(stage, limits={"frame_bytes": 2000}) as tee:
        client = await tee.send("GET", "/events")
        reply(await stage.next())
        answer = await client.answer()
        assert answer.status == status
        assert code in (None, (await answer.json())["error"]["code"])
        _, turn = await first(tee, stage, 1)
        assert turn is stage.turns[-1]
