"""A page of a real browser, the web site it is from, and what is told to it.

One Chromium serves all tests of a worker (it takes a second to start), so all of them run in one event loop, and
xdist keeps them together.
"""

import asyncio
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import BrowserContext, Page

from tests.event_loops import GUARD_S
from tests.http_client import Answer
from tests.proxy_under_test import Tee
from tests.stage import Stage, Turn

FOLLOW_JS = Path(__file__).parents[2] / "proxy" / "console" / "follow.js"
_PAGES = {
    "/": (b"<!doctype html><title>A follower</title>", "text/html"),
    "/follow.js": (FOLLOW_JS.read_bytes(), "text/javascript"),
}
in_one_browser = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("browser")]
"""What each module here has as its `pytestmark`."""


class Tab:
    """A page of the browser; what its scripts call `told` with arrives here."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._told: asyncio.Queue[Any] = asyncio.Queue()

    @classmethod
    async def open(cls, context: BrowserContext) -> "Tab":
        tab = cls(await context.new_page())
        await tab._page.expose_function("told", lambda what: tab._told.put_nowait(what))
        return tab

    async def go(self, url: str) -> None:
        """Leave the page for another; what the last one told is forgotten."""
        await self._page.goto(url)
        self._told = asyncio.Queue()

    async def close(self) -> None:
        await self._page.close()

    async def run(self, script: str, **named: Any) -> Any:
        """Call a function in the page, and return what it returns."""
        async with asyncio.timeout(2 * GUARD_S):
            return await self._page.evaluate(script, named)

    async def next(self) -> Any:
        """Return what the page tells next."""
        async with asyncio.timeout(2 * GUARD_S):
            return await self._told.get()

    async def take(self, count: int) -> list[Any]:
        """Return so many; fewer, when the page tells that it is done or has failed."""
        told: list[Any] = []
        while len(told) < count and not (told and told[-1].keys() & {"done", "name"}):
            told.append(await self.next())
        return told


class Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body, content_type = _PAGES.get(self.path, (b"", ""))
        self.send_response(200 if body else 404)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Threads(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a browser keeps connections that it may need


RECONNECT = b"retry: 20\n"
"""The upstream's own wish, in its first event: an EventSource would wait for 3 s."""


async def begin(tee: Tee, stage: Stage, *frames: bytes, key: str = "") -> tuple[Answer, Turn]:
    """Begin a stream with these frames, for the caller without a key unless one is given: EventSource has none."""
    client = await tee.send_chat(f"Authorization: Bearer {key}" if key else "Authorization: ")
    turn = await stage.next()
    await turn.body()
    turn.begin()
    said = RECONNECT + b"".join(frames)
    turn.chunk(said)
    answer = await client.answer()
    await answer.bytes(len(said))
    return answer, turn


def events(answer: Answer, *frames: bytes, first: int = 1) -> list[dict[str, str]]:
    """Return the data and id that a client is told for frames that have data in one line."""
    data = [frame.decode().removeprefix("data: ").strip() for frame in frames]
    return [{"data": text, "id": f"{answer.epoch}-{seq}"} for seq, text in enumerate(data, first)]
