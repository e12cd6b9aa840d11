"""Reads and writes JSON as upstreams really send it: with orjson where possible, with the standard library otherwise.

orjson refuses some of what Python's own parser, and therefore Python clients, accept: NaN and Infinity, unpaired
surrogate escapes (\\ud83d, whose other half may be in the next frame), a byte order mark. It turns integers beyond
64 bits into floats, and writes at most 254 levels. This module reads all of that and writes it as it was received.
"""

import json
import re
from typing import Any

import orjson

from proxy.wire.sse import BOM

_ZEROS = bytes(48 if 48 <= byte <= 57 else 32 for byte in range(256))  # every digit as 0: half the time of a regex
_LONG_NUMBER = b"0" * 19  # this many digits may be an integer beyond 64 bits
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)|[][{},]', re.DOTALL)  # strings are found so that they are skipped
_CLOSERS = {"{": "}", "[": "]"}
_LINE_SEPARATORS = (("\u0085", b"\\u0085"), ("\u2028", b"\\u2028"), ("\u2029", b"\\u2029"))


class Exactly:
    """A JSON text to be written unchanged: a number that orjson can't read, or a value that was written before."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Exactly) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


def read(data: bytes) -> Any:
    """Return the value of a JSON text; integers beyond 64 bits may have become floats. Raises: ValueError."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return _read_leniently(data)


def read_exactly(data: bytes) -> Any:
    """Return the value of a JSON text, with all digits of its numbers. Raises: ValueError."""
    return _read_leniently(data) if may_lose_digits(data) else read(data)


def read_beginning(text: str) -> Any:
    """Return the value of a JSON text that may have been cut off, without an incomplete last member or item.

    Raises: ValueError.
    """
    closers = ""  # the brackets that would close the arrays and objects which are open at this point
    whole = (0, "")  # the last point where no member or item is incomplete, and the closers there
    for token in _TOKEN.finditer(text):
        mark = token[0]
        if mark == ",":
            whole = token.start(), closers
        elif mark in _CLOSERS:
            closers = _CLOSERS[mark] + closers
            whole = token.end(), closers
        elif mark in "}]":
            closers = closers[1:]
            whole = token.end(), closers
    try:
        return _read_text(text + closers)
    except ValueError:
        end, closers = whole
        return _read_text(text[:end] + closers)


def _read_text(text: str) -> Any:
    return read_exactly(text.encode("utf-8", "surrogatepass"))


def may_lose_digits(data: bytes) -> bool:
    """Return whether a JSON text may contain a number that `read` changes."""
    return _LONG_NUMBER in data.translate(_ZEROS)


def written(value: Any) -> bytes:
    """Return a value as compact JSON; characters that some clients treat as line ends are escaped.

    Raises: ValueError.
    """
    try:
        text = orjson.dumps(value, default=_fragment)
    except TypeError:  # an unpaired surrogate, or nested too deeply
        return _write_leniently(value)
    if text.isascii():
        return text
    for separator, escaped in _LINE_SEPARATORS:
        raw = separator.encode()
        if raw in text:
            text = text.replace(raw, escaped)
    return text


def _fragment(value: Any) -> Any:
    if isinstance(value, Exactly):
        return orjson.Fragment(value.text)
    raise TypeError


def _read_leniently(data: bytes) -> Any:
    try:
        text = data.removeprefix(BOM).decode(errors="replace")  # as event streams are decoded
        return json.loads(text, parse_constant=Exactly, parse_int=_integer, strict=False)
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error


def _integer(digits: str) -> Any:
    return int(digits) if len(digits) < 19 else Exactly(digits)


def _write_leniently(value: Any) -> bytes:
    try:
        return json.dumps(value, separators=(",", ":"), default=_parsed).encode()
    except (RecursionError, TypeError) as error:
        raise ValueError("the JSON is nested too deeply") from error


def _parsed(value: Any) -> Any:
    """Return the text of an Exactly as a value that the standard library can write."""
    if isinstance(value, Exactly):
        return json.loads(value.text)
    raise TypeError
