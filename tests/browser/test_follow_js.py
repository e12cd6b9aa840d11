"""proxy/console/follow.js, the client that pages may copy, in a real Chromium: bytes and connections are cut."""

import asyncio
import itertools
import json
import random
from typing import Any

import pytest

from tests.browser.tab import FOLLOW_JS, Tab, begin, events, in_one_browser
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.proxy_under_test import Tee
from tests.relay import Relay
from tests.stage import Stage

pytestmark = in_one_browser

FOLLOW = """async ({ module, url, ...options }) => {
  const { follow } = await import(module);
  window.controller = new AbortController();
  try {
    for await (const { id, data } of follow(url, { signal: controller.signal, ...options })) told({ id, data });
    told({ done: true });
  } catch ({ name, message, response }) {
    told({ name, message, status: response?.status ?? null });
  }
}"""
COMPLETION = """async ({ module, url, ...options }) => {
  const { completion } = await import(module);
  let answer = null;
  try {
    for await (answer of completion(url, options));
    return answer;
  } catch ({ message, code }) {
    return { ...answer, message, code };
  }
}"""
# Has every read bring so many bytes.
CUT_BYTES = """({ size }) => {
  const whole = window.fetch;
  window.fetch = async (...asked) => {
    const { body, status, headers } = await whole(...asked);
    const cut = new TransformStream({
      transform(data, out) {
        for (let at = 0; at < data.length; at += size) out.enqueue(data.slice(at, at + size));
      },
    });
    return new Response(body && body.pipeThrough(cut), { status, headers });
  };
}"""
USAGE = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[],"usage":{"total_tokens":3}}\n\n'
ONE, TWO = chunk_frame("one "), chunk_frame("二")


def at(relay: Relay, ident: str, **options: Any) -> dict[str, Any]:
    return {"module": "/follow.js", "url": f"{relay.url}/v1/streams/{ident}", "retryMs": 10, **options}


async def test_follow_js_is_short() -> None:
    """It is to be read, and copied: under sixty lines."""
    assert len(FOLLOW_JS.read_text().splitlines()) < 60


async def test_bytes_cut_anywhere_are_the_same_events(
    tee: Tee, stage: Stage, relay: Relay, site: str, tab: Tab
) -> None:
    """Split characters and line ends, LF, CRLF and CR, no space after the colon, several lines, comments, no data."""
    frames = [
        b": a comment\r\n\r\n",
        "data:一\r\ndata: 二\u2028三\r\nretry: 7\r\n\r\n".encode(),
        b"event: of a kind\rdata:  two spaces\rdata\r\r",
        'data:{"a": "😀"}\nunknown: 1\n\n'.encode(),
        b"event: without data\n\n",
        DONE,
    ]
    answer, turn = await begin(tee, stage, *frames)
    turn.end()
    data = ["一\n二\u2028三", " two spaces\n", '{"a": "😀"}', "[DONE]"]
    ids = [f"{answer.epoch}-{seq}" for seq in (2, 3, 4, 6)]
    for size in (1, 2, 3, 5, 7, 1 << 20):
        await tab.go(site)
        await tab.run(CUT_BYTES, size=size)
        await tab.run(FOLLOW, **at(relay, answer.stream_id))
        *told, end = await tab.take(5)
        assert told == [{"id": ident, "data": text} for ident, text in zip(ids, data, strict=True)]
        assert end == {"done": True}


async def test_connections_cut_anywhere_leave_no_gap_and_repeat_nothing(
    tee: Tee, stage: Stage, relay: Relay, tab: Tab
) -> None:
    """Each connection breaks after some bytes, the first ones within the answer's head; the ids stay dense."""
    frames = [*[chunk_frame(f"第{n}词 ") for n in range(40)], FINISH, USAGE, DONE]
    answer, turn = await begin(tee, stage, *frames)
    turn.end()
    cut_after = random.Random(11)
    relay.cut_each_after(itertools.chain([0, 1, 25, 400], (cut_after.randint(700, 2200) for _ in itertools.count())))
    await tab.run(FOLLOW, **at(relay, answer.stream_id))
    assert await tab.take(len(frames) + 1) == [*events(answer, *frames), {"done": True}]
    assert relay.cuts > 10
    relay.cut_each_after(cut_after.randint(700, 2200) for _ in itertools.count())
    heard = {"content": "".join(f"第{n}词 " for n in range(40)), "reasoning_content": ""}
    assert await tab.run(COMPLETION, **at(relay, answer.stream_id)) == heard
    assert len(stage.turns) == 1


async def test_follower_of_a_running_stream_is_back_after_a_reset(
    tee: Tee, stage: Stage, relay: Relay, tab: Tab
) -> None:
    """It waits while nobody is there, and then goes on after the last event it had."""
    answer, turn = await begin(tee, stage, ONE)
    following = asyncio.create_task(tab.run(FOLLOW, **at(relay, answer.stream_id)))
    assert await tab.take(1) == events(answer, ONE)
    relay.down = True
    relay.cut()
    turn.chunk(TWO)
    await relay.wait_refused(3)
    relay.down = False
    assert await tab.take(1) == events(answer, TWO, first=2)
    turn.end(DONE)
    assert await tab.take(2) == [*events(answer, DONE, first=3), {"done": True}]
    await following


async def test_stream_that_ends_without_a_last_word_ends_by_204(tee: Tee, stage: Stage, relay: Relay, tab: Tab) -> None:
    """A clean close is no end by itself: a server that drains does the same."""
    answer, turn = await begin(tee, stage, ONE, FINISH)
    turn.end()
    await tab.run(FOLLOW, **at(relay, answer.stream_id))
    assert await tab.take(3) == [*events(answer, ONE, FINISH), {"done": True}]


async def test_network_that_went_silent_is_left_for_a_new_connection(
    tee: Tee, stage: Stage, relay: Relay, tab: Tab
) -> None:
    """Neither bytes nor an end come any more; heartbeats would have."""
    answer, turn = await begin(tee, stage, ONE)
    following = asyncio.create_task(tab.run(FOLLOW, **at(relay, answer.stream_id, silenceMs=300)))
    assert await tab.take(1) == events(answer, ONE)
    relay.freeze()
    turn.chunk(TWO)
    assert await tab.take(1) == events(answer, TWO, first=2)
    turn.end(DONE)
    assert await tab.take(2) == [*events(answer, DONE, first=3), {"done": True}]
    await following


async def test_error_that_ends_a_stream_is_thrown_after_the_text(
    tee: Tee, stage: Stage, relay: Relay, tab: Tab
) -> None:
    """With its code; to those who follow events it is the last of them."""
    answer, turn = await begin(tee, stage, ONE, TWO)
    turn.reset()
    heard = await tab.run(COMPLETION, **at(relay, answer.stream_id))
    assert (heard["content"], heard["code"]) == ("one 二", "upstream_reset")
    await tab.run(FOLLOW, **at(relay, answer.stream_id))
    *past, error, end = await tab.take(4)
    assert past == events(answer, ONE, TWO)
    assert json.loads(error["data"])["error"]["message"] == heard["message"]
    assert end == {"done": True}


@pytest.mark.parametrize(("query", "status"), [("?after=99", 416), ("?mode=none", 400), ("?after=1", 404)])
async def test_refusal_is_thrown_at_once(
    tee: Tee, stage: Stage, relay: Relay, tab: Tab, query: str, status: int
) -> None:
    """With its status; it is not asked for again."""
    answer, turn = await begin(tee, stage, ONE)
    turn.end(DONE)
    ident = "st_nothing" if status == 404 else answer.stream_id
    await tab.run(FOLLOW, **at(relay, ident + query))
    told = await tab.next()
    assert told["status"] == status
    assert told["message"].startswith(f"HTTP {status}: {{")
    assert tee.proxy.metrics.requests["streams", "GET", status] == 1


async def test_server_that_stays_away_is_given_up(tee: Tee, stage: Stage, relay: Relay, tab: Tab) -> None:
    """After so many attempts without an event the last one's error is thrown."""
    answer, turn = await begin(tee, stage, ONE)
    turn.end(DONE)
    relay.cut()
    relay.down = True
    await tab.run(FOLLOW, **at(relay, answer.stream_id, attempts=3))
    assert (await tab.next())["name"] == "TypeError"
    assert relay.refused >= 3


async def test_abort_ends_the_loop_and_closes_the_connection(tee: Tee, stage: Stage, relay: Relay, tab: Tab) -> None:
    """While it waits for an event, and while it waits for its next attempt."""
    answer, turn = await begin(tee, stage, ONE)
    for waits_for_its_next_attempt in (False, True):
        following = asyncio.create_task(tab.run(FOLLOW, **at(relay, answer.stream_id)))
        assert await tab.take(1) == events(answer, ONE)
        if waits_for_its_next_attempt:
            await tab.run("() => { AbortSignal.timeout = () => new AbortController().signal; }")
            relay.down = True
            relay.cut()
            await tee.wait_followers(1)
        await tab.run("() => controller.abort()")
        assert (await tab.next())["name"] == "AbortError"
        await following
        await tee.wait_followers(1)
    turn.end(DONE)


async def test_loop_that_is_left_closes_the_connection(tee: Tee, stage: Stage, relay: Relay, tab: Tab) -> None:
    """`break` is enough; nothing is read on in the background."""
    answer, turn = await begin(tee, stage, ONE, TWO)
    first = """async ({ module, url }) => {
      const { follow } = await import(module);
      for await (const event of follow(url)) return event;
    }"""
    event = await tab.run(first, **at(relay, answer.stream_id))
    assert {"data": event["data"], "id": event["id"]} == events(answer, ONE)[0]
    await tee.wait_followers(1)
    turn.end(DONE)
