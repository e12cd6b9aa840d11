"""The record of a stream, and that a stream is finished being made when the hub returns it."""

import ast
from collections.abc import Iterable, Iterator

import pytest

from proxy.stream.info import StreamInfo
from tests import source

STATE = {"writer", "bypass", "originator", "fed_at"}
"""What others set of a stream, as it goes on: its writer, and what that does; and the client it is paced by."""


def assigned(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, str]]:
    """Yield (object, attribute) for each assignment to an attribute."""
    for node in nodes:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            for one in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(one, ast.Attribute):
                    yield ast.unparse(one.value), one.attr


def set_elsewhere(kind: str) -> set[str]:
    """Return what is set outside the room of streams, of whatever bears that name."""
    return {
        attribute
        for path in source.trees()
        if path.partition("/")[0] not in ("stream", "tools")
        for owner, attribute in assigned(source.nodes(path))
        if owner == kind or owner.endswith(f".{kind}")
    }


def test_others_set_of_a_stream_only_what_changes_as_it_goes_on() -> None:
    """What it is called, whose it is and how it was asked for is known when the hub returns it."""
    assert set_elsewhere("stream") == STATE
    assert set_elsewhere("info") == {"w3c_trace_id"}


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("stream.writer = 1", [("stream", "writer")]),
        ("self.stream.fed_at = at", [("self.stream", "fed_at")]),
        ("a.stream.x: int = 1", [("a.stream", "x")]),
        ("stream.x += 1", [("stream", "x")]),
        ("stream.x, y = 1, 2", [("stream", "x")]),
        ("x = stream.y", []),
    ],
)
def test_assignments_are_found(line: str, found: list[tuple[str, str]]) -> None:
    """However they are spelt."""
    assert list(assigned(ast.walk(ast.parse(line)))) == found


def test_record_names_a_stream() -> None:
    """Its trace is its own, if it is part of none; of keys, the last one counts."""
    info = StreamInfo("st_abcdefghijkl", "chat", b"me", 1, 60.0, 1000)
    assert (info.key, info.trace_id) == (None, "st_abcdefghijkl")
    info.keys, info.w3c_trace_id = ("a", "b"), "4bf9"
    assert (info.key, info.trace_id) == ("b", "4bf9")
