"""How many values a JSON text has, without reading it."""

import json

import pytest

from proxy.wire.errors import TooLarge
from proxy.wire.json_size import MOST_ITEMS, MOST_PLACES, check


def is_short(text: bytes) -> bool:
    """Return whether a text is read in a short time."""
    try:
        for _ in check(text):
            pass
    except TooLarge:
        return False
    return True


@pytest.mark.parametrize("one", [b"[]", b"{}", b'{"a":1}', b"[[", b'"a":"b"'])
def test_many_values_are_too_many(one: bytes) -> None:
    """Arrays, objects, members: each takes a parser about as long."""
    assert is_short(b"[" + b",".join([one] * (MOST_PLACES // 2 - 1)) + b"]")
    assert not is_short(b"[" + b",".join([one] * (MOST_PLACES + 1)) + b"]")


def test_more_numbers_are_allowed() -> None:
    """They take a fraction of the time; and a text may be given as its tokens."""
    assert is_short(b"[" + b"1," * MOST_ITEMS + b"1]")
    assert not is_short(b"[" + b"1," * (MOST_ITEMS + 1) + b"1]")


@pytest.mark.parametrize("text", ["[{:,", '"', "\\", '\\"', '[\\"', "\\\\", "x" * 70_000, "\\" * 70_001 + '"'])
def test_what_is_within_a_text_does_not_count(text: str) -> None:
    """A prompt may have any number of commas and brackets, and of quotation marks that are escaped."""
    said = text * (150_000 // max(1, len(text)))
    assert is_short(json.dumps({"messages": [said, said], "b": [said]}).encode())
    assert not is_short(json.dumps({"a": said, "b": [[]] * (MOST_PLACES + 1)}).encode())


@pytest.mark.parametrize("text", [b"", b'"', b'"\\', b"[", b'{"a', b"\\" * 100, b'"' + b"\\" * 3_000_000])
def test_text_that_is_cut_off_or_no_json_has_an_end(text: bytes) -> None:
    """It is left to the parser."""
    assert is_short(text)


def test_it_pauses_within_long_texts() -> None:
    """Among many short strings, and within one that has many escapes."""
    assert sum(1 for _ in check(json.dumps(["a"] * 100_000).encode())) > 10
    assert sum(1 for _ in check(json.dumps('"' * 100_000).encode())) > 10
