"""Every command of docs/tools.md, run as it stands there, in the order of the page."""

import re
from pathlib import Path

import pytest

from proxy.tools.cli import COMMANDS as NAMES
from tests.page_commands import ROOT, commands_of, opened
from tests.programs import system_tool

PAGE = (ROOT / "docs" / "tools.md").read_text()
COMMANDS = commands_of(PAGE)


def test_page_has_a_command_of_each_name() -> None:
    """A new command gets its words there."""
    shown = "\n".join(COMMANDS)
    assert [name for name in ("serve", *NAMES) if not re.search(rf"\b(streamtee|proxy) {name}\b", shown)] == []


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("bare_environment")
def test_every_command_of_the_page_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends with 0, or, where it shows a failure, with that."""
    system_tool("curl")
    monkeypatch.chdir(tmp_path)
    with opened(PAGE, tmp_path) as page:
        assert page.failures(COMMANDS) == []
    assert {"streamtee.toml", "run.json", "run.svg", "stream.jsonl"} <= {path.name for path in tmp_path.iterdir()}
