"""The one table of header names: what is derived from it, and that there is no other."""

import ast
import re
from collections.abc import Iterable, Iterator

import pytest

from proxy.server import headers
from proxy.server.headers import TABLE, Use
from tests import source

OURS = {name.lower() for name in TABLE if name.startswith(("Stream-", "Idempotency-"))}
"""The names that nobody but us gives a meaning to, or that make a list one of ours."""


def tables(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Yield the literals of a module that list two or more names of ours: collections of them, or one text."""
    for node in nodes:
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            named = [one.value for one in node.elts if isinstance(one, ast.Constant)]
        elif isinstance(node, ast.Dict):
            named = [] if any(_is_made(value) for value in node.values) else [_value(key) for key in node.keys]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
            named = list(re.split(r"[^A-Za-z-]+", text)) if "\n" not in text and "." not in text else []
        else:
            continue
        if len({_lower(name) for name in named} & OURS) > 1:
            yield ast.unparse(node)


def _is_made(value: ast.expr) -> bool:
    """Return whether a value is of one message: then its names are headers that are set, and no table."""
    return not isinstance(value, ast.Constant)


def _value(node: ast.expr | None) -> object:
    return node.value if isinstance(node, ast.Constant) else None


def _lower(name: object) -> str:
    return name.decode("latin-1").lower() if isinstance(name, bytes) else str(name).lower()


@source.reads_source
def test_header_names_are_listed_in_one_table() -> None:
    """Whoever adds one adds it there alone."""
    found = {
        path
        for path in source.trees()
        if path.partition("/")[0] not in ("tools", "console") and list(tables(source.nodes(path)))
    }
    described = {"server/admin/openapi.py"}  # where each of them has a description, too
    assert found <= {"server/headers.py"} | described


@pytest.mark.parametrize(
    "text",
    [
        '_OURS = (b"stream-id", b"location", b"stream-follow-url")',
        'NAMES = frozenset(["Stream-Key", "Stream-Mode"])',
        'EXPOSED = "Stream-Id, Stream-Mode"',
        'A = re.compile(r"stream-key|idempotency-key")',
        'A = {"Stream-Id": 1, "Stream-Mode": 2}',
    ],
)
def test_table_elsewhere_would_be_found(text: str) -> None:
    """Also in lower case, as bytes, in one text."""
    assert list(tables(ast.walk(ast.parse(text))))


@pytest.mark.parametrize(
    "text",
    [
        'headers = [(b"Stream-Id", ident), (b"Stream-Mode", mode)]',
        'headers = {"Stream-Id": stream.id, "Stream-State": state}',
        'mode = request.headers.get("Stream-Mode")',
    ],
)
def test_name_where_it_is_read_or_set_is_no_table(text: str) -> None:
    """It is spelled there so that whoever looks for it finds it."""
    assert list(tables(ast.walk(ast.parse(text)))) == []


def test_options_do_not_go_upstream() -> None:
    """But for those that are the upstream's as well: the trace, and what is preferred."""
    assert {b"traceparent", b"prefer"} == headers.OPTIONS - headers.KEPT_OF_GENERATIONS


def test_names_of_ours_are_known_to_pages_of_other_origins() -> None:
    """Those that are sent may be sent, those that are answered may be read."""
    exposed, allowed = headers.EXPOSED.split(", "), headers.ALLOWED
    for name, uses in TABLE.items():
        assert (Use.OPTION in uses) <= (name.lower() in allowed)
        assert (name.startswith("Stream-") and Use.OPTION not in uses) <= (name in exposed)
    assert {"authorization", "x-api-key", "api-key"} <= allowed
