"""JSON as upstreams write it."""

import pytest

from proxy.dialects.lenient import json_object, json_value


@pytest.mark.parametrize(
    "data", [b'{"a":NaN}', b'{"a":-Infinity}', b'{"a":"\\ud83d"}', b'{"a":1%b}' % (b"0" * 400), b'{"a":1}']
)
def test_what_python_reads_is_read(data: bytes) -> None:
    """Also what the standard lacks."""
    assert list(json_object(data)) == ["a"]


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"7", b"\xff", b"[" * 100_000, b'{"a":1%b}' % (b"0" * 5000)])
def test_what_is_no_object_is_an_empty_one(data: bytes) -> None:
    """Nothing raises."""
    assert json_object(data) == {}


def test_value_of_any_kind_is_read() -> None:
    """None is null, and what is no JSON."""
    assert [json_value(data) for data in (b"[1]", b'"x"', b"null", b"x")] == [[1], "x", None, None]
