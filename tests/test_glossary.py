"""The glossary in docs/glossary.md: a definition is the first sentence of the class's docstring, in the same words."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests import source

pytestmark = source.reads_source
ROOT = Path(__file__).parent.parent
ROW = re.compile(r"^\| `(\w+)` \| (.+) \|$", re.MULTILINE)
ROWS = ROW.findall((ROOT / "docs" / "glossary.md").read_text())


def first_sentence(docstring: str) -> str:
    """Return the first sentence of a docstring, as one line without its full stop."""
    return re.split(r"\.(?:\s|$)", " ".join(docstring.split()), maxsplit=1)[0]


@cache
def class_docstrings() -> dict[str, list[str]]:
    """Return the first sentences of the docstrings of all classes of the proxy, by the name of the class."""
    found: dict[str, list[str]] = {}
    for path in source.trees():
        for node in source.nodes(path):
            if isinstance(node, ast.ClassDef) and not path.startswith("tools/"):
                found.setdefault(node.name, []).append(first_sentence(ast.get_docstring(node) or ""))
    return found


def test_glossary_has_each_noun_once() -> None:
    """The pattern above finds the rows of the tables, each noun once."""
    assert len(ROWS) > 20
    assert len({noun for noun, _ in ROWS}) == len(ROWS)


@pytest.mark.parametrize(("noun", "definition"), ROWS, ids=[noun for noun, _ in ROWS])
def test_definition_of_a_class_is_the_first_sentence_of_its_docstring(noun: str, definition: str) -> None:
    """A noun of the glossary is a class (or two: an interface and its class), and both define it in the same words."""
    assert definition in class_docstrings()[noun]


def test_first_sentence_ends_at_a_full_stop() -> None:
    """A sentence may be wrapped, and holds dots that end no word."""
    assert first_sentence("An id, `hub.begin`\n    makes it. More.") == "An id, `hub.begin` makes it"
