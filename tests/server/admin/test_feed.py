"""The overview that the console is sent, again and again."""

import json
from typing import Any

import pytest

from proxy.telemetry import overview
from tests.event_streams import DONE, FINISH
from tests.http_client import Answer
from tests.proxy_under_test import PROMPT, Tee, begun, teed
from tests.stage import Stage

EVERY = "/admin/events?every=0.2"


async def next_overview(feed: Answer, having: bytes) -> dict[str, Any]:
    """Return the first overview with these bytes in it."""
    told = await feed.until(having)
    told = told[told.rindex(b"event: overview") :]
    while b"\r\n\r\n" not in told:
        told += await feed.until(b"\r\n\r\n")
    document: dict[str, Any] = json.loads(told.partition(b"data: ")[2].partition(b"\r\n")[0])
    return document


async def test_overview_comes_at_once_and_follows_what_happens(tee: Tee, stage: Stage) -> None:
    """Streams that begin and end, their followers; never their text."""
    feed = await tee.admin(EVERY)
    assert feed.header("content-type") == "text/event-stream"
    first = await next_overview(feed, b"overview")
    assert (first["running"], first["kept"], first["streams"], first["draining"]) == (0, 0, [], False)
    assert first["data_url"] == tee.proxy.url
    asked, turn = await begun(tee, stage, frames=2)
    (row,) = (await next_overview(feed, b'"events":2'))["streams"]
    assert (row["id"], row["state"], row["model"], row["follower_count"]) == (asked.stream_id, "open", "qwen3-max", 1)
    assert 0 < row["ttft_s"] <= row["age_s"]
    turn.end(FINISH, DONE)
    await asked.read()
    last = await next_overview(feed, b'"complete"')
    assert (last["running"], last["kept"], last["streams"][0]["events"]) == (0, 1, 4)
    assert PROMPT not in json.dumps(last)
    assert "word" not in json.dumps(last)


async def test_overview_is_there_once_too(tee: Tee) -> None:
    """For scripts."""
    answer = await tee.admin("/admin/overview")
    assert answer.header("content-type") == "application/json; charset=utf-8"
    assert (await answer.json())["workers"][0]["state"] == "ready"


async def test_overview_has_upstreams_and_workers(stage: Stage) -> None:
    """With breaker and queue, where they have one; no key, no address."""
    limited = {"max_concurrent": 2, "spares": ["spare"], "key": "sk-ours"}
    async with teed(stage.url, upstream=limited, upstreams={"spare": {"url": stage.url, "key": "sk-b"}}) as tee:
        document = await next_overview(await tee.admin(EVERY), b"overview")
        default, spare = document["upstreams"]
        assert (default["name"], default["breaker"], default["waiting"], default["running"]) == (
            "default",
            "closed",
            0,
            0,
        )
        assert (spare["name"], spare["waiting"]) == ("spare", None)
        (worker,) = document["workers"]
        assert (worker["state"], worker["streams"]) == ("ready", 0)
        assert "sk-" not in json.dumps(document)


async def test_overview_is_bounded(tee: Tee, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many streams, those that began first and last; the numbers are of all."""
    monkeypatch.setattr(overview, "SHOWN", 2)
    begun_streams = [await begun(tee, stage) for _ in range(4)]
    document = await next_overview(await tee.admin(EVERY), b"overview")
    idents = [answer.stream_id for answer, _ in begun_streams]
    assert [row["id"] for row in document["streams"]] == [idents[0], idents[-1]]
    assert document["running"] == 4
    for _, turn in begun_streams:
        turn.end(DONE)


async def test_feed_ends_with_the_proxy(stage: Stage) -> None:
    """Properly, so that the page knows that nobody hangs."""
    async with teed(stage.url) as tee:
        feed = await tee.admin(EVERY)
        await feed.until(b"overview")
        await tee.proxy.stop()
        await feed.read()
        assert feed.end == "whole"


async def test_pace_that_is_no_number_is_refused(tee: Tee) -> None:
    """With what is allowed."""
    answer = await tee.admin("/admin/events?every=fast")
    assert answer.status == 400
    assert "every" in (await answer.json())["error"]["message"]
