"""The console's files: all that the page names are there, and none brings code from elsewhere."""

import json
import re
from pathlib import Path

import pytest

from tests.proxy_under_test import Tee

FOLDER = Path(__file__).parents[3] / "proxy" / "console"
PACKAGE = ("package.json", "follow.d.ts")
"""What npm packs with follow.js, and no browser loads."""
MADE = "apis"
"""The script that is no file."""
PATHS = sorted(path for path in FOLDER.iterdir() if path.name not in PACKAGE)
SCRIPTS = sorted(FOLDER.glob("*.js"))
FILES = {path.name: path.read_bytes() for path in PATHS}
PAGE = (FOLDER / "index.html").read_text()


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
async def test_file_is_served_as_what_it_is(tee: Tee, path: Path) -> None:
    """With its type and the policy, and unchanged."""
    answer = await tee.admin(f"/console/{path.name}", "Authorization: ")
    assert await answer.read() == FILES[path.name]
    types = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    assert (answer.header("content-type") or "").startswith(types[path.suffix])
    policy = answer.header("content-security-policy") or ""
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize(
    "name", ["nothing.js", *PACKAGE, "%2e%2e%2fsettings.py", "..%2f..%2fpyproject.toml", "__init__.py", ""]
)
async def test_other_names_lead_nowhere(tee: Tee, name: str) -> None:
    """Names are looked up, not opened."""
    assert (await tee.admin(f"/console/{name}", "Authorization: ")).status == 404


def test_page_has_no_code_of_its_own_and_none_from_elsewhere() -> None:
    """No inline script, style or handler, no other host."""
    assert not re.search(r"<script(?![^>]* src=)|<style|\son\w+=|\sstyle=", PAGE)
    for path in FOLDER.iterdir():
        assert not re.search(r"(?<!xmlns=\")(?<!S\(\")https?://", path.read_text()), path.name


def test_every_file_that_is_named_is_there() -> None:
    """By the page, and by the modules among themselves; and none is there that nobody names."""
    named = set(re.findall(r'"/console/([\w.]+)"', PAGE))
    for script in SCRIPTS:
        named |= set(re.findall(r'from "\./([\w.]+)"', script.read_text()))
    assert named | {"index.html"} == {*FILES, f"{MADE}.js"}


def test_map_of_the_console_names_its_modules_and_each_imports_only_from_those_below() -> None:
    """The map is the comment that main.js begins with."""
    listed = re.findall(r"^//   (\w+) ", FILES["main.js"].decode(), re.MULTILINE)
    assert sorted(listed) == sorted([MADE, *(script.stem for script in SCRIPTS)])
    for script in SCRIPTS:
        imported = set(re.findall(r'from "\./(\w+)\.js"', script.read_text()))
        assert imported <= set(listed[listed.index(script.stem) + 1 :]), script.name


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse_no_markup(script: Path) -> None:
    """What streams say can't become elements: nothing writes HTML or runs text."""
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", script.read_text()
    )


async def test_script_of_the_apis_says_how_each_is_asked(tee: Tee) -> None:
    """Those whose row in the table says how."""
    answer = await tee.admin("/console/apis.js", "Authorization: ")
    assert (answer.header("content-type") or "").startswith("text/javascript")
    script = (await answer.read()).decode()
    apis = json.loads(script.removeprefix("export const APIS = ").rstrip(";\n"))
    assert {name: api["path"] for name, api in apis.items()} == {
        "chat": "/v1/chat/completions",
        "responses": "/v1/responses",
        "messages": "/v1/messages",
    }
    assert apis["responses"]["body"] == {"model": "{model}", "stream": True, "input": "{prompt}"}
    assert [api["key"] for api in apis.values()] == [
        {"Authorization": "Bearer {key}"},
        {"Authorization": "Bearer {key}"},
        {"x-api-key": "{key}"},
    ]
