"""The source of the proxy, parsed once in a process for all tests that look into it."""

import ast
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "proxy"
reads_source = pytest.mark.xdist_group("source")
"""Has all tests that look into the source run in one process, which parses it once: that takes a second or two."""


@cache
def trees() -> dict[str, ast.Module]:
    """Return the source of each module, by its path below the package, such as `stream/log.py`."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(), str(path)) for path in paths}


@cache
def nodes(path: str) -> Sequence[ast.AST]:
    """Return all nodes of a module's source, by its path below the package."""
    return list(ast.walk(trees()[path]))
