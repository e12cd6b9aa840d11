"""Every response of the corpus, through the proxy to a client of each mode, in one read or in many."""

import json
from random import Random

import pytest

from tests.corpus.responses import RESPONSES, Response
from tests.event_loops import on_one_loop
from tests.http_client import Answer
from tests.proxy_under_test import Serve, Tee
from tests.stage import Stage, Turn


@on_one_loop
@pytest.mark.parametrize("mode", ["raw", "text", "json"])
@pytest.mark.parametrize("pieces", [1, 5])
async def test_response_of_the_corpus_is_read_right(perform: Serve, stage: Stage, mode: str, pieces: int) -> None:
    """What is a stream is one, whatever its head says, and what is none passes as it is."""
    tee = await perform()
    wrong = []
    for name, response in RESPONSES.items():
        client = await tee.send_chat(f"Stream-Mode: {mode}")
        turn = await stage.next()
        await turn.body()
        # Where the length is repeated, the head must come in one read.
        await say(tee, turn, response, Random(name), 1 if name == "length twice" else pieces)
        answer = await client.answer()
        body = await answer.read()
        if not is_right(response, mode, answer, body):
            wrong.append(f"{name}: {answer.status} {answer.end} {body[:200]!r}")
    assert wrong == []


async def say(tee: Tee, turn: Turn, response: Response, random: Random, pieces: int) -> None:
    """Write a response in so many pieces, each of which the proxy reads before the next one comes."""
    places = sorted(random.randrange(len(response.said) + 1) for _ in range(pieces - 1))
    for start, end in zip([0, *places], [*places, len(response.said)], strict=True):
        if turn.left.is_set():
            return  # the proxy has read enough
        turn.say(response.said[start:end])
        if pieces > 1:
            await (await tee.ask("GET", "/healthz")).read()
    (turn.close if response.closes else turn.done.set)()


def is_right(response: Response, mode: str, answer: Answer, body: bytes) -> bool:
    """Return whether an answer is what the corpus says."""
    if response.text is None:
        said = response.code.encode() in body if response.code else mode != "raw" or body == response.body
        right = said and answer.status == response.status
    elif mode == "raw":
        right = (answer.status, body, answer.end) == (response.status, response.body, "whole")
    elif mode == "text":
        right = (body.decode(), answer.end) == (response.text, "cut" if response.code else "whole")
    elif response.code:
        right = response.code.encode() in body
    else:
        right = answer.status == 200 and json.loads(body)["choices"][0]["message"]["content"] == response.text
    if mode == "raw" and response.header is not None:
        right = right and answer.header(response.header[0]) == response.header[1]
    return right
