"""Members of a JSON object: found where a parser finds them, and put without touching anything else."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.json_members import Members, members, pairs
from proxy.wire.sse import BOM

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("\ud83d")
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
NAMES = st.sampled_from(["stream", "options", "model"]) | st.text()
SPACES = st.text(" \t\r\n", max_size=3)


@st.composite
def spelt(draw: st.DrawFn) -> tuple[bytes, list[tuple[str, Any]]]:
    """Return the text of an object, with any space, and some of its names twice; and its members."""
    told = draw(st.lists(st.tuples(NAMES, VALUES), max_size=4))
    text = [
        f"{draw(SPACES)}{json.dumps(name)}{draw(SPACES)}:{draw(SPACES)}"
        f"{json.dumps(value, ensure_ascii=draw(st.booleans()))}{draw(SPACES)}"
        for name, value in told
    ]
    body = f"{draw(SPACES)}{{{','.join(text) or draw(SPACES)}}}{draw(SPACES)}"
    return draw(st.sampled_from([b"", BOM])) + body.encode(errors="surrogatepass"), told


def read(body: bytes) -> Any:
    """Return what Python's own parser reads, every number and constant as it is spelt."""
    text = body.removeprefix(BOM).decode(errors="surrogatepass")
    return json.loads(text, parse_int=str, parse_float=str, parse_constant=str)


@given(spelt(), st.dictionaries(st.sampled_from(["stream", "options", "new"]), st.sampled_from([b"true", b'{"a":1}'])))
def test_members_are_put_and_nothing_else_is_changed(
    body: tuple[bytes, list[tuple[str, Any]]], values: dict[str, bytes]
) -> None:
    """A parser reads the same object, but for them; with none to put it is the same text."""
    found = members(body[0])
    assert found is not None
    after = found.put(values)
    assert after is not None
    assert read(after) == read(body[0]) | {name: read(value) for name, value in values.items()}
    assert (after == body[0]) or values


@given(spelt())
def test_values_are_what_a_parser_reads(body: tuple[bytes, list[tuple[str, Any]]]) -> None:
    """The last of several of one name; none where there is none."""
    found, told = members(body[0]), dict(body[1])
    assert found is not None
    for name in ("stream", "options", "model"):
        value, expected = found.get(name), told.get(name)
        if isinstance(expected, bool | None):
            assert value is expected
        else:
            assert isinstance(value, str | float | type(expected))


@given(st.binary() | st.text('{}[]":,\\u0123eE+-. tfn', max_size=30).map(str.encode))
def test_any_bytes_are_read_or_are_no_object(body: bytes) -> None:
    """Nothing is taken for an object that a parser refuses."""
    found = members(body)
    if found is not None:
        assert isinstance(json.loads(body.removeprefix(BOM).decode("latin-1"), strict=False), dict)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b'"{}"', b"{", b"{}}", b"{} {}", b'{"a"}', b'{"a":}', b'{"a":1,}', b"{a:1}", b"{1:2}",
        b'{"a":1 "b":2}', b'{"a":"\\x"}', b'{"a":1}\0', b'{"a":' + b"[" * 100_000, BOM + BOM + b"{}",
        '{"a":1}'.encode("utf-16"), b"\x1f\x8b\x08\x00",
    ],
)  # fmt: skip
def test_what_is_no_object_has_no_members(body: bytes) -> None:
    """Nor has what breaks off, goes on, or has more levels than can be read."""
    assert members(body) is None


@pytest.mark.parametrize(
    "value",
    [
        b"1" * 5000,
        b"1e400",
        b"-0",
        b"1E5",
        b"0.12345678901234567890123",
        b"NaN",
        b'"\\ud83d"',
        b'"\xff\xfe"',
        b'"\x01"',
    ],
)
def test_what_parsers_change_stays_as_it_came(value: bytes) -> None:
    """Numbers of any size and precision, half a character, bytes that are no UTF-8, control characters."""
    found = members(b'{"a": %b, "stream" :false}' % value)
    assert found is not None
    assert found.put({"stream": b"true", "b": b"[]"}) == b'{"b":[],"a": %b, "stream" :true}' % value


def test_several_members_are_put_in_their_places() -> None:
    """The last of those that are there twice, in whichever order they are given."""
    found = members(b'{"a":1,"stream":"x","options":null,"stream":false}')
    assert found is not None
    assert found.put({"stream": b"true", "options": b"{}", "b": b"[]"}) == (
        b'{"b":[],"a":1,"stream":"x","options":{},"stream":true}'
    )


def test_inner_object_is_read_and_put_as_the_whole_is() -> None:
    """Null and nothing are an object without members; anything else is none."""
    found = Members(b'{"a": {"b": 1}, "c": null, "d": [], "e": ""}')
    assert [(inner and inner.put({"x": b"2"})) for inner in map(found.inner, "acdez")] == [
        b'{"x":2,"b": 1}', b'{"x":2}', None, None, b'{"x":2}',
    ]  # fmt: skip
    assert found.get("a") == {"b": 1}


@pytest.mark.parametrize("levels", [300, 1000])
def test_deep_member_that_can_not_be_passed_over_is_not_put_to(levels: int) -> None:
    """A new one is, however many levels the others have; in place of one only where its place can be found."""
    found = members(b'{"a":%b%b,"stream":false}' % (b"[" * levels, b"]" * levels))
    assert found is not None
    added = found.put({"b": b"1"})
    assert added is not None
    assert added.startswith(b'{"b":1,"a":[[')
    replaced = found.put({"stream": b"true"})
    assert (replaced is None) == (levels == 1000)
    assert found.get("stream") is False


def test_text_of_a_member_is_as_it_was_written() -> None:
    """None, where there is no such member."""
    found = members(b'{"a": [1.0,  2] ,"b":null}')
    assert found is not None
    assert (found.text("a"), found.text("b"), found.text("c")) == (b"[1.0,  2]", b"null", None)


def test_object_with_very_many_members_is_not_read_for_seconds() -> None:
    """90,000 of them take a second each time; no request has so many, and what can't be read goes on as it came."""
    most = b'{"model":"m",' + b'"a":1,' * 9998 + b'"z":1}'
    more = most.replace(b'"a":1,', b'"b":1,"a":1,', 1)
    assert len(pairs(most) or ()) == 10_000
    assert pairs(more) is None
    assert Members(most).put({"model": b'"n"'}) == most.replace(b'"m"', b'"n"')
    assert Members(more).get("model") == "m"
    assert Members(more).put({"model": b'"n"'}) is None
    assert members(more[:-1]) is None
