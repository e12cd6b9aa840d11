"""The compiled build: the modules that pyproject.toml has mypyc compile, and which of both builds is being tested."""

import importlib
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
COMPILED = bool(os.environ.get("TEST_COMPILED"))
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
HOOK: dict[str, Any] = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["mypyc"]


def files(pattern: str) -> set[Path]:
    """Return the sources that a pattern of the hook names, as paths in the project."""
    found = ROOT.glob(pattern[1:]) if pattern.startswith("/") else (ROOT / "proxy").rglob(pattern)
    return {path.relative_to(ROOT) for path in found}


def module(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def inherited(module_names: set[str]) -> Iterator[tuple[type, type]]:
    """Yield (class, base) for each class in these modules that is derived from another class of the package."""
    for name in sorted(module_names):
        for one in vars(importlib.import_module(name)).values():
            if isinstance(one, type) and one.__module__ == name:
                yield from ((one, base) for base in one.__mro__[1:] if base.__module__.startswith("proxy."))


LISTED = {
    module(path) for path in set().union(*map(files, HOOK["include"])) - set().union(*map(files, HOOK["exclude"]))
}
OTHERS = {module(path) for path in files("*.py")} - LISTED


@pytest.mark.parametrize("pattern", [*HOOK["include"], *HOOK["exclude"]])
def test_pattern_names_a_module(pattern: str) -> None:
    """One that was renamed would silently stay interpreted."""
    assert files(pattern)


def test_modules_are_of_the_build_that_is_tested() -> None:
    """Compiled ones by `make test-compiled`, else sources: a .so left beside one hides what is edited there."""
    suffixes = {name: Path(importlib.import_module(name).__file__ or "").suffix for name in LISTED}
    assert suffixes == dict.fromkeys(LISTED, ".so" if COMPILED else ".py")


def test_no_interpreted_class_is_derived_from_a_compiled_one() -> None:
    """It couldn't be made."""
    assert [(one, base) for one, base in inherited(OTHERS) if base.__module__ in LISTED] == []


def test_hook_checks_types_as_make_test_does() -> None:
    """The same series of mypy, and strict in both."""
    dev = PROJECT["project"]["optional-dependencies"]["dev"]
    assert [one for one in dev if one.startswith("mypy")] == [
        one for one in HOOK["dependencies"] if one.startswith("mypy")
    ]
    assert PROJECT["tool"]["mypy"]["strict"]
    assert "--strict" in HOOK["mypy-args"]
