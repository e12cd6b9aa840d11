"""JSON that the standard has not, and that upstreams write: read as clients read it, and written as it came."""

import json
from typing import Any

import jiter
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire import json_text

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters()), inner, max_size=3),
    max_leaves=10,
)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(st.characters(codec="utf-8"), max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(values)
def test_what_is_read_exactly_is_written_again(value: Any) -> None:
    """Integers of any size, halves of characters, line separators."""
    data = json.dumps(value).encode()
    assert json.loads(json_text.written(json_text.read_exactly(data))) == value


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":NaN}',
        b'{"a":[Infinity,-Infinity]}',
        b'{"id":123456789012345678901234567890}',
        b'{"id":-18446744073709551616}',
        b'{"half":"\\ud83d"}',
        b"[" * 300 + b"]" * 300,
        b'{"a":18446744073709551615}',
    ],
)
def test_what_orjson_can_not_read_or_write_stays_as_it_came(data: bytes) -> None:
    """Byte by byte, as far as the spelling of a value is one."""
    assert json_text.written(json_text.read_exactly(data)) == data


def test_reading_quickly_changes_nothing_but_long_numbers() -> None:
    """They become floats, which is why a text that is to be written again is read exactly."""
    assert json_text.read(b"[100000000000000000000]") == [1e20]
    assert not json_text.may_lose_digits(b'{"created":1770764906,"id":"c-123456789012345678"}')
    assert json_text.may_lose_digits(b"[100000000000000000000]")


@pytest.mark.parametrize("data", [b"\xef\xbb\xbf[1]", b'["\xff"]', b'["a\tb"]'])
def test_what_python_clients_read_is_read(data: bytes) -> None:
    """A byte order mark, bytes that are no UTF-8, a raw tab."""
    assert isinstance(json_text.read(data), list)


@pytest.mark.parametrize("data", [b"", b"{", b"nope", b'{"a":1}{', b"[" * 100_000, b"\xff"])
def test_what_nobody_reads_is_a_value_error(data: bytes) -> None:
    """And no other: too many levels are."""
    with pytest.raises(ValueError, match=r"nested too deeply|Expecting|Extra data"):
        json_text.read(data)


def test_what_can_not_be_written_is_a_value_error() -> None:
    """More levels than any writer has."""
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(ValueError, match="nested too deeply"):
        json_text.written(deep)


@pytest.mark.parametrize("character", ["\u0085", "\u2028", "\u2029"])
def test_nothing_that_ends_a_line_is_written_raw(character: str) -> None:
    """Clients that split by Unicode's lines would cut the event there."""
    told = json_text.written({"a": f"x{character}溪"})
    assert told.decode().splitlines() == [told.decode()]
    assert json.loads(told) == {"a": f"x{character}溪"}


def test_exact_text_is_written_as_it_stands() -> None:
    """Beside halves of characters, too, which another writer has to write."""
    number = json_text.Exactly("-Infinity")
    assert json_text.written({"a": number}) == b'{"a":-Infinity}'
    assert json_text.written({"a": number, "b": "\ud83d"}) == b'{"a":-Infinity,"b":"\\ud83d"}'
    assert number == json_text.Exactly("-Infinity")
    assert len({number, json_text.Exactly("-Infinity")}) == 1


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=4), plain, max_size=3), st.data())
def test_beginning_of_a_text_is_what_is_whole_of_it(value: dict[str, Any], data: st.DataObject) -> None:
    """Wherever it was cut off, as the parser of Anthropic's Python client reads it; all of it, if it was not."""
    text = json.dumps(value, ensure_ascii=data.draw(st.booleans()))
    cut = data.draw(st.integers(1, len(text)))
    assert json_text.read_beginning(text) == value
    assert json_text.read_beginning(text[:cut]) == jiter.from_json(text[:cut].encode(), partial_mode=True)


@pytest.mark.parametrize("text", ["", "x", "}{", '{"a":1}}', "[1}"])
def test_text_that_begins_nothing_is_a_value_error(text: str) -> None:
    """As it is in full."""
    with pytest.raises(ValueError, match=r"."):
        json_text.read_beginning(text)


@pytest.mark.parametrize("levels", [31, 32, 33, 100, 250, 1030, 5000])
@pytest.mark.parametrize("space", [b"", b" ", b"\n\t"])
def test_any_depth_is_read_and_written_as_it_was(levels: int, space: bytes) -> None:
    """What orjson must not write is one value; with other values between the brackets, too."""
    deep = (b"[" + space) * levels + b'"]]}"' + (space + b"]") * levels
    for text in (deep, b'{"a":%b,"b":[%b,1]}' % (deep, deep), b"[" * levels + b"0" + b",1]" * levels):
        assert json_text.is_deep(deep) or levels <= 32
        written = json_text.written({"x": json_text.read(text)})
        assert b"\n" not in written
        assert b"".join(written.split()) == b'{"x":%b}' % b"".join(text.split())
    with pytest.raises(json.JSONDecodeError):
        json_text.read(deep[:-1])


@pytest.mark.parametrize("before", [b"-", b"1", b"0.", b"1e", b'"a":', b"[1 "])
def test_what_stands_for_a_deep_value_makes_nothing_valid(before: bytes) -> None:
    """A number stands for it while the rest is parsed."""
    with pytest.raises(json.JSONDecodeError):
        json_text.read(b"[%b%b]" % (before, b"[" * 40 + b"]" * 40))


def test_deep_value_of_no_end_is_no_json() -> None:
    """Nor does it raise anything else."""
    with pytest.raises(ValueError, match="nested too deeply"):
        json_text.read(b"[" * 100_000)


@pytest.mark.parametrize("inner", [b'"%b"', b"1%b", b"NaN,1%b"])
@pytest.mark.parametrize("after", [b"", b",null", b',"ab"', b",1"])
@pytest.mark.parametrize("levels", [16, 31, 33, 64, 120, 253])
def test_no_depth_breaks_memory(levels: int, after: bytes, inner: bytes) -> None:
    """orjson 3.13.0 writes beyond its buffer after nested lists have ended: then the process is aborted."""
    for size in range(1, 1200, 37):
        deep = b"[" * levels + inner % (b"1" * size) + (after + b"]") * levels
        text = b'{"s":"%b","v":[%b,%b,%b]}' % (b"x" * size, deep, deep, deep)
        assert json_text.written(json_text.read(text)) == text
