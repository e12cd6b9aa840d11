"""The DashScope SDK's sum: asked for all the text so far, it asks for increments and adds them up itself.

So an upstream, or a proxy, that sends it all the text so far makes it say everything twice.
"""

import json
from itertools import pairwise

from tests.contract.playback import Playback
from tests.contract.sdks import Question, Sdks, Told, both_majors
from tests.proxy_under_test import Tee

CUMULATIVE = {"Cumulative": "1"}
INCREMENTS = {"Stream-Mode": "incremental"}
ASKED: Question = {"sdk": "dashscope", "stream": True, "result_format": "message", "max_tokens": 30}
ADDED_UP: Question = {**ASKED, "incremental_output": False}


def texts(told: Told) -> list[str]:
    assert told["error"] is None
    return [json.loads(answer[3])["choices"][0]["message"]["content"] for answer in told["answers"]]


async def whole_text(sdks: Sdks, fake: Playback) -> str:
    asked = {name: value for name, value in ASKED.items() if name != "stream"}
    (text,) = texts(*await sdks.hear([{**asked, "url": fake.url}]))
    return text


@both_majors
async def test_sum_of_increments_says_nothing_twice(sdks: Sdks, fake: Playback, tee: Tee) -> None:
    """In raw and in every mode of increments: each answer begins as the one before, and the last one is the whole."""
    whole = await whole_text(sdks, fake)
    asked = [{**ADDED_UP, "url": tee.proxy.url, "headers": headers} for headers in ({}, INCREMENTS)]
    for told in await sdks.hear(asked):
        said = texts(told)
        assert all(after.startswith(before) for before, after in pairwise(said))
        assert said[-1] == whole
    assert all(b'"incremental_output": true' in one.body for one in fake.requests[-2:])


@both_majors
async def test_upstream_that_is_always_cumulative_is_made_increments(sdks: Sdks, fake: Playback, tee: Tee) -> None:
    """Raw passes what it sends, which the SDK doubles as it does without the proxy; mode incremental is the cure."""
    whole = await whole_text(sdks, fake)
    direct, raw, cured = await sdks.hear(
        [
            {**ADDED_UP, "url": fake.url, "headers": CUMULATIVE},
            {**ADDED_UP, "url": tee.proxy.url, "headers": CUMULATIVE},
            {**ADDED_UP, "url": tee.proxy.url, "headers": CUMULATIVE | INCREMENTS},
        ]
    )
    assert raw == direct
    assert texts(raw)[-1] != whole  # else it is not the trouble that is cured here
    assert texts(cured)[-1] == whole


@both_majors
async def test_cumulative_text_that_nobody_adds_up_stays_as_it_is(sdks: Sdks, fake: Playback, tee: Tee) -> None:
    """Without the parameter the SDK adds nothing up; in mode incremental it then gets increments, as was asked for."""
    whole = await whole_text(sdks, fake)
    raw, increments = await sdks.hear(
        [{**ASKED, "url": tee.proxy.url, "headers": headers} for headers in ({}, INCREMENTS)]
    )
    assert texts(raw)[-1] == whole
    assert "".join(texts(increments)) == whole
