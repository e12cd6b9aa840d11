"""Commands that no test runs: what they name is there. tests/test_documents.py runs those of blocks.

Within a sentence a command is named, and its arguments may be left out; `make` takes minutes wherever it stands.
"""

import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import click
import pytest

from proxy.tools.cli import main
from tests.page_commands import PAGES, PROGRAMS, ROOT, commands_of

ELSEWHERE = {
    "curl -N": "tests/test_documents.py runs such commands",
    "git diff": "of what is about to change",
    "git show": "of this repository's history, which a copy need not have",
    "kubectl ": "needs a cluster; tests/deploy checks the manifests",
    "npm publish": "uploads; tests/clients/test_follow_package.py packs what it would",
    "pip download": "of what has not been published yet",
    "podman build": "tests/deploy/test_containerfile.py says what was tried of it",
    "ssh -L": "needs another machine",
    "systemctl ": "needs systemd as the first process; tests/deploy/test_systemd.py checks the unit",
    "systemd-analyze security": "tests/deploy/test_systemd.py runs it",
    "uvx ": "docs/releasing.md says what was tried",
}
"""Commands within sentences whose words are no test's to check, by how they begin, and the reason."""

LANGUAGES = {"", "sh", "toml", "python", "js", "promql"}
"""Of blocks: commands stand in those of `sh` alone."""

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_MENTIONED = re.compile(r"`((?:\.venv/bin/)?(?:" + PROGRAMS + r"|pytest|ssh) [^`]+)`")
_PLACEHOLDER = re.compile(r"[A-Z]+\d?")
_OPTIONAL = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
_TARGETS = set(
    re.findall(r"^([\w.][\w./-]*):", (ROOT / "Makefile").read_text().replace("$(VENV)", ".venv"), re.MULTILINE)
)


def mentioned(text: str) -> list[str]:
    """Return the commands that a page names within its sentences."""
    prose = _BLOCK.sub("", text)
    return [" ".join(command.split()) for command in _MENTIONED.findall(prose)]


def make(words: list[str]) -> Iterator[str]:
    """Yield the targets that the Makefile has not; a variable's value is not looked at."""
    yield from (word for word in words if "=" not in word and word not in _TARGETS)


def streamtee(words: list[str]) -> Iterator[str]:
    """Yield the commands and options that there are not; what else it is given is not looked at."""
    command: click.Command = main
    context = click.Context(main)
    for word in words:
        if word.startswith("-"):
            known = {name for parameter in command.get_params(context) for name in parameter.opts}
            yield from {word} - known
        elif isinstance(command, click.Group) and not _PLACEHOLDER.fullmatch(word):
            found = command.get_command(context, word)
            if found is None:
                yield word
                return
            command = found


def pytest_(words: list[str]) -> Iterator[str]:
    """Yield the paths that there are not."""
    yield from (word for word in words if not (ROOT / word).exists() and not _PLACEHOLDER.search(word))


def python(words: list[str]) -> Iterator[str]:
    """Yield the module, if there is none of its name."""
    option, module, *_ = words
    if option != "-m" or find_spec(module) is None:
        yield " ".join(words)


def pip(words: list[str]) -> Iterator[str]:
    """Yield the extras that this package has not."""
    yield from (extra for extra in re.findall(r"\[(\w+)\]", " ".join(words)) if extra not in _OPTIONAL)


def npm(words: list[str]) -> Iterator[str]:
    """Yield what is no folder of a package."""
    yield from (word for word in words if word.startswith("./") and not (ROOT / word / "package.json").exists())


CHECKS: dict[str, Callable[[list[str]], Iterator[str]]] = {
    "make": make,
    "npm": npm,
    "pip": pip,
    "pytest": pytest_,
    "python": python,
    "streamtee": streamtee,
}


def wrong(command: str) -> list[str]:
    """Return what a command names that there is not; a program that no check is for is wrong as such."""
    program, *words = shlex.split(command)
    check = CHECKS.get(program.removeprefix(".venv/bin/"))
    return [program] if check is None else list(check(words))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_mentioned_command_names_is_there(page: Path) -> None:
    """Commands, options, targets, extras, paths, modules."""
    text = page.read_text()
    commands = [*mentioned(text), *(one for one in commands_of(text) if one.startswith("make "))]
    checked = [one.partition(" # ")[0].rstrip() for one in commands if not one.startswith(tuple(ELSEWHERE))]
    assert {command: found for command in checked if (found := wrong(command))} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_stand_in_blocks_that_are_run(page: Path) -> None:
    """A block of another name, or without one, would be passed over."""
    blocks = _BLOCK.findall(page.read_text())
    assert {language for language, _ in blocks} <= LANGUAGES
    others = "\n".join(lines for language, lines in blocks if language == "")
    assert re.findall(rf"^(?:\$ |# )?(?:{PROGRAMS})\b.*$", others, re.MULTILINE) == []


def test_reasons_are_of_commands_that_are_mentioned() -> None:
    """One that is gone from the pages goes from the table, too."""
    commands = [command for page in PAGES for command in mentioned(page.read_text())]
    assert [start for start in ELSEWHERE if not any(command.startswith(start) for command in commands)] == []


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("streamtee serve --workers N", []),
        ("streamtee keys add alice --no-key", []),
        ("streamtee sreve", ["sreve"]),
        ("streamtee serve --wrkers 2", ["--wrkers"]),
        ("make demo", []),
        ("make dmeo", ["dmeo"]),
        ("pip install '.[otl]'", ["otl"]),
        (".venv/bin/pytest tests/nowhere", ["tests/nowhere"]),
        ("python -m tests.bench.none", ["-m tests.bench.none"]),
        ("npm pack ./proxy/konsole", ["./proxy/konsole"]),
        ("docker run streamtee", ["docker"]),
    ],
)
def test_command_that_names_nothing_is_found(command: str, found: list[str]) -> None:
    """The rule itself."""
    assert wrong(command) == found
