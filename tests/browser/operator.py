"""An operator who looks at the console: a page of the browser, and what went wrong in it."""

from typing import Any

from playwright.async_api import BrowserContext, CDPSession, ConsoleMessage, Locator, Page, expect

from tests.proxy_under_test import Tee

expect.set_options(timeout=15_000)  # the machine may be busy with other tests
WIDTHS = {"phone": 390, "tablet": 820, "desktop": 1440}
VIEWS = ["#/streams", "#/try", "#/system"]
_CONTROLS = {
    "button",
    "link",
    "textbox",
    "searchbox",
    "combobox",
    "checkbox",
    "MenuListPopup",
    "img",
    "table",
    "dialog",
}
_NAMELESS = ("MenuListPopup",)
# Reports each text whose contrast with what is behind it is below that of WCAG 2.2, 1.4.3.
_FAINT = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (colour) => {
    const linear = (one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = rgba(colour).map((one) => linear(one / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const colour = getComputedStyle(element).backgroundColor;
      if (rgba(colour)[3] === 255) return colour;
    }
    return "white";
  };
  const faint = [];
  for (const element of document.querySelectorAll("body *")) {
    const says = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim());
    if (!says || !element.checkVisibility() || element.disabled) continue;
    const style = getComputedStyle(element);
    const colour = element.namespaceURI.endsWith("svg") ? style.fill : style.color;
    const [front, back] = [light(colour), light(behind(element))];
    const ratio = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
    if (ratio < 4.5) faint.push(`${ratio.toFixed(1)}: ${element.outerHTML.slice(0, 90)}`);
  }
  return faint;
}"""


class Operator:
    """A page at the console of one proxy; what its scripts or the browser complained of is in `problems`."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.problems: list[str] = []
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.problems.append(f"a script failed: {error}"))

    @classmethod
    async def open(cls, context: BrowserContext) -> "Operator":
        return cls(await context.new_page())

    def _note(self, message: ConsoleMessage) -> None:
        is_refusal = message.text.startswith(
            "Failed to load resource"
        )  # a status; tests look at what the page makes of it
        if message.type in ("error", "warning") and not is_refusal:
            self.problems.append(message.text)

    async def enter(self, tee: Tee, view: str = "#/streams") -> None:
        """Open the URL that `streamtee serve` prints, and then a view."""
        await self.page.goto(tee.proxy.console_url)
        await expect(self.page.locator("#link")).to_have_text("live")
        if view != "#/streams":
            await self.go(view)

    async def go(self, view: str) -> None:
        """Go to a view as a link would."""
        await self.page.evaluate("(view) => { location.hash = view; }", view)

    def button(self, name: str, within: Page | Locator | None = None) -> Locator:
        return (within or self.page).get_by_role("button", name=name, exact=True)

    def row(self, words: str) -> Locator:
        """Return the row of the list that has these words."""
        return self.page.locator("table.streams tbody tr").filter(has_text=words)

    async def press_until(self, key: str, control: Locator) -> None:
        """Press a key until a control has the focus."""
        for _ in range(60):
            if await control.evaluate("(element) => element === document.activeElement"):
                return
            await self.page.keyboard.press(key)
        raise AssertionError(f"{key} never reached {control}")

    async def nameless(self) -> list[str]:
        """Return the roles of controls, pictures and tables that Chromium has no name to read aloud for."""
        session: CDPSession = await self.page.context.new_cdp_session(self.page)
        tree = await session.send("Accessibility.getFullAXTree")
        await session.detach()
        return [f"{_of(node, 'role')} {node.get('description')}" for node in tree["nodes"] if _is_nameless(node)]

    async def faint(self) -> list[str]:
        """Return the texts that are too faint to read."""
        found: list[str] = await self.page.evaluate(_FAINT)
        return found

    async def overflows(self) -> bool:
        """Return whether the page is wider than its window."""
        wider: bool = await self.page.evaluate("() => document.documentElement.scrollWidth > innerWidth")
        return wider


def _of(node: dict[str, Any], name: str) -> str:
    return str(node.get(name, {}).get("value", ""))


def _is_nameless(node: dict[str, Any]) -> bool:
    role = _of(node, "role")
    return not node["ignored"] and role in _CONTROLS and role not in _NAMELESS and not _of(node, "name").strip()
