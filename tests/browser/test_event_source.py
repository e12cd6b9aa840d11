"""What browsers have of their own, in a real Chromium and on another origin: EventSource, WebSocket, a naive fetch."""

import asyncio
import itertools
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from playwright.async_api import BrowserContext

from tests.browser.tab import Tab, begin, events, in_one_browser
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.proxy_under_test import Tee
from tests.relay import Relay
from tests.stage import Stage

pytestmark = in_one_browser

EVENT_SOURCE = """({ url }) => {
  const source = new EventSource(url);
  source.onmessage = ({ data, lastEventId }) => told({ data, id: lastEventId });
  source.onerror = () => told({ state: source.readyState });
}"""
WEB_SOCKET = """({ url }) => {
  const socket = new WebSocket(url);
  socket.onmessage = (message) => {
    const { id, event, data } = JSON.parse(message.data);
    if (event === "message") told({ id, data });
  };
  socket.onclose = ({ code, wasClean }) => told({ code, wasClean });
}"""
# The parser that many pages have: no buffering; what a read brings is taken for whole lines.
NAIVE = """async ({ url }) => {
  const reader = (await fetch(url)).body.getReader();
  const decoder = new TextDecoder();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return told({ done });
    for (const line of decoder.decode(value).split("\\n")) {
      if (!line.startsWith("data: ")) continue;
      const data = line.slice(6);
      if (data !== "[DONE]") told({ text: JSON.parse(data).choices[0].delta.content });
    }
  }
}"""
CONNECTING, CLOSED = {"state": 0}, {"state": 2}
ONE, TWO, THREE = map(chunk_frame, ("one ", "二", "three"))


async def test_event_source_that_joins_late_has_everything_and_stops_at_the_end(
    tee: Tee, stage: Stage, tab: Tab
) -> None:
    """The past, then what comes; after the clean end it asks once more, is told 204, and is closed for good."""
    answer, turn = await begin(tee, stage, ONE, TWO)
    await tab.run(EVENT_SOURCE, url=f"{tee.proxy.url}/v1/streams/{answer.stream_id}")
    assert await tab.take(2) == events(answer, ONE, TWO)
    turn.chunk(THREE)
    assert await tab.take(1) == events(answer, THREE, first=3)
    turn.end(DONE)
    assert await tab.take(3) == [*events(answer, DONE, first=4), CONNECTING, CLOSED]
    assert len(stage.turns) == 1


async def test_event_source_whose_connection_breaks_resumes_by_itself(
    tee: Tee, stage: Stage, relay: Relay, tab: Tab
) -> None:
    """What was said while it was away comes once, after what it had; the upstream hears nothing of it."""
    answer, turn = await begin(tee, stage, ONE, TWO)
    await tab.run(EVENT_SOURCE, url=f"{relay.url}/v1/streams/{answer.stream_id}")
    assert await tab.take(2) == events(answer, ONE, TWO)
    for seq in (3, 5, 7):
        relay.cut()
        turn.chunk(TWO)  # while it is away
        assert await tab.take(2) == [CONNECTING, *events(answer, TWO, first=seq)]
        turn.chunk(THREE)
        assert await tab.take(1) == events(answer, THREE, first=seq + 1)
    turn.end(FINISH, DONE)
    assert await tab.take(4) == [*events(answer, FINISH, DONE, first=9), CONNECTING, CLOSED]
    assert relay.event_streams == 4
    assert len(stage.turns) == 1


async def test_event_source_cut_within_events_misses_none_and_repeats_none(
    tee: Tee, stage: Stage, relay: Relay, tab: Tab
) -> None:
    """Forty events over connections that each break after some bytes, in the middle of a line or a character."""
    frames = [chunk_frame(f"第{n}词 ") for n in range(40)]
    answer, turn = await begin(tee, stage, *frames)
    turn.end(DONE)
    cut_after = random.Random(7)
    relay.cut_each_after(cut_after.randint(900, 2200) for _ in itertools.count())
    await tab.run(EVENT_SOURCE, url=f"{relay.url}/v1/streams/{answer.stream_id}")
    told = await until_closed(tab)
    assert [one for one in told if "id" in one] == events(answer, *frames, DONE)
    assert relay.cuts > 5


async def until_closed(tab: Tab) -> list[Any]:
    told = [await tab.next()]
    while told[-1] != CLOSED:
        told.append(await tab.next())
    return told


async def test_event_source_with_a_follow_url_needs_no_key(tee: Tee, stage: Stage, relay: Relay, tab: Tab) -> None:
    """The URL that a stream was given is good for its reconnections, too; without its signature there is nothing."""
    answer, turn = await begin(tee, stage, ONE, key="sk-of-the-backend")
    await tab.run(EVENT_SOURCE, url=f"{relay.url}/v1/streams/{answer.stream_id}")
    assert await tab.next() == CLOSED
    follow_url = answer.header("stream-follow-url")
    assert follow_url is not None
    await tab.run(EVENT_SOURCE, url=relay.url + follow_url)
    assert await tab.take(1) == events(answer, ONE)
    relay.cut()
    turn.chunk(TWO)
    assert await tab.take(2) == [CONNECTING, *events(answer, TWO, first=2)]
    turn.end(DONE)
    assert await tab.take(3) == [*events(answer, DONE, first=3), CONNECTING, CLOSED]


async def test_event_source_of_a_stream_that_fails_is_told_and_stops(tee: Tee, stage: Stage, tab: Tab) -> None:
    """The error is an event like any other, once; then 204."""
    answer, turn = await begin(tee, stage, ONE)
    await tab.run(EVENT_SOURCE, url=f"{tee.proxy.url}/v1/streams/{answer.stream_id}")
    assert await tab.take(1) == events(answer, ONE)
    turn.reset()
    error, *rest = await until_closed(tab)
    assert json.loads(error["data"])["error"]["code"] == "upstream_reset"
    assert error["id"] == f"{answer.epoch}-2"
    assert rest == [CONNECTING, CLOSED]


async def test_web_socket_has_the_same_events(tee: Tee, stage: Stage, tab: Tab) -> None:
    """On another origin, by a signed URL: the past, what comes, and a close that is clean."""
    answer, turn = await begin(tee, stage, ONE, key="sk-of-the-backend")
    follow_url = answer.header("stream-follow-url")
    assert follow_url is not None
    await tab.run(WEB_SOCKET, url=tee.proxy.url.replace("http:", "ws:") + follow_url)
    assert await tab.take(1) == events(answer, ONE)
    turn.chunk(TWO)
    turn.end(DONE)
    assert await tab.take(3) == [*events(answer, TWO, DONE, first=2), {"code": 1000, "wasClean": True}]


async def test_parser_without_a_buffer_reads_mode_events(tee: Tee, stage: Stage, tab: Tab) -> None:
    """Every write is whole events, so that a read in the page is: the past, one at a time, and a burst."""
    answer, turn = await begin(tee, stage, ONE, TWO)
    running = asyncio.create_task(tab.run(NAIVE, url=f"{tee.proxy.url}/v1/streams/{answer.stream_id}"))
    assert await tab.take(2) == [{"text": "one "}, {"text": "二"}]
    for text in ("a ", "二", "c "):
        turn.chunk(chunk_frame(text))
        assert await tab.take(1) == [{"text": text}]
    burst = [f"词{n} " for n in range(100)]
    for text in burst:
        turn.chunk(chunk_frame(text))
    assert await tab.take(100) == [{"text": text} for text in burst]
    turn.end(DONE)
    assert await tab.take(1) == [{"done": True}]
    await running


async def test_twenty_tabs_follow_one_stream(tee: Tee, stage: Stage, site: str, window: BrowserContext) -> None:
    """Five tabs on each of four names of the proxy: to one name a browser makes six connections over HTTP/1.1."""
    answer, turn = await begin(tee, stage, ONE)
    port = tee.proxy.url.rpartition(":")[2]
    urls = [f"http://{name}.localhost:{port}/v1/streams/{answer.stream_id}" for name in "abcd"] * 5
    async with tabs_at(window, site, len(urls)) as tabs:
        await asyncio.gather(*[tab.run(EVENT_SOURCE, url=url) for tab, url in zip(tabs, urls, strict=True)])
        await tee.wait_followers(21)
        turn.chunk(TWO)
        turn.end(THREE, DONE)
        for tab in tabs:
            assert await tab.take(6) == [*events(answer, ONE, TWO, THREE, DONE), CONNECTING, CLOSED]
    assert len(stage.turns) == 1


@asynccontextmanager
async def tabs_at(window: BrowserContext, site: str, count: int) -> AsyncIterator[list[Tab]]:
    tabs = [await Tab.open(window) for _ in range(count)]
    try:
        await asyncio.gather(*[tab.go(site) for tab in tabs])
        yield tabs
    finally:
        await asyncio.gather(*[tab.close() for tab in tabs])
