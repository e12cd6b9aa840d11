"""Which tool call a fragment belongs to, by whatever a server tells of it."""

from typing import Any

import pytest

from proxy.dialects.documents.calls import Calls

CITY, ZONE = '{"city":"Paris"}', '{"tz":"JST"}'


def of(index: int | None = None, ident: str | None = None, name: str | None = None, arguments: Any = None) -> Any:
    """Return a fragment that tells what is not None."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    told = {"index": index, "id": ident, "function": function or None}
    return {key: value for key, value in told.items() if value is not None}


@pytest.mark.parametrize(
    ("frames", "numbers"),
    [
        ([[of(0, "a", "get", "{")], [of(0, arguments="}")], [of(1, "b", "get", "{}")]], [[0], [0], [1]]),
        ([[of(0, "a", "get", CITY)], [of(0, "b", "get", ZONE)]], [[0], [1]]),
        ([[of(0, "a", "get", "{")], [of(0, "x", arguments="}")], [of(0, "y", arguments="")]], [[0], [0], [1]]),
        ([[of(None, "a", "get", "{")], [of(None, "b", "get")], [of(None, "a", arguments="}")]], [[0], [1], [0]]),
        ([[of(None, "a", "get", "{")], [of(arguments="}")]], [[0], [0]]),
        ([[of(0, None, "get", CITY)], [of(0, None, "get", ZONE)]], [[0], [1]]),
        ([[of(0, None, "get", CITY)], [of(0, None, "get", CITY)], [of(0, None, "get", "")]], [[0], [0], [0]]),
        ([[of(0, None, "get_", '{"a":')], [of(0, None, "time", "1}")]], [[0], [0]]),
        ([[of(5, "a", "get")], [of(3, "b", "get")], [of(5, arguments="{}")]], [[5], [3], [5]]),
        ([[of(0, "a"), of(1, "b")], [of(1, arguments="x"), of(0, arguments="y")]], [[0, 1], [1, 0]]),
        ([[of(None, None, "get"), of(None, None, "put")], [of(arguments="{}"), of(arguments="[]")]], [[0, 1], [0, 1]]),
        ([[of(0, "a", "get")], [of(-1, "b", "get")], [of(0, arguments="{}")]], [[0], [1], [0]]),
    ],
    ids=[
        "the index decides",
        "another id and name under one index are another call",
        "an id made up for each fragment continues a call while there are arguments",
        "the id decides without an index",
        "without both, the last call goes on",
        "without ids, a name after a whole object begins a call",
        "a fragment that repeats itself begins none",
        "a name in pieces is one call",
        "indices may begin anywhere",
        "in any order within a frame",
        "without both, the place in the frame decides",
        "an index below 0 is none",
    ],
)
def test_fragments_belong_to_calls(frames: list[list[Any]], numbers: list[list[int]]) -> None:
    """Equal numbers are one call."""
    calls = Calls()
    assert [calls.number([(place, one) for place, one in enumerate(frame)]) for frame in frames] == numbers


@pytest.mark.parametrize("function", [None, "get", [], {"name": 1, "arguments": 2}, {"arguments": {"city": "Paris"}}])
def test_function_of_another_type_is_no_error(function: Any) -> None:
    """Servers send what they like: the fragment has neither name nor text then, or an object as its arguments."""
    calls = Calls()
    assert calls.number([(0, {"index": 0, "function": function})]) == [0]
    assert calls.number([(0, {"index": 0, "function": function})]) == [0]
