"""The threat model: every test that docs/security.md names exists, and no threat is without one."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "security.md").read_text()
ROWS = [
    line.strip("| ").split(" | ")
    for line in TEXT.partition("## Threats")[2].partition("\n## ")[0].splitlines()
    if line.startswith("| ") and not line.startswith("| Threat")
]
LINK = re.compile(r"\[(test_\w+)\]\(\.\./(tests/[\w/]+\.py)\)")


def names(file: str) -> set[str]:
    """Return the names of the functions in a file."""
    tree = ast.parse((ROOT / file).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_table_is_read() -> None:
    """The pattern above finds the rows."""
    assert len(ROWS) > 25


@pytest.mark.parametrize("row", ROWS, ids=[row[0][:60] for row in ROWS])
def test_threat_has_a_defence_and_tests_that_exist(row: list[str]) -> None:
    """No cell is empty, and each test is where the link leads."""
    threat, defence, proofs = row
    assert threat
    assert defence
    found = LINK.findall(proofs)
    assert found
    assert ", ".join(f"[{test}](../{file})" for test, file in found) == proofs
    for test, file in found:
        assert test in names(file), f"{file} has no {test}"
