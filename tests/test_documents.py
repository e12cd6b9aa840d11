"""What README and docs/ say can be followed: each link leads somewhere, each command is run or stands in NOT_RUN."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from proxy import __version__
from tests.page_commands import PAGES, ROOT, commands_of, opened
from tests.programs import system_tool

NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]
RUN_ELSEWHERE = {"docs/tools.md": "tests/tools/test_documented.py"}

NOT_RUN = {
    "make ": "takes minutes; CI runs `make test`, tests/tools/test_demo.py and tests/deploy/test_dashboard.py those",
    "python3 -m venv": "installs from a package index; tests/test_supply.py builds the wheel",
    ".venv/bin/pytest": "runs these very tests",
    "python -m tests.": "a benchmark of minutes",
    "docker ": "needs a container engine; tests/deploy checks the files",
    "podman ": "needs a container engine; tests/deploy checks the files",
    "kubectl ": "needs a cluster; tests/deploy checks the manifests",
    "helm ": "needs a cluster; tests/deploy renders the chart",
    "install ": "writes into /etc; tests/deploy checks the units",
    "/opt/": "installs from a package index, as root",
    "systemctl ": "needs systemd as the first process; tests/deploy checks the units",
    "STREAMTEE_UPSTREAM__URL=https://": "needs a container engine and an account",
    "ANTHROPIC_BASE_URL=": "needs Claude Code, which is no tool of the tests; docs/clients.md says what was tried",
    "OPENAI_API_BASE_URL=": "needs Open WebUI, which was not tried",
    "OPENAI_BASE_URL=": "needs qwen-code, which is no tool of the tests; docs/clients.md says what was tried",
}
"""Commands that no test runs, by how they begin, and the reason."""

SERVERS = [
    "streamtee fake --listen 127.0.0.1:8000 &",
    "STREAMTEE_UPSTREAM__URL=http://127.0.0.1:8000 streamtee serve &",
]
"""What a page takes for granted whose commands ask a proxy and that starts none."""

_CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_TOML = re.compile(r"^```toml\n(.*?)^```", re.DOTALL | re.MULTILINE)


@cache
def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    prose = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in _HEADING.findall(prose)}


def dangling(path: Path) -> list[str]:
    """Return the links of a page that lead to no file, or to no heading of it."""
    found = []
    for link in _LINK.findall(_CODE.sub("", path.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            found.append(link)
    return found


def runnable(name: str) -> list[str]:
    """Return the commands of a page but for those of NOT_RUN."""
    return [one for one in commands_of((ROOT / name).read_text()) if not one.startswith(tuple(NOT_RUN))]


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_to_a_file_and_a_heading(name: str) -> None:
    """Links of the repository itself; those to other places can't be tried here."""
    assert dangling(ROOT / name) == []


def test_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    """A file that is missing, a heading that is missing; not what stands in code."""
    page = tmp_path / "page.md"
    page.write_text(
        "# One `word`, two\n[a](#one-word-two) [b](#three) [c](none.md) [d](page.md#one-word-two) `[e](f)`\n"
    )
    assert dangling(page) == ["#three", "none.md"]


@pytest.mark.parametrize("name", ["README.md", "README.zh.md"])
def test_readme_has_fewer_than_200_lines(name: str) -> None:
    """What is longer belongs to docs/."""
    assert len((ROOT / name).read_text().splitlines()) < 200


def test_every_page_is_reached_from_the_readme() -> None:
    """By links of links."""
    reached, ahead = set[Path](), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        reached.add(page)
        links = (link.partition("#")[0] for link in _LINK.findall(page.read_text()) if link.partition("#")[0])
        targets = ((page.parent / link).resolve() for link in links if not re.match(r"[a-z]+:", link))
        ahead += [one for one in targets if one.suffix == ".md" and one not in reached]
    assert [name for name in NAMES if ROOT / name not in reached] == []


def test_readme_in_chinese_has_the_same_commands() -> None:
    """Whoever reads only that page does not follow an older one."""
    english, chinese = ((ROOT / name).read_text() for name in ("README.md", "README.zh.md"))
    assert _bare(commands_of(chinese)) == _bare(commands_of(english))


def _bare(commands: list[str]) -> list[str]:
    return [command.split(" # ")[0].strip() for command in commands]


def test_reasons_are_of_commands_that_are_there() -> None:
    """One that is gone from the pages goes from the table, too."""
    commands = [command for page in PAGES for command in commands_of(page.read_text())]
    assert [start for start in NOT_RUN if not any(command.startswith(start) for command in commands)] == []


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("bare_environment")
@pytest.mark.parametrize("name", [name for name in NAMES if name not in RUN_ELSEWHERE and runnable(name)])
def test_commands_of_a_page_do_what_it_says(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the page, before a fake Qwen; with the configuration that the page shows."""
    system_tool("curl")
    monkeypatch.chdir(tmp_path)
    text, commands = (ROOT / name).read_text(), runnable(name)
    asks = any(command.startswith("curl") for command in commands)
    starts = any(" serve" in command and command.endswith("&") for command in commands)
    servers = SERVERS if asks and not starts else []
    with opened("\n".join([text, *SERVERS]), tmp_path) as page:
        for configuration in _TOML.findall(text)[:1]:
            (tmp_path / "qwen.toml").write_text(page.here(configuration))
        assert page.failures([*servers, *commands]) == []


def test_version_is_the_same_wherever_it_stands() -> None:
    """docs/releasing.md lists these files; tests/test_supply.py looks at the bill of materials."""
    version = re.escape(__version__)
    places = {
        "pyproject.toml": rf'^version = "{version}"$',
        "proxy/console/package.json": rf'^  "version": "{version}",$',
        "deploy/helm/streamtee/Chart.yaml": rf'^version: {version}\nappVersion: "{version}"$',
        "CHANGELOG.md": rf"^## {version}\b",
    }
    stale = [name for name, words in places.items() if not re.search(words, (ROOT / name).read_text(), re.MULTILINE)]
    assert stale == []


def test_python_of_the_readme_makes_its_clients() -> None:
    """The names and arguments are those of the SDKs that the tests have."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    done = subprocess.run([sys.executable, "-c", "\n".join(blocks)], capture_output=True, text=True, timeout=60)
    assert (len(blocks), done.returncode, done.stderr) == (1, 0, "")
