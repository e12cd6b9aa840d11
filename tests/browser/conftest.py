"""What the tests with a real browser stand on: Debian's Chromium, pages of a site of its own, and a relay that cuts.

One Chromium serves all tests of a worker (it takes a second to start), so all of them run in one event loop, and
xdist keeps them together. A `Relay` stands between the browser and the proxy.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from tests.end_to_end.conftest import GUARD_S, Answer, Stage, Tee, Turn, staged, teed
from tests.relay import Relay, relayed
from tests.telemetry.test_metrics import system_tool

FOLLOW_JS = Path(__file__).parents[2] / "proxy" / "console" / "follow.js"
_PAGES = {
    "/": (b"<!doctype html><title>A follower</title>", "text/html"),
    "/follow.js": (FOLLOW_JS.read_bytes(), "text/javascript"),
}
# One process for all pages: a process a page is seconds of computing.
_FLAGS = ["--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--renderer-process-limit=1"]


in_one_browser = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("browser")]
"""What each module here has as its `pytestmark`."""


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """A headless Chromium. Without it the tests are skipped, saying so; with CI=true they fail."""
    program = system_tool("chromium")
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=program, args=_FLAGS)
        yield chromium
        await chromium.close()


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


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def window(browser: Browser) -> AsyncIterator[BrowserContext]:
    """A profile for all tests: they differ in the ports they go to."""
    context = await browser.new_context()
    yield context
    await context.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def one_tab(window: BrowserContext) -> Tab:
    return await Tab.open(window)


class _Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body, content_type = _PAGES.get(self.path, (b"", ""))
        self.send_response(200 if body else 404)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Threads(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a browser keeps connections that it may need


@pytest.fixture(scope="session")
def site() -> Iterator[str]:
    """The web site whose pages follow, by its origin. In threads: what it leaves open is no Tee's concern."""
    with _Threads(("127.0.0.1", 0), _Pages) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest_asyncio.fixture(loop_scope="session")
async def tab(one_tab: Tab, site: str) -> AsyncIterator[Tab]:
    """A tab at the site, left empty when the test is over. One for all tests: a new one costs a second of computing."""
    await one_tab.go(site)
    yield one_tab
    await one_tab.go("about:blank")


@pytest_asyncio.fixture(loop_scope="session")
async def stage() -> AsyncIterator[Stage]:
    """An upstream that says what the test has it say."""
    async with staged() as one:
        yield one


@pytest_asyncio.fixture(loop_scope="session")
async def tee(stage: Stage, site: str) -> AsyncIterator[Tee]:
    """A proxy before the stage, which the site's pages may ask."""
    access = {"cors": {"origins": [site]}, "capabilities": {"secrets": ["0" * 64]}}
    async with teed(stage.url, **access) as one:
        yield one


@pytest_asyncio.fixture(loop_scope="session")
async def relay(tee: Tee) -> AsyncIterator[Relay]:
    """A relay before the proxy."""
    async with relayed(tee.proxy.url) as one:
        yield one


# What is said and heard.

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
