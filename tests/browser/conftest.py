"""What the tests with a real browser stand on: Debian's Chromium, pages of a site of its own, and a relay that cuts."""

import threading
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, async_playwright

from tests.browser.operator import Operator
from tests.browser.tab import Pages, Tab, Threads
from tests.programs import system_tool
from tests.proxy_under_test import Tee, teed
from tests.relay import Relay, relayed
from tests.stage import Stage, staged

# One process for all pages: a process a page is seconds of computing.
_FLAGS = ["--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--renderer-process-limit=1"]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """A headless Chromium. Without it the tests are skipped, saying so; with CI=true they fail."""
    program = system_tool("chromium")
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=program, args=_FLAGS)
        yield chromium
        await chromium.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def window(browser: Browser) -> AsyncIterator[BrowserContext]:
    """A profile for all tests: they differ in the ports they go to."""
    context = await browser.new_context()
    yield context
    await context.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def one_tab(window: BrowserContext) -> Tab:
    return await Tab.open(window)


@pytest.fixture(scope="session")
def site() -> Iterator[str]:
    """The web site whose pages follow, by its origin. In threads: what it leaves open is no Tee's concern."""
    with Threads(("127.0.0.1", 0), Pages) as server:
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


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def one_operator(window: BrowserContext) -> Operator:
    return await Operator.open(window)


@pytest_asyncio.fixture(loop_scope="session")
async def operator(one_operator: Operator) -> AsyncIterator[Operator]:
    """A page for the console, left empty when the test is over. The browser has complained of nothing, nor forbidden.

    Take it after the proxy, so that the page leaves first.
    """
    one_operator.problems.clear()
    yield one_operator
    await one_operator.page.goto("about:blank")
    assert one_operator.problems == []
