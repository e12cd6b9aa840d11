"""The console in a real Chromium: what an operator sees and does, with the keyboard alone too, and what is refused."""

import json

import pytest
from playwright.async_api import Page, expect

from tests.browser.operator import VIEWS, WIDTHS, Operator
from tests.browser.tab import Tab, begin, in_one_browser
from tests.event_loops import until
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.proxy_under_test import Tee, faked, teed
from tests.relay import relayed
from tests.stage import Stage

pytestmark = in_one_browser

ONE, TWO, THREE = chunk_frame("one "), chunk_frame("二 "), chunk_frame("three")


async def test_streams_are_listed_as_they_come_and_go(tee: Tee, stage: Stage, operator: Operator) -> None:
    """The token has left the address; a stream that begins and ends later changes the list by itself."""
    await operator.enter(tee)
    assert operator.page.url.endswith("/console#/streams")
    await expect(operator.page.get_by_text("No streams yet")).to_be_visible()
    answer, turn = await begin(tee, stage, ONE)
    row = operator.row("streaming")
    await expect(row).to_contain_text("qwen3-max")
    await expect(row.locator("td[data-name=Followers]")).to_have_text("1")
    turn.end(FINISH, DONE)
    await answer.read()
    await expect(operator.row("complete")).to_have_count(1)
    await expect(row).to_have_count(0)
    await operator.page.get_by_role("searchbox").fill("nothing of the kind")
    await expect(operator.page.get_by_text("No stream matches.")).to_be_visible()


async def test_text_arrives_while_the_stream_runs(tee: Tee, stage: Stage, operator: Operator) -> None:
    """The past at once, then each piece; with its time line, its followers and its gaps."""
    answer, turn = await begin(tee, stage, ONE)
    await operator.enter(tee, f"#/streams/{answer.stream_id}")
    text = operator.page.get_by_label("Text of the answer")
    await expect(text).to_have_text("one ")
    turn.chunk(TWO)
    await expect(text).to_have_text("one 二 ")
    await expect(operator.page.get_by_role("img", name="Time line: first token after")).to_be_visible()
    followers = operator.page.get_by_role("table", name="Followers")
    await expect(followers.get_by_role("row")).to_have_count(3)  # its head, the client that asked, and this page
    turn.end(THREE, FINISH, DONE)
    await expect(text).to_have_text("one 二 three")
    await expect(operator.page.get_by_text("The end.")).to_be_visible()
    await operator.button("Events").click()
    await expect(operator.page.get_by_label("Events of the stream")).to_contain_text(f"{answer.epoch}-5  [DONE]")


async def test_stream_that_only_reasons_is_said_to(tee: Tee, stage: Stage, operator: Operator) -> None:
    """Its text is empty for minutes; its events are not."""
    chunk = {"choices": [{"index": 0, "delta": {"reasoning_content": "Let me see."}}]}
    answer, turn = await begin(tee, stage, b"data: %b\n\n" % json.dumps(chunk).encode())
    await operator.enter(tee, f"#/streams/{answer.stream_id}")
    await expect(operator.page.get_by_text("It is reasoning: the answer has not begun.")).to_be_visible()
    turn.chunk(ONE)
    await expect(operator.page.get_by_label("Text of the answer")).to_have_text("one ")
    await expect(operator.page.get_by_text("Reading…")).to_be_visible()
    turn.end(FINISH, DONE)
    await expect(operator.page.get_by_text("The end.")).to_be_visible()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}]}),
        ("/v1/responses", {"input": "hello"}),
        ("/v1/messages", {"max_tokens": 99, "messages": [{"role": "user", "content": "hello"}]}),
    ],
)
async def test_text_of_each_api_is_shown(operator: Operator, path: str, body: dict[str, object]) -> None:
    """As mode text has it."""
    async with faked() as fake, teed(fake.url) as tee:
        answer = await tee.ask("POST", path, body=json.dumps({"model": "qwen-plus", "stream": True, **body}).encode())
        await answer.read()
        said = (await (await tee.follow(answer.stream_id, "mode=text")).read()).decode()
        assert said
        await operator.enter(tee, f"#/streams/{answer.stream_id}")
        await expect(operator.page.get_by_text("The end.")).to_be_visible()
        assert await operator.page.get_by_label("Text of the answer").text_content() == said
        await operator.page.goto("about:blank")  # before its proxy stops


async def test_text_survives_a_cut_network(tee: Tee, stage: Stage, operator: Operator) -> None:
    """The page says that it is not connected; afterwards nothing is lost or repeated, in the middle of a character."""
    _, turn = await begin(tee, stage, ONE)
    async with relayed(tee.proxy.admin_url) as relay:
        page = operator.page
        await page.goto(tee.proxy.console_url.replace(tee.proxy.admin_url, relay.url))
        await operator.row("streaming").click()
        text = page.get_by_label("Text of the answer")
        await expect(text).to_have_text("one ")
        relay.down = True
        relay.cut()
        await expect(page.get_by_role("alert")).to_contain_text("does not answer")
        turn.chunk(TWO)
        relay.down = False
        await expect(text).to_have_text("one 二 ")
        await expect(page.locator("#link")).to_have_text("live")
        await expect(page.get_by_role("alert")).to_be_hidden()
        relay.cut()  # after text whose characters are not bytes
        turn.end(THREE, FINISH, DONE)
        await expect(text).to_have_text("one 二 three")
        await page.goto("about:blank")


async def test_text_of_a_stream_that_failed_is_shown(tee: Tee, stage: Stage, operator: Operator) -> None:
    """Also where the browser drops what came just before the connection broke off, as it may; here it drops all."""
    answer, turn = await begin(tee, stage, ONE)
    turn.chunk(TWO)
    turn.reset()
    await answer.read()
    page = operator.page
    await page.route("**/*mode=text*", lambda route: route.abort("connectionreset"))
    await operator.enter(tee, f"#/streams/{answer.stream_id}")
    await expect(page.get_by_label("Text of the answer")).to_have_text("one 二 ")
    await expect(page.get_by_text("It ended here: upstream reset.")).to_be_visible()
    await page.unroute_all()


async def test_cancel_asks_first_and_then_ends_the_stream(tee: Tee, stage: Stage, operator: Operator) -> None:
    """Escape and the other button leave it running."""
    answer, turn = await begin(tee, stage, ONE)
    await operator.enter(tee, f"#/streams/{answer.stream_id}")
    cancel, dialog = operator.button("Cancel…"), operator.page.get_by_role("dialog", name="Cancel this stream?")
    await cancel.click()
    await operator.page.keyboard.press("Escape")
    await cancel.click()
    await operator.button("Keep it running").click()
    await expect(dialog).to_have_count(0)
    assert tee.proxy.hub.running == 1
    await cancel.click()
    await operator.button("Cancel the stream", dialog).click()
    await turn.wait_left()
    await expect(operator.page.locator(".state-of-stream")).to_have_text("■ cancelled")
    await expect(cancel).to_be_disabled()
    await expect(operator.page.get_by_text("It ended here: cancelled.")).to_be_visible()


async def test_share_gives_a_url_that_opens_the_stream(tee: Tee, stage: Stage, operator: Operator) -> None:
    """Without a key, from anywhere."""
    answer, turn = await begin(tee, stage, ONE, key="sk-somebody")
    await operator.enter(tee, f"#/streams/{answer.stream_id}")
    await operator.button("Share…").click()
    await operator.button("Make a URL").click()
    url = await operator.page.get_by_label("URL", exact=True).input_value()
    assert url.startswith(tee.proxy.url)
    follower = await tee.ask("GET", f"{url.removeprefix(tee.proxy.url)}&mode=text", "Authorization: ")
    turn.end(FINISH, DONE)
    assert await follower.read() == b"one "


async def test_share_that_is_not_configured_says_so(stage: Stage, operator: Operator) -> None:
    """In the dialog, with what is missing."""
    async with teed(stage.url) as tee:
        answer, turn = await begin(tee, stage, ONE)
        await operator.enter(tee, f"#/streams/{answer.stream_id}")
        await operator.button("Share…").click()
        await operator.button("Make a URL").click()
        await expect(operator.page.get_by_role("dialog")).to_contain_text("capabilities.secrets")
        await operator.page.goto("about:blank")  # before its proxy stops
        turn.end(DONE)


async def test_try_that_is_cut_and_resumed_loses_nothing(tee: Tee, stage: Stage, operator: Operator) -> None:
    """Three readers of one request, with the key that was typed in, which is kept nowhere."""
    page = operator.page
    await operator.enter(tee, "#/try")
    await page.get_by_label("Key", exact=True).fill("sk-typed")
    await operator.button("Send").click()
    turn = await stage.next()
    assert turn.all("authorization") == [b"Bearer sk-typed"]
    assert not turn.all("cookie")
    turn.begin()
    turn.chunk(ONE)
    panes = page.locator(".pane")
    await expect(panes.nth(0)).to_contain_text("one ")
    await expect(panes.nth(1)).to_contain_text("-1  {")
    await expect(panes.nth(2).locator("pre")).to_have_text("one ")
    await operator.button("Cut").click()
    turn.chunk(TWO)
    await expect(panes.nth(1)).to_contain_text("1 event came meanwhile")
    await operator.button("Resume").click()
    await expect(panes.nth(1)).to_contain_text("-2  {")
    turn.end(THREE, FINISH, DONE)
    await expect(page.locator(".verdict")).to_contain_text(
        "cut after event 1 and resumed, got the same 5 events as the client that asked: none lost, none repeated"
    )
    await expect(panes.nth(2).locator("pre")).to_have_text("one 二 three")
    assert len(stage.turns) == 1
    kept = await page.evaluate("() => JSON.stringify([localStorage, sessionStorage, document.cookie, location.href])")
    assert "sk-typed" not in kept


@pytest.mark.parametrize("api", ["responses", "messages"])
async def test_try_speaks_each_api(operator: Operator, api: str) -> None:
    """And the text pane has its answer."""
    async with faked() as fake, teed(fake.url) as tee:
        await operator.enter(tee, "#/try")
        await operator.page.get_by_label("API").select_option(api)
        await operator.page.get_by_label("Key", exact=True).fill("sk-typed")
        await operator.button("Send").click()
        await expect(operator.page.locator(".verdict")).to_contain_text("none lost, none repeated")
        assert len(await tee.listed("Authorization: Bearer sk-typed")) == 1  # it came in a header that holds keys
        assert await operator.page.locator(".pane").nth(2).locator("pre").text_content()
        await operator.page.goto("about:blank")  # before its proxy stops


async def test_try_that_is_refused_says_why(tee: Tee, stage: Stage, operator: Operator) -> None:
    """With the upstream's words; another can be sent."""
    await operator.enter(tee, "#/try")
    await operator.button("Send").click()
    error = b'{"error":{"message":"no such model","code":"model_not_found"}}'
    (await stage.next()).reply("404 Not Found", "Content-Type: application/json", body=error)
    await expect(operator.page.locator(".verdict")).to_have_text("Refused: no such model")
    await expect(operator.button("Send")).to_be_enabled()


async def test_upstreams_and_workers_are_shown(tee: Tee, operator: Operator) -> None:
    """Each with its state."""
    await operator.enter(tee, "#/system")
    await expect(operator.page.get_by_role("table", name="Upstreams")).to_contain_text("default")
    await expect(operator.page.get_by_role("table", name="Workers")).to_contain_text("ready")


async def test_keyboard_is_enough(tee: Tee, stage: Stage, operator: Operator) -> None:
    """From the list into a stream, to its cancel, through the question, and back."""
    answer, turn = await begin(tee, stage, ONE)
    await operator.enter(tee)
    page, keys = operator.page, operator.page.keyboard
    await operator.press_until("Tab", page.get_by_role("link", name="qwen3-max"))
    await keys.press("Enter")
    await expect(page.get_by_label("Text of the answer")).to_have_text("one ")
    await operator.press_until("Tab", operator.button("Events"))
    await keys.press("Enter")
    await expect(page.get_by_label("Events of the stream")).to_contain_text(f"{answer.epoch}-1")
    await operator.press_until("Shift+Tab", operator.button("Cancel…"))
    await keys.press("Enter")
    await operator.press_until("Tab", operator.button("Cancel the stream"))
    await keys.press("Enter")
    await turn.wait_left()
    await expect(page.get_by_role("dialog")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_all_can_be_read_and_has_a_name(tee: Tee, stage: Stage, operator: Operator, scheme: str) -> None:
    """Each control, picture and table in each view and dialog; no text is too faint."""
    page = operator.page
    await page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    answer, turn = await begin(tee, stage, ONE)
    failed, failing = await begin(tee, stage, ONE, key="sk-other")
    failing.reset()
    await failed.read()
    await operator.enter(tee)
    await expect(operator.row("upstream reset")).to_have_count(1)
    for view in (*VIEWS, f"#/streams/{answer.stream_id}", f"#/streams/{failed.stream_id}", "#/streams/st_none"):
        await operator.go(view)
        await expect(page.get_by_role("heading", level=1).or_(page.get_by_role("searchbox")).first).to_be_visible()
        assert await operator.nameless() == [], view
        assert await operator.faint() == [], view
    await operator.go(f"#/streams/{answer.stream_id}")
    for opener in ("Share…", "Cancel…"):
        await operator.button(opener).click()
        await expect(page.get_by_role("dialog")).to_be_visible()
        assert await operator.nameless() == []
        assert await operator.faint() == []
        await page.keyboard.press("Escape")
    turn.end(DONE)
    await page.emulate_media(color_scheme="null")


async def test_no_width_makes_a_page_wider_than_its_window(tee: Tee, stage: Stage, operator: Operator) -> None:
    """On a phone, a tablet and a desk, with names as long as they come."""
    long = chunk_frame("w" * 300)
    answer, turn = await begin(tee, stage, long)
    client = await tee.send_chat("Authorization: ", f"Stream-Key: {'k' * 100}", model="m" * 60)
    other = await stage.next()
    other.begin()
    other.chunk(ONE)
    ident = (await client.answer()).stream_id
    await operator.enter(tee)
    for width in WIDTHS.values():
        await operator.page.set_viewport_size({"width": width, "height": 800})
        for view in (*VIEWS, f"#/streams/{answer.stream_id}", f"#/streams/{ident}"):
            await operator.go(view)
            await expect(operator.page.locator("main > *").first).to_be_attached()
            assert not await operator.overflows(), (width, view)
    turn.end(DONE)
    other.end(DONE)


async def test_without_a_sign_in_there_is_only_the_sign_in(tee: Tee, operator: Operator) -> None:
    """A wrong token is told; the right one opens the console, and signing out closes it."""
    page = operator.page
    await page.goto(f"{tee.proxy.admin_url}/console")
    await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert await operator.nameless() == []
    await page.get_by_label("Admin token").fill("not the token")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("alert").filter(has_text="not the admin token")).to_be_visible()
    await page.get_by_label("Admin token").fill(tee.proxy.operators.token)
    await page.keyboard.press("Enter")
    await expect(page.locator("#link")).to_have_text("live")
    assert await page.evaluate("() => document.cookie") == ""
    await operator.button("Sign out").click()
    await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert await status_of(page, "/admin/streams") == 401


async def test_page_of_another_port_can_use_no_cookie(tee: Tee, stage: Stage, operator: Operator, tab: Tab) -> None:
    """It is of the same site, so the browser sends it the cookie: it can neither read nor cancel, nor embed scripts."""
    answer, turn = await begin(tee, stage, ONE)
    await operator.enter(tee)
    attack = """async ({ url }) => {
      const [cancel, credentials] = [`${url}/cancel`, "include"];
      const headers = { "Content-Type": "application/json" };
      const named = async (asked) => asked.then(({ status }) => String(status), ({ name }) => name);
      return [
        await named(fetch(`${url}/admin/streams`, { credentials })),
        await named(fetch(cancel, { credentials, method: "POST", mode: "no-cors", body: "{}" })),
        await named(fetch(cancel, { credentials, method: "POST", headers, body: "{}" })),
        await new Promise((told) => {
          const frame = document.createElement("script");
          frame.src = `${url}/console/format.js`;
          [frame.onload, frame.onerror] = [() => told("loaded"), () => told("blocked")];
          document.head.append(frame);
        }),
      ];
    }"""
    url = tee.proxy.admin_url
    ident = answer.stream_id
    told = await tab.run(attack.replace("/cancel", f"/admin/streams/{ident}/cancel"), url=url)
    assert told == ["TypeError", "TypeError", "TypeError", "blocked"]
    assert tee.proxy.hub.running == 1
    assert tee.proxy.metrics.rejected["admin_token_needed"] == 2  # the third never came: the preflight was refused
    turn.end(DONE)


async def test_policy_forbids_inline_code(tee: Tee, operator: Operator) -> None:
    """What a script wanted to write as HTML is refused: by trusted types, before the policy for scripts."""
    await operator.enter(tee)
    assert operator.problems == []
    wrote = "() => { try { document.body.innerHTML = '<b>'; return 'written'; } catch ({ name }) { return name; } }"
    assert await operator.page.evaluate(wrote) == "TypeError"
    assert any("TrustedHTML" in problem for problem in operator.problems)
    operator.problems.clear()


async def test_hidden_page_leaves_its_connection(tee: Tee, operator: Operator) -> None:
    """A browser has six to a server, for all its tabs."""
    await operator.enter(tee)
    hide = """(hidden) => {
      Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }"""
    requests = tee.proxy.metrics.requests
    await operator.page.evaluate(hide, True)
    await until(lambda: requests["admin", "GET", 499] > 0)
    await operator.page.evaluate(hide, False)
    await expect(operator.page.locator("#link")).to_have_text("live")


async def status_of(page: Page, path: str) -> int:
    """Return the status of a request that the page sends."""
    status: int = await page.evaluate("async (path) => (await fetch(path)).status", path)
    return status
